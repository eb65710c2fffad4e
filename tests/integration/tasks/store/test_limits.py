"""Semaphores whose holds lapse, and what may be unfinished, by the clock of the test."""

from __future__ import annotations

import asyncio

import pytest
from harness.stores import kept_file, store_on

from tasks.errors import TooManyQueued
from tasks.records.batches import BatchOptions, Endpoint, NewBatch, new_batch_id
from tasks.records.idempotency import IdempotencyKey
from tasks.records.jobs import Options, Queue, Submission, new_job_id, new_token
from tasks.store import keyspace


@pytest.fixture
async def limits(store_url, clock):
    store = store_on(store_url, clock, lease_seconds=1)
    yield store.limits
    await store.close()


async def test_slots_are_for_the_whole_fleet_and_leased(limits, clock):
    assert await limits.take_slot("cpu", 2, "a")
    assert await limits.take_slot("cpu", 2, "b")
    assert not await limits.take_slot("cpu", 2, "c")
    await limits.release_slot("cpu", "a")
    assert await limits.take_slot("cpu", 2, "c")
    clock.advance(0.6)
    await limits.renew_slots("cpu", ["b"])
    clock.advance(0.6)
    assert await limits.take_slot("cpu", 2, "d"), "c's holder is gone"
    assert not await limits.take_slot("cpu", 2, "e"), "b's is not"


async def test_a_slot_that_lapsed_is_not_renewed(limits, clock):
    assert await limits.take_slot("cpu", 1, "a")
    clock.advance(1)
    await limits.renew_slots("cpu", ["a"])
    assert await limits.take_slot("cpu", 1, "b")


async def test_a_slot_that_is_renewed_is_held_however_long(limits, clock):
    assert await limits.take_slot("cpu", 1, "a")
    for _ in range(5):
        clock.advance(0.9)
        await limits.renew_slots("cpu", ["a"])
        assert not await limits.take_slot("cpu", 1, "b")


async def test_a_clock_that_is_set_back_keeps_no_slot_for_longer_than_a_lease(limits, clock):
    assert await limits.take_slot("cpu", 1, "a")
    clock.advance(-3600)
    assert not await limits.take_slot("cpu", 1, "b")
    clock.advance(1)
    assert await limits.take_slot("cpu", 1, "b")


async def test_a_semaphore_that_nobody_asks_for_goes_by_itself(limits):
    await limits.take_slot("cpu", 1, "a")
    await limits.admit("ann", 0, 1, 15)
    await limits.admit("bob", 0, 0, 15)
    client = limits._connection.client
    assert 0 < await client.pttl("{ft}:permits:cpu") <= 1000
    assert 0 < await client.pttl("{ft}:running:ann") <= 15_000
    assert not await client.exists("{ft}:running:bob"), "who has no limit is not counted"


async def test_an_owners_requests_are_counted_by_the_minute_and_at_once(limits, clock):
    clock.ms = 600_000
    first = await limits.admit("ann", 3, 1, 15)
    assert (first.remaining, first.reset_seconds, first.full) == (2, 60.0, "")
    refused = await limits.admit("ann", 3, 1, 15)
    assert (refused.remaining, refused.full) == (2, "concurrency"), "it counts for no minute"
    await limits.release_request("ann", first.token)
    for remaining in (1, 0):
        admitted = await limits.admit("ann", 3, 1, 15)
        assert (admitted.remaining, admitted.full) == (remaining, "")
        await limits.release_request("ann", admitted.token)
    assert (await limits.admit("ann", 3, 1, 15)).full == "rate"
    assert (await limits.admit("bob", 3, 1, 15)).full == ""
    clock.advance(60)
    assert (await limits.admit("ann", 3, 1, 15)).remaining == 2


async def test_a_request_that_runs_on_takes_its_place_again_after_an_outage(limits, clock):
    mine = await limits.admit("ann", 0, 1, 15)
    clock.advance(20)  # the store was away for longer than the lease
    await limits.renew_requests(15, [("ann", mine.token)])
    assert (await limits.admit("ann", 0, 1, 15)).full == "concurrency"


async def test_a_server_that_crashed_holds_nothing_for_long(limits, clock):
    await limits.admit("ann", 0, 1, 15)
    clock.advance(15)
    assert (await limits.admit("ann", 0, 1, 15)).full == ""


def submission(owner="ann", deadline=60.0, queue=Queue.INTERACTIVE):
    return Submission(new_job_id(), owner, queue, {}, Options(), deadline)


def new_batch(file_id, owner="ann"):
    return NewBatch(new_batch_id(), owner, Endpoint.CHAT, file_id, "1h", {}, BatchOptions())


def key():
    return IdempotencyKey(new_token(), "d" * 32, lookup=True)


@pytest.fixture
async def limited(store_url, clock):
    """A store that keeps five unfinished jobs and two batches, three and one of them an owner's."""
    limits = {"max_queued_jobs": 5, "key_queued_jobs": 3, "max_batches": 2, "key_batches": 1}
    store = store_on(store_url, clock, **limits)
    yield store
    await store.close()


async def test_so_many_jobs_may_be_unfinished_and_each_that_ends_makes_room(limited):
    jobs = limited.jobs
    anns = [submission() for _ in range(3)]
    await jobs.create(anns, "gpu")
    with pytest.raises(TooManyQueued, match="owner may have 3 unfinished jobs"):
        await jobs.create([submission()], "gpu")
    await jobs.create([submission("bob")], "gpu")
    with pytest.raises(TooManyQueued, match="takes 5 unfinished jobs"):
        await jobs.create([submission("bob"), submission("bob")], "gpu")
    await jobs.create([submission("bob")], "gpu")
    assert await jobs.cancel(anns[0].id, "ann")
    await jobs.discard("ann", [anns[1].id])
    await jobs.create([submission(), submission()], "gpu")
    with pytest.raises(TooManyQueued):
        await jobs.create([submission("eve")], "gpu", [key()])
    assert await limited.connection.command("ZCARD", keyspace.DEADLINES) == 5


async def test_a_limit_of_0_is_none(store_url, clock):
    none = dict.fromkeys(("max_queued_jobs", "key_queued_jobs", "max_batches", "key_batches"), 0)
    store = store_on(store_url, clock, **none)
    for _ in range(3):
        await store.jobs.create([submission()], "gpu")
        await store.batches.create(new_batch(await kept_file(store)), [])
    await store.close()


async def test_a_tenth_is_kept_for_lone_requests(store_url, clock):
    store = store_on(store_url, clock, max_queued_jobs=10)
    bulk = [submission(queue=Queue.BATCH) for _ in range(10)]
    with pytest.raises(TooManyQueued):
        await store.jobs.create(bulk, "gpu")
    await store.jobs.create(bulk[:9], "gpu")
    with pytest.raises(TooManyQueued):
        await store.jobs.create(bulk[9:], "gpu")
    await store.jobs.create([submission()], "gpu")
    with pytest.raises(TooManyQueued):
        await store.jobs.create([submission()], "gpu")
    await store.close()


async def test_however_many_are_created_at_once_no_more_are_taken(limited, store_url, clock):
    other = store_on(store_url, clock, max_queued_jobs=5)
    creates = [
        store.jobs.create([submission(f"owner-{n}")], "gpu", keys)
        for n in range(20)
        for store, keys in ((limited, ()), (other, [key()]))
    ]
    answers = await asyncio.gather(*creates, return_exceptions=True)
    assert sum(not isinstance(answer, TooManyQueued) for answer in answers) == 5
    await other.close()


async def test_who_was_taken_is_told_so_again_when_nobody_else_is(limited):
    keys, first = [key()], [submission() for _ in range(3)]
    await limited.jobs.create(first, "gpu", keys)
    _, earlier = await limited.jobs.create([submission() for _ in range(3)], "gpu", keys)
    assert earlier == [job.id for job in first]


async def test_who_was_refused_has_not_used_its_key(limited):
    keys, first = [key()], submission()
    await limited.jobs.create([first, submission(), submission()], "gpu")
    with pytest.raises(TooManyQueued):
        await limited.jobs.create([submission()], "gpu", keys)
    await limited.jobs.cancel(first.id, "ann")
    second = submission()
    assert (await limited.jobs.create([second], "gpu", keys))[1] is None
    assert (await limited.jobs.create([submission()], "gpu", keys))[1] == [second.id]


async def test_a_job_past_its_deadline_counts_no_more_for_its_owner(limited, clock):
    """As one that ended in a process of a release that knows nothing of limits."""
    for _ in range(3):
        await limited.jobs.create([submission(deadline=1.0)], "gpu")
    clock.advance(1)
    await limited.jobs.create([submission()], "gpu")


async def test_so_many_batches_may_be_unfinished_and_do_not_count_as_jobs(limited, clock):
    files = {owner: await kept_file(limited, owner) for owner in ("ann", "bob", "eve")}
    batches, first, keys = limited.batches, new_batch(files["ann"]), [key()]
    assert await batches.create(first, keys) == first.id
    with pytest.raises(TooManyQueued, match="owner may have 1 unfinished batches"):
        await batches.create(new_batch(files["ann"]), [])
    assert await batches.create(new_batch(files["ann"]), keys) == first.id
    await batches.create(new_batch(files["bob"], "bob"), [])
    with pytest.raises(TooManyQueued, match="takes 2 unfinished batches"):
        await batches.create(new_batch(files["eve"], "eve"), [])
    await limited.jobs.create([submission() for _ in range(3)], "gpu")
    await limited.jobs.create([submission("bob") for _ in range(2)], "gpu")
    await batches.cancel(first.id, "ann")
    await batches.create(new_batch(files["eve"], "eve"), [])
    clock.advance(3600)
    await limited.jobs.sweep({})
    await batches.create(new_batch(files["eve"], "eve"), [])
