"""What callers leave behind in the store, and find there."""

from __future__ import annotations

import pytest
from harness.records import ORDER
from harness.stores import store_on

from fallback_chain import Body
from tasks.records.idempotency import IdempotencyKey
from tasks.records.jobs import Options, Queue, Ref, Status, Submission, new_job_id
from tasks.store import keyspace


@pytest.fixture
async def store(store_url, clock):
    store = store_on(store_url, clock)
    yield store
    await store.close()


@pytest.fixture
def jobs(store):
    return store.jobs


def key(**fields):
    return IdempotencyKey(
        **{"name": "n", "digest": "d" * 32, "lookup": True, "own": False, **fields}
    )


async def create(jobs, *keys):
    job = Submission(new_job_id(), "ann", Queue.INTERACTIVE, Body.of({}), Options(), 60.0)
    _, earlier, _ = await jobs.create([job], ORDER, keys)
    return earlier[0] if earlier else job.id


async def status(jobs, job_id):
    return (await jobs.get(job_id, "ann")).status


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("others", [1, 2])
async def test_only_the_last_who_leaves_cancels(jobs, begun, others):
    job_id = await create(jobs, key(own=True))
    if begun:
        await jobs.begin("me", "gpu", [Ref(job_id, 0)])
    for _ in range(others):
        assert await create(jobs, key(own=True)) == job_id
    for _ in range(others):
        assert not await jobs.leave(job_id, "ann", [])
    assert await jobs.leave(job_id, "ann", [])
    assert await create(jobs, key(own=True)) == job_id
    assert await jobs.cancel(job_id, "ann", unless_told=True)
    assert not (await status(jobs, job_id)).final
    assert await jobs.leave(job_id, "ann", [])
    assert await jobs.cancel(job_id, "ann", unless_told=True)
    assert await status(jobs, job_id) is Status.CANCELLED


async def test_what_is_left_once_is_found_once(jobs):
    left, once = await create(jobs), key(once=True)
    assert await create(jobs, once) != await create(jobs, once), "who asks so leaves nothing"
    assert await create(jobs, once) != left
    assert await jobs.leave(left, "ann", [once])
    assert await create(jobs, once._replace(digest="e" * 32, name="other")) != left
    assert await create(jobs, once) == left
    assert await create(jobs, once) != left


async def test_what_was_made_is_forgotten_by_who_made_it(jobs):
    first = await create(jobs, key())
    await jobs.forget("ann", ["another"], [key()])
    assert await create(jobs, key()) == first
    await jobs.forget("ann", [first], [key()])
    assert await create(jobs, key()) != first


async def test_a_job_that_is_gone_is_left_by_nobody(store, jobs):
    assert not await jobs.leave("job_gone", "ann", [key()])
    assert not await store.connection.command("EXISTS", keyspace.job("job_gone"))
    assert await create(jobs, key()) != "job_gone"


async def test_what_is_left_is_left_for_its_time(store, jobs):
    left = await create(jobs)
    assert await jobs.leave(left, "ann", [key()])
    [claim] = keyspace.claims("ann", [key()])
    assert 0 < await store.connection.command("PTTL", claim) <= 15 * 60 * 1000
