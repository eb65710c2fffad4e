"""What the streams of a process say: in order, once, together, and the first word at once."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest
from harness.records import begun_job
from harness.waiting import eventually, turns

from fallback_chain.streams import Chunks
from tasks.drain import Drain
from tasks.errors import StoreUnavailable
from tasks.execution import stream_log
from tasks.execution.stream_log import StreamLogs
from tasks.records.jobs import Options, Status
from tasks.records.outcomes import Finish, interrupted
from tasks.store.retrying import Retrying

HEAD = {"id": "x", "object": "chat.completion.chunk"}
ANSWER = json.dumps(
    {
        "id": "y",
        "choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}],
        "usage": {"total_tokens": 3},
    }
).encode()
USAGE = b'{"choices":[],"usage":{}}'


class Streams:
    """A store's streams: answers what it is told to, once it is let."""

    def __init__(self):
        self.writes = []
        self.there = True
        self.away = 0
        self.open = asyncio.Event()
        self.open.set()

    async def append(self, appends):
        self.writes.append(list(appends))
        await self.open.wait()
        if isinstance(self.there, Exception):
            raise self.there
        if self.away:
            self.away -= 1
            raise StoreUnavailable
        return [self.there] * len(appends)

    def told(self, job_id="job_1"):
        """Return (chunks before, chunks with them, chunks) of each addition to a job's log."""
        additions = [a.addition for write in self.writes for a in write if a.job_id == job_id]
        return [(a.before, a.entry.upto, list(a.entry.choices)) for a in additions]


@pytest.fixture
def store():
    return Streams()


@pytest.fixture
async def logs(store, monkeypatch):
    monkeypatch.setattr("tasks.store.retrying.BACKOFF_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(stream_log, "LINGER_SECONDS", 0.005)
    return StreamLogs(SimpleNamespace(streams=store), Retrying(Drain()))


def job(**options):
    fields = {"id": options.pop("id", "job_1")}
    return begun_job(**fields, options=Options(stream=True, **options))


def write(stream, *choices):
    stream.write("gpu", HEAD, list(choices))


def succeeded(**fields):
    return Finish(**{"status": Status.SUCCEEDED, "attempts": (), "tier_used": "gpu", **fields})


async def test_the_first_word_goes_at_once_and_the_next_ones_together(store, logs, monkeypatch):
    monkeypatch.setattr(stream_log, "LINGER_SECONDS", 0.2)
    stream = logs.open(job())
    write(stream, b"role", b"0")
    await asyncio.wait_for(eventually(lambda: store.writes), 0.1)
    for word in (b"1", b"2", b"3"):
        write(stream, word)
        await asyncio.sleep(0)
    await eventually(lambda: len(store.writes) == 2)
    assert store.told() == [(0, 2, [b"role", b"0"]), (2, 5, [b"1", b"2", b"3"])]


async def test_the_first_entry_says_what_all_chunks_have_and_who_speaks(store, logs):
    stream = logs.open(job())
    write(stream, b"0")
    await eventually(lambda: store.writes)
    write(stream, b"1")
    await eventually(lambda: len(store.writes) == 2)
    first, second = (write[0].addition.entry for write in store.writes)
    assert (first.head, first.tier) == (b'{"id":"x","object":"chat.completion.chunk"', "gpu")
    assert (second.head, second.tier) == (b"", "")
    assert not first.ends


async def test_who_wants_to_see_what_was_counted_has_usage_null_in_every_chunk(store, logs):
    write(logs.open(job(usage=True)), b"0")
    await eventually(lambda: store.writes)
    head = store.writes[0][0].addition.entry.head
    assert json.loads(head + b"}") == {**HEAD, "usage": None}


async def test_many_streams_are_written_together_and_in_the_order_of_each(store, logs):
    store.open.clear()
    write(logs.open(job(id="job_0")), b"0")
    await eventually(lambda: store.writes)
    streams = [logs.open(job(id=f"job_{n}")) for n in range(1, 20)]
    for word in range(3):
        for stream in streams:
            write(stream, b"%d" % word)
    store.open.set()
    await eventually(lambda: len(store.writes) == 2)
    await turns()
    assert len(store.writes[1]) == 19
    assert store.told("job_7") == [(0, 3, [b"0", b"1", b"2"])]


async def test_no_two_writes_run_at_once(store, logs):
    stream = logs.open(job())
    store.open.clear()
    write(stream, b"0")
    await eventually(lambda: store.writes)
    write(stream, b"1")
    await asyncio.sleep(0.05)
    assert len(store.writes) == 1
    store.open.set()
    await eventually(lambda: len(store.writes) == 2)
    assert store.told() == [(0, 1, [b"0"]), (1, 2, [b"1"])]


async def test_what_the_store_does_not_answer_is_written_again_as_it_was(store, logs):
    store.away = 2
    stream = logs.open(job())
    write(stream, b"0")
    await eventually(lambda: len(store.writes) == 3)
    assert store.told() == [(0, 1, [b"0"])] * 3
    assert not stream.lost


@pytest.mark.parametrize("there", [None, False, ValueError("a defect")])
async def test_a_stream_whose_words_the_store_does_not_take_is_lost(store, logs, there):
    store.there = there
    stream = logs.open(job())
    write(stream, b"0")
    await eventually(lambda: stream.lost)
    write(stream, b"1")
    await asyncio.sleep(0.02)
    assert len(store.writes) == 1, "and nothing more of it is written"
    assert await asyncio.wait_for(stream.last(interrupted(())), 1) is None


async def test_another_stream_goes_on_after_a_write_that_broke_off(store, logs):
    store.there = ValueError("a defect")
    lost = logs.open(job())
    write(lost, b"0")
    await eventually(lambda: lost.lost)
    store.there = True
    write(logs.open(job(id="job_2")), b"0")
    await eventually(lambda: store.told("job_2"))


async def test_the_end_has_what_was_not_written_yet_and_what_was_held(store, logs):
    stream = logs.open(job())
    write(stream, b"0")
    await eventually(lambda: store.writes)
    write(stream, b"1")
    rest = Chunks(b"", [b"end"], USAGE)
    last = await stream.last(succeeded(answer=ANSWER, rest=rest))
    assert (last.before, last.entry.upto, last.entry.choices) == (1, 3, [b"1", b"end"])
    assert (last.entry.ends, last.entry.usage, last.entry.first) == (True, b"", 1)
    await asyncio.sleep(0.02)
    assert len(store.writes) == 1, "it goes with the end, and not before it"


async def test_what_was_counted_is_the_last_chunk_of_who_wants_it(store, logs):
    stream = logs.open(job(usage=True))
    write(stream, b"0")
    await eventually(lambda: store.writes)
    last = await stream.last(succeeded(answer=ANSWER, rest=Chunks(b"", [b"end"], USAGE)))
    assert (last.before, last.entry.upto, last.entry.usage) == (1, 3, USAGE)


async def test_the_end_waits_for_what_is_on_its_way(store, logs):
    stream = logs.open(job())
    store.open.clear()
    write(stream, b"0")
    await eventually(lambda: store.writes)
    write(stream, b"1")
    ending = asyncio.create_task(stream.last(succeeded(answer=ANSWER, rest=Chunks(b"", [b"end"]))))
    await turns()
    assert not ending.done()
    store.open.set()
    last = await asyncio.wait_for(ending, 1)
    assert (last.before, last.entry.choices) == (1, [b"1", b"end"])


async def test_an_end_right_after_the_first_word_has_the_head(store, logs):
    stream = logs.open(job())
    write(stream, b"0")
    last = await stream.last(succeeded(answer=ANSWER, rest=Chunks(b"", [b"end"])))
    assert (last.before, last.entry.upto, last.entry.choices) == (0, 2, [b"0", b"end"])
    assert (bool(last.entry.head), last.entry.tier) == (True, "gpu")
    await asyncio.sleep(0.02)
    assert store.writes == []


@pytest.mark.parametrize("usage", [True, False])
@pytest.mark.parametrize("tier", ["cache", "degraded", "cpu"])
async def test_an_answer_that_came_whole_is_a_log_of_its_own(logs, tier, usage):
    stream = logs.open(job(usage=usage))
    last = await stream.last(succeeded(answer=ANSWER, tier_used=tier))
    assert (last.before, last.entry.tier, last.entry.ends) == (0, tier, True)
    assert (len(last.entry.choices), last.entry.upto) == (2, 2 + usage)
    assert bool(last.entry.usage) is usage
    assert json.loads(last.entry.head + b"}")["id"] == "y"


async def test_a_job_that_failed_ends_no_log_but_nothing_that_was_said_is_left_out(store, logs):
    stream = logs.open(job())
    assert await stream.last(interrupted(())) is None
    write(stream, b"0")
    last = await stream.last(interrupted(()))
    assert (last.before, last.entry.choices, last.entry.ends) == (0, [b"0"], False)


async def test_a_stream_of_a_draining_worker_whose_store_is_away_is_lost(store, logs, caplog):
    async def gone(*_):
        raise StoreUnavailable

    store.append = gone
    logs._retrying = lambda work, *arguments: work(*arguments)
    stream = logs.open(job())
    write(stream, b"0")
    await eventually(lambda: stream.lost)
    assert [r.levelname for r in caplog.records] == ["WARNING"]
