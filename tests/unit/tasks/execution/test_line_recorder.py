"""Answers of a unit's lines, recorded a few together."""

from __future__ import annotations

import asyncio

import pytest
from harness.records import slice_unit
from harness.waiting import eventually, turns

from tasks.execution.line_recorder import GATHER, LineRecorder
from tasks.group_commit import Linger
from tasks.records.batches import LineResult, SliceRange

PATIENT = Linger(60.0, enough=3)


def result(line, *, good=True):
    return LineResult(line=line, good=good, content=b"%d" % line, counted_as="gpu:succeeded")


@pytest.fixture
def unit():
    return slice_unit(range=SliceRange(0, 1, 4, 1))


@pytest.fixture
def recorder(worker, unit, monkeypatch):
    monkeypatch.setattr("tasks.execution.line_recorder.GATHER", PATIENT)
    return LineRecorder(worker.context, unit)


def recorded(worker):
    return [lines for what, lines in worker.batches.moves if what == "record"]


async def test_lines_wait_a_moment_to_be_recorded_together(worker, unit):
    assert GATHER.seconds < 0.1
    recorder = LineRecorder(worker.context, unit)
    recorder.add(result(0))
    await turns()
    recorder.add(result(1))
    await eventually(lambda: worker.batches.moves)
    assert recorded(worker) == [[0, 1]]


async def test_enough_lines_wait_for_no_more(worker, recorder):
    for line in range(3):
        recorder.add(result(line))
        await turns()
    assert recorded(worker) == [[0, 1, 2]]


async def test_a_flush_records_what_waits(worker, unit, recorder):
    recorder.add(result(0))
    recorder.add(result(2, good=False))
    await recorder.flush()
    assert recorded(worker) == [[0, 2]]
    assert unit.results == {0, 2}
    assert worker.observer.events == [("line", 0), ("line", 2)]


async def test_without_lines_a_flush_records_nothing(worker, recorder):
    await recorder.flush()
    assert worker.batches.moves == []


@pytest.mark.parametrize(
    ("known", "lines", "complete"),
    [
        ({}, [[0, 1]], False),
        ({}, [[0, 1], [2, 3]], True),
        ({0: b"o0"}, [[0], [1]], False),
        ({0: b"o0"}, [[0], [1, 2, 3]], True),
        (dict.fromkeys(range(4), b"o"), [[]], True),  # taking over a part
    ],
)
async def test_it_knows_whether_the_slice_is_complete(worker, recorder, known, lines, complete):
    worker.batches.known = known
    for group in lines:
        await recorder.record([result(line) for line in group])
    assert recorder.complete == complete


@pytest.mark.parametrize(
    ("room", "groups"),
    [(1, [[0], [1], [2]]), (2, [[0, 1], [2]]), (3, [[0, 1, 2]]), (0, [[0], [1], [2]])],
)
async def test_what_is_large_is_recorded_in_portions(worker, recorder, monkeypatch, room, groups):
    monkeypatch.setattr("tasks.execution.line_recorder.PORTION_BYTES", room)
    for line in range(3):
        recorder.add(result(line))
    await recorder.flush()
    assert recorded(worker) == groups


async def test_a_slice_that_was_complete_stays_so(worker, recorder):
    worker.batches.known = dict.fromkeys(range(3), b"o")
    await recorder.record([result(3)])
    worker.batches.known = {}
    await recorder.record([result(0)])
    assert recorder.complete


async def test_a_batch_that_has_ended_takes_no_results(worker, unit, recorder):
    worker.batches.ended = True
    await recorder.record([result(0)])
    assert (unit.results, recorder.complete) == (set(), False)
    assert worker.observer.events == []


async def test_a_store_that_is_away_is_asked_again(worker, recorder):
    worker.batches.away = 2
    recorder.add(result(0))
    await recorder.flush()
    assert recorded(worker) == [[0]]


async def test_what_goes_wrong_with_any_line_is_raised_at_the_end(worker, recorder):
    async def broken(unit, results):
        if results[0].line == 0:
            raise ValueError("a defect")
        return 1, False

    worker.batches.record_lines = broken
    for line in range(6):  # of which three are recorded together
        recorder.add(result(line))
        await turns()
    with pytest.raises(ValueError, match="a defect"):
        await recorder.flush()


async def test_what_is_cancelled_is_not_recorded(worker, recorder):
    recorder.add(result(0))
    await turns()
    recorder.cancel()
    await turns()
    assert worker.batches.moves == []
    assert asyncio.all_tasks() == {asyncio.current_task()}, "nothing goes on"
