"""Bytes that requests hold at once in this process: bounded in all, and for each owner.

Who finds no room waits for his turn, unread: his connection pushes back. Only who has waited for
long is told to come again. What is small passes: no number of connections holds much of it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from api.errors import RETRY_AFTER_SECONDS, TurnedAwayError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

SMALL = 4096  # bytes
WAIT_SECONDS = 30.0


class _Waiter(NamedTuple):
    owner: str
    size: int
    turn: asyncio.Future[None]


class Room:
    """So many bytes, of which one owner has a share at most; belongs to one event loop."""

    def __init__(self, most: int, of_owner: int, wait_seconds: float = WAIT_SECONDS) -> None:
        self._free, self._of_owner, self._wait_seconds = most, of_owner, wait_seconds
        self._held: dict[str, int] = {}
        self._waiting: deque[_Waiter] = deque()

    @contextlib.asynccontextmanager
    async def hold(self, owner: str, size: int) -> AsyncGenerator[None, None]:
        """Hold room for that many bytes, or for an owner's share; raises TurnedAwayError."""
        size = min(size, self._of_owner)
        if size <= SMALL:
            yield
            return
        await self._enter(owner, size)
        try:
            yield
        finally:
            self._leave(owner, size)

    async def _enter(self, owner: str, size: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiter(owner, size, turn))
        self._let_in()
        try:
            async with asyncio.timeout(self._wait_seconds):
                await turn
        except (TimeoutError, asyncio.CancelledError) as error:
            if turn.cancelled():
                self._let_in()  # who stood behind
            else:
                self._leave(owner, size)
            if isinstance(error, TimeoutError):
                raise _no_room() from None
            raise

    def _leave(self, owner: str, size: int) -> None:
        self._free += size
        self._held[owner] -= size
        if not self._held[owner]:
            del self._held[owner]
        self._let_in()

    def _let_in(self) -> None:
        """Give room in the order of asking; who waits for his own share holds up no other owner."""
        waiting, self._waiting = self._waiting, deque()
        full: set[str] = set()
        while waiting:
            waiter = waiting.popleft()
            owner, size, turn = waiter
            if turn.done():
                continue
            if owner in full or self._held.get(owner, 0) + size > self._of_owner:
                full.add(owner)
                self._waiting.append(waiter)
            elif size > self._free:
                self._waiting.extend([waiter, *waiting])
                return
            else:
                self._free -= size
                self._held[owner] = self._held.get(owner, 0) + size
                turn.set_result(None)


def _no_room() -> TurnedAwayError:
    message = "too many bytes are under way here: send less at once, or come again later"
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS), "Connection": "close"}
    return TurnedAwayError(429, message, code="too_many_bytes", headers=headers)
