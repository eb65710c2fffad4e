"""What the ledger of a run of chaos notices."""

from __future__ import annotations

import pytest
from chaos.ledger import Ledger, Run, lines_of, overlap


def test_a_result_that_changes_is_a_broken_promise():
    ledger = Ledger()
    item = ledger.accept("job", "job_1", ["a"])
    ledger.see(item, "one")
    ledger.see(item, "one")
    assert (ledger.problems, ledger.changed) == ([], set())
    ledger.see(item, "two")
    assert ledger.changed == {"job_1"}
    assert "job_1" in ledger.problems[0]


def test_who_is_told_twice_of_one_job_was_promised_one():
    ledger = Ledger()
    first = ledger.accept("job", "job_1", ["a"])
    assert ledger.accept("job", "job_1", ["a"]) is first
    assert ledger.unfinished() == [first]
    ledger.see(first, "one")
    assert ledger.unfinished() == []


def test_a_batch_owes_as_many_answers_as_it_has_lines():
    ledger = Ledger()
    items = [ledger.accept("job", "job_1", ["a"]), ledger.accept("batch", "batch_1", ["b", "c"])]
    assert lines_of(items) == 3


def test_what_was_accepted_in_a_time_is_found():
    ledger = Ledger()
    item = ledger.accept("job", "job_1", ["a"])
    assert ledger.accepted_between(item.at, item.at + 1) == [item]
    assert ledger.accepted_between(item.at + 1, item.at + 2) == []


@pytest.mark.parametrize(
    ("times", "at_one_time"),
    [([(0, 1), (1, 2)], False), ([(0, 2), (1, 3)], True), ([(0, 1), (2, 3), (2.5, 4)], True)],
)
def test_runs_of_one_prompt_overlap_or_follow_each_other(times, at_one_time):
    ledger = Ledger(runs=[Run("a", *time) for time in reversed(times)] + [Run("b", 0, 9)])
    [runs] = ledger.repeats(["a", "b"])
    assert len(runs) == len(times)
    assert overlap(runs) is at_one_time


def test_a_run_that_never_ended_overlaps_with_the_next():
    assert overlap([Run("a", 0), Run("a", 5, 6)])
