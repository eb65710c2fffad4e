"""The product's own processes, as a user starts them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import httpx

from harness.waiting import answers, free_port, wait_until

if TYPE_CHECKING:
    import signal
    from collections.abc import Mapping, Sequence
    from typing import BinaryIO

    from harness.nursery import Child, Nurseries

ROOT = Path(__file__).parents[2]
nurseries: Nurseries | None = None  # where there are any, processes are their forks


def begin(
    arguments: Sequence[str],
    environ: Mapping[str, str],
    folder: Path | str,
    *files: BinaryIO,
) -> subprocess.Popen[bytes] | Child:
    """Start `python -m ARGUMENTS`, with -P where the folder is another than ours.

    files: its standard input, output and error output.
    """
    nursery = nurseries.fitting(arguments[0], environ) if nurseries is not None else None
    if nursery is not None:
        return nursery.start(arguments, environ, str(folder), files)
    given, out, errors = files
    safe = () if Path(folder) == Path.cwd() else ("-P",)
    command = [sys.executable, *safe, "-m", *arguments]
    return subprocess.Popen(
        command, env=environ, cwd=folder, stdin=given, stdout=out, stderr=errors
    )


def python(
    *arguments: str,
    environ: Mapping[str, str],
    folder: Path | str = ROOT,
    stdin: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run `python -m ARGUMENTS`; return what it said, and how it ended."""
    receives, gives = os.pipe()
    with (
        os.fdopen(receives, "rb", 0) as given,
        os.fdopen(gives, "wb", 0) as giving,
        TemporaryFile() as out,
        TemporaryFile() as errors,
    ):
        process = begin(arguments, environ, folder, given, out, errors)
        given.close()
        with contextlib.suppress(BrokenPipeError):
            giving.write(stdin.encode())
        giving.close()
        try:
            status = process.wait(60)
        finally:
            process.kill()
        said = []
        for file in (out, errors):
            file.seek(0)
            said.append(file.read().decode())
    return subprocess.CompletedProcess(["python", "-m", *arguments], status, *said)


@dataclass
class Process:
    """A process of ours with an HTTP port."""

    module: str
    environ: dict[str, str]
    log_file: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | Child | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def start(self, *, ready: bool = True) -> Process:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("FALLTHROUGH_")}
        environ = {**clean, **self.environ}
        with self.log_file.open("ab") as output, Path(os.devnull).open("rb") as nothing:
            self.process = begin([self.module], environ, Path.cwd(), nothing, output, output)
        if ready:
            self.wait_until_ready()
        return self

    def wait_until_ready(self) -> None:
        wait_until(self.ready, 30, f"{self.module} is ready")

    def ready(self) -> bool:
        if self.process is not None and self.process.poll() is not None:
            raise AssertionError(f"{self.module} ended: {self.log}")
        return answers(f"{self.url}/health/ready")

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, seconds: float = 30) -> int:
        assert self.process is not None
        return self.process.wait(seconds)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)


@dataclass
class Fleet:
    """An API and workers on one store, with settings that make outages short."""

    folder: Path
    settings: dict[str, str]
    processes: list[Process] = field(default_factory=list)

    def worker(self, queues: str = "interactive,batch", **settings: Any) -> Process:
        port = free_port()
        own = {
            "FALLTHROUGH_WORKER_QUEUES": queues,
            "FALLTHROUGH_WORKER_PORT": str(port),
            **{f"FALLTHROUGH_{name.upper()}": str(value) for name, value in settings.items()},
        }
        return self._add("workers", own, port)

    def api(self, **settings: Any) -> Process:
        port = free_port()
        own = {
            "FALLTHROUGH_PORT": str(port),
            **{f"FALLTHROUGH_{name.upper()}": str(value) for name, value in settings.items()},
        }
        return self._add("api", own, port)

    def start(self, *processes: Process) -> tuple[Process, ...]:
        """Start processes side by side; return them when all are ready."""
        for process in processes:
            process.start(ready=False)
        for process in processes:
            process.wait_until_ready()
        return processes

    def _add(self, module: str, own: dict[str, str], port: int) -> Process:
        log = self.folder / f"{module}-{len(self.processes)}.log"
        process = Process(module, {**self.settings, **own}, log, port)
        self.processes.append(process)
        return process

    def stop(self) -> None:
        for process in self.processes:
            process.stop()


def close_breakers(url: str) -> None:
    """Have an API close every breaker: what one test did keeps nobody from the next."""
    for name in httpx.get(f"{url}/circuit-breakers").json()["circuit_breakers"]:
        httpx.post(f"{url}/circuit-breakers/{name}/reset").raise_for_status()


def peak_mb(process: Process) -> float:
    """The most memory that a process has ever had."""
    assert process.process
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024
