"""How a job enters: recorded first, then published. What could not be published leaves no trace."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING

from tasks.errors import PublishError, StoreFull, StoreUnavailable
from tasks.group_commit import Flights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.broker.publisher import Publisher
    from tasks.records.jobs import Submission
    from tasks.store.jobs import JobStore

ROOM_SECONDS = 1.0  # how old the store's word that it has room may be


class Submitter:
    """Accepts jobs; belongs to one event loop."""

    def __init__(self, store: JobStore, publisher: Publisher) -> None:
        self._store = store
        self._publisher = publisher
        self._room_until = 0.0
        self._room: Flights[None, bool] = Flights(self._look, sys.maxsize)

    async def submit(
        self, jobs: Sequence[Submission], once: Sequence[str] = ()
    ) -> tuple[float, list[str] | None]:
        """Accept jobs of one owner and queue; return their creation time (epoch seconds).

        If an earlier request with one of the `once` keys was accepted, nothing is, and its ids
        come second. Raises StoreFull, StoreUnavailable or PublishError; then none was accepted.
        """
        await self.check_room()
        tier = self._publisher.first_tier
        created, made = await self._store.create(jobs, tier, once)
        if made:
            return created, made
        try:
            pairs = [(job.id, 0) for job in jobs]
            await self._publisher.publish(tier, jobs[0].queue.value, pairs)
        except PublishError:
            with contextlib.suppress(StoreUnavailable):  # else the sweeper brings them to an end
                await self._store.discard(jobs[0].owner, [job.id for job in jobs], once)
            raise
        return created, None

    async def check_room(self) -> None:
        """Raise StoreFull unless the store may take new work."""
        if time.monotonic() < self._room_until:
            return
        if not await self._room.join(None):
            message = "the job store is nearly full; try again when running work is done"
            raise StoreFull(message)

    async def _look(self, askers: list[None]) -> list[bool]:
        room = await self._store.has_room()
        self._room_until = time.monotonic() + ROOM_SECONDS if room else 0.0
        return [room] * len(askers)
