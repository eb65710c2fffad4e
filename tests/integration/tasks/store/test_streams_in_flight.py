"""Streams in flight and their first words, counted by the scripts that begin and end them."""

from __future__ import annotations

import pytest
from harness.records import ORDER
from harness.stores import store_on

from fallback_chain import Body
from tasks.records.jobs import Options, Queue, Ref, Status, Submission, new_job_id
from tasks.records.outcomes import Finish, interrupted
from tasks.records.streams import Addition, Entry
from tasks.store import keyspace
from tasks.store.fleet import percentile
from tasks.store.streams import Append

ME = "worker-1:slice-1"
WORD = b'[{"index":0,"delta":{"content":"word"}}]'
ENDED = Finish(status=Status.SUCCEEDED, attempts=(), tier_used="gpu", answer=b"{}")
ALL_BUSY = {queue.value: False for queue in Queue}


@pytest.fixture
async def store(store_url, clock):
    store = store_on(store_url, clock, lease_seconds=1, dispatch_grace_seconds=1)
    yield store
    await store.close()


async def begun(store):
    new = Submission(
        id=new_job_id(),
        owner="ann",
        queue=Queue.INTERACTIVE,
        body=Body.of({"messages": []}),
        options=Options(stream=True),
        deadline_seconds=60.0,
        metadata=None,
    )
    await store.jobs.create([new], ORDER)
    [mine] = await store.jobs.begin(ME, "gpu", [Ref(new.id, 0)])
    return mine


def word(before):
    return Addition(before, Entry(before + 1, [WORD], b"{" if not before else b""))


async def say(store, mine, before=0):
    assert await store.streams.append([Append(mine.id, ME, word(before))]) == [True]


async def in_flight(store):
    return (await store.fleet.gauges()).streams


async def ends(store):
    counts = await store.fleet.event_counts()
    return {name.partition(":")[2]: n for name, n in counts.items() if name.startswith("streams:")}


async def cancel(store, mine, clock):
    await store.jobs.cancel(mine.id, "ann")


async def expire(store, mine, clock):
    clock.advance(61)
    await store.connection.command("DEL", keyspace.SWEEPER)
    await store.jobs.sweep(ALL_BUSY)


async def finish(store, mine, clock):
    assert await store.jobs.finish(mine, ENDED, word(2))


async def break_off(store, mine, clock):
    assert await store.jobs.finish(mine, interrupted(()))


@pytest.mark.parametrize(
    ("end", "status"),
    [(cancel, "cancelled"), (expire, "expired"), (finish, "succeeded"), (break_off, "failed")],
)
async def test_a_stream_is_in_flight_from_its_first_word_to_its_end(store, clock, end, status):
    mine, silent = await begun(store), await begun(store)
    assert await in_flight(store) == 0
    await say(store, mine)
    await say(store, mine, before=1)
    await say(store, mine, before=1)  # the answer to the same was lost
    assert (await in_flight(store), await ends(store)) == (1, {})
    await end(store, mine, clock)
    await end(store, silent, clock) if end is cancel else None
    assert (await in_flight(store), await ends(store)) == (0, {status: 1})


async def test_an_answer_that_is_told_at_once_is_a_stream_too(store, clock):
    mine = await begun(store)
    clock.advance(0.04)
    await store.jobs.finish(mine, ENDED, Addition(0, Entry(1, [WORD], b"{", ends=True)))
    assert (await in_flight(store), await ends(store)) == (0, {"succeeded": 1})
    assert percentile(await store.fleet.first_words(), 0.5) == pytest.approx(40, rel=0.1)


async def test_what_nobody_follows_is_no_stream(store):
    mine = await begun(store)
    await store.jobs.finish(mine, ENDED)
    assert (await ends(store), await store.fleet.first_words()) == ({}, {})


async def test_a_first_word_is_timed_once_from_the_jobs_creation(store, clock):
    mine = await begun(store)
    clock.advance(0.3)
    await say(store, mine)
    minute = clock.ms // 60_000
    clock.advance(5)
    await say(store, mine, before=1)
    words = await store.fleet.first_words()
    assert sum(words.values()) == 1
    assert percentile(words, 0.95) == pytest.approx(300, rel=0.1)
    kept = await store.connection.command("PTTL", keyspace.first_words(minute))
    assert 0 < kept <= 20 * 60_000
