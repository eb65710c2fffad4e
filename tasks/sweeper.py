"""Finds jobs whose worker died, whose message was lost, or whose time has come; a timer."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING

from tasks.errors import PublishError, StoreUnavailable
from tasks.jobs import Queue

if TYPE_CHECKING:
    from tasks.app import Pairs
    from tasks.publisher import Publisher
    from tasks.store import JobStore

log = logging.getLogger(__name__)


class Sweeper:
    """Runs in every worker; the store lets one at a time through."""

    def __init__(
        self, store: JobStore, publisher: Publisher, worker: str, interval_seconds: float
    ) -> None:
        self._store, self._publisher = store, publisher
        self._worker = worker
        self._interval = interval_seconds
        self.found: Counter[str] = Counter()  # reason -> jobs dispatched again

    async def keep(self) -> None:
        """Sweep at every interval; run until cancelled."""
        while True:
            await asyncio.sleep(self._interval)
            try:
                await self.sweep()
            except (StoreUnavailable, PublishError) as error:
                log.warning("sweep put off: %s", error)

    async def sweep(self) -> int:
        """Sweep once; return how many jobs were dispatched again."""
        empty = await self._publisher.empty(q.value for q in Queue)
        found = await self._store.sweep(self._worker, empty)
        routes: dict[tuple[str, str], Pairs] = {}
        for job_id, attempt, tier, queue, reason in found or ():
            self.found[reason] += 1
            if reason != "parked":
                log.warning("job %s dispatched again to %s: %s", job_id, tier, reason)
            routes.setdefault((tier, queue), []).append((job_id, attempt))
        for (tier, queue), pairs in routes.items():
            await self._publisher.publish(tier, queue, pairs)
        return len(found or ())
