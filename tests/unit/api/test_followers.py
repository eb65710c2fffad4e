"""Whoever follows an answer gets each chunk once and in order, whatever he is told, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from types import SimpleNamespace

import msgspec
import pytest
from harness.waiting import eventually, turns
from hypothesis import given, settings
from hypothesis import strategies as st

from api import followers
from api.errors import ApiError
from api.followers import follow
from api.waiters import MOST_WAITING, Waiters
from tasks.errors import StoreUnavailable
from tasks.records.jobs import Status
from tasks.records.streams import Entry, Log

HEAD = b'{"id":"x"'
ANSWER = json.dumps(
    {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}], "usage": {}}
).encode()


def entry(first, upto, *, ends=False, usage=False, run="r"):
    """Return an entry with these chunks, each of which is its number."""
    choices = tuple(b"%d" % n for n in range(first, upto - usage))
    head, tier = (HEAD, "gpu") if not first else (b"", "")
    return Entry(upto, choices, head, tier, b"%d" % (upto - 1) if usage else b"", ends, run)


class Store:
    """A store with one job and its log, and what is heard of both."""

    def __init__(self):
        self.jobs = self.streams = self.connection = self
        self.status, self.answer, self.streamed = Status.RUNNING, None, False
        self.log, self.kept = [], True
        self.away = 0
        self.reads = 0
        self.added, self.dropped = [], []
        self.messages_ = asyncio.Queue()
        self.on_read = lambda: None
        self.known = True

    async def get(self, job_id, owner):
        record = await self.look(job_id, owner)
        if record:
            record.answer = msgspec.Raw(self.answer) if self.answer else None
        return record

    async def look(self, job_id, owner):
        if self.away:
            self.away -= 1
            raise StoreUnavailable
        if not self.known or owner != "ann":
            return None
        return SimpleNamespace(
            id=job_id, status=self.status, tier_used="gpu", streamed=self.streamed
        )

    async def read(self, job_id, after):
        self.reads += 1
        found = [each for each in self.log if each.upto > after]
        whole = list(self.log)
        self.on_read()
        if not whole or not self.kept:
            return None
        return Log(whole[0], found)

    # The subscription

    def subscription(self, *_):
        return self

    async def add(self, name):
        self.added.append(name)

    async def drop(self, name):
        self.dropped.append(name)

    async def messages(self):
        while True:
            yield await self.messages_.get()

    def tell(self, *entries):
        for each in entries:
            self.messages_.put_nowait((self.added[-1], each.encoded()))

    def write(self, *entries):
        self.log += entries
        self.streamed = True

    def finish(self, status=Status.SUCCEEDED):
        self.status, self.answer = status, ANSWER if status is Status.SUCCEEDED else None
        self.messages_.put_nowait(("finished", b"job_1"))


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(followers, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(followers, "AGAIN_SECONDS", 0.001)
    monkeypatch.setattr(followers, "PATIENCE_SECONDS", 0.02)


class Follower:
    """Notes the numbers of the chunks that it is given, in order."""

    def __init__(self, store, after=0, owner="ann"):
        self.waiters = Waiters(store)
        self.listening = asyncio.create_task(self.waiters.listen())
        self.events = follow(store, self.waiters, "job_1", owner, after)
        self.numbers, self.records, self.last = [], [], None
        self.heads = []

    async def take(self, number=1):
        """Take so many entries."""
        while number:
            event = await asyncio.wait_for(anext(self.events), 5)
            if isinstance(event, Entry):
                self.note(event)
                number -= 1
            else:
                self.records.append(event)

    def note(self, event):
        assert event.first == (self.numbers[-1] + 1 if self.numbers else event.first)
        self.numbers += [int(frame) for frame in (*event.choices, event.usage) if frame]
        if event.head:
            self.heads.append(event.head)
        assert self.heads or event.ends, "the first entry says what all chunks have"
        self.last = event

    async def rest(self):
        """Take all that comes; return the last thing."""
        async for event in self.events:
            self.last = event
            if isinstance(event, Entry):
                self.note(event)
        return self.last

    async def idle(self):
        """Wait until it waits for news."""
        self.records.append(await asyncio.wait_for(anext(self.events), 5))

    async def close(self):
        await self.events.aclose()
        self.listening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.listening


@pytest.fixture
async def store():
    return Store()


@pytest.fixture
async def follower(store):
    follower = Follower(store)
    yield follower
    await follower.close()


@pytest.mark.parametrize("after", range(8))
async def test_a_log_is_told_from_any_place(store, after):
    store.write(entry(0, 2), entry(2, 5), entry(5, 7, ends=True, usage=True))
    store.finish()
    follower = Follower(store, after)
    last = await asyncio.wait_for(follower.rest(), 5)
    assert follower.numbers == list(range(after, 7))
    assert last.ends
    assert follower.heads == [HEAD]
    await follower.close()
    assert store.dropped == store.added


async def test_what_is_heard_is_told_without_reading_the_log(store, follower):
    await follower.idle()
    reads = store.reads
    first, second, end = entry(0, 2), entry(2, 3), entry(3, 5, ends=True)
    store.tell(first)
    await follower.take()
    store.tell(second, end)
    await follower.rest()
    assert follower.numbers == [0, 1, 2, 3, 4]
    assert store.reads == reads


async def test_a_gap_is_filled_from_the_log(store, follower):
    await follower.idle()
    store.write(entry(0, 2), entry(2, 3), entry(3, 4))
    store.tell(store.log[0], store.log[2])
    await follower.take(3)
    assert follower.numbers == [0, 1, 2, 3]


async def test_who_begins_in_the_middle_is_told_what_all_chunks_have(store):
    """He waits for a place that the job has not come to, and hears of it."""
    follower = Follower(store, 3)
    await follower.idle()
    for each in (entry(0, 2), entry(2, 3), entry(3, 4), entry(4, 6, ends=True)):
        store.write(each)
        store.tell(each)
        await turns()
    await asyncio.wait_for(follower.rest(), 5)
    assert (follower.numbers, follower.heads) == ([3, 4, 5], [HEAD])
    await follower.close()


async def test_what_was_told_twice_or_comes_late_is_told_once(store, follower):
    await follower.idle()
    store.write(entry(0, 2), entry(2, 4))
    store.tell(*store.log, *store.log, store.log[0])
    await follower.take(2)
    store.tell(entry(2, 4), entry(3, 6), entry(6, 8, ends=True))
    await follower.rest()
    assert follower.numbers == list(range(8))


async def test_an_end_between_two_looks_is_seen(store, follower):
    """It finishes after its record was read, and before its log is."""

    def finish():
        store.on_read = lambda: None
        store.write(entry(0, 2), entry(2, 3, ends=True))
        store.finish()

    store.on_read = finish
    last = await asyncio.wait_for(follower.rest(), 2)
    assert follower.numbers == [0, 1, 2]
    assert last.ends


@pytest.mark.usefixtures("quick")
async def test_what_nobody_told_is_read_in_a_while(store, follower):
    await follower.idle()
    store.write(entry(0, 2, ends=True))
    store.status, store.answer = Status.SUCCEEDED, ANSWER
    assert (await asyncio.wait_for(follower.rest(), 5)).ends
    assert follower.numbers == [0, 1]


@pytest.mark.parametrize("status", [Status.FAILED, Status.CANCELLED, Status.EXPIRED])
async def test_what_was_said_before_a_job_failed_is_told_and_then_how_it_ended(store, status):
    store.write(entry(0, 2), entry(2, 3))
    store.finish(status)
    follower = Follower(store)
    last = await asyncio.wait_for(follower.rest(), 5)
    assert follower.numbers == [0, 1, 2]
    assert last.status is status
    await follower.close()


async def test_a_failure_wakes_who_waits(store, follower):
    await follower.idle()
    store.finish(Status.FAILED)
    last = await asyncio.wait_for(follower.rest(), 2)
    assert last.status is Status.FAILED


async def test_a_job_that_nobody_was_to_follow_is_told_from_its_answer(store):
    store.finish()
    follower = Follower(store)
    [event] = [event async for event in follower.events]
    assert (event.ends, event.upto, len(event.choices)) == (True, 2, 2)
    await follower.close()
    for after in (1, 2, 3):
        follower = Follower(store, after)
        [event] = [event async for event in follower.events]
        assert (event.ends, len(event.choices)) == (True, max(2 - after, 0))
        await follower.close()


async def test_a_log_that_is_kept_no_longer_is_told_from_the_answer_or_not_at_all(store):
    store.streamed = True
    store.finish()
    follower = Follower(store)
    [event] = [event async for event in follower.events]
    assert event.ends
    await follower.close()
    follower = Follower(store, 1)
    with pytest.raises(ApiError) as raised:
        await anext(follower.events)
    assert raised.value.code == "stream_gone"
    await follower.close()


@pytest.mark.parametrize("known", [True, False])
async def test_another_owners_job_is_none(store, known):
    store.known = known
    follower = Follower(store, owner="bob")
    assert [event async for event in follower.events] == [None]
    await follower.close()


@pytest.mark.usefixtures("quick")
async def test_a_store_that_restarts_is_waited_for_and_one_that_stays_away_is_not(store):
    store.write(entry(0, 2, ends=True))
    store.away = 5
    follower = Follower(store)
    await follower.rest()
    assert follower.numbers == [0, 1]
    await follower.close()
    store.away = 10_000
    follower = Follower(store)
    with pytest.raises(StoreUnavailable):
        await follower.rest()
    await follower.close()


async def test_an_api_that_stops_tells_how_the_job_is_and_ends(store, follower):
    await follower.idle()
    follower.waiters.close_in(0.0)
    record = await asyncio.wait_for(follower.rest(), 2)
    assert record.status is Status.RUNNING


@pytest.mark.parametrize("moment", ["read", "told", "slow", "waiting"])
async def test_who_is_told_by_an_api_that_stops_is_told_so_whenever_it_does(
    store, follower, moment
):
    """Nothing at all would mean that his job is not known any more."""
    stop, seen = follower.waiters._close, []
    if moment == "read":
        store.on_read = stop
    async for event in follower.events:
        if follower.waiters.closed:  # as each of its users looks
            seen.append(event)
            continue
        if moment == "told":  # before he asks for more: his client takes what it was sent
            stop()
        elif moment == "slow":
            asyncio.get_running_loop().call_soon(stop)
            await turns(3)
        else:
            asyncio.get_running_loop().call_later(0.01, stop)
    assert [event.status for event in seen] == [Status.RUNNING]


async def test_who_does_not_take_what_he_is_told_reads_it_later(store, follower):
    await follower.idle()
    entries = [entry(n, n + 1) for n in range(MOST_WAITING * 2 + 10)]
    store.write(*entries)
    store.tell(*entries)
    await asyncio.sleep(0.05)
    [inbox] = follower.waiters._followers[store.added[0]]
    assert len(inbox._waiting) <= MOST_WAITING
    await follower.take(len(entries))
    assert follower.numbers == list(range(len(entries)))


# A store that lost its last second has a job answered anew


async def lost(follower):
    with pytest.raises(ApiError) as raised:
        await asyncio.wait_for(follower.rest(), 5)
    assert (raised.value.status, raised.value.code) == (502, "upstream_interrupted")


async def test_who_resumes_at_the_end_of_what_is_there_gets_the_head_with_what_is_heard(store):
    store.write(entry(0, 3))
    follower = Follower(store, 3)
    await follower.idle()
    store.tell(entry(3, 4))
    await follower.take()
    assert (follower.numbers, follower.heads, follower.last.tier) == ([3], [HEAD], "gpu")
    await follower.close()


async def test_who_resumes_before_anything_is_there_gets_the_head(store):
    follower = Follower(store, 3)
    await follower.idle()
    store.write(entry(0, 3), entry(3, 4))
    store.tell(store.log[1])
    await follower.take()
    assert (follower.numbers, follower.heads) == ([3], [HEAD])
    await follower.close()


@pytest.mark.parametrize("told", [True, False])
async def test_who_saw_one_answer_is_told_nothing_of_another(store, follower, told):
    store.write(entry(0, 4))
    await follower.take()
    await follower.idle()
    store.log = [entry(0, 2, run="other"), entry(2, 6, run="other", ends=True)]
    if told:
        store.tell(*store.log)
    store.finish()
    await lost(follower)
    assert follower.numbers == [0, 1, 2, 3]


async def test_who_saw_more_than_there_is_of_another_answer_is_not_told_that_he_has_all(
    store, follower
):
    store.write(entry(0, 4))
    await follower.take()
    await follower.idle()
    store.log = [entry(0, 2, run="other", ends=True)]
    store.finish()
    await lost(follower)


@pytest.mark.usefixtures("quick")
async def test_a_log_that_is_gone_while_its_job_runs_is_lost(store, follower):
    store.write(entry(0, 4))
    await follower.take()
    await follower.idle()
    store.log = []
    await lost(follower)


@pytest.mark.usefixtures("quick")
async def test_who_waits_for_a_store_that_is_away_is_told_how_the_job_was(
    store, follower, monkeypatch
):
    monkeypatch.setattr(followers, "PATIENCE_SECONDS", 5.0)
    store.write(entry(0, 2))
    await follower.take()
    await follower.idle()
    store.away = 1
    await follower.idle()
    assert [record.status for record in follower.records] == [Status.RUNNING] * 2
    store.write(entry(2, 3))
    await follower.take()
    assert follower.numbers == [0, 1, 2]


async def test_large_entries_that_are_not_taken_are_read_later(store, follower):
    await follower.idle()
    large = [entry(n, n + 1)._replace(tier="x" * 100_000) for n in range(20)]
    store.write(*large)
    store.tell(*large)
    await asyncio.sleep(0.05)
    [inbox] = follower.waiters._followers[store.added[0]]
    assert len(inbox._waiting) <= 3
    await follower.take(20)
    assert follower.numbers == list(range(20))


@pytest.mark.usefixtures("quick")
@settings(deadline=None, max_examples=60)
@given(st.data())
def test_whatever_is_lost_repeated_or_late_each_chunk_comes_once(data):
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=8))
    edges = [sum(sizes[:at]) for at in range(len(sizes) + 1)]
    log = [entry(a, b, ends=b == edges[-1]) for a, b in itertools.pairwise(edges)]
    after = data.draw(st.integers(0, edges[-1]))
    heard = data.draw(st.lists(st.tuples(st.integers(0, len(log) - 1), st.booleans())))

    async def run():
        store = Store()
        follower = Follower(store, after)
        following = asyncio.create_task(follower.rest())
        await eventually(lambda: store.added)
        written = 0
        for number, waits in heard:
            while written <= number:  # what is told is there
                store.write(log[written])
                written += 1
            store.tell(log[number])
            if waits:
                await asyncio.sleep(0)
        store.write(*log[written:])
        store.status, store.answer = Status.SUCCEEDED, ANSWER
        last = await asyncio.wait_for(following, 5)
        await follower.close()
        assert last.ends
        assert follower.numbers == list(range(after, edges[-1]))

    asyncio.run(run())
