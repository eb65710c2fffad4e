"""What this process is working on: each job's lease, kept alive, and its task, to be stopped."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from tasks.errors import StoreUnavailable
from tasks.records.batches import is_batch, is_unit_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tasks.store import Store
    from tasks.tiers.slots import Slots


AGAIN_SECONDS = 0.25  # until leases that could not be renewed are renewed


class Leases:
    """The jobs in hand. A job that stops being ours (cancelled, expired, swept) is dropped."""

    def __init__(self, store: Store, lease_seconds: float, slots: Iterable[Slots]) -> None:
        self._store = store
        self._interval = lease_seconds / 4
        self._slots = list(slots)
        self._held: dict[str, tuple[str, asyncio.Task[object]]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, job_id: str, lease_owner: str, task: asyncio.Task[object]) -> None:
        """Keep a job's lease until its task is done."""
        if self._held.get(job_id, (lease_owner,))[0] != lease_owner:
            self.drop(job_id)  # it was swept, and came back to us: its first run is nobody's
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

    def drop_batch(self, batch_id: str) -> None:
        """Stop working on all units of a batch."""
        for unit_id in [held for held in self._held if is_unit_of(held, batch_id)]:
            self.drop(unit_id)

    async def keep(self) -> None:
        """Renew all leases, four times within their length; run until cancelled."""
        while True:
            try:
                await self.renew()
                pause = self._interval
            except StoreUnavailable:
                pause = min(self._interval, AGAIN_SECONDS)
            await asyncio.sleep(pause)

    async def renew(self) -> None:
        """Renew all leases once, and drop what is no longer ours."""
        owners = {job_id: owner for job_id, (owner, _) in self._held.items()}
        if owners:
            for job_id in await self._store.jobs.renew(owners.items()):
                if self._held.get(job_id, ("",))[0] == owners[job_id]:
                    self.drop(job_id)
        for slots in self._slots:
            await slots.renew()

    async def listen(self) -> None:
        """Drop jobs as soon as they are cancelled; run until cancelled."""
        while True:
            with contextlib.suppress(StoreUnavailable):
                async for event in self._store.connection.events("cancelled"):
                    if event and is_batch(event[1]):
                        self.drop_batch(event[1])
                    elif event:
                        self.drop(event[1])
            await asyncio.sleep(1)
