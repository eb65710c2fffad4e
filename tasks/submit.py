"""How a job, or a batch, enters: recorded first, then published.

What could not be published leaves no trace; a batch that could not be waits for the sweeper, and so
does a job whose message is to lie in the store, which has just taken the job.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any

from tasks.errors import PublishError, StoreFull, StoreUnavailable
from tasks.group_commit import GroupCommit
from tasks.records.jobs import Ref
from tasks.records.order import first_of

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from tasks.broker.publisher import Publisher
    from tasks.records.batches import NewBatch
    from tasks.records.idempotency import IdempotencyKey
    from tasks.records.jobs import Submission
    from tasks.store import Store

ROOM_SECONDS = 1.0  # how old the store's word that it has room may be


class Submitter:
    """Accepts jobs and batches; belongs to one event loop."""

    def __init__(self, store: Store, publisher: Publisher) -> None:
        self._store = store
        self._publisher = publisher
        self._room_until = 0.0
        self._looks: GroupCommit[None, bool] = GroupCommit(self._look, sys.maxsize)
        self._taking_back: set[asyncio.Task[None]] = set()

    async def submit(
        self, jobs: Sequence[Submission], keys: Sequence[IdempotencyKey] = ()
    ) -> tuple[float, list[str] | None]:
        """Accept jobs of one owner and queue; return their creation time (epoch seconds).

        If an earlier request with one of the keys was accepted, nothing is, and its ids come
        second. Raises StoreFull, TooManyQueued, StoreUnavailable or PublishError; then none was
        accepted. Who is cancelled while they are published takes them back, too.
        """
        await self.check_room()
        order, letter = self._publisher.order, None
        if len(jobs) == 1 and not keys and not self._store.durability.waits:
            tier = first_of(jobs[0].options.tiers, order)
            letter = self._publisher.letter(tier, jobs[0].queue.value, Ref(jobs[0].id, 0))
        created, earlier, queue = await self._store.jobs.create(jobs, order, keys, letter)
        if letter and letter.queue:
            self._publisher.sent(letter)
            return created, None
        if earlier:
            await self._store.durability.job(earlier[0])
            return created, earlier
        try:
            await self._store.durability.job(jobs[0].id)
            refs: dict[str, list[Ref]] = {}
            for job in jobs:
                refs.setdefault(first_of(job.options.tiers, order), []).append(Ref(job.id, 0))
            for first_tier, its_refs in refs.items():
                await self._publisher.publish_new(first_tier, queue, its_refs)
        except (PublishError, StoreUnavailable, asyncio.CancelledError):
            ids = [job.id for job in jobs]
            # Else the sweeper brings them to an end.
            await self._take_back(self._store.jobs.discard(jobs[0].owner, ids, keys))
            raise
        return created, None

    async def submit_batch(self, batch: NewBatch, keys: Sequence[IdempotencyKey]) -> str:
        """Accept a batch; return its id, or that of one which an earlier request made.

        Raises NoSuchInput, StoreFull, TooManyQueued or StoreUnavailable; then it was not accepted.
        """
        await self.check_room()
        batch_id, dispatches = await self._store.batches.create(batch, keys)
        try:
            await self._store.durability.batch(batch_id)
            await self._publisher.dispatch(dispatches)
        except (StoreUnavailable, asyncio.CancelledError):
            # With a key its caller sends it again, and finds it; one that was there is not ours.
            if batch_id == batch.id and not keys:
                # Else it runs, and nobody knows.
                await self._take_back(self._store.batches.cancel(batch_id, batch.owner))
            raise
        return batch_id

    async def cancel_batch(self, batch_id: str, owner: str) -> bool:
        """Cancel a batch if it still runs; False if this owner has none with this id."""
        dispatches = await self._store.batches.cancel(batch_id, owner)
        if dispatches is None:
            return False
        await self._publisher.dispatch(dispatches)
        return True

    async def stop(self) -> None:
        """Return when all that was cut off as this process stops is taken back."""
        while self._taking_back:
            await asyncio.wait(self._taking_back)

    async def _take_back(self, step: Coroutine[Any, Any, object]) -> None:
        """Undo a create in the store, if that is there; to the end, though its asker is cut off."""

        async def undo() -> None:
            with contextlib.suppress(StoreUnavailable):
                await step

        taking_back = asyncio.create_task(undo())
        self._taking_back.add(taking_back)
        taking_back.add_done_callback(self._taking_back.discard)
        await asyncio.shield(taking_back)

    async def check_room(self) -> None:
        """Raise StoreFull unless the store may take new work."""
        if time.monotonic() < self._room_until:
            return
        if not await self._looks.submit(None):
            message = "the job store is nearly full; try again when running work is done"
            raise StoreFull(message)

    async def _look(self, askers: list[None]) -> list[bool]:
        room = await self._store.connection.has_room()
        self._room_until = time.monotonic() + ROOM_SECONDS if room else 0.0
        return [room] * len(askers)
