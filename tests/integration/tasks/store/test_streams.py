"""The logs of streams, on a real Valkey: written once, in order, by whoever has the lease."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
import pytest
from harness.records import ORDER
from harness.stores import store_on
from harness.waiting import eventually
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fallback_chain import Attempt, Body, Verdict
from tasks.errors import StreamLost
from tasks.records.jobs import Options, Queue, Ref, Status, Submission, new_job_id
from tasks.records.outcomes import Finish, HandOn
from tasks.records.streams import Addition, Entry
from tasks.store import keyspace
from tasks.store.streams import PAGE_BYTES, PAUSE_MS, Append

ME, OTHER = "worker-1:slice-1", "worker-2:slice-9"
BUSY = {queue.value: False for queue in Queue}
HEAD = b'{"id":"x"'
DONE = Finish(status=Status.SUCCEEDED, attempts=(), tier_used="gpu", answer=b"{}")


@pytest.fixture
async def store(store_url, clock):
    store = store_on(store_url, clock, lease_seconds=1, sweep_seconds=0.1, stream_ttl_seconds=7)
    yield store
    await store.close()


async def begun(store, lease_owner=ME, tier="gpu"):
    """Return a new job that somebody has begun."""
    body = Body.of({"messages": []})
    options = Options(stream=True)
    new = Submission(new_job_id(), "ann", Queue.INTERACTIVE, body, options, 60.0)
    await store.jobs.create([new], ORDER)
    [job] = await store.jobs.begin(lease_owner, tier, [Ref(new.id, 0)])
    return job


def entry(first, upto, *, ends=False):
    choices = tuple(b"[%d]" % n for n in range(first, upto))
    return Entry(upto, choices, *((b"", "") if first else (HEAD, "gpu")), ends=ends)


def addition(first, upto, *, ends=False):
    return Addition(first, entry(first, upto, ends=ends))


async def append(store, job, first, upto, lease_owner=ME):
    [there] = await store.streams.append([Append(job.id, lease_owner, addition(first, upto))])
    return there


async def numbers(store, job, after=0):
    """Return the numbers of the chunks in a job's log; None: there is no log."""
    log = await store.streams.read(job.id, after)
    if log is None:
        return None
    return [int(choice[1:-1]) for each in log.entries for choice in each.choices]


async def sweep(store):
    await store.connection.command("DEL", keyspace.SWEEPER)
    return await store.jobs.sweep(BUSY)


async def test_a_log_is_read_from_any_place_with_its_head(store):
    job = await begun(store)
    assert await store.streams.read(job.id, 0) is None
    assert [await append(store, job, *each) for each in [(0, 2), (2, 3), (3, 6)]] == [True] * 3
    for after in range(7):
        log = await store.streams.read(job.id, after)
        assert [each.upto for each in log.entries] == [upto for upto in (2, 3, 6) if upto > after]
        assert (log.first.head, log.first.tier) == (HEAD, "gpu")
    assert not (await store.streams.read(job.id, 100)).entries


async def test_a_long_log_is_read_a_page_at_a_time(store):
    job = await begun(store)
    # Of a third of a page each, but for one that is larger than a page.
    sizes = [*[PAGE_BYTES // 3 - 100] * 20, 2 * PAGE_BYTES, 1]
    for at, size in enumerate(sizes):
        large = Entry(at + 1, (b"[%d]" % at,), HEAD, "x" * size)
        assert await store.streams.append([Append(job.id, ME, Addition(at, large))]) == [True]
    found = []
    while len(found) < len(sizes):
        page = await numbers(store, job, len(found))
        assert len(page) == (3 if len(found) < 18 else {18: 2}.get(len(found), 1))
        found += page
    assert found == list(range(len(sizes)))


async def test_a_log_of_many_small_entries_is_read_at_once(store):
    job = await begun(store)
    appends = [Append(job.id, ME, addition(n, n + 1)) for n in range(300)]
    assert await store.streams.append(appends) == [True] * 300
    assert await numbers(store, job, 7) == list(range(7, 300))


async def test_a_job_that_is_looked_at_is_all_that_it_is_but_for_what_was_said(store):
    job = await begun(store)
    for finish in (None, DONE):
        if finish:
            await store.jobs.finish(job, finish, addition(0, 2, ends=True))
        looked = await store.jobs.look(job.id, "ann")
        whole = await store.jobs.get(job.id, "ann")
        assert looked == msgspec.structs.replace(whole, answer=None, request=None)
    assert await store.jobs.look(job.id, "bob") is None
    assert await store.jobs.look("job_2", "ann") is None


async def test_the_same_again_is_there_once(store):
    job = await begun(store)
    assert await append(store, job, 0, 2)
    assert await append(store, job, 0, 2)
    assert await append(store, job, 2, 3)
    assert await append(store, job, 0, 2), "a late copy, too"
    assert await numbers(store, job) == [0, 1, 2]


@pytest.mark.parametrize(("first", "upto"), [(3, 4), (1, 5), (0, 3)])
async def test_what_does_not_follow_on_what_is_there_is_not_added(store, first, upto):
    job = await begun(store)
    await append(store, job, 0, 2)
    assert await append(store, job, first, upto) is False
    assert await numbers(store, job) == [0, 1]


async def test_a_log_that_the_store_has_lost_takes_nothing_more(store):
    job = await begun(store)
    await append(store, job, 0, 2)
    await store.connection.command("DEL", keyspace.stream(job.id))
    assert await append(store, job, 2, 3) is False
    assert await numbers(store, job) is None


async def test_nobody_else_adds_to_a_log(store):
    job = await begun(store)
    assert await append(store, job, 0, 1, OTHER) is None
    assert await numbers(store, job) is None
    assert not (await store.jobs.get(job.id, "ann")).streamed


async def swept(store, job, clock):
    clock.advance(2)
    assert [each.dispatch.id for each in await sweep(store)] == [job.id]


async def taken_over(store, job, clock):
    await swept(store, job, clock)
    [again] = await store.jobs.begin(OTHER, "gpu", [Ref(job.id, 1)])
    assert again.streamed is False


async def handed_on(store, job, clock):
    tried = (Attempt("gpu", Verdict.FAILURE, 1.0),)
    await store.jobs.hand_on([job], "cpu", "t1", [HandOn(tried, 1)])


async def finished(store, job, clock):
    assert await store.jobs.finish(job, DONE)


async def cancelled(store, job, clock):
    assert await store.jobs.cancel(job.id, "ann")


async def forgotten(store, job, clock):
    await store.connection.command("DEL", keyspace.job(job.id))


@pytest.mark.parametrize(
    "moved",
    [swept, taken_over, handed_on, finished, cancelled, forgotten],
    ids=lambda f: f.__name__,
)
async def test_who_has_the_job_no_longer_adds_nothing(store, clock, moved):
    job = await begun(store)
    await moved(store, job, clock)
    assert await append(store, job, 0, 1) is None
    assert await numbers(store, job) is None


async def test_some_streams_are_written_where_others_are_not(store):
    jobs = [await begun(store) for _ in range(3)]
    await append(store, jobs[0], 0, 2)
    additions = [
        Append(jobs[0].id, ME, addition(5, 6)),
        Append(jobs[1].id, OTHER, addition(0, 1)),
        Append(jobs[2].id, ME, addition(0, 1)),
    ]
    assert await store.streams.append(additions) == [False, None, True]
    assert await numbers(store, jobs[2]) == [0]


async def test_a_log_is_kept_for_so_long_from_its_end_and_does_not_end_before_its_answer(store):
    job = await begun(store)
    key = keyspace.stream(job.id)
    await append(store, job, 0, 1)
    await store.connection.command("PEXPIRE", key, 1000)
    await append(store, job, 1, 2)
    left = await store.connection.command("PTTL", key)
    assert PAUSE_MS < left <= PAUSE_MS + 7000
    await store.connection.command("PEXPIRE", key, 1000)
    await store.jobs.finish(job, DONE, addition(2, 3, ends=True))
    assert 6000 < await store.connection.command("PTTL", key) <= 7000


async def test_who_begins_a_job_again_is_told_that_a_part_of_its_answer_was_shown(store, clock):
    job = await begun(store)
    assert not job.streamed
    await append(store, job, 0, 1)
    assert (await store.jobs.get(job.id, "ann")).streamed
    await swept(store, job, clock)
    [again] = await store.jobs.begin(OTHER, "gpu", [Ref(job.id, 1)])
    assert again.streamed
    assert await numbers(store, job) == [0]


# --- the end -------------------------------------------------------------------------------


async def test_a_job_and_its_log_end_together(store):
    job = await begun(store)
    await append(store, job, 0, 2)
    assert await store.jobs.finish(job, DONE, addition(2, 4, ends=True))
    log = await store.streams.read(job.id, 0)
    assert [each.ends for each in log.entries] == [False, True]
    assert await numbers(store, job) == [0, 1, 2, 3]
    record = await store.jobs.get(job.id, "ann")
    assert (record.status, record.streamed) == (Status.SUCCEEDED, True)


async def test_an_end_may_be_the_whole_log(store):
    job = await begun(store)
    assert await store.jobs.finish(job, DONE, addition(0, 2, ends=True))
    assert await numbers(store, job) == [0, 1]
    assert (await store.streams.read(job.id, 0)).first.head == HEAD


async def test_a_job_that_nobody_follows_has_no_log(store):
    job = await begun(store)
    assert await store.jobs.finish(job, DONE)
    assert await store.streams.read(job.id, 0) is None
    assert not (await store.jobs.get(job.id, "ann")).streamed


async def test_an_end_that_was_asked_for_twice_is_there_once(store):
    job = await begun(store)
    await append(store, job, 0, 2)
    last = addition(2, 4, ends=True)
    assert await store.jobs.finish(job, DONE, last)
    assert not await store.jobs.finish(job, DONE, last)
    assert await numbers(store, job) == [0, 1, 2, 3]


async def test_an_end_after_what_is_lost_ends_nothing(store):
    job = await begun(store)
    await append(store, job, 0, 2)
    await store.connection.command("DEL", keyspace.stream(job.id))
    with pytest.raises(StreamLost):
        await store.jobs.finish(job, DONE, addition(2, 3, ends=True))
    assert (await store.jobs.get(job.id, "ann")).status is Status.RUNNING
    assert await numbers(store, job) is None
    failed = Finish(status=Status.FAILED, attempts=(), error={}, error_status=502)
    assert await store.jobs.finish(job, failed)


@pytest.mark.parametrize("moved", [swept, taken_over, handed_on, finished, cancelled])
async def test_an_end_that_comes_too_late_adds_nothing(store, clock, moved):
    job = await begun(store)
    await moved(store, job, clock)
    before = await numbers(store, job)
    assert not await store.jobs.finish(job, DONE, addition(0, 2, ends=True))
    assert await numbers(store, job) == before


# --- who listens ---------------------------------------------------------------------------


async def test_each_entry_is_told_once_to_whoever_listens_to_that_log(store):
    job, other = await begun(store), await begun(store)
    heard = store.connection.subscription("finished")
    events = []
    listening = asyncio.Event()

    async def listen():
        async for event in heard.messages():
            if event is None:
                listening.set()
            else:
                events.append(event)

    running = asyncio.create_task(listen())
    await asyncio.wait_for(listening.wait(), 5)
    await heard.add(keyspace.stream(job.id))
    await append(store, other, 0, 1)
    first, last = entry(0, 1), entry(1, 2, ends=True)
    for _ in range(2):
        assert await append(store, job, 0, 1)
    await store.jobs.finish(job, DONE, Addition(1, last))
    await eventually(lambda: any(name == "finished" for name, _ in events))
    name = keyspace.stream(job.id)
    told = [(name, first.encoded()), (name, last.encoded()), ("finished", job.id.encode())]
    assert events == told
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_several_who_listen_to_one_log_at_once_are_all_told_that_they_do(store):
    heard = store.connection.subscription("finished")
    listening = asyncio.Event()

    async def listen():
        async for event in heard.messages():
            if event is None:
                listening.set()

    running = asyncio.create_task(listen())
    await asyncio.wait_for(listening.wait(), 5)
    async with asyncio.timeout(0.5):  # who is not told goes on after a second
        await asyncio.gather(*(heard.add("stream:job_1") for _ in range(3)))
        await heard.add("stream:job_1")
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


# --- whatever is sent, in whatever order ------------------------------------------------------


@pytest.mark.timeout(120)
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(
            st.integers(0, 6),
            st.integers(1, 3),
            st.sampled_from([ME, ME, ME, OTHER]),
            st.sampled_from([False, False, False, True]),
        ),
        max_size=12,
    )
)
def test_a_log_is_always_a_beginning_of_the_answer(valkey, steps):
    async def run():
        store = store_on(valkey.url)
        job = await begun(store)
        written, ended = 0, False
        for first, size, lease_owner, is_end in steps:
            upto = first + size
            fits = first == written or upto <= written
            if is_end:
                ending = store.jobs.finish(job, DONE, addition(first, upto, ends=True))
                if ended:
                    assert not await ending
                elif fits:
                    assert await ending
                    ended = True
                else:
                    with pytest.raises(StreamLost):
                        await ending
                    continue
                if not ended:
                    continue
            else:
                there = await append(store, job, first, upto, lease_owner)
                mine = lease_owner == ME and not ended
                assert there == (fits if mine else None)
                if not there:
                    continue
            if not (ended and not is_end):
                written = max(written, upto) if fits else written
            found = await numbers(store, job)
            assert found == (list(range(written)) if written else None)
        await store.close()

    asyncio.run(run())
