"""What a task's last event says of its slice."""

from __future__ import annotations

import contextvars

import pytest

from fallback_chain import Attempt, Verdict
from tasks.records.jobs import Status
from tasks.records.outcomes import Finish, HandBack, HandOn, HandUp, Park
from tasks.telemetry.slices import SliceReport, current_report, report_to


def tried(verdict, detail=""):
    return (Attempt("cpu", Verdict.ANSWERED, 1.0), Attempt("gpu", verdict, 1.0, detail))


def finish(status=Status.SUCCEEDED, tier_used="gpu", attempts=()):
    return Finish(status=status, tier_used=tier_used, attempts=attempts)


ANSWERED = finish(attempts=tried(Verdict.ANSWERED))
ON = HandOn(tried(Verdict.FAILURE, "HTTP 500"), 1)
PARKED = Park(tried(Verdict.REJECTED, "open"), 0, 1.0)
DEGRADED = finish(tier_used="degraded", attempts=tried(Verdict.MISS))
FAILED = finish(Status.FAILED, tier_used="", attempts=tried(Verdict.MISS))
REFUSED = finish(Status.FAILED, attempts=tried(Verdict.REFUSED, "HTTP 400"))
EXPIRED = finish(Status.EXPIRED, tier_used="")


@pytest.mark.parametrize(
    ("outcomes", "event", "text"),
    [
        ([], "task-succeeded", ""),
        ([ANSWERED, ANSWERED], "task-succeeded", "answered 2"),
        ([REFUSED], "task-succeeded", "refused 1 (refused HTTP 400)"),
        ([ON, ANSWERED, ANSWERED], "task-handed_on", "answered 2, handed on 1 (failure HTTP 500)"),
        ([HandBack(), ANSWERED], "task-handed_back", "handed back 1, answered 1"),
        ([ON, ON, HandBack()], "task-handed_on", "handed on 2, handed back 1 (failure HTTP 500)"),
        ([HandUp("gpu"), ANSWERED, HandBack()], "task-handed_up", None),
        ([ON, HandUp("gpu")], "task-handed_on", "handed on 1, handed up 1 (failure HTTP 500)"),
        ([PARKED, ON, ANSWERED], "task-parked", None),
        ([PARKED], "task-parked", "parked 1 (rejected open)"),
        ([DEGRADED, PARKED], "task-unanswered", "degraded 1, parked 1 (miss; rejected open)"),
        ([FAILED], "task-unanswered", "failed 1 (miss)"),
        ([EXPIRED, ANSWERED], "task-unanswered", "expired 1, answered 1"),
    ],
)
def test_the_worst_that_a_job_came_to_is_the_tasks_event(outcomes, event, text):
    report = SliceReport()
    for outcome in outcomes:
        report.note(outcome)
    assert report.event == event
    assert text in {report.text, None}


def test_of_many_reasons_the_most_frequent_are_told():
    report = SliceReport()
    for number in range(9):
        for _ in range(number + 1):
            report.note(HandOn(tried(Verdict.FAILURE, f"HTTP 50{number}"), 1))
    assert report.text == "handed on 45 (failure HTTP 508; failure HTTP 507; failure HTTP 506)"


def test_what_waits_for_its_turn_says_so():
    report = SliceReport()
    report.note(ANSWERED)
    report.note_waiting(30)
    assert (report.event, report.text) == ("task-waiting", "waiting 30, answered 1")
    report.note_waiting(1, tried(Verdict.FAILURE, "HTTP 500")[-1:])
    assert report.text == "waiting 31, answered 1 (failure HTTP 500)"


def test_a_context_counts_where_it_was_told_to():
    report = SliceReport()
    inside = contextvars.copy_context()
    inside.run(report_to, report)
    inside.run(lambda: current_report().note(ON))
    current_report().note(ON)
    assert report.text == "handed on 1 (failure HTTP 500)"
