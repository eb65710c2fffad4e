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

ASK_AGAIN_SECONDS = 0.1  # how often a process whose calls wait looks for a slot that another left


Turn = asyncio.Future[str | None]  # the token of the slot, or None: given up


class Slots(Protocol):
    """Where calls line up for a slot, first come first served, but begun work goes first."""

    @property
    def taken(self) -> int:
        """Slots that calls of this process have now."""

    def try_acquire(self) -> str | None:
        """Take a slot if one is free and nobody waits."""

    def line_up(self, *, first: bool = False) -> Turn:
        """Wait for a slot; who sets the future to None, or cancels it, leaves the line.

        first: before all that is not.
        """

    async def release(self, token: str) -> None:
        """Give a slot back."""

    async def renew(self) -> None:
        """Keep the slots that are taken."""


class Line:
    """Who waits for a slot, in the order of their turns."""

    def __init__(self) -> None:
        self._first: deque[Turn] = deque()
        self._rest: deque[Turn] = deque()

    def line_up(self, *, first: bool) -> Turn:
        """Stand in the line."""
        turn: Turn = asyncio.get_running_loop().create_future()
        (self._first if first else self._rest).append(turn)
        return turn

    def next(self) -> Turn | None:
        """Take the first who still wants a slot out of the line."""
        for line in (self._first, self._rest):
            while line:
                turn = line.popleft()
                if not turn.done():
                    return turn
        return None

    @property
    def empty(self) -> bool:
        """Whether nobody wants a slot."""
        for line in (self._first, self._rest):
            while line and line[0].done():
                line.popleft()
        return not self._first and not self._rest


class LocalSlots:
    """At most `limit` calls at once in this process. Who lines up here goes before `batch_lane`."""

    def __init__(self, limit: int) -> None:
        self._limit = self._free = limit
        self._line = Line()
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

    def line_up(self, *, first: bool = False) -> Turn:
        """Wait for a slot."""
        return self._line.line_up(first=first)

    async def release(self, token: str) -> None:
        """Give a slot to the first in the line who still wants it."""
        turn = self._line.next() or self.batch_lane.line.next()
        if turn:
            turn.set_result(token)
        else:
            self._free += 1

    async def renew(self) -> None:
        """Nothing to do: they end with the process."""


class BatchLane:
    """The same slots, for calls of batches: they let every lone call go first."""

    def __init__(self, slots: LocalSlots) -> None:
        self._slots = slots
        self.line = Line()

    @property
    def taken(self) -> int:
        """Return 0: the slots count all that are taken, from either line."""
        return 0

    def try_acquire(self) -> str | None:
        """Take a free slot."""
        return self._slots.try_acquire()

    def line_up(self, *, first: bool = False) -> Turn:
        """Wait for a slot."""
        return self.line.line_up(first=first)

    async def release(self, token: str) -> None:
        """Give a slot back."""
        await self._slots.release(token)

    async def renew(self) -> None:
        """Nothing to do."""


class FleetSlots:
    """At most `limit` calls at once in all processes: leases in the store, so a crash frees them.

    Only one in this process asks the store, for the first in its line.
    """

    def __init__(self, limits: Limits, tier: str, limit: int) -> None:
        self._limits, self._tier, self._limit = limits, tier, limit
        self._taken: set[str] = set()
        self._line = Line()
        self._freed = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None

    @property
    def taken(self) -> int:
        """Slots that calls of this process have, or ask for, now."""
        return len(self._taken)

    def try_acquire(self) -> str | None:
        """Return None: only the store knows."""
        return None

    def line_up(self, *, first: bool = False) -> Turn:
        """Wait for a slot; while the store is away there is none."""
        turn = self._line.line_up(first=first)
        if self._serving is None:
            self._serving = asyncio.create_task(self._serve())
        return turn

    async def _serve(self) -> None:
        """Ask for slots, and give each to the first in the line, until nobody waits."""
        token = new_token()
        try:
            while not self._line.empty:
                if not await self._ask(token):
                    await self._wait()
                    continue
                turn = self._line.next()
                if turn is None:  # they left meanwhile
                    await self.release(token)
                else:
                    turn.set_result(token)
                token = new_token()
        finally:
            self._serving = None

    async def _wait(self) -> None:
        self._freed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ASK_AGAIN_SECONDS):
                await self._freed.wait()

    async def _ask(self, token: str) -> bool:
        self._taken.add(token)
        try:
            if await self._limits.take_slot(self._tier, self._limit, token):
                return True
        except StoreUnavailable:
            pass
        self._taken.discard(token)
        return False

    async def release(self, token: str) -> None:
        """Give a slot back; if the store is away its lease ends by itself."""
        self._taken.discard(token)
        await asyncio.shield(self._give_back(token))  # though its call is cut off

    async def _give_back(self, token: str) -> None:
        with contextlib.suppress(StoreUnavailable):
            await self._limits.release_slot(self._tier, token)
        self._freed.set()

    async def renew(self) -> None:
        """Extend the leases of the slots taken."""
        if self._taken:
            await self._limits.renew_slots(self._tier, list(self._taken))
