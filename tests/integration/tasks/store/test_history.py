"""What the fleet did, minute by minute, on a real store."""

from __future__ import annotations

import pytest
from harness.records import ORDER
from harness.stores import store_on

from fallback_chain import Attempt, Body, Verdict
from tasks.records.jobs import Options, Queue, Ref, Status, Submission, new_job_id
from tasks.records.outcomes import Finish
from tasks.store import keyspace
from tasks.store.history import Minute


@pytest.fixture
async def store(store_url, clock):
    store = store_on(store_url, clock)
    yield store
    await store.close()


async def finished(store, status, tier="", milliseconds=0.0):
    new = Submission(new_job_id(), "ann", Queue.INTERACTIVE, Body.of({}), Options(), 3600.0)
    await store.jobs.create([new], ORDER)
    [job] = await store.jobs.begin("me", "gpu", [Ref(new.id, 0)])
    tries = (Attempt(tier, Verdict.ANSWERED, milliseconds),) if tier else ()
    assert await store.jobs.finish(job, Finish(status=status, attempts=tries, tier_used=tier))


async def test_answers_are_counted_in_their_minute_by_tier_with_how_long_they_took(store, clock):
    clock.ms = 1_790_000_040_000
    for milliseconds in (100.0, 100.0, 900.0):
        await finished(store, Status.SUCCEEDED, "gpu", milliseconds)
    clock.advance(120)
    await finished(store, Status.SUCCEEDED, "cpu", 2000.0)
    await finished(store, Status.FAILED)
    before, first, between, last = await store.history.minutes(4)
    assert [each.at - 1_790_000_040 for each in (before, first, between, last)] == [-60, 0, 60, 120]
    assert (before.answers, between) == ({}, Minute(between.at))
    assert (first.answers, first.failed) == ({"gpu": 3}, 0)
    assert first.seconds["gpu"].p50 == pytest.approx(0.1, rel=0.1)
    assert first.seconds["gpu"].p95 == pytest.approx(0.9, rel=0.1)
    assert (last.answers, last.failed, list(last.seconds)) == ({"cpu": 1}, 1, ["cpu"])


async def test_of_a_minute_the_last_queue_and_each_breakers_worst_state_stay(store):
    for queued, gpu in ((5, "closed"), (7, "open"), (3, "half_open")):
        await store.history.sample(queued, {"gpu": gpu, "gpu:2": "closed"})
    [minute] = await store.history.minutes(1)
    assert minute.queued == 3
    assert minute.breakers == {"gpu": "open", "gpu:2": "closed"}


async def test_one_of_all_samples_and_another_one_when_it_is_gone(store):
    assert await store.history.may_sample(0.05)
    assert not await store.history.may_sample(60)
    while not await store.history.may_sample(60):
        pass
    assert not await store.history.may_sample(60)


async def test_a_minute_is_kept_for_a_day(store, clock):
    await finished(store, Status.SUCCEEDED, "gpu", 5.0)
    await store.history.sample(0, {})
    key = keyspace.history(clock.ms // 60_000)
    ttl = await store.connection.command("TTL", key)
    assert 24 * 3600 < ttl <= 25 * 3600
    assert len(await store.history.minutes(1440)) == 1440
