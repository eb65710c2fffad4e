"""Slots: leave to call a tier once. Per process, or leased for the whole fleet."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from fallback_chain import Verdict
from tasks.errors import StoreUnavailable
from tasks.records.jobs import new_token
from tasks.store.limits import Load

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from fallback_chain import Attempt
    from tasks.store.limits import Limits, Share

ASK_AGAIN_SECONDS = 0.1  # how often a process whose calls wait looks for a slot that another left

log = logging.getLogger(__name__)

Turn = asyncio.Future[str | None]  # the token of the slot, or None: given up


class Slots(Protocol):
    """Where calls line up for a slot, first come first served, but begun work goes first."""

    @property
    def limit(self) -> int:
        """Calls at once, at most."""

    @property
    def taken(self) -> int:
        """Slots that calls of this process have now."""

    def try_acquire(self) -> str | None:
        """Take a slot if one is free and nobody waits."""

    def line_up(self, *, first: bool = False) -> Turn:
        """Wait for a slot; who sets the future to None, or cancels it, leaves the line.

        first: before all that is not.
        """

    async def release(self, token: str, attempt: Attempt | None = None) -> None:
        """Give a slot back. attempt: what its call came to, if there was one."""

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

    def __init__(self, limit: int, reserved: int = 0) -> None:
        """reserved: free slots that calls of batches leave to others; one they may always have."""
        self.limit = self._free = limit
        self._line = Line()
        self.batch_lane = BatchLane(self, min(reserved, limit - 1))

    @property
    def taken(self) -> int:
        """Slots that calls have now."""
        return self.limit - self._free

    def try_acquire(self) -> str | None:
        """Take a free slot."""
        if not self._free:
            return None
        self._free -= 1
        return "local"

    def line_up(self, *, first: bool = False) -> Turn:
        """Wait for a slot."""
        return self._line.line_up(first=first)

    async def release(self, token: str, attempt: Attempt | None = None) -> None:  # noqa: ARG002
        """Give a slot to the first in the line who still wants it."""
        self._free += 1
        turn = self._line.next() or (self.batch_lane.line.next() if self.batch_lane.free else None)
        if turn:
            self._free -= 1
            turn.set_result(token)

    async def renew(self) -> None:
        """Nothing to do: they end with the process."""


class BatchLane:
    """The same slots, for calls of batches: they let every lone call go first.

    They take none of the last `reserved` that are free, so that a lone call finds one.
    """

    def __init__(self, slots: LocalSlots, reserved: int) -> None:
        self._slots = slots
        self.limit = slots.limit - reserved
        self.line = Line()

    @property
    def free(self) -> bool:
        """Whether a call of a batch may take a slot."""
        return self._slots.taken < self.limit

    @property
    def taken(self) -> int:
        """Return 0: the slots count all that are taken, from either line."""
        return 0

    def try_acquire(self) -> str | None:
        """Take a free slot."""
        return self._slots.try_acquire() if self.free else None

    def line_up(self, *, first: bool = False) -> Turn:
        """Wait for a slot."""
        return self.line.line_up(first=first)

    async def release(self, token: str, attempt: Attempt | None = None) -> None:
        """Give a slot back."""
        await self._slots.release(token, attempt)

    async def renew(self) -> None:
        """Nothing to do."""


class FleetSlots:
    """At most `limit` calls at once in all processes: leases in the store, so a crash frees them.

    Only one in this process asks the store, for the first in its line.
    """

    def __init__(
        self, limits: Limits, tier: str, limit: int, ramp: Callable[[], float] = lambda: 1.0
    ) -> None:
        """ramp: the share of the limit that its calls may have now, of all that run in the fleet.

        0: the tier is asked by a probe alone, which is no share of anything.
        """
        self._limits, self._tier, self.limit, self._ramp = limits, tier, limit, ramp
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
            if await self._take(token):
                return True
        except StoreUnavailable:
            pass
        except Exception:  # ours: who waits is not to wait for ever
            log.exception("a slot at tier %s could not be asked for", self._tier)
        self._taken.discard(token)
        return False

    async def _take(self, token: str) -> bool:
        most = max(math.floor(self.limit * self._part), 1)
        return await self._limits.take_slot(self._tier, most, token)

    @property
    def _part(self) -> float:
        return self._ramp() or 1.0

    async def release(self, token: str, attempt: Attempt | None = None) -> None:
        """Give a slot back; if the store is away its lease ends by itself."""
        self._taken.discard(token)
        await asyncio.shield(self._give_back(token, attempt))  # though its call is cut off

    async def _give_back(self, token: str, attempt: Attempt | None) -> None:
        with contextlib.suppress(StoreUnavailable):
            await self._return(token, attempt)
        self._freed.set()

    async def _return(self, token: str, attempt: Attempt | None) -> None:  # noqa: ARG002
        await self._limits.release_slot(self._tier, token)

    async def renew(self) -> None:
        """Extend the leases of the slots taken."""
        if self._taken:
            await self._limits.renew_slots(self._tier, list(self._taken))


@dataclass(slots=True)
class Known:
    """What a process knows of a limit that the fleet learns."""

    limit: int


class AdaptiveSlots(FleetSlots):
    """As many calls at once, in all processes, as the tier's server bears: lua/_limits.lua."""

    def __init__(
        self,
        limits: Limits,
        share: Share,
        slow_seconds: float = 0.0,
        ramp: Callable[[], float] = lambda: 1.0,
        known: Known | None = None,
    ) -> None:
        """slow_seconds: a call that takes longer is too slow; 0: none is. ramp: as of FleetSlots.

        known: what those of the tier's other queue know as well.
        """
        self._known = known or Known(share.lowest)
        super().__init__(limits, share.tier, self._known.limit, ramp)
        self._share, self._slow_seconds = share, slow_seconds

    @property
    def limit(self) -> int:
        """The limit, as it was last seen here."""
        return self._known.limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._known.limit = limit

    async def _take(self, token: str) -> bool:
        taken, self.limit = await self._limits.take_share(self._share, self._part, token)
        return taken

    async def _return(self, token: str, attempt: Attempt | None) -> None:
        load = load_of(attempt, self._slow_seconds)
        self.limit = await self._limits.return_share(self._share, token, load)


def free_for_batches(slots: Collection[Slots], chance: float, share: float) -> int:
    """Return how many calls of batches may begin here, at a tier that takes a share of what it can.

    slots: the tier's, of every queue. chance: from 0 to 1, of this process: by it some round up and
    some down, so that the fleet has the share though each has few slots. Below 1: none may. Of
    slots of the whole fleet: how many at most, as all its processes share them.
    """
    most = math.floor(share * min(each.limit for each in slots) + chance)
    return most - sum(each.taken for each in slots)


def load_of(attempt: Attempt | None, slow_seconds: float) -> Load:
    """Return what a call tells of how much its server bears. slow_seconds: as above."""
    if attempt is None:
        return Load()
    took = attempt.milliseconds
    if attempt.verdict is Verdict.SATURATED:
        return Load("busy", took)
    if attempt.verdict is Verdict.FAILURE and attempt.detail == "timeout":
        return Load("slow", took)
    if attempt.verdict is not Verdict.ANSWERED:
        return Load()
    return Load("slow" if 0 < slow_seconds * 1000 < took else "well", took)
