"""Room for bytes that a process holds at once: who finds none waits for his turn, for a time."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Room:
    """So many bytes at once; belongs to one event loop. What is larger has all of it."""

    def __init__(self, most: int) -> None:
        self._most = self._free = most
        self._line: deque[tuple[int, asyncio.Future[bool]]] = deque()
        self._closed = False

    @asynccontextmanager
    async def of(self, size: int, until: float) -> AsyncIterator[bool]:
        """Hold so many bytes; first come, first served. False: there was no room for them.

        until: on this process's monotonic clock, how long the wait for it is worth it.
        """
        size = min(size, self._most)
        held = await self._take(size, until)
        try:
            yield held
        finally:
            if held:
                self._free += size
                self._serve()

    def close(self) -> None:
        """Let nobody wait any more."""
        self._closed = True
        for _, turn in self._line:
            _leave(turn)

    async def _take(self, size: int, until: float) -> bool:
        if not size or (not self._line and size <= self._free):
            self._free -= size
            return True
        if self._closed:
            return False
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[bool] = loop.create_future()
        self._line.append((size, turn))
        timer = loop.call_later(max(until - time.monotonic(), 0.0), _leave, turn)
        try:
            held = await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():
                self._free += size  # it came in the moment that we were cancelled
            self._serve()
            raise
        finally:
            timer.cancel()
        if not held:
            self._serve()  # who stood behind us may find room
        return held

    def _serve(self) -> None:
        while self._line:
            size, turn = self._line[0]
            if not turn.done():
                if size > self._free:
                    return
                self._free -= size
                turn.set_result(True)
            self._line.popleft()


def _leave(turn: asyncio.Future[bool]) -> None:
    if not turn.done():
        turn.set_result(False)
