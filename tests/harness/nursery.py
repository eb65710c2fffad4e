"""Starts our processes as forks of one that has imported what they import.

A process of ours takes 0.7 s of CPU until its modules are there, and the tests start hundreds. A
fork has them at once, and runs the same entry module from its first line on. What the end-to-end
tests, chaos and the benchmarks start is a new interpreter each time.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import BinaryIO

MODULES = {"api", "workers"}
ROOT = Path(__file__).parents[2]
LONGEST_MESSAGE = 1 << 20
# What the two import, and what they and their frameworks import once they run.
IMPORTED = (
    *("api.app", "api.server", "workers.process", "workers.slice_request"),
    *("fallback_chain.aiohttp_http", "swagger_ui", "pythonjsonlogger.json", "email.policy"),
    *("uvicorn.lifespan.on", "uvicorn.loops.uvloop", "uvicorn.protocols.http.httptools_impl"),
    *("celery.apps.worker", "celery.app.amqp", "celery.app.log", "celery.backends.base"),
    *("celery.concurrency.thread", "celery.loaders.app", "celery.utils.debug"),
    *("celery.worker.autoscale", "celery.worker.components", "celery.worker.strategy"),
    *("celery.worker.pidbox", "celery.events", "billiard.pool", "encodings.idna"),
    *("api.processes", "api.shared_counts"),
)
# What changes from test to test, and that nothing reads before an entry module runs.
PASSED_ON = ("FALLTHROUGH_", "PYTEST_")


class Child:
    """A process that the nursery started, with what `subprocess.Popen` offers."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._nursery = nursery
        self._ends = os.pidfd_open(pid)  # it is reaped only after poll()

    def poll(self) -> int | None:
        """Return the exit status, or minus the signal that ended it; None while it runs."""
        if self.returncode is None and (status := self._nursery.status(self.pid)) is not None:
            self.returncode = status
            os.close(self._ends)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return poll()'s status when it has ended; raise subprocess.TimeoutExpired."""
        if self.returncode is None:
            ends = select.poll()
            ends.register(self._ends, select.POLLIN)
            ends.poll(None if timeout is None else timeout * 1000)
        if (status := self.poll()) is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Nursery:
    """The process that is forked; it ends with the one that made it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._environ = _constant(os.environ)
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, str(Path(__file__)), str(theirs.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd=ROOT)

    def fits(self, module: str, environ: Mapping[str, str]) -> bool:
        """Whether a fork is what a new interpreter would be, which reads its environment."""
        return module in MODULES and _constant(environ) == self._environ

    def start(self, module: str, environ: Mapping[str, str], output: BinaryIO) -> Child:
        """Start `python -m MODULE` with exactly this environment, and its output to a file."""
        what = {"module": module, "environ": dict(environ), "folder": str(Path.cwd())}
        return Child(self, self._ask(what, output.fileno()))

    def status(self, pid: int) -> int | None:
        """Return how a child ended, once; None while it runs."""
        return self._ask({"ended": pid})

    def close(self) -> None:
        self._socket.close()
        self._process.wait(10)

    def _ask(self, what: dict[str, Any], *files: int) -> Any:
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(what).encode()], list(files))
            return json.loads(self._socket.recv(LONGEST_MESSAGE))


def _constant(environ: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in environ.items() if not k.startswith(PASSED_ON)}


def _serve(asks: socket.socket) -> None:
    """Answer until nobody asks any more. Each child returns from here."""
    for module in IMPORTED:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests, who then end theirs
    while True:
        told, files, *_ = socket.recv_fds(asks, LONGEST_MESSAGE, 1)
        if not told:
            os._exit(0)
        what = json.loads(told)
        if "ended" in what:
            pid, status = os.waitpid(what["ended"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            [output] = files
            answer = os.fork()
            if not answer:
                asks.close()
                _become(what["module"], what["environ"], what["folder"], output)
                return
            os.close(output)
        asks.send(json.dumps(answer).encode())


def _become(module: str, environ: dict[str, str], folder: str, output: int) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for standard in (1, 2):
        os.dup2(output, standard)
    os.close(output)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    sys.argv = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # not this folder, whose modules are named as others'
    _serve(socket.socket(fileno=int(sys.argv[1])))
