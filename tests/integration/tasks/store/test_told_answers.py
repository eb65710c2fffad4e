"""Who waits for a job's end is told its answer: what the record would say, without a look at it."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
import pytest
from harness.records import ORDER
from harness.stores import store_on
from harness.waiting import eventually

from api.waiters import Waiters
from fallback_chain import Attempt, Body, Verdict
from tasks.records.jobs import Options, Queue, Ref, Status, Submission, new_job_id
from tasks.records.outcomes import Finish
from tasks.store import keyspace
from tasks.store.jobs import LARGEST_TOLD

ANSWERED = (
    Attempt("gpu", Verdict.FAILURE, 1.5, "HTTP 500"),
    Attempt("cpu", Verdict.ANSWERED, 20.0, "fit failed", endpoint="cpu_2"),
)
ENDS = {
    "answered": Finish(
        status=Status.SUCCEEDED,
        attempts=ANSWERED,
        tier_used="cpu",
        answer='{"choices": [{"text": "ü \\u0000 \\"null\\""}]}'.encode(),
        model="llama",
    ),
    "kept": Finish(
        status=Status.SUCCEEDED,
        attempts=(),
        tier_used="cache",
        answer=b"{}",
        cache_age_seconds=12.5,
    ),
    "degraded": Finish(status=Status.SUCCEEDED, attempts=(), tier_used="degraded", answer=b"[1]"),
    "failed": Finish(
        status=Status.FAILED,
        attempts=ANSWERED,
        tier_used="gpu",
        error={"message": "no", "code": "unfit", "param": None},
        error_status=422,
    ),
    "failed by itself": Finish(status=Status.FAILED, attempts=(), error={"code": "worker_lost"}),
    "expired": Finish(status=Status.EXPIRED, attempts=ANSWERED[:1]),
    "large": Finish(
        status=Status.SUCCEEDED, attempts=(), tier_used="gpu", answer=b"1" * (LARGEST_TOLD + 1)
    ),
}
TOLD = ("id", "owner", "status", "tier_used", "attempts", "answer", "fit")
TOLD += ("error", "error_status", "cache_age_seconds")


@pytest.fixture
async def store(valkey):
    store = store_on(valkey.url)
    yield store
    await store.close()


@pytest.fixture
async def waiters(store):
    waiters = Waiters(store)
    listening = asyncio.create_task(waiters.listen())
    subscription = waiters._heard
    await eventually(lambda: subscription._pubsub and subscription._pubsub.subscribed)
    yield waiters
    listening.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await listening


@pytest.fixture
def reads(store, monkeypatch):
    """The ids of the records that are read."""
    read, get = [], store.jobs.get

    async def noted(job_id, owner):
        read.append(job_id)
        return await get(job_id, owner)

    monkeypatch.setattr(store.jobs, "get", noted)
    return read


async def begun(store, **options):
    job = Submission(
        id=new_job_id(),
        owner="ann",
        queue=Queue.INTERACTIVE,
        body=Body.of({"messages": []}),
        options=Options(**options),
        deadline_seconds=60.0,
    )
    await store.jobs.create([job], ORDER)
    [mine] = await store.jobs.begin("me", "gpu", [Ref(job.id, 0)])
    return mine


@pytest.mark.parametrize("end", ENDS)
async def test_what_a_waiter_is_told_is_what_the_record_says(store, waiters, reads, end):
    mine = await begun(store, waiter=waiters.name)
    with waiters.waiting_for(mine.id) as entered:
        waiting = asyncio.create_task(waiters.wait(mine.id, "ann", 60, entered))
        await store.jobs.finish(mine, ENDS[end])
        told = await asyncio.wait_for(waiting, 5)
    assert reads == ([mine.id] if end == "large" else [])
    record = await store.jobs.get(mine.id, "ann")
    for name in TOLD:
        assert getattr(told, name) == getattr(record, name), name
    assert told.status is ENDS[end].status


async def test_who_has_waited_for_long_is_told_as_well(store, waiters, reads, monkeypatch):
    monkeypatch.setattr("api.waiters.LOOK_SECONDS", 0.05)
    mine = await begun(store, waiter=waiters.name)
    with waiters.waiting_for(mine.id) as entered:
        waiting = asyncio.create_task(waiters.wait(mine.id, "ann", 60, entered))
        await eventually(lambda: reads)  # he looks now and then
        monkeypatch.setattr("api.waiters.LOOK_SECONDS", 60)
        await asyncio.sleep(0.1)
        looked = len(reads)
        await store.jobs.finish(mine, ENDS["answered"])
        told = await asyncio.wait_for(waiting, 5)
    assert (told.status, len(reads)) == (Status.SUCCEEDED, looked)


async def test_only_who_waits_is_told(store, waiters, reads):
    other = Waiters(store)
    mine = await begun(store, waiter=other.name)
    with waiters.waiting_for(mine.id) as entered:
        waiting = asyncio.create_task(waiters.wait(mine.id, "ann", 60, entered))
        await store.jobs.finish(mine, ENDS["answered"])
        record = await asyncio.wait_for(waiting, 5)
    assert (record.status, reads) == (Status.SUCCEEDED, [mine.id])


async def test_whose_finish_comes_second_tells_nothing(store, waiters):
    mine = await begun(store, waiter=waiters.name)
    late = msgspec.structs.replace(ENDS["failed"], error={"code": "late"})
    with waiters.waiting_for(mine.id) as entered:
        assert await store.jobs.finish(mine, ENDS["answered"])
        assert not await store.jobs.finish(mine, late)
        told = await asyncio.wait_for(waiters.wait(mine.id, "ann", 60, entered), 5)
    assert told.status is Status.SUCCEEDED


async def test_who_asks_for_the_whole_job_reads_it_though_another_is_told(store, waiters, reads):
    mine = await begun(store, waiter=waiters.name)
    waiting = asyncio.create_task(waiters.wait(mine.id, "ann", 60))
    await eventually(lambda: reads)
    await store.jobs.finish(mine, ENDS["answered"])
    record = await asyncio.wait_for(waiting, 5)
    assert (record.queue, record.model, record.attempt) == ("interactive", "llama", 0)
    assert reads == [mine.id] * 2


@pytest.mark.parametrize(
    "words", [b"", b"\xff\xfe", b"[]", b"{}", b'["job_1"]', b"[1,2,3]", b"[" * 5000]
)
async def test_what_a_worker_of_another_release_tells_harms_nobody(store, waiters, words):
    mine = await begun(store, waiter=waiters.name)
    channel = store.connection.named(keyspace.answers(waiters.name))
    with waiters.waiting_for(mine.id) as entered:
        waiting = asyncio.create_task(waiters.wait(mine.id, "ann", 60, entered))
        await store.connection.client.publish(channel, words)
        await store.jobs.finish(msgspec.structs.replace(mine, options=Options()), ENDS["answered"])
        record = await asyncio.wait_for(waiting, 5)
    assert record.status is Status.SUCCEEDED


async def test_a_job_of_a_release_that_names_no_waiter_is_read(store, waiters, reads):
    mine = await begun(store)
    with waiters.waiting_for(mine.id) as entered:
        waiting = asyncio.create_task(waiters.wait(mine.id, "ann", 60, entered))
        await store.jobs.finish(mine, ENDS["answered"])
        assert (await asyncio.wait_for(waiting, 5)).status is Status.SUCCEEDED
    assert reads == [mine.id]
