"""Places for calls to a tier: per process, or leased for the whole fleet."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import deque
from typing import TYPE_CHECKING, Protocol

from tasks.errors import StoreUnavailable

if TYPE_CHECKING:
    from tasks.store.jobs import JobStore

ASK_AGAIN_SECONDS = 0.1  # how often the first in line looks for a place that another process left

log = logging.getLogger(__name__)


Place = asyncio.Future[str | None]  # its token, or None: given up


class Places(Protocol):
    """Where calls queue for a place, first come first served."""

    @property
    def taken(self) -> int:
        """Places that calls of this process have now."""

    def take_now(self) -> str | None:
        """Take a place if one is free and nobody waits."""

    def enter(self) -> Place:
        """Line up; who sets the future to None, or cancels it, leaves the line."""

    async def give(self, token: str) -> None:
        """Give a place back."""

    async def renew(self) -> None:
        """Keep the places that are taken."""


class LocalPlaces:
    """At most `limit` calls at once in this process. Who lines up here goes before `second`."""

    def __init__(self, limit: int) -> None:
        self._limit = self._free = limit
        self._line: deque[Place] = deque()
        self.second = SecondLine(self)

    @property
    def taken(self) -> int:
        """Places that calls have now."""
        return self._limit - self._free

    def take_now(self) -> str | None:
        """Take a free place."""
        if not self._free:
            return None
        self._free -= 1
        return "local"

    def enter(self) -> Place:
        """Line up."""
        place: Place = asyncio.get_running_loop().create_future()
        self._line.append(place)
        return place

    async def give(self, token: str) -> None:
        """Give a place to the first in the line who still wants it."""
        for line in (self._line, self.second.line):
            while line:
                place = line.popleft()
                if not place.done():
                    place.set_result(token)
                    return
        self._free += 1

    async def renew(self) -> None:
        """Nothing to do: they end with the process."""


class SecondLine:
    """The same places, for calls of batches: they let every lone call go first."""

    def __init__(self, places: LocalPlaces) -> None:
        self._places = places
        self.line: deque[Place] = deque()

    @property
    def taken(self) -> int:
        """Return 0: the places count all that are taken, from either line."""
        return 0

    def take_now(self) -> str | None:
        """Take a free place."""
        return self._places.take_now()

    def enter(self) -> Place:
        """Line up."""
        place: Place = asyncio.get_running_loop().create_future()
        self.line.append(place)
        return place

    async def give(self, token: str) -> None:
        """Give a place back."""
        await self._places.give(token)

    async def renew(self) -> None:
        """Nothing to do."""


class FleetPlaces:
    """At most `limit` calls at once in all processes: leases in the store, so a crash frees them.

    Only the first in this process's line asks the store.
    """

    def __init__(self, store: JobStore, tier: str, limit: int) -> None:
        self._store, self._tier, self._limit = store, tier, limit
        self._taken: set[str] = set()
        self._entering: set[asyncio.Task[None]] = set()
        self._line = asyncio.Lock()  # asyncio's lock is fair
        self._freed = asyncio.Event()

    @property
    def taken(self) -> int:
        """Places that calls of this process have, or ask for, now."""
        return len(self._taken)

    def take_now(self) -> str | None:
        """Return None: only the store knows."""
        return None

    def enter(self) -> Place:
        """Line up; while the store is away there is no place."""
        place: Place = asyncio.get_running_loop().create_future()
        entering = asyncio.create_task(self._enter(place))
        self._entering.add(entering)
        entering.add_done_callback(self._entering.discard)
        place.add_done_callback(lambda _: entering.cancel())
        return place

    async def _enter(self, place: Place) -> None:
        token = await self._take()
        if place.done():
            self._leave(token)
        else:
            place.set_result(token)

    async def _take(self) -> str:
        token = os.urandom(8).hex()
        async with self._line:
            while not await self._ask(token):
                self._freed.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._freed.wait(), ASK_AGAIN_SECONDS)
        return token

    async def _ask(self, token: str) -> bool:
        # Listed before the answer is there: if we are cancelled meanwhile it is given back.
        self._taken.add(token)
        try:
            if await self._store.permits(self._tier, self._limit, "take", [token]):
                return True
        except StoreUnavailable:
            pass
        except asyncio.CancelledError:
            self._leave(token)
            raise
        self._taken.discard(token)
        return False

    def _leave(self, token: str) -> None:
        self._background = asyncio.ensure_future(self.give(token))

    async def give(self, token: str) -> None:
        """Give a place back; if the store is away its lease ends by itself."""
        self._taken.discard(token)
        with contextlib.suppress(StoreUnavailable):
            await self._store.permits(self._tier, self._limit, "give", [token])
        self._freed.set()

    async def renew(self) -> None:
        """Extend the leases of the places taken."""
        if self._taken:
            await self._store.permits(self._tier, self._limit, "renew", list(self._taken))
