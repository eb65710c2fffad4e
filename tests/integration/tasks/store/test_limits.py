"""Semaphores whose holds lapse, and what may be unfinished, by the clock of the test."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from harness.records import ORDER
from harness.stores import kept_file, store_on

from fallback_chain import Body
from tasks.errors import TooManyQueued
from tasks.records.batches import BatchOptions, Endpoint, NewBatch, new_batch_id
from tasks.records.idempotency import IdempotencyKey
from tasks.records.jobs import Options, Queue, Ref, Status, Submission, new_job_id, new_token
from tasks.records.outcomes import Finish
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
    return Submission(new_job_id(), owner, queue, Body.of({}), Options(), deadline)


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
    await jobs.create(anns, ORDER)
    with pytest.raises(TooManyQueued, match="owner may have 3 unfinished jobs"):
        await jobs.create([submission()], ORDER)
    await jobs.create([submission("bob")], ORDER)
    with pytest.raises(TooManyQueued, match="takes 5 unfinished jobs"):
        await jobs.create([submission("bob"), submission("bob")], ORDER)
    await jobs.create([submission("bob")], ORDER)
    assert await jobs.cancel(anns[0].id, "ann")
    await jobs.discard("ann", [anns[1].id])
    await jobs.create([submission(), submission()], ORDER)
    with pytest.raises(TooManyQueued):
        await jobs.create([submission("eve")], ORDER, [key()])
    assert await limited.connection.command("ZCARD", keyspace.DEADLINES) == 5


async def test_a_limit_of_0_is_none(store_url, clock):
    none = dict.fromkeys(("max_queued_jobs", "key_queued_jobs", "max_batches", "key_batches"), 0)
    store = store_on(store_url, clock, **none)
    for _ in range(3):
        await store.jobs.create([submission()], ORDER)
        await store.batches.create(new_batch(await kept_file(store)), [])
    await store.close()


async def test_a_tenth_is_kept_for_lone_requests(store_url, clock):
    store = store_on(store_url, clock, max_queued_jobs=10)
    bulk = [submission(queue=Queue.BATCH) for _ in range(10)]
    with pytest.raises(TooManyQueued):
        await store.jobs.create(bulk, ORDER)
    await store.jobs.create(bulk[:9], ORDER)
    with pytest.raises(TooManyQueued):
        await store.jobs.create(bulk[9:], ORDER)
    await store.jobs.create([submission()], ORDER)
    with pytest.raises(TooManyQueued):
        await store.jobs.create([submission()], ORDER)
    await store.close()


async def test_however_many_are_created_at_once_no_more_are_taken(limited, store_url, clock):
    other = store_on(store_url, clock, max_queued_jobs=5)
    creates = [
        store.jobs.create([submission(f"owner-{n}")], ORDER, keys)
        for n in range(20)
        for store, keys in ((limited, ()), (other, [key()]))
    ]
    answers = await asyncio.gather(*creates, return_exceptions=True)
    assert sum(not isinstance(answer, TooManyQueued) for answer in answers) == 5
    await other.close()


async def test_who_was_taken_is_told_so_again_when_nobody_else_is(limited):
    keys, first = [key()], [submission() for _ in range(3)]
    await limited.jobs.create(first, ORDER, keys)
    _, earlier, _ = await limited.jobs.create([submission() for _ in range(3)], ORDER, keys)
    assert earlier == [job.id for job in first]


async def test_who_was_refused_has_not_used_its_key(limited):
    keys, first = [key()], submission()
    await limited.jobs.create([first, submission(), submission()], ORDER)
    with pytest.raises(TooManyQueued):
        await limited.jobs.create([submission()], ORDER, keys)
    await limited.jobs.cancel(first.id, "ann")
    second = submission()
    assert (await limited.jobs.create([second], ORDER, keys))[1] is None
    assert (await limited.jobs.create([submission()], ORDER, keys))[1] == [second.id]


async def test_a_job_past_its_deadline_counts_no_more_for_its_owner(limited, clock):
    """As one that ended in a process of a release that knows nothing of limits."""
    for _ in range(3):
        await limited.jobs.create([submission(deadline=1.0)], ORDER)
    clock.advance(1)
    await limited.jobs.create([submission()], ORDER)


async def test_so_many_batches_may_be_unfinished_and_do_not_count_as_jobs(limited, clock):
    files = {owner: await kept_file(limited, owner) for owner in ("ann", "bob", "eve")}
    batches, first, keys = limited.batches, new_batch(files["ann"]), [key()]
    assert (await batches.create(first, keys))[0] == first.id
    with pytest.raises(TooManyQueued, match="owner may have 1 unfinished batches"):
        await batches.create(new_batch(files["ann"]), [])
    assert await batches.create(new_batch(files["ann"]), keys) == (first.id, [])
    await batches.create(new_batch(files["bob"], "bob"), [])
    with pytest.raises(TooManyQueued, match="takes 2 unfinished batches"):
        await batches.create(new_batch(files["eve"], "eve"), [])
    await limited.jobs.create([submission() for _ in range(3)], ORDER)
    await limited.jobs.create([submission("bob") for _ in range(2)], ORDER)
    await batches.cancel(first.id, "ann")
    await batches.create(new_batch(files["eve"], "eve"), [])
    clock.advance(3600)
    await limited.jobs.sweep({})
    await batches.create(new_batch(files["eve"], "eve"), [])


# Bytes of bodies


def sized(size, owner="ann", **options):
    """Return a submission whose body has so many bytes as JSON."""
    body = Body.of({"p": "x" * (size - len('{"p":""}'))})
    return msgspec.structs.replace(submission(owner, **options), body=body)


async def tally(store):
    """Return the bytes that are counted: of each owner, and of all under ""."""
    sums = await store.connection.command("HGETALL", keyspace.QUEUED_BYTES)
    return {owner.decode(): int(number) for owner, number in sums.items()}


@pytest.fixture
async def sizes(store_url, clock):
    """A store that keeps 100 bytes of unfinished jobs, 60 of them an owner's."""
    limits = {"max_queued_bytes": 100, "key_queued_bytes": 60}
    store = store_on(store_url, clock, **limits)
    yield store
    await store.close()


async def test_so_many_bytes_may_be_unfinished_and_each_job_that_ends_makes_room(sizes):
    jobs = sizes.jobs
    anns = [sized(20) for _ in range(3)]
    await jobs.create(anns, ORDER)
    with pytest.raises(TooManyQueued, match="owner may have 60 bytes of unfinished jobs"):
        await jobs.create([sized(9)], ORDER)
    await jobs.create([sized(20, "bob")], ORDER)
    with pytest.raises(TooManyQueued, match="takes 100 bytes of unfinished jobs at once"):
        await jobs.create([sized(9, "bob"), sized(12, "bob")], ORDER)
    assert await tally(sizes) == {"": 80, "ann": 60, "bob": 20}, "a request is refused as a whole"
    await jobs.create([sized(20, "bob")], ORDER)
    await jobs.cancel(anns[0].id, "ann")
    with pytest.raises(TooManyQueued):
        await jobs.create([sized(21)], ORDER, [key()])
    await jobs.create([sized(20)], ORDER)
    assert await tally(sizes) == {"": 100, "ann": 60, "bob": 40}


async def test_a_tenth_of_the_bytes_is_kept_for_lone_requests(store_url, clock):
    store = store_on(store_url, clock, max_queued_bytes=100)
    bulk = [sized(10, queue=Queue.BATCH) for _ in range(10)]
    with pytest.raises(TooManyQueued):
        await store.jobs.create(bulk, ORDER)
    await store.jobs.create(bulk[:9], ORDER)
    with pytest.raises(TooManyQueued):
        await store.jobs.create(bulk[9:], ORDER)
    await store.jobs.create([sized(10)], ORDER)
    with pytest.raises(TooManyQueued):
        await store.jobs.create([sized(10)], ORDER)
    await store.close()


async def test_bytes_are_counted_where_no_limit_is_set(store_url, clock):
    store = store_on(store_url, clock, max_queued_bytes=0)
    await store.jobs.create([sized(20)], ORDER)
    assert await tally(store) == {"": 20, "ann": 20}
    await store.close()


async def test_however_many_bytes_come_at_once_no_more_are_taken(sizes, store_url, clock):
    other = store_on(store_url, clock, max_queued_bytes=100)
    creates = [
        store.jobs.create([sized(20, f"owner-{n}")], ORDER, keys)
        for n in range(25)
        for store, keys in ((sizes, ()), (other, [key()]))
    ]
    answers = await asyncio.gather(*creates, return_exceptions=True)
    assert sum(not isinstance(answer, TooManyQueued) for answer in answers) == 5
    assert (await tally(sizes))[""] == 100
    await other.close()


async def test_a_create_that_is_sent_again_counts_nothing(sizes):
    keys, first = [key()], sized(50)
    await sizes.jobs.create([first], ORDER, keys)
    _, earlier, _ = await sizes.jobs.create([sized(50)], ORDER, keys)
    assert earlier == [first.id]
    assert await tally(sizes) == {"": 50, "ann": 50}


async def end(store, clock, job, how):
    """Bring a job to its end; what is said again, or comes late, changes nothing."""
    jobs = store.jobs
    if how == "discarded":
        await jobs.discard("ann", [job.id])
        await jobs.discard("ann", [job.id])
    elif how == "cancelled":
        await jobs.cancel(job.id, "ann")
        await jobs.cancel(job.id, "ann")
    elif how.startswith("expired"):
        clock.advance(1)
        if how == "expired as it begins":
            assert not await jobs.begin("me", "gpu", [Ref(job.id, 0)])
        await jobs.sweep({})
    else:
        [begun] = await jobs.begin("me", "gpu", [Ref(job.id, 0)])
        finish = Finish(status=Status(how), attempts=(), answer=b"{}")
        assert await jobs.finish(begun, finish)
        assert not await jobs.finish(begun, finish)


ENDS = [
    *("succeeded", "failed", "cancelled", "discarded"),
    *("expired as it begins", "expired by the sweep"),
]


@pytest.mark.parametrize("how", ENDS)
async def test_however_a_job_ends_its_bytes_are_given_back_once(sizes, clock, how):
    job = sized(20, deadline=1.0)
    await sizes.jobs.create([job], ORDER)
    await sizes.jobs.create([sized(30)], ORDER)
    await sizes.jobs.create([sized(15, "bob")], ORDER)
    await end(sizes, clock, job, how)
    assert await tally(sizes) == {"": 45, "ann": 30, "bob": 15}


@pytest.mark.parametrize("how", ENDS)
async def test_when_nothing_is_unfinished_no_count_is_kept(sizes, clock, how):
    job = sized(20, deadline=1.0)
    await sizes.jobs.create([job], ORDER)
    await end(sizes, clock, job, how)
    assert not await sizes.connection.command("EXISTS", keyspace.QUEUED_BYTES)


async def created_by_an_older_release(store, job):
    """Create a job as one that counts nothing does."""
    await store.jobs.create([job], ORDER)
    command, size = store.connection.command, len(job.body.content)
    await command("HDEL", keyspace.job(job.id), "body_bytes")
    for field in ("", job.owner):
        await command("HINCRBY", keyspace.QUEUED_BYTES, field, -size)


async def ended_by_an_older_release(store, job):
    """End a job as one that counts nothing does."""
    command = store.connection.command
    await command("HSET", keyspace.job(job.id), "status", "cancelled")
    await command("HDEL", keyspace.job(job.id), "body")
    await command("ZREM", keyspace.DEADLINES, job.id)
    await command("ZREM", keyspace.queued(job.owner), job.id)


@pytest.mark.parametrize("how", ENDS)
async def test_a_job_that_was_not_counted_takes_nothing_away(sizes, clock, how):
    counted, job = sized(20), sized(30, deadline=1.0)
    await sizes.jobs.create([counted], ORDER)
    await created_by_an_older_release(sizes, job)
    await end(sizes, clock, job, how)
    assert await tally(sizes) == {"": 20, "ann": 20}


async def test_what_an_older_release_ended_counts_until_its_owner_has_nothing_unfinished(sizes):
    gone, stays, bobs = sized(40), sized(15), sized(35, "bob")
    for job in (gone, stays, bobs):
        await sizes.jobs.create([job], ORDER)
    await ended_by_an_older_release(sizes, gone)
    with pytest.raises(TooManyQueued):
        await sizes.jobs.create([sized(20)], ORDER)
    await sizes.jobs.cancel(stays.id, "ann")
    assert await tally(sizes) == {"": 35, "bob": 35}


async def test_who_has_nothing_unfinished_any_more_is_not_refused(sizes):
    gone, bobs = sized(60), sized(40, "bob")
    for job in (gone, bobs):
        await sizes.jobs.create([job], ORDER)
    await ended_by_an_older_release(sizes, gone)
    await sizes.jobs.create([sized(60)], ORDER)
    assert await tally(sizes) == {"": 100, "ann": 60, "bob": 40}


async def test_what_is_counted_for_an_owner_who_never_comes_back_goes(sizes):
    job = sized(60)
    await sizes.jobs.create([job], ORDER)
    await sizes.jobs.create([sized(40, "bob")], ORDER)
    await ended_by_an_older_release(sizes, job)
    await sizes.fleet.prune_lists()
    assert await tally(sizes) == {"": 40, "bob": 40}


async def test_no_count_falls_below_0(store_url, clock):
    """As after a day without a sweep: what is past its deadline counts no more, and ends later."""
    store = store_on(store_url, clock, key_queued_jobs=5)
    await store.jobs.create([sized(50, deadline=1.0)], ORDER)
    await store.jobs.create([sized(15, "bob", deadline=10**6)], ORDER)
    clock.advance(86_402)
    await store.jobs.create([later := sized(20)], ORDER)
    await store.jobs.cancel(later.id, "ann")
    assert await tally(store) == {"": 15, "bob": 15}
    await store.jobs.sweep({})
    assert await tally(store) == {"": 15, "bob": 15}
    await store.close()
