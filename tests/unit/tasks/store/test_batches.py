"""How what a script answers is read as a unit, and what of a batch is first sent on its way."""

from __future__ import annotations

import time

import msgspec
import pytest
from harness.records import slice_unit

from fallback_chain import Attempt, Tokens, Verdict
from tasks.jsonl.input import Findings, LineError
from tasks.records.batches import (
    BatchOptions,
    BatchStatus,
    LineHistory,
    PhaseUnit,
    SliceRange,
    SliceUnit,
)
from tasks.records.jobs import Dispatch, Ref
from tasks.records.losses import lost
from tasks.settings import Settings
from tasks.store.batches import BatchStore, _record
from tasks.store.fields import Fields

HISTORY = LineHistory((Attempt("gpu", Verdict.FAILURE, 1.0),), 1)
HEAD = [b"batch_1", b"ann", b"{}", b"/v1/chat/completions", b"file-1", b"in_progress", b"5000", b""]


class FakeConnection:
    """Answers a script with what a test sets, and notes its arguments."""

    def __init__(self, answer=None) -> None:
        self.answer = answer
        self.arguments: tuple = ()

    async def run(self, script, keys, *args):
        self.arguments = args
        return self.answer


LOST = msgspec.json.encode([lost("gpu")])


def answer(number=b"-1", lines=b"", where=b"", known=(), ending=b""):
    batch, owner, *rest = HEAD[:-1]
    return [batch, number, lines, where, owner, *rest, ending, b"250", b"batch", LOST, list(known)]


async def begin(given, tier="gpu"):
    store = BatchStore(FakeConnection(given), Settings())
    return await store.begin("me", tier, Ref("unit_x", 2))


async def test_a_unit_that_is_stale_is_none():
    assert await begin(None) is None


async def test_a_unit_without_a_slice_is_a_phase():
    unit = await begin(answer(ending=b"cancelled"), "join")
    assert isinstance(unit, PhaseUnit)
    assert (unit.id, unit.attempt, unit.tier, unit.lease_owner) == ("unit_x", 2, "join", "me")
    assert (unit.batch, unit.owner, unit.input_file_id) == ("batch_1", "ann", "file-1")
    assert (unit.status, unit.ending, unit.waited) == (BatchStatus.IN_PROGRESS, "cancelled", 0.25)
    assert unit.options == BatchOptions()
    assert unit.deadline - time.monotonic() == pytest.approx(5, abs=1)


async def test_a_unit_of_a_slice_has_its_lines_and_what_is_known_of_them():
    kept = msgspec.json.encode(HISTORY)
    known = [b"0", b"", b"a1", kept, b"u2", b"unit_other", b"count", b"1"]
    unit = await begin(answer(b"7", b"[1,2]", b"10:20:3:4", known))
    assert isinstance(unit, SliceUnit)
    assert (unit.slice, unit.lines, unit.range) == (7, (1, 2), SliceRange(10, 20, 3, 4))
    assert unit.results == {0}
    assert unit.histories == {1: HISTORY}
    assert unit.moved_to == {2: "unit_other"}
    assert (unit.attempts, unit.first) == ((lost("gpu"),), False)


async def test_a_unit_of_a_whole_slice_names_no_lines():
    unit = await begin(answer(b"7", b"", b"10:20:3:4"))
    assert unit.lines is None


@pytest.mark.parametrize(
    ("priority", "window", "first"),
    [("low", 32, 8), ("normal", 32, 32), ("high", 32, 40), ("low", 1, 1), ("high", 1, 4)],
)
async def test_the_first_slices_are_as_many_as_the_priority_lets(priority, window, first):
    connection = FakeConnection([[b"unit_x", b"0", b"gpu", b"batch"]])
    store = BatchStore(connection, Settings(batch_window=window))
    findings = Findings(total=40, ranges=[SliceRange(n, 1, 1, n) for n in range(40)])
    unit = slice_unit(options=BatchOptions(priority=priority))
    dispatches = await store.start(unit, findings, "gpu")
    assert dispatches == [Dispatch("unit_x", 0, "gpu", "batch")]
    assert min(connection.arguments[8], len(findings.ranges)) == first
    assert len(connection.arguments[10:]) == 40


async def test_a_batch_with_errors_has_no_slices():
    connection = FakeConnection([])
    findings = Findings(total=1, ranges=[SliceRange(0, 1, 1, 1)], errors=[LineError("x", "y")])
    assert await BatchStore(connection, Settings()).start(slice_unit(), findings, "gpu") == []
    assert connection.arguments[10:] == ()
    assert msgspec.json.decode(connection.arguments[5])["data"][0]["code"] == "x"


def test_a_record_counts_by_tier_whatever_became_of_the_lines():
    record = _record(
        Fields(
            {
                b"id": b"batch_1",
                b"status": b"completed",
                b"created_ms": b"1500",
                b"completed_ms": b"2999",
                b"by:gpu:succeeded": b"3",
                b"by:gpu:failed": b"1",
                b"by:-:failed": b"2",
                b"model:gpu:org/a:7b": b"2",
                b"model:gpu:other": b"1",
                b"models": b"50",
                b"input_tokens": b"10",
                b"reasoning_tokens": b"4",
            }
        )
    )
    assert record.by_tier == {"gpu": 4, "-": 2}
    assert record.by_model == {"gpu": {"org/a:7b": 2, "other": 1}}
    assert record.times == {"created": 1, "completed": 2}
    assert record.tokens == Tokens(prompt=10, reasoning=4)
    assert (record.errors, record.output_file_id, record.model) == (None, None, None)
    assert record.options == BatchOptions()
