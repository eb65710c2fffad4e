"""A lock that a fork does not leave locked for ever."""

from __future__ import annotations

import os
import threading


class ForkLock:
    """A lock for threads. A child process gets a free one, whoever held it in the parent."""

    def __init__(self) -> None:
        self._lock, self._pid = threading.Lock(), os.getpid()

    def __enter__(self) -> None:
        if self._pid != os.getpid():
            self._lock, self._pid = threading.Lock(), os.getpid()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
