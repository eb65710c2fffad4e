"""What keeps a tier from answering, by what its tries came to."""

from __future__ import annotations

import pytest

from fallback_chain import Verdict
from tasks.records.troubles import (
    TierHealth,
    TierReport,
    Trouble,
    Unanswered,
    is_unanswered,
    trouble_of,
    troubles_of,
    unanswered_of,
)

NO_MODEL = "HTTP 404 no such model"
NOW, LONG = 1000.0, 180.0
GPU = TierHealth(answered=0.0, since=800.0, asked=999.0, unanswered=9, last="unfit: x", host="h:1")
CPU = TierHealth(answered=990.0)


@pytest.mark.parametrize(
    ("verdict", "detail", "trouble", "unanswered"),
    [
        (Verdict.UNFIT, NO_MODEL, Trouble.NO_SUCH_MODEL, True),
        (Verdict.UNFIT, f"{NO_MODEL}, as it was named", None, True),  # by the caller
        (Verdict.UNFIT, "HTTP 400 context too long", None, True),
        (Verdict.UNFIT, "misfit schema", None, True),
        (Verdict.UNFIT, "lacks tools", None, False),
        (Verdict.MISCONFIGURED, "HTTP 401", Trouble.MISCONFIGURED, True),
        (Verdict.FAILURE, "timeout", None, True),
        (Verdict.SATURATED, "HTTP 429", None, True),
        (Verdict.REJECTED, "open", None, True),
        (Verdict.NO_PERMIT, "", None, True),
        (Verdict.EXPIRED, "deadline", None, True),
        (Verdict.ANSWERED, "", None, False),
        (Verdict.ANSWERED, "misfit json", None, False),
        (Verdict.REFUSED, "HTTP 400", None, False),
        (Verdict.CANCELLED, "", None, False),
    ],
)
def test_what_a_try_says_of_its_tier(verdict, detail, trouble, unanswered):
    assert trouble_of(verdict, detail) is trouble
    assert is_unanswered(verdict, detail) is unanswered


def report(*tries):
    made = TierReport()
    for verdict, detail in tries:
        made.add(verdict, detail)
    return made


def test_a_report_counts_what_came_after_the_last_answer():
    refused, missing = (Verdict.MISCONFIGURED, "HTTP 401"), (Verdict.UNFIT, NO_MODEL)
    assert report(refused, missing, (Verdict.ANSWERED, "")) == TierReport(answered=True)
    seen = report((Verdict.ANSWERED, ""), refused, missing, missing)
    assert seen == TierReport(
        answered=True,
        unanswered=3,
        last=f"unfit: {NO_MODEL}",
        trouble="no_such_model",
        reason=NO_MODEL,
        times=2,
    )


def test_what_was_not_called_counts_and_hides_no_reason():
    seen = report((Verdict.MISCONFIGURED, "HTTP 401"), (Verdict.REJECTED, "held"))
    assert (seen.unanswered, seen.last, seen.reason) == (2, "misconfigured: HTTP 401", "HTTP 401")
    assert seen.trouble == "misconfigured"
    assert report((Verdict.EXPIRED, "")).last == "expired"
    assert report((Verdict.REFUSED, "HTTP 400")) == TierReport()


@pytest.mark.parametrize(
    ("gpu", "cpu", "silent"),
    [
        (GPU, CPU, True),
        (GPU._replace(since=819.0), CPU, True),
        (GPU._replace(since=820.0), CPU, False),
        (GPU._replace(unanswered=3), CPU, True),
        (GPU._replace(unanswered=2), CPU, False),
        (GPU._replace(since=500.0, asked=819.0), CPU, False),  # nobody asks it any more
        (GPU, TierHealth(answered=819.0), False),  # nor does any other answer
        (GPU, TierHealth(), False),
        (TierHealth(answered=999.0), CPU, False),
    ],
)
def test_a_tier_is_silent_if_it_is_asked_for_minutes_while_another_answers(gpu, cpu, silent):
    found = troubles_of({"gpu": gpu, "cpu": cpu}, NOW, LONG)
    assert [each.trouble for each in found["gpu"]] == [Trouble.SILENT] * silent
    assert found["cpu"] == []


def test_a_tiers_own_answers_do_not_make_it_silent_and_alone_none_is():
    assert troubles_of({"gpu": GPU._replace(answered=995.0)}, NOW, LONG) == {"gpu": []}


def test_troubles_say_where_why_since_when_and_how_often():
    gpu = GPU._replace(
        trouble="no_such_model", reason=NO_MODEL, first_seen=900.0, last_seen=998.0, times=7
    )
    own, silent = troubles_of({"gpu": gpu, "cpu": CPU}, NOW, LONG)["gpu"]
    assert (own.trouble, own.host, own.count) == (Trouble.NO_SUCH_MODEL, "h:1", 7)
    assert (own.first_seen, own.last_seen) == (900.0, 998.0)
    assert own.words == f"does not have the model that it is asked for ({NO_MODEL})"
    assert (silent.trouble, silent.reason, silent.count) == (Trouble.SILENT, "unfit: x", 9)
    assert (silent.first_seen, silent.last_seen) == (800.0, 999.0)
    never = troubles_of({"gpu": GPU._replace(last=""), "cpu": CPU}, NOW, LONG)["gpu"]
    assert [each.reason for each in never] == ["never called"]


def test_what_tries_came_to_is_told_until_the_server_answers():
    assert unanswered_of(GPU) == Unanswered("h:1", "unfit: x", 800.0)
    assert unanswered_of(TierHealth(answered=999.0, host="h:1")) is None
