"""Finds jobs whose worker died, whose message was lost, or whose time has come; a timer."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from tasks.errors import PublishError, StoreUnavailable
from tasks.records.jobs import Queue
from tasks.whole import whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.broker.publisher import Publisher
    from tasks.store import Store
    from tasks.telemetry.observer import Observer

log = logging.getLogger(__name__)


class Sweeper:
    """Runs in every worker; the store lets one at a time through."""

    def __init__(self, store: Store, publisher: Publisher, observer: Observer, worker: str) -> None:
        self._store, self._publisher = store, publisher
        self._observer = observer
        self._worker = worker

    async def keep(self, interval_seconds: float) -> None:
        """Sweep at every interval; run until cancelled."""
        while True:
            await asyncio.sleep(interval_seconds)
            try:
                await self._store.fleet.heartbeat(self._worker, 3 * interval_seconds + 1)
                await self.sweep()
            except (StoreUnavailable, PublishError) as error:
                log.warning("sweep put off: %s", error)

    async def sweep(self) -> int:
        """Sweep once; return how many jobs were dispatched again."""
        empty = await self._publisher.empty(q.value for q in Queue)
        await self._publisher.dispatch_refused()
        swept = await whole(self._sweep_and_send(empty))
        if swept is None:
            return 0
        await self._store.files.sweep()
        await self._store.fleet.prune_lists()
        return swept

    async def _sweep_and_send(self, empty: Mapping[str, bool]) -> int | None:
        swept = await self._store.jobs.sweep(empty)
        if swept is None:
            return None
        self._observer.swept(reason for _, reason in swept)
        for dispatch, reason in swept:
            if reason not in {"parked", "expired"}:
                about = {"job_id": dispatch.id, "tier": dispatch.tier}
                log.warning(
                    "%s dispatched again to %s: %s",
                    *(dispatch.id, dispatch.tier, reason),
                    extra=about,
                )
        await self._publisher.dispatch(dispatch for dispatch, _ in swept)
        return len(swept)
