"""Several API processes behind one port.

They share a socket, so whoever is free takes the next connection. This process only starts them,
starts those again that end by themselves, and passes on that it is told to stop.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import sys
import time
import traceback
from typing import TYPE_CHECKING

from tasks.process import DIED

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

PR_SET_PDEATHSIG = 1
AGAIN_SECONDS = 1.0  # at least, between two starts of one process
COULD_NOT_START = 2
STOPS = {signal.SIGTERM, signal.SIGINT}

log = logging.getLogger(__name__)


class Processes:
    """The processes of an API, by their numbers from 0."""

    def __init__(
        self,
        number: int,
        listener: socket.socket,
        serve: Callable[[int, Callable[[], object]], int],
    ) -> None:
        """serve: gets a process's number, and what to call once it serves; returns its status."""
        self._number, self._listener, self._serve = number, listener, serve
        self._pids: dict[int, int] = {}  # its number, by its pid
        self._started: dict[int, float] = {}  # when, by its number
        self._status = 0
        self._stopping = False

    def run(self) -> int:
        """Return the exit status, once all have ended: 2 if the first could not start."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {*STOPS, signal.SIGCHLD})
        # One that cannot start says why, in one line; so the first goes ahead of the others.
        serving = self._start(0)
        with os.fdopen(serving, "rb") as told:
            first_serves = told.read(1) == b"."
        if not first_serves:
            [pid] = self._pids
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            return code if code > 0 else COULD_NOT_START
        for number in range(1, self._number):
            os.close(self._start(number))
        while self._pids or not self._stopping:
            came = signal.sigtimedwait({*STOPS, signal.SIGCHLD}, AGAIN_SECONDS)
            if came is not None and came.si_signo in STOPS:
                self._stop()
            self._bury()
            if not self._stopping:
                self._start_again()
        return self._status

    def _start(self, number: int) -> int:
        """Return a file from which "." is read once it serves; and nothing, if it ends before."""
        serving, serves = os.pipe()
        parent = os.getpid()
        self._started[number] = time.monotonic()
        pid = os.fork()
        if pid:
            os.close(serves)
            self._pids[pid] = number
            return serving
        os.close(serving)
        status = DIED
        try:
            _die_with(parent)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {*STOPS, signal.SIGCHLD})
            status = self._serve(number, lambda: _tell(serves))
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else DIED
        except BaseException:  # noqa: BLE001 - nothing of the parent's goes on in its child
            traceback.print_exc()
        finally:
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _stop(self) -> None:
        self._stopping = True
        self._listener.close()  # else who connects now would wait for nobody
        for pid in self._pids:
            os.kill(pid, signal.SIGTERM)

    def _bury(self) -> None:
        for pid in list(self._pids):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended:
                continue
            number, code = self._pids.pop(pid), os.waitstatus_to_exitcode(status)
            if self._stopping:
                self._status = max(self._status, code if code >= 0 else DIED)
            else:
                log.error("process %d of the API ended (%d) and is started again", number, code)

    def _start_again(self) -> None:
        now = time.monotonic()
        for number in set(range(self._number)) - set(self._pids.values()):
            if now - self._started[number] >= AGAIN_SECONDS:
                os.close(self._start(number))


def _tell(serves: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody waits for this one
        os.write(serves, b".")
    os.close(serves)


def _die_with(parent: int) -> None:
    """Have the kernel tell this process to stop when the one that started it is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it was killed before
            os._exit(DIED)
