"""How a job enters: recorded first, then published. What could not be published leaves no trace."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from tasks.errors import PublishError, StoreFull, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.jobs import Submission
    from tasks.publisher import Publisher
    from tasks.store import JobStore

ROOM_SECONDS = 1.0  # how old the store's word that it has room may be


class Submitter:
    """Accepts jobs; belongs to one event loop."""

    def __init__(self, store: JobStore, publisher: Publisher) -> None:
        self._store = store
        self._publisher = publisher
        self._room_until = 0.0

    async def submit(self, jobs: Sequence[Submission]) -> float:
        """Accept jobs of one queue; return their creation time (epoch seconds).

        Raises StoreFull, StoreUnavailable or PublishError; then none of them was accepted.
        """
        await self._check_room()
        tier = self._publisher.first_tier
        created = await self._store.create(jobs, tier)
        try:
            pairs = [(job.id, 0) for job in jobs]
            await self._publisher.publish(tier, jobs[0].queue.value, pairs)
        except PublishError:
            with contextlib.suppress(StoreUnavailable):  # else the sweeper brings them to an end
                await self._store.discard(job.id for job in jobs)
            raise
        return created

    async def _check_room(self) -> None:
        if time.monotonic() < self._room_until:
            return
        if not await self._store.has_room():
            message = "the job store is nearly full; try again when running work is done"
            raise StoreFull(message)
        self._room_until = time.monotonic() + ROOM_SECONDS
