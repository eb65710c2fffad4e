"""What has not ended, in jobs and in lines of batches: running, waiting, parked."""

from __future__ import annotations

import pytest
from harness.records import ORDER
from harness.stores import kept_file, store_on

from fallback_chain import Body
from tasks.jsonl.input import Findings
from tasks.records.batches import (
    BatchOptions,
    Endpoint,
    LineHistory,
    LineResult,
    NewBatch,
    Part,
    SliceRange,
    new_batch_id,
    phase_unit_id,
    slice_unit_id,
)
from tasks.records.jobs import Options, Queue, Ref, Submission, new_job_id, new_token
from tasks.records.outcomes import Park
from tasks.store import keyspace
from tasks.store.fleet import Work

SLICES = (10, 10, 10, 7)  # lines of each


@pytest.fixture
async def store(store_url, clock):
    store = store_on(store_url, clock)
    yield store
    await store.close()


async def jobs(store, number, queue=Queue.INTERACTIVE):
    new = [
        Submission(new_job_id(), "ann", queue, Body.of({}), Options(), 60.0) for _ in range(number)
    ]
    await store.jobs.create(new, ORDER)
    return [Ref(job.id, 0) for job in new]


async def created_batch(store):
    """Return a batch that is not yet validated."""
    new = NewBatch(
        id=new_batch_id(),
        owner="ann",
        endpoint=Endpoint.CHAT,
        input_file_id=await kept_file(store),
        completion_window="1h",
        metadata={},
        options=BatchOptions(),
    )
    await store.batches.create(new, [])
    return new.id


async def started(store):
    """Return a batch whose slices are on their way."""
    batch_id = await created_batch(store)
    unit = await store.batches.begin("me", "validate", Ref(phase_unit_id(batch_id, "validate"), 0))
    ranges = [SliceRange(n, 1, lines, 1 + n) for n, lines in enumerate(SLICES)]
    await store.batches.start(unit, Findings(total=sum(SLICES), ranges=ranges), "gpu")
    return batch_id


async def begun(store, batch_id, number):
    return await store.batches.begin("me", "gpu", Ref(slice_unit_id(batch_id, number), 0))


def results(lines, *, good=True):
    return [LineResult(line, good, b"{}", "gpu:succeeded") for line in lines]


def histories(lines):
    return {line: LineHistory((), 0) for line in lines}


async def lines(store):
    return (await store.fleet.gauges()).lines


async def test_lone_jobs_are_counted_whichever_queue_they_are_in(store):
    assert (await store.fleet.gauges()).jobs == Work(0, 0, 0)
    refs = await jobs(store, 3) + await jobs(store, 3, Queue.BATCH)
    running = await store.jobs.begin("me", "gpu", refs[1:5])
    await store.jobs.park(running[0], "gpu", new_token(), Park((), 0, 30.0))
    gauges = await store.fleet.gauges()
    assert gauges.jobs == Work(running=3, waiting=2, parked=1)
    assert gauges.lines == Work(0, 0, 0)


async def test_lines_of_a_batch_wait_until_their_slice_is_begun_and_end_one_by_one(store):
    await created_batch(store)
    assert await lines(store) == Work(0, 0, 0), "nobody knows yet how many it has"
    batch_id = await started(store)
    assert await lines(store) == Work(running=0, waiting=37, parked=0)
    unit, short = await begun(store, batch_id, 0), await begun(store, batch_id, 3)
    assert await lines(store) == Work(running=17, waiting=20, parked=0)
    await store.batches.record_lines(unit, results(range(4)))
    await store.batches.record_lines(unit, results([4], good=False))
    assert await lines(store) == Work(running=12, waiting=20, parked=0)
    await store.batches.record_lines(short, results(range(7)))
    assert await lines(store) == Work(running=5, waiting=20, parked=0), "its part is written"
    await store.batches.complete_slice(short, Part(3, 14, 0))
    assert await lines(store) == Work(running=5, waiting=20, parked=0)
    assert (await store.fleet.gauges()).jobs == Work(0, 0, 0)


async def test_lines_of_one_slice_are_counted_once_whichever_units_have_them(store):
    batch_id = await started(store)
    unit = await begun(store, batch_id, 1)
    child = await store.batches.split(unit, "cpu", new_token(), histories([0, 1, 2]))
    assert await lines(store) == Work(running=10, waiting=27, parked=0)
    await store.batches.begin("me", "cpu", Ref(child.id, 0))
    assert await lines(store) == Work(running=10, waiting=27, parked=0), "not 13"
    await store.batches.record_lines(unit, results(range(3, 10)))
    assert await lines(store) == Work(running=3, waiting=27, parked=0)
    await store.batches.park(unit, "gpu", new_token(), {}, 30.0)
    found = await lines(store)
    assert (found.running, found.waiting) == (3, 24), "those that left it may be told twice"


async def test_lines_that_no_tier_answered_are_parked(store):
    batch_id = await started(store)
    unit = await begun(store, batch_id, 2)
    await store.batches.record_lines(unit, results(range(6)))
    await store.batches.park(unit, "gpu", new_token(), histories(range(6, 10)), 30.0)
    assert await lines(store) == Work(running=0, waiting=27, parked=4)
    child = await store.batches.split(
        await begun(store, batch_id, 0), "cpu", new_token(), histories([8, 9])
    )
    alone = await store.batches.begin("me", "cpu", Ref(child.id, 0))
    await store.batches.park(alone, "gpu", new_token(), histories([8, 9]), 30.0)
    assert (await lines(store)).parked == 6


async def test_a_batch_that_is_cancelled_has_no_lines_to_answer(store):
    batch_id = await started(store)
    await begun(store, batch_id, 0)
    await store.batches.cancel(batch_id, "ann")
    assert await lines(store) == Work(0, 0, 0)
    await started(store)
    await store.batches.begin("me", "join", Ref(phase_unit_id(batch_id, "join"), 0))
    assert await lines(store) == Work(running=0, waiting=37, parked=0), "who joins answers none"


async def test_what_is_at_work_and_no_job_makes_no_job_run(store):
    refs = await jobs(store, 5)
    await store.jobs.begin("me", "gpu", refs[:1])
    batch_id = await started(store)
    for number in range(2):
        await begun(store, batch_id, number)
    gone = await created_batch(store)
    unit = phase_unit_id(gone, "validate")
    await store.batches.begin("me", "validate", Ref(unit, 0))
    await store.connection.command("DEL", keyspace.job(unit))
    gauges = await store.fleet.gauges()
    assert gauges.jobs == Work(running=1, waiting=4, parked=0)
    assert gauges.lines == Work(running=20, waiting=17, parked=0)


async def test_a_unit_whose_batch_is_gone_has_no_lines(store):
    batch_id = await started(store)
    await begun(store, batch_id, 0)
    await store.connection.command("DEL", keyspace.slices(batch_id))
    await store.connection.command("DEL", keyspace.batch(batch_id))
    assert await lines(store) == Work(0, 0, 0)


async def test_a_worker_that_is_long_gone_is_forgotten(store, clock):
    await store.fleet.heartbeat("there", 1.0)
    clock.advance(30)
    assert (await store.fleet.gauges()).workers == 0
    assert await store.connection.command("ZCARD", keyspace.WORKERS) == 1
    clock.advance(60)
    await store.fleet.gauges()
    assert await store.connection.command("ZCARD", keyspace.WORKERS) == 0


async def test_of_long_indexes_a_part_is_looked_at_and_the_rest_is_taken_for_like_it(
    store, monkeypatch
):
    refs = await jobs(store, 12)
    await store.jobs.begin("me", "gpu", refs[:9])
    for _ in range(6):
        await begun(store, await started(store), 0)
    monkeypatch.setattr("tasks.store.fleet.GAUGE_LOOK", 4)
    gauges = await store.fleet.gauges()
    assert sum(gauges.jobs) == 12
    assert sum(gauges.lines) == 6 * 37


async def test_of_many_units_the_lines_of_the_first_are_looked_at(store, clock, monkeypatch):
    for number in range(6):
        unit = await begun(store, await started(store), 0)
        if number < 4:
            await store.batches.record_lines(unit, results(range(2)))
        clock.advance(0.1)
    assert await lines(store) == Work(running=4 * 8 + 2 * 10, waiting=6 * 27, parked=0)
    monkeypatch.setattr("tasks.store.fleet.GAUGE_LOOK", 40)
    assert (await lines(store)).running == 6 * 8


def test_an_estimate_is_never_more_than_there_is():
    assert Work.of(10, 4, 3) == Work(running=4, waiting=3, parked=3)
    assert Work.of(10, 12, 3) == Work(running=10, waiting=0, parked=0)
    assert Work.of(10, 4, 9) == Work(running=4, waiting=0, parked=6)
