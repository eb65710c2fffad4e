"""Slots: leave to call a tier once. Per process, or leased for the whole fleet."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Protocol

from tasks.errors import StoreUnavailable
from tasks.records.jobs import new_token

if TYPE_CHECKING:
    from tasks.store.limits import Limits

ASK_AGAIN_SECONDS = 0.1  # how often the first in line looks for a slot that another process left


Turn = asyncio.Future[str | None]  # the token of the slot, or None: given up


class Slots(Protocol):
    """Where calls line up for a slot, first come first served."""

    @property
    def taken(self) -> int:
        """Slots that calls of this process have now."""

    def try_acquire(self) -> str | None:
        """Take a slot if one is free and nobody waits."""

    def line_up(self) -> Turn:
        """Wait for a slot; who sets the future to None, or cancels it, leaves the line."""

    async def release(self, token: str) -> None:
        """Give a slot back."""

    async def renew(self) -> None:
        """Keep the slots that are taken."""


class LocalSlots:
    """At most `limit` calls at once in this process. Who lines up here goes before `batch_lane`."""

    def __init__(self, limit: int) -> None:
        self._limit = self._free = limit
        self._line: deque[Turn] = deque()
        self.batch_lane = BatchLane(self)

    @property
    def taken(self) -> int:
        """Slots that calls have now."""
        return self._limit - self._free

    def try_acquire(self) -> str | None:
        """Take a free slot."""
        if not self._free:
            return None
        self._free -= 1
        return "local"

    def line_up(self) -> Turn:
        """Wait for a slot."""
        turn: Turn = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        return turn

    async def release(self, token: str) -> None:
        """Give a slot to the first in the line who still wants it."""
        for line in (self._line, self.batch_lane.line):
            while line:
                turn = line.popleft()
                if not turn.done():
                    turn.set_result(token)
                    return
        self._free += 1

    async def renew(self) -> None:
        """Nothing to do: they end with the process."""


class BatchLane:
    """The same slots, for calls of batches: they let every lone call go first."""

    def __init__(self, slots: LocalSlots) -> None:
        self._slots = slots
        self.line: deque[Turn] = deque()

    @property
    def taken(self) -> int:
        """Return 0: the slots count all that are taken, from either line."""
        return 0

    def try_acquire(self) -> str | None:
        """Take a free slot."""
        return self._slots.try_acquire()

    def line_up(self) -> Turn:
        """Wait for a slot."""
        turn: Turn = asyncio.get_running_loop().create_future()
        self.line.append(turn)
        return turn

    async def release(self, token: str) -> None:
        """Give a slot back."""
        await self._slots.release(token)

    async def renew(self) -> None:
        """Nothing to do."""


class FleetSlots:
    """At most `limit` calls at once in all processes: leases in the store, so a crash frees them.

    Only the first in this process's line asks the store.
    """

    def __init__(self, limits: Limits, tier: str, limit: int) -> None:
        self._limits, self._tier, self._limit = limits, tier, limit
        self._taken: set[str] = set()
        self._background: set[asyncio.Task[None]] = set()
        self._line = asyncio.Lock()  # asyncio's lock is fair
        self._freed = asyncio.Event()

    @property
    def taken(self) -> int:
        """Slots that calls of this process have, or ask for, now."""
        return len(self._taken)

    def try_acquire(self) -> str | None:
        """Return None: only the store knows."""
        return None

    def line_up(self) -> Turn:
        """Wait for a slot; while the store is away there is none."""
        turn: Turn = asyncio.get_running_loop().create_future()
        waiting = asyncio.create_task(self._wait(turn))
        self._background.add(waiting)
        waiting.add_done_callback(self._background.discard)
        turn.add_done_callback(lambda _: waiting.cancel())
        return turn

    async def _wait(self, turn: Turn) -> None:
        token = await self._acquire()
        if turn.done():
            self._release_soon(token)
        else:
            turn.set_result(token)

    async def _acquire(self) -> str:
        token = new_token()
        async with self._line:
            while not await self._ask(token):
                self._freed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(ASK_AGAIN_SECONDS):
                        await self._freed.wait()
        return token

    async def _ask(self, token: str) -> bool:
        # Listed before the answer is there: if we are cancelled meanwhile it is given back.
        self._taken.add(token)
        try:
            if await self._limits.take_slot(self._tier, self._limit, token):
                return True
        except StoreUnavailable:
            pass
        except asyncio.CancelledError:
            self._release_soon(token)
            raise
        self._taken.discard(token)
        return False

    def _release_soon(self, token: str) -> None:
        releasing = asyncio.create_task(self.release(token))
        self._background.add(releasing)
        releasing.add_done_callback(self._background.discard)

    async def release(self, token: str) -> None:
        """Give a slot back; if the store is away its lease ends by itself."""
        self._taken.discard(token)
        with contextlib.suppress(StoreUnavailable):
            await self._limits.release_slot(self._tier, token)
        self._freed.set()

    async def renew(self) -> None:
        """Extend the leases of the slots taken."""
        if self._taken:
            await self._limits.renew_slots(self._tier, list(self._taken))
