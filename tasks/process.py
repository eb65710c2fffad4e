"""What every long-running process of ours does with itself."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator

HAND_OVER_SECONDS = 4.0  # what a process that stops gets after its drain, and no more
BACKLOG = 2048  # connections that wait to be taken, as uvicorn has it
DIED = 70  # exit status (EX_SOFTWARE): without its loops a process only pretends to work
GARBAGE_THRESHOLDS = (20_000, 20, 20)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
LARGE_BLOCK = 256 * 1024  # bytes

log = logging.getLogger(__name__)


def listen(host: str, port: int) -> socket.socket:
    """Listen on a port from now on, so that a taken one stops the start; raise OSError then.

    Two may bind one port at once, as long as neither listens.
    """
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Have the collector not look at what is made here: of millions of small values it would often.

    It must make no cycles, and be short.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def freeze_garbage() -> None:
    """Leave what is there now out of every look for garbage: it stays.

    What a request or a slice makes is let go by its own reference counts: looking through all of
    it every 700 allocations is a tenth of a busy process's time.
    """
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)


def give_back_memory() -> None:
    """Have the C library give large blocks back to the system as soon as they are free.

    Of its own accord glibc takes blocks as large as the first that it was given back from its heap,
    where a small one behind them keeps all of it: a flood of large requests would stay for ever.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library has no such thing
        c_library = ctypes.CDLL(None)
        c_library.mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)
        c_library.mallopt(M_TRIM_THRESHOLD, 4 * LARGE_BLOCK)


def pass_cancels_on() -> None:
    """Have asyncio.wait_for cancel who is cancelled, as it does from Python 3.12 on.

    On 3.11 who is cancelled in the moment in which what he waits for is done gets its result, and
    goes on for ever (https://github.com/python/cpython/issues/86296). redis-py waits so until each
    command is sent: a client who had left as his request was taken was waited for.
    """
    if sys.version_info < (3, 12):
        asyncio.wait_for = _wait_for  # type: ignore[assignment]


async def _wait_for(what: Awaitable[Any], timeout: float | None) -> Any:  # noqa: ASYNC109 - asyncio's
    if timeout is not None and timeout <= 0:
        return await _of_3_11(what, timeout)
    async with asyncio.timeout(timeout):
        return await what


_of_3_11 = asyncio.wait_for


def end() -> NoReturn:
    """End this process at once, whatever its threads do."""
    logging.shutdown()
    os._exit(DIED)


def end_after(drain_seconds: float) -> None:
    """End this process if it is still there when its drain and what comes after it are over.

    Then something that must answer does not: a store or a broker that hangs. Leases do the rest.
    """

    def give_up() -> None:
        log.error("not stopped in time: this process ends now")
        end()

    watchdog = threading.Timer(drain_seconds + HAND_OVER_SECONDS, give_up)
    watchdog.daemon = True
    watchdog.start()
