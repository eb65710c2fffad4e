"""Several API processes behind one port.

They share a socket, so whoever is free takes the next connection. This process only starts them,
starts those again that end by themselves, and passes on that it is told to stop.
"""

from __future__ import annotations

import ctypes
import logging
import math
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
SERVES = signal.SIGUSR1  # by which one says that it does
WAITED = {*STOPS, SERVES, signal.SIGCHLD}

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
        self._serving = self._stopping = False

    def run(self) -> int:
        """Return the exit status, once all have ended: 2 if the first could not start."""
        signal.pthread_sigmask(signal.SIG_BLOCK, WAITED)
        self._start(0)
        while self._pids or not self._stopping:
            came = signal.sigtimedwait(WAITED, AGAIN_SECONDS)
            if came is not None and came.si_signo in STOPS:
                self._stop()
            self._serving = self._serving or (came is not None and came.si_signo == SERVES)
            self._bury()
            # One that cannot start says why, in one line; so the first goes ahead of the others.
            if self._serving and not self._stopping:
                self._start_missing()
        return self._status

    def _start(self, number: int) -> None:
        parent = os.getpid()
        self._started[number] = time.monotonic()
        pid = os.fork()
        if pid:
            self._pids[pid] = number
            return
        status = DIED
        try:
            _die_with(parent)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, WAITED)
            status = self._serve(number, lambda: os.kill(parent, SERVES))
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
                self._status = max(self._status, _status_at_the_end(code))
            elif not self._serving:
                self._stopping, self._status = True, code if code > 0 else COULD_NOT_START
            else:
                log.error("process %d of the API ended (%d) and is started again", number, code)

    def _start_missing(self) -> None:
        now = time.monotonic()
        for number in set(range(self._number)) - set(self._pids.values()):
            if now - self._started.get(number, -math.inf) >= AGAIN_SECONDS:
                self._start(number)


def _status_at_the_end(code: int) -> int:
    if code == -signal.SIGTERM:  # it was told to stop before it could serve
        return 0
    return code if code >= 0 else DIED


def _die_with(parent: int) -> None:
    """Have the kernel tell this process to stop when the one that started it is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it was killed before
            os._exit(DIED)
