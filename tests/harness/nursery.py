"""Starts our processes as forks of one that has imported what they import.

A process of ours takes 0.4 to 0.7 s of CPU until its modules are there, and the tests start
hundreds. A fork has them at once, and runs the same entry module from its first line on. What the
end-to-end tests, chaos and the benchmarks start is a new interpreter each time.
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
    from collections.abc import Mapping, Sequence
    from typing import BinaryIO

ROOT = Path(__file__).parents[2]
LONGEST_MESSAGE = 1 << 20
# What each kind imports, and what it and its frameworks import once it runs.
SERVERS = (
    *("api.app", "api.server", "workers.process", "workers.slice_request"),
    *("fallback_chain.aiohttp_http", "swagger_ui", "pythonjsonlogger.json", "email.policy"),
    *("uvicorn.lifespan.on", "uvicorn.loops.uvloop", "uvicorn.protocols.http.httptools_impl"),
    *("celery.apps.worker", "celery.app.amqp", "celery.app.log", "celery.backends.base"),
    *("celery.concurrency.thread", "celery.loaders.app", "celery.utils.debug"),
    *("celery.worker.autoscale", "celery.worker.components", "celery.worker.strategy"),
    *("celery.worker.pidbox", "celery.events", "billiard.pool", "encodings.idna"),
    *("api.processes", "api.shared_counts"),
)
IMPORTED = {
    "servers": SERVERS,
    "servers with s3": (*SERVERS, "s3fs", "aiobotocore.session", "aiobotocore.httpsession"),
    "commands": (
        *("cli.commands.batches", "cli.commands.breakers", "cli.commands.doctor"),
        *("cli.commands.jobs", "cli.commands.keys", "cli.commands.lists"),
        *("cli.commands.settings", "cli.commands.stack", "cli.up", "cli.doctor", "encodings.idna"),
        *("celery.bin.celery", "celery.bin.worker", "celery.app.control", "kombu.transport.redis"),
        *("flower.command", "flower.app", "flower.urls", "flower.events", "celery.apps.worker"),
    ),
}
KINDS = {"api": "servers", "workers": "servers", "celery": "commands", "cli.main": "commands"}
# What changes from test to test, and that nothing reads before an entry module runs.
PASSED_ON = ("FALLTHROUGH_", "FLOWER_", "PYTEST_", "COLUMNS", "AWS_", "SSL_CERT_")
PATH = "PYTHONPATH"  # which a fork takes in as it begins, if its nursery has none


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
    """The process that is forked; it ends with the one that made it. kind: what it imports."""

    def __init__(self, kind: str) -> None:
        self._lock = Lock()
        self._environ = _constant(os.environ)
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, str(Path(__file__)), str(theirs.fileno()), kind]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd=ROOT)

    def fits(self, environ: Mapping[str, str]) -> bool:
        """Whether a fork is what a new interpreter would be, which reads its environment."""
        path_fits = os.environ.get(PATH) in {None, environ.get(PATH)}
        return path_fits and _constant(environ) == self._environ

    def start(
        self,
        arguments: Sequence[str],
        environ: Mapping[str, str],
        folder: str,
        files: Sequence[BinaryIO],
    ) -> Child:
        """Start `python -m ARGUMENTS` with exactly this environment.

        files: its standard input, output and error output.
        """
        what = {"arguments": list(arguments), "environ": dict(environ), "folder": folder}
        return Child(self, self._ask(what, *(file.fileno() for file in files)))

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


class Nurseries:
    """Those of this process, each made when it is first asked for."""

    def __init__(self) -> None:
        self._made: dict[str, Nursery] = {}

    def fitting(self, module: str, environ: Mapping[str, str]) -> Nursery | None:
        """Return where `python -m MODULE` may be forked; None: it is to be an interpreter's."""
        kind = KINDS.get(module)
        if kind is None:
            return None
        if kind == "servers" and environ.get("FALLTHROUGH_FILES_URL", "").startswith("s3:"):
            kind = "servers with s3"
        if kind not in self._made:
            self._made[kind] = Nursery(kind)
        return self._made[kind] if self._made[kind].fits(environ) else None

    def close(self) -> None:
        for nursery in self._made.values():
            nursery.close()


def _constant(environ: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in environ.items() if not k.startswith((*PASSED_ON, PATH))}


def _serve(asks: socket.socket, kind: str) -> None:
    """Answer until nobody asks any more. Each child returns from here."""
    for module in IMPORTED[kind]:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests, who then end theirs
    while True:
        told, files, *_ = socket.recv_fds(asks, LONGEST_MESSAGE, 3)
        if not told:
            os._exit(0)
        what = json.loads(told)
        if "ended" in what:
            pid, status = os.waitpid(what["ended"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if not answer:
                asks.close()
                _become(what["arguments"], what["environ"], what["folder"], files)
                return
            for file in files:
                os.close(file)
        asks.send(json.dumps(answer).encode())


def _become(
    arguments: list[str], environ: dict[str, str], folder: str, files: Sequence[int]
) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for standard, file in enumerate(files):
        os.dup2(file, standard)
        os.close(file)
    os.chdir(folder)
    if PATH in environ and PATH not in os.environ:
        _begin_with(environ[PATH])
    os.environ.clear()
    os.environ.update(environ)
    sys.argv = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


def _begin_with(path: str) -> None:
    """Do with a PYTHONPATH what an interpreter does before all else."""
    sys.path[1:1] = path.split(os.pathsep)
    importlib.invalidate_caches()
    for folder in path.split(os.pathsep):
        if (first := Path(folder, "sitecustomize.py")).exists():
            runpy.run_path(str(first))


if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # not this folder, whose modules are named as others'
    _serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2])
