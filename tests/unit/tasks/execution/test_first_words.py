"""What streams say goes to the store together; the first word of an answer goes by itself."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from harness.waiting import eventually

from fallback_chain import Body
from tasks.drain import Drain
from tasks.execution.stream_log import StreamLogs
from tasks.records.jobs import BegunJob, Options, Queue
from tasks.store.retrying import Retrying

HEAD = {"object": "chat.completion.chunk"}


class FakeStreams:
    """Notes what each write adds: (job, chunks before, choices) of each stream in it."""

    def __init__(self) -> None:
        self.writes: list[list[tuple[str, int, list[bytes]]]] = []

    async def append(self, appends):
        rows = [(a.job_id, a.addition.before, list(a.addition.entry.choices)) for a in appends]
        self.writes.append(rows)
        return [True] * len(appends)


@pytest.fixture
def streams():
    return FakeStreams()


@pytest.fixture
def logs(streams):
    return StreamLogs(SimpleNamespace(streams=streams), Retrying(Drain()))


def log_of(logs, name):
    return logs.open(
        BegunJob(
            id=name,
            attempt=1,
            lease_owner="me",
            tier="gpu",
            body=Body(b""),
            owner="",
            queue=Queue.INTERACTIVE,
            deadline=1e9,
            options=Options(stream=True),
            attempts=(),
            failures=0,
        )
    )


async def test_a_first_word_is_written_alone_and_before_those_that_linger(
    logs, streams, monkeypatch
):
    one, other = log_of(logs, "one"), log_of(logs, "other")
    one.write("gpu", HEAD, [b"1"])
    await eventually(lambda: len(streams.writes) == 1)
    monkeypatch.setattr("tasks.execution.stream_log.LINGER_SECONDS", 0.3)
    one.write("gpu", HEAD, [b"2"])
    await asyncio.sleep(0)
    other.write("gpu", HEAD, [b"a"])
    other.write("gpu", HEAD, [b"b"])
    one.write("gpu", HEAD, [b"3"])
    await eventually(lambda: len(streams.writes) == 3)
    assert streams.writes == [
        [("one", 0, [b"1"])],
        [("other", 0, [b"a", b"b"])],
        [("one", 1, [b"2", b"3"])],
    ]


async def test_what_is_left_to_its_end_is_not_written(logs, streams):
    one = log_of(logs, "one")
    one.write("gpu", HEAD, [b"1"])
    logs.forget(one)
    await asyncio.sleep(0.05)
    assert streams.writes == []
