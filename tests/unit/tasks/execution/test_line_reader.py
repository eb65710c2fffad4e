"""A unit's lines, read from its batch's input file."""

from __future__ import annotations

import json

import msgspec
import pytest
from harness.batches import jsonl, line
from harness.records import slice_unit

from fallback_chain import Attempt, Urgency, Verdict
from tasks.execution.line_reader import MISSING_TRIES, line_job, read_lines
from tasks.json_faults import UNREADABLE
from tasks.records.batches import BatchOptions, Endpoint, LineHistory, SliceRange
from tasks.records.jobs import Options, Queue
from tasks.storage import Storage, content_name

NAME = content_name("file-1")
TEXTS = [jsonl([line(f"c{n}", f"prompt {n}")]) for n in range(4)]
CONTENT = b"".join(TEXTS)


class SlowStorage(Storage):
    """Has the file only after so many looks for it."""

    def __init__(self, url: str, looks: float = 0) -> None:
        super().__init__(url)
        self.looks, self.missing = 0, looks

    def read(self, name, offset, length):
        self.looks += 1
        if self.looks <= self.missing:
            raise FileNotFoundError(name)
        return super().read(name, offset, length)


@pytest.fixture
def storage(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.execution.line_reader.MISSING_SECONDS", 0.0)
    storage = SlowStorage(str(tmp_path))
    storage.write(NAME, CONTENT)
    return storage


def unit(content=CONTENT, count=4, **fields):
    return slice_unit(range=SliceRange(0, len(content), count, 1), **fields)


async def read(storage, unit):
    lines = await read_lines(storage, unit)
    assert lines is not None
    return lines


def told(lines):
    """What the error file says of the lines that cannot be read: index -> (custom_id, code)."""
    contents = {result.line: json.loads(result.content) for result in lines.unreadable}
    return {n: (each["custom_id"], each["error"]["code"]) for n, each in contents.items()}


async def test_each_line_is_a_job_at_its_units_tier(storage):
    options = BatchOptions(cache="first", on_exhausted="fail", tiers=("cpu",))
    tried = LineHistory((Attempt("gpu", Verdict.FAILURE, 1.0),), failures=2)
    mine = unit(
        tier="cpu", attempt=3, options=options, endpoint=Endpoint.CHAT, histories={1: tried}
    )
    lines = await read(storage, mine)
    assert [custom_id for custom_id, _ in lines.jobs.values()] == ["c0", "c1", "c2", "c3"]
    assert lines.unreadable == []
    custom_id, job = lines.jobs[1]
    assert (custom_id, job.id) == ("c1", "batch_1-0-1")
    assert job.body.decoded()["messages"][0]["content"] == "prompt 1"
    assert (job.tier, job.attempt, job.queue) == ("cpu", 3, Queue.BATCH)
    assert (job.owner, job.lease_owner, job.endpoint) == ("ann", "me", "/v1/chat/completions")
    assert job.options == Options(cache="first", on_exhausted="fail", tiers=("cpu",))
    assert (job.deadline, job.attempts, job.failures) == (mine.deadline, tried.attempts, 2)
    assert (lines.jobs[0].job.attempts, lines.jobs[0].job.failures) == ((), 0)


@pytest.mark.parametrize(
    ("fields", "indexes"),
    [
        ({}, [0, 1, 2, 3]),
        ({"results": {1: b"o"}}, [0, 2, 3]),
        ({"moved_to": {0: "unit_other", 3: "unit_other"}}, [1, 2]),
        ({"lines": (1, 3), "moved_to": {1: "unit_batch_1_0", 3: "unit_batch_1_0"}}, [1, 3]),
        ({"results": dict.fromkeys(range(4), b"o")}, []),
    ],
)
async def test_only_the_lines_that_are_open_are_read(storage, fields, indexes):
    assert list((await read(storage, unit(**fields))).jobs) == indexes


async def test_a_slice_is_read_where_it_lies(storage):
    where = SliceRange(len(TEXTS[0]), len(TEXTS[1] + TEXTS[2]), 2, 2)
    lines = await read(storage, slice_unit(range=where))
    assert [custom_id for custom_id, _ in lines.jobs.values()] == ["c1", "c2"]


async def test_blank_lines_are_none(storage):
    content = TEXTS[0] + b"\n  \r\n" + TEXTS[1].strip()
    storage.write(NAME, content)
    lines = await read(storage, unit(content, count=2))
    assert [custom_id for custom_id, _ in lines.jobs.values()] == ["c0", "c1"]


@pytest.mark.parametrize(
    ("broken", "custom_id"),
    [
        (TEXTS[1].replace(b'"prompt 1"', b"1e999"), "c1"),
        (TEXTS[1].replace(b"prompt 1", b"\xff"), "c1"),
        (TEXTS[1].replace(b"body", b"bodice"), "c1"),
        (b"{\n", None),
        (b'{"custom_id": 7}\n', None),
    ],
)
async def test_a_line_that_cannot_be_read_any_more_is_told_and_the_rest_is_read(
    storage, broken, custom_id
):
    content = TEXTS[0] + broken + TEXTS[2]
    storage.write(NAME, content)
    lines = await read(storage, unit(content, count=3))
    assert list(lines.jobs) == [0, 2]
    assert told(lines) == {1: (custom_id, "invalid_json_line")}
    [result] = lines.unreadable
    assert (result.good, result.counted_as) == (False, "-:failed")


@pytest.mark.parametrize(("kept", "indexes"), [(2, [0, 1]), (0, [])])
async def test_the_lines_that_a_file_has_lost_are_told(storage, kept, indexes):
    storage.write(NAME, b"".join(TEXTS[:kept]))
    lines = await read(storage, unit())
    assert list(lines.jobs) == indexes
    assert told(lines) == dict.fromkeys(range(kept, 4), (None, "invalid_json_line"))


async def test_a_file_that_is_not_there_yet_is_looked_for_again(storage):
    storage.missing = MISSING_TRIES - 1
    assert len((await read(storage, unit())).jobs) == 4
    assert storage.looks == MISSING_TRIES


async def test_a_file_that_does_not_come_is_gone(storage):
    storage.missing = float("inf")
    assert await read_lines(storage, unit()) is None
    assert storage.looks == MISSING_TRIES


@pytest.mark.parametrize("text", [b"", b"{", b"[" * 2_000])
def test_a_line_that_is_no_job_raises_what_its_readers_expect(text):
    with pytest.raises(UNREADABLE):
        line_job(unit(), 0, text)


def test_a_legacy_line_is_asked_at_its_endpoint():
    text = msgspec.json.encode(line("c0", "x"))
    legacy = unit(endpoint=Endpoint.COMPLETIONS)
    assert line_job(legacy, 0, text).job.endpoint == "/v1/completions"


@pytest.mark.parametrize("priority", ["low", "normal", "high"])
def test_a_line_is_as_urgent_as_its_batch(priority):
    options = BatchOptions(priority=priority)
    body = line_job(unit(options=options), 0, msgspec.json.encode(line("c0", "x"))).job.body
    assert body.urgency is Urgency(priority)
