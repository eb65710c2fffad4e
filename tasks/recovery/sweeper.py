"""Finds jobs whose worker died, whose message was lost, or whose time has come; a timer."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from tasks.errors import PublishError, StoreUnavailable
from tasks.records.jobs import Queue

if TYPE_CHECKING:
    from tasks.broker.publisher import Publisher
    from tasks.store.files import FileStore
    from tasks.store.jobs import JobStore
    from tasks.telemetry.observer import Observer

log = logging.getLogger(__name__)


class Sweeper:
    """Runs in every worker; the store lets one at a time through."""

    def __init__(  # noqa: PLR0913, PLR0917 - the process wires its parts here, once
        self,
        store: JobStore,
        files: FileStore,
        publisher: Publisher,
        worker: str,
        interval_seconds: float,
        observer: Observer,
    ) -> None:
        self._store, self._files, self._publisher = store, files, publisher
        self._worker = worker
        self._interval = interval_seconds
        self._observer = observer

    async def keep(self) -> None:
        """Sweep at every interval; run until cancelled."""
        while True:
            await asyncio.sleep(self._interval)
            try:
                await self._store.here(self._worker, 3 * self._interval + 1)
                await self.sweep()
            except (StoreUnavailable, PublishError) as error:
                log.warning("sweep put off: %s", error)

    async def sweep(self) -> int:
        """Sweep once; return how many jobs were dispatched again."""
        empty = await self._publisher.empty(q.value for q in Queue)
        found = await self._store.sweep(self._worker, empty)
        if found is None:
            return 0
        self._observer.swept(reason for *_, reason in found)
        for job_id, _, tier, _, reason in found:
            if reason not in {"parked", "expired"}:
                told = {"job_id": job_id, "tier": tier}
                log.warning("%s dispatched again to %s: %s", job_id, tier, reason, extra=told)
        await self._publisher.dispatch(entry[:4] for entry in found)
        await self._files.sweep()
        return len(found)
