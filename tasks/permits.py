"""Places for calls to a tier: per process, or leased for the whole fleet."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from typing import TYPE_CHECKING, Protocol

from tasks.errors import StoreUnavailable

if TYPE_CHECKING:
    from tasks.store import JobStore

ASK_AGAIN_SECONDS = 0.1  # how often the first in line looks for a place that another process left

log = logging.getLogger(__name__)


class Places(Protocol):
    """Where calls queue for a place. take() is cancelled by whoever cannot wait longer."""

    async def take(self) -> str:
        """Wait for a place, first come first served; return its token."""

    async def give(self, token: str) -> None:
        """Give a place back."""

    async def renew(self) -> None:
        """Keep the places that are taken."""


class LocalPlaces:
    """At most `limit` calls at once in this process."""

    def __init__(self, limit: int) -> None:
        self._free = asyncio.Semaphore(limit)

    async def take(self) -> str:
        """Wait for a place."""
        await self._free.acquire()
        return "local"

    async def give(self, token: str) -> None:  # noqa: ARG002 - any local place is as good
        """Give a place back."""
        self._free.release()

    async def renew(self) -> None:
        """Nothing to do: they end with the process."""


class FleetPlaces:
    """At most `limit` calls at once in all processes: leases in the store, so a crash frees them.

    Only the first in this process's line asks the store.
    """

    def __init__(self, store: JobStore, tier: str, limit: int) -> None:
        self._store, self._tier, self._limit = store, tier, limit
        self._taken: set[str] = set()
        self._line = asyncio.Lock()  # asyncio's lock is fair
        self._freed = asyncio.Event()

    async def take(self) -> str:
        """Wait for a place; while the store is away there is none."""
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
