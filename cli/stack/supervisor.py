"""Starts the parts, watches them, restarts what dies, and stops everything."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from cli.stack.parts import Part

START_SECONDS = 90.0
TICK_SECONDS = 0.1
BACKOFF_SECONDS = (0.5, 30.0)
STEADY_SECONDS = 60.0  # a part that ran so long starts again at the shortest back-off


class StartError(Exception):
    """The stack did not become healthy; the message says which part, and where its log is."""


class Running:
    """A part's process: started, restarted, stopped."""

    def __init__(self, part: Part, log: Path) -> None:
        self.part, self.log = part, log
        self.process: subprocess.Popen[bytes] | None = None
        self.held_down = False  # stopped on purpose: not to be restarted
        self._started_at = 0.0
        self._backoff = BACKOFF_SECONDS[0]
        self._again_at: float | None = None

    def start(self) -> None:
        """Start the process, its output into the log."""
        environ = {k: v for k, v in os.environ.items() if not k.startswith("FALLTHROUGH_")}
        tether = (sys.executable, "-m", "cli.stack.tether", str(os.getpid()))
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(  # noqa: S603 - our own commands
                (*tether, *self.part.command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**environ, **self.part.environ},
                start_new_session=True,  # the terminal's Ctrl-C is the supervisor's to pass on
            )
        self._started_at = time.monotonic()
        self._again_at = None
        self.held_down = False

    @property
    def pid(self) -> int | None:
        """The process id, while it runs."""
        return self.process.pid if self.process and self.process.poll() is None else None

    def tend(self, say: Callable[[str], None]) -> None:
        """Restart the process if it died, after its back-off."""
        if self.held_down or self.pid is not None or self.process is None:
            return
        now = time.monotonic()
        if self._again_at is None:
            if now - self._started_at > STEADY_SECONDS:
                self._backoff = BACKOFF_SECONDS[0]
            self._again_at = now + self._backoff
            say(
                f"{self.part.name} ended with status {self.process.returncode}; "
                f"restarting it in {self._backoff:g} s (log: {self.log})"
            )
            self._backoff = min(self._backoff * 2, BACKOFF_SECONDS[1])
        elif now >= self._again_at:
            self.start()
            say(f"{self.part.name} restarted, pid {self.pid}")

    def ask_to_stop(self) -> None:
        """Send SIGTERM."""
        self.held_down = True
        if self.process is not None and self.pid is not None:
            self.process.terminate()

    def wait(self, seconds: float) -> None:
        """Wait until it has stopped; kill it, and what it started, when it takes longer."""
        if self.process is None:
            return
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Kill it and what it started."""
        self.held_down = True
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class Supervisor:
    """All parts of one stack. Single-threaded: whoever owns it calls tend() now and then."""

    def __init__(self, parts: Iterable[Part], logs: Path, say: Callable[[str], None]) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self.running = {part.name: Running(part, logs / f"{part.name}.log") for part in parts}
        self._say = say
        self.stop_asked = False

    def start(self) -> None:
        """Start stage by stage until all is healthy; raises StartError."""
        stages = sorted({r.part.stage for r in self.running.values()})
        for stage in stages:
            group = [r for r in self.running.values() if r.part.stage == stage]
            for running in group:
                running.start()
            if stage == stages[0] or stage == stages[-1]:
                self._until_healthy(self.running.values() if stage == stages[-1] else group)

    def _until_healthy(self, group: Iterable[Running]) -> None:
        deadline = time.monotonic() + START_SECONDS
        waiting = [r for r in group if r.process is not None]
        while waiting and not self.stop_asked:
            for running in list(waiting):
                if running.pid is None:
                    raise StartError(_why(running, "ended while it started"))
                if running.part.healthy():
                    waiting.remove(running)
            if waiting and time.monotonic() > deadline:
                raise StartError(_why(waiting[0], f"not healthy within {START_SECONDS:g} s"))
            time.sleep(TICK_SECONDS)

    def tend(self) -> None:
        """Restart what died."""
        for running in self.running.values():
            running.tend(self._say)

    def run(self) -> None:
        """Tend the parts until stop_asked."""
        while not self.stop_asked:
            self.tend()
            time.sleep(TICK_SECONDS)

    def stop(self) -> None:
        """Stop everything: first what takes work in, last what keeps it."""
        for stage in sorted({r.part.stage for r in self.running.values()}, reverse=True):
            group = [r for r in self.running.values() if r.part.stage == stage]
            for running in group:
                running.ask_to_stop()
            for running in group:
                running.wait(running.part.drain_seconds)

    def kill(self) -> None:
        """Stop everything at once."""
        for running in self.running.values():
            running.kill()

    def stop_part(self, name: str) -> None:
        """Stop one part and leave it stopped."""
        running = self.running[name]
        running.ask_to_stop()
        running.wait(running.part.drain_seconds)

    def start_part(self, name: str) -> None:
        """Start a part that was stopped; wait until it is healthy."""
        self.running[name].start()
        self._until_healthy([self.running[name]])


def _why(running: Running, what: str) -> str:
    tail = running.log.read_text(errors="replace").strip().splitlines()[-1:]
    said = f": {tail[0]}" if tail else ""
    return f"{running.part.name} {what}{said} (log: {running.log})"
