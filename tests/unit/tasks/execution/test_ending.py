"""What becomes of a unit whose calls have ended: every row of the decision."""

from __future__ import annotations

import pytest
from harness.records import slice_unit

from fallback_chain import Attempt, Verdict
from tasks.execution.ending import (
    LATE_SECONDS,
    Drop,
    HandBackUnit,
    HandOnUnit,
    ParkUnit,
    WritePart,
    ending,
    history,
    leaving,
)
from tasks.records.batches import LineHistory, SliceRange
from tasks.records.outcomes import HandBack, HandOn, Park

TRIED = (Attempt("gpu", Verdict.FAILURE, 1.0),)
LINES = 3
CHILD = "unit_batch_1_0_token"  # lines that left their slice

ON = HandOn(TRIED, 1)
KEPT = LineHistory(TRIED, 1)
BACK = HandBack()
ALL_ON = dict.fromkeys(range(LINES), ON)
ALL_KEPT = dict.fromkeys(range(LINES), KEPT)


def park(due):
    return Park(TRIED, 1, due)


def unit(**fields):
    return slice_unit(range=SliceRange(0, 1, LINES, 1), **fields)


def child(**fields):
    return unit(id=CHILD, moved_to={1: CHILD, 2: CHILD}, lines=(1, 2), **fields)


DONE = unit(results={0, 1, 2})
LAST = unit(results={0, 1})  # line 2 is open
ELSEWHERE = unit(results={0}, moved_to={1: CHILD, 2: CHILD})


@pytest.mark.parametrize(
    ("unit_", "left", "decision"),
    [
        # Nothing is left for it.
        (DONE, {}, Drop()),
        (ELSEWHERE, {}, Drop()),
        (child(results={1, 2}), {}, Drop()),
        # All that is left was tried, and goes the same way.
        (unit(), ALL_ON, HandOnUnit(ALL_KEPT)),
        (LAST, {2: ON}, HandOnUnit({2: KEPT})),
        (LAST, {2: park(7.0)}, ParkUnit({2: KEPT}, 7.0)),
        # What left to another unit is not this one's; what left to this one is.
        (unit(results={0}, moved_to={1: CHILD}), {2: ON}, HandOnUnit({2: KEPT})),
        (unit(results={0}, moved_to={1: CHILD}), {1: ON, 2: ON}, HandOnUnit({2: KEPT})),
        (child(), {1: ON, 2: ON}, HandOnUnit({1: KEPT, 2: KEPT})),
        (child(results={1}), {2: ON}, HandOnUnit({2: KEPT})),
        (
            unit(id=CHILD, lines=(1, 2), moved_to={1: "unit_batch_1_0_other", 2: CHILD}),
            {2: ON},
            HandOnUnit({2: KEPT}),
        ),
        # One that waits has all of them wait, until the first is due.
        (unit(), {0: park(9.0), 1: park(4.0), 2: park(6.0)}, ParkUnit(ALL_KEPT, 4.0)),
        (unit(), {0: ON, 1: park(4.0), 2: ON}, ParkUnit(ALL_KEPT, 4.0)),
        # One that was not called, or was cut off, comes back; the failed go on by themselves.
        (unit(), {}, HandBackUnit({})),
        (unit(), {0: BACK, 1: BACK, 2: BACK}, HandBackUnit({})),
        (unit(), {0: ON, 1: BACK, 2: ON}, HandBackUnit({0: KEPT, 2: KEPT})),
        (unit(), {0: ON}, HandBackUnit({0: KEPT})),
        (unit(), {0: park(4.0), 1: ON}, HandBackUnit({1: KEPT})),
        (LAST, {2: BACK}, HandBackUnit({})),
    ],
)
def test_what_is_left_decides_what_becomes_of_a_unit(unit_, left, decision):
    assert ending(unit_, left, complete=False, past_deadline=False) == decision


@pytest.mark.parametrize("past_deadline", [True, False])
@pytest.mark.parametrize(
    ("unit_", "left"), [(DONE, {}), (unit(), {}), (unit(), ALL_ON), (LAST, {2: BACK})]
)
def test_a_complete_slice_is_written_whatever_else_is_so(unit_, left, past_deadline):
    assert ending(unit_, left, complete=True, past_deadline=past_deadline) == WritePart()


@pytest.mark.parametrize("left", [{}, ALL_ON, {0: park(1.0), 1: ON, 2: BACK}, {0: BACK}])
def test_past_the_window_a_unit_only_waits_for_the_sweeper(left):
    decision = ending(unit(), left, complete=False, past_deadline=True)
    assert decision == ParkUnit({}, LATE_SECONDS)


@pytest.mark.parametrize("unit_", [DONE, ELSEWHERE])
def test_a_unit_without_lines_is_dropped_past_the_window_too(unit_):
    assert ending(unit_, {}, complete=False, past_deadline=True) == Drop()


def test_only_what_a_tier_could_not_answer_leaves_for_the_next_one():
    assert leaving({0: ON, 1: park(4.0), 2: BACK, 3: HandOn((), 0)}) == {
        0: KEPT,
        3: LineHistory((), 0),
    }


@pytest.mark.parametrize("outcome", [HandOn(TRIED, 2), Park(TRIED, 2, 9.0)])
def test_a_line_keeps_what_was_tried_and_what_failed(outcome):
    assert history(outcome) == LineHistory(TRIED, 2)
