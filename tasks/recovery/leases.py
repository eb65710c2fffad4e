"""What this process is working on: each job's lease, kept alive, and its task, to be stopped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from tasks.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tasks.store.jobs import JobStore
    from tasks.tiers.slots import Places

log = logging.getLogger(__name__)


class Leases:
    """The jobs in hand. A job that stops being ours (cancelled, expired, swept) is dropped."""

    def __init__(self, store: JobStore, lease_seconds: float, places: Iterable[Places]) -> None:
        self._store = store
        self._interval = lease_seconds / 4
        self._places = list(places)
        self._held: dict[str, tuple[str, asyncio.Task[object]]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, job_id: str, lease_owner: str, task: asyncio.Task[object]) -> None:
        """Keep a job's lease until its task is done."""
        self._held[job_id] = (lease_owner, task)

    def release(self, job_id: str, lease_owner: str) -> None:
        """Stop keeping a job's lease, if it is still this one."""
        if self._held.get(job_id, ("",))[0] == lease_owner:
            del self._held[job_id]

    def drop(self, job_id: str) -> None:
        """Stop working on a job whose result nobody waits for any more."""
        held = self._held.pop(job_id, None)
        if held:
            held[1].cancel()

    async def keep(self) -> None:
        """Renew all leases, four times within their length; run until cancelled."""
        while True:
            with contextlib.suppress(StoreUnavailable):
                await self._renew()
            await asyncio.sleep(self._interval)

    async def _renew(self) -> None:
        asked = {job_id: owner for job_id, (owner, _) in self._held.items()}
        if asked:
            for job_id in await self._store.renew(asked.items()):
                if self._held.get(job_id, ("",))[0] == asked[job_id]:
                    self.drop(job_id)
        for places in self._places:
            await places.renew()

    async def listen(self) -> None:
        """Drop jobs as soon as they are cancelled; run until cancelled."""
        while True:
            with contextlib.suppress(StoreUnavailable):
                async for event in self._store.events("cancelled"):
                    if event and event[1].startswith("batch_"):
                        for unit_id in [u for u in self._held if u.startswith(f"unit_{event[1]}_")]:
                            self.drop(unit_id)
                    elif event:
                        self.drop(event[1])
            await asyncio.sleep(1)
