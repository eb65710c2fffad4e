"""Who has little to be done does not wait for all of those who have much."""

from __future__ import annotations

import io

import pytest
from harness.records import ORDER
from harness.stores import store_on

from fallback_chain import Body
from tasks.errors import TooManyQueued
from tasks.jsonl.input import Findings
from tasks.records.batches import (
    SLICE_BYTES,
    BatchOptions,
    Endpoint,
    LineResult,
    NewBatch,
    Part,
    SliceRange,
    new_batch_id,
)
from tasks.records.files import NewFile
from tasks.records.jobs import Options, Queue, Ref, Submission, new_job_id

BACKLOG, FEW, AHEAD = 64, 32, 1000  # as create_jobs has them


@pytest.fixture
async def store(store_url, clock):
    store = store_on(store_url, clock, batch_window=4, max_queued_jobs=200)
    await store.connection.client.flushall()
    yield store
    await store.close()


async def create(store, number=1, owner="ann", queue=Queue.INTERACTIVE):
    """Create jobs as one request; return the queue that they go to, and their ids."""
    jobs = [
        Submission(new_job_id(), owner, queue, Body.of({}), Options(), 3600.0)
        for _ in range(number)
    ]
    *_, where = await store.jobs.create(jobs, ORDER)
    ids = [job.id for job in jobs]
    assert {(await store.jobs.get(i, owner)).queue for i in (ids[0], ids[-1])} == {where}
    return where, ids


@pytest.mark.parametrize(
    ("queue", "waiting", "number", "where"),
    [
        (Queue.INTERACTIVE, BACKLOG + 1, 1, "interactive.begun"),
        (Queue.INTERACTIVE, BACKLOG, 1, "interactive"),
        (Queue.BATCH, BACKLOG + 1, 1, "batch.begun"),
        (Queue.BATCH, BACKLOG + 1, FEW, "batch.begun"),
        (Queue.BATCH, BACKLOG + 1, FEW + 1, "batch"),
        (Queue.BATCH, BACKLOG, 1, "batch"),
    ],
)
async def test_jobs_of_who_has_few_come_first_where_many_wait(store, queue, waiting, number, where):
    assert (await create(store, waiting - 1, queue=queue))[0] == queue.value
    assert (await create(store, 1, queue=queue))[0] == queue.value, "one more of the many"
    assert (await create(store, number, "bob", queue))[0] == where
    other = Queue.BATCH if queue is Queue.INTERACTIVE else Queue.INTERACTIVE
    assert (await create(store, 1, "eve", other))[0] == other.value, "nobody waits there"


async def test_who_has_few_has_many_after_some_time(store):
    await create(store, BACKLOG + 1)
    queues = [(await create(store, 1, "bob"))[0] for _ in range(FEW + 1)]
    assert queues == ["interactive.begun"] * FEW + ["interactive"]


async def test_of_all_who_have_few_not_too_many_come_first(store_url, clock):
    store = store_on(store_url, clock)
    await store.connection.client.flushall()
    await create(store, BACKLOG + 1)
    owners = [f"owner-{n}" for n in range(AHEAD // FEW + 1)]
    queues = {(await create(store, FEW, owner))[0] for owner in owners}
    assert queues == {"interactive.begun"}
    assert (await create(store, 1, "one more"))[0] == "interactive"
    await store.close()


async def test_the_last_places_are_for_who_has_few(store):
    """Of 200: 180 for bulk work, 190 for lone requests of who has many, all for who has few."""
    await create(store, 180, queue=Queue.BATCH)
    for _ in range(10):
        await create(store)
    with pytest.raises(TooManyQueued):
        await create(store)
    with pytest.raises(TooManyQueued):
        await create(store, 1, "bob", Queue.BATCH)
    for _ in range(10):
        await create(store, 1, "bob")
    with pytest.raises(TooManyQueued):
        await create(store, 1, "eve")


# Batches


class Batch:
    """A batch whose slices have a line each, and how they are sent on their way."""

    def __init__(self, store, slices, priority="normal", size=2):
        self.store, self.slices, self.size = store, slices, size
        self.options = BatchOptions(priority=priority)
        self.sent, self.queues = [], []

    async def create(self):
        files = self.store.files
        file_id, _ = await files.begin("ann", [])
        new = NewFile(file_id, "ann", "a.jsonl", "batch", 86_400)
        await files.create(new, io.BytesIO(b"x" * self.size))
        self.id = new_batch_id()
        batch = NewBatch(self.id, "ann", Endpoint.CHAT, file_id, "1h", {}, self.options)
        _, [self.validation] = await self.store.batches.create(batch, [])
        return self

    async def start(self):
        unit = await self.store.batches.begin("me", "validate", Ref(self.validation.id, 0))
        ranges = [SliceRange(n, 1, 1, n + 1) for n in range(self.slices)]
        findings = Findings(total=self.slices, ranges=ranges)
        return self.note(await self.store.batches.start(unit, findings, "gpu"))

    def note(self, dispatches):
        self.sent += [each.id for each in dispatches]
        self.queues += [each.queue for each in dispatches]
        return len(dispatches)

    async def complete_one(self):
        """Complete the oldest slice; return how many units were sent on."""
        batches = self.store.batches
        unit = await batches.begin("me", "gpu", Ref(self.sent.pop(0), 0))
        line = LineResult(line=0, good=True, content=b"{}", counted_as="gpu:succeeded")
        assert (await batches.record_lines(unit, [line])).complete
        return self.note(await batches.complete_slice(unit, Part(unit.slice, 2, 0)))


@pytest.mark.parametrize(
    ("size", "slices", "where"), [(SLICE_BYTES, 1, ".begun"), (SLICE_BYTES + 1, 2, "")]
)
async def test_a_small_batch_comes_first(store, size, slices, where):
    batch = await Batch(store, slices, size=size).create()
    assert batch.validation.queue == f"phases{where}"
    assert await batch.start() == slices
    assert batch.queues == [f"batch{where}"] * slices
    [joining] = await store.batches.cancel(batch.id, "ann")
    assert joining.queue == f"phases{where}"


async def test_batches_share_the_window(store):
    """Each has a slice in flight at least; who is alone again has the whole window."""
    first = await Batch(store, 20).create()
    assert await first.start() == 4
    others = [await Batch(store, 5).create() for _ in range(3)]
    assert await others[0].start() == 1
    assert [await first.complete_one() for _ in range(4)] == [0, 0, 0, 1]
    for other in others:
        assert await store.batches.cancel(other.id, "ann") is not None
    assert await first.complete_one() == 4


@pytest.mark.parametrize(("priority", "sent"), [("low", 1), ("normal", 2), ("high", 8)])
async def test_priority_is_a_share_of_the_window(store, priority, sent):
    batch = await Batch(store, 20, priority).create()
    await Batch(store, 5).create()
    assert await batch.start() == sent
    assert await batch.complete_one() == 1


async def test_more_batches_than_the_window_has_slices(store):
    batches = [await Batch(store, 3).create() for _ in range(6)]
    assert [await batch.start() for batch in batches] == [1] * 6
    assert [await batch.complete_one() for batch in batches] == [1] * 6
