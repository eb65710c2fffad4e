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
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from cli.stack.parts import Part

START_SECONDS = 90.0
WATCHER_SECONDS = 15.0  # that the others, healthy, wait for what only watches them
TICK_SECONDS = 0.1
BACKOFF_SECONDS = (0.5, 30.0)
STEADY_SECONDS = 60.0  # a part that ran so long starts again at the shortest back-off


class StartError(Exception):
    """The stack did not become healthy; the message says which part, and where its log is."""


def environ_with(variables: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment with these settings, and no others of ours or Celery's."""
    others = ("FALLTHROUGH_", "CELERY_")
    return {k: v for k, v in os.environ.items() if not k.startswith(others)} | {**variables}


class PartProcess:
    """A part's process: started, restarted, stopped."""

    def __init__(self, part: Part, log: Path) -> None:
        self.part, self.log = part, log
        self.popen: subprocess.Popen[bytes] | None = None
        self.held_down = False  # stopped on purpose: not to be restarted
        self._started_at = 0.0
        self._backoff = BACKOFF_SECONDS[0]
        self._restart_at: float | None = None

    def start(self) -> None:
        """Start the process, its output into the log."""
        tether = (sys.executable, "-P", "-m", "cli.stack.tether", str(os.getpid()))
        with self.log.open("ab") as output:
            self.popen = subprocess.Popen(  # noqa: S603 - our own commands
                (*tether, *self.part.command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environ_with(self.part.environ),
                cwd=self.part.folder,
                start_new_session=True,  # the terminal's Ctrl-C is the supervisor's to pass on
            )
        self._started_at = time.monotonic()
        self._restart_at = None
        self.held_down = False

    @property
    def pid(self) -> int | None:
        """The process id, while it runs."""
        return self.popen.pid if self.popen and self.popen.poll() is None else None

    def tend(self, say: Callable[[str], None]) -> None:
        """Restart the process if it died, after its back-off."""
        if self.held_down or self.pid is not None or self.popen is None:
            return
        now = time.monotonic()
        if self._restart_at is None:
            if now - self._started_at > STEADY_SECONDS:
                self._backoff = BACKOFF_SECONDS[0]
            self._restart_at = now + self._backoff
            say(
                f"{self.part.name} ended with status {self.popen.returncode}; "
                f"restarting it in {self._backoff:g} s (log: {self.log})"
            )
            self._backoff = min(self._backoff * 2, BACKOFF_SECONDS[1])
        elif now >= self._restart_at:
            self.start()
            say(f"{self.part.name} restarted, pid {self.pid}")

    def ask_to_stop(self) -> None:
        """Send SIGTERM."""
        self.held_down = True
        if self.popen is not None and self.pid is not None:
            self.popen.terminate()

    def wait(self, seconds: float) -> None:
        """Wait until it has stopped; kill it, and what it started, when it takes longer."""
        if self.popen is None:
            return
        try:
            self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Kill it and what it started."""
        self.held_down = True
        if self.popen is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.popen.pid, signal.SIGKILL)
            self.popen.wait()


class Supervisor:
    """All parts of one stack. Single-threaded: whoever owns it calls tend() now and then."""

    def __init__(self, parts: Iterable[Part], logs: Path, say: Callable[[str], None]) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self.processes = {part.name: PartProcess(part, logs / f"{part.name}.log") for part in parts}
        self._say = say
        self.stop_requested = False

    def start(self) -> None:
        """Start stage by stage until all is healthy; raises StartError."""
        stages = self._stages()
        for stage in stages:
            group = self._group(stage)
            for process in group:
                process.start()
            if stage in {stages[0], stages[-1]}:
                awaited = self.processes.values() if stage == stages[-1] else group
                self._until_healthy(each for each in awaited if not each.part.watches)
        self._look_at_watchers()

    def _stages(self) -> list[int]:
        return sorted({process.part.stage for process in self.processes.values()})

    def _group(self, stage: int) -> list[PartProcess]:
        return [process for process in self.processes.values() if process.part.stage == stage]

    def _until_healthy(self, group: Iterable[PartProcess]) -> None:
        deadline = time.monotonic() + START_SECONDS
        waiting = [process for process in group if process.popen is not None]
        while waiting and not self.stop_requested:
            for process in list(waiting):
                if process.pid is None:
                    raise StartError(_failure(process, "ended while it started"))
                if process.part.healthy():
                    waiting.remove(process)
            if waiting and time.monotonic() > deadline:
                raise StartError(_failure(waiting[0], f"not healthy within {START_SECONDS:g} s"))
            time.sleep(TICK_SECONDS)

    def _look_at_watchers(self) -> None:
        """Say which parts that only watch are not there; one that ended stays off."""
        deadline = time.monotonic() + WATCHER_SECONDS
        waiting = [process for process in self.processes.values() if process.part.watches]
        while waiting and not self.stop_requested:
            for process in list(waiting):
                fault = ""
                if process.pid is None:
                    process.held_down = True
                    fault = "is off, the others go on without it: it ended while it started"
                elif time.monotonic() > deadline:
                    fault = "does not answer yet, the others go on without it"
                if fault:
                    self._say(_failure(process, fault))
                if fault or process.part.healthy():
                    waiting.remove(process)
            if waiting:
                time.sleep(TICK_SECONDS)

    def tend(self) -> None:
        """Restart what died."""
        for process in self.processes.values():
            process.tend(self._say)

    def run(self, then: Callable[[], None]) -> None:
        """Tend the parts until stop_requested; after each look at them do what is given."""
        while not self.stop_requested:
            self.tend()
            then()
            time.sleep(TICK_SECONDS)

    def stop(self) -> None:
        """Stop everything: first what takes work in, last what keeps it."""
        for stage in reversed(self._stages()):
            group = self._group(stage)
            for process in group:
                process.ask_to_stop()
            for process in group:
                process.wait(process.part.drain_seconds)

    def kill(self) -> None:
        """Stop everything at once."""
        for process in self.processes.values():
            process.kill()

    def stop_part(self, name: str) -> None:
        """Stop one part and leave it stopped."""
        process = self.processes[name]
        process.ask_to_stop()
        process.wait(process.part.drain_seconds)

    def start_part(self, name: str) -> None:
        """Start a part that was stopped; wait until it is healthy."""
        self.processes[name].start()
        self._until_healthy([self.processes[name]])


def _failure(process: PartProcess, what: str) -> str:
    last_lines = process.log.read_text(errors="replace").strip().splitlines()[-1:]
    detail = "".join(f": {line}" for line in last_lines)
    return f"{process.part.name} {what}{detail} (log: {process.log})"
