"""What a try comes to for its job, as data."""

from __future__ import annotations

import pytest
from harness.records import begun_job

from fallback_chain import Attempt, Tokens, Trial, Verdict
from tasks.records.jobs import Status
from tasks.records.outcomes import (
    Finish,
    HandOn,
    answered,
    degraded,
    error_of,
    exhausted,
    expired,
    hand_on,
    refused,
    unfit,
    unfit_everywhere,
)

BEFORE = Attempt("gpu", Verdict.FAILURE, 1.0)
NOW = Attempt("cpu", Verdict.ANSWERED, 2.0, status=200)
ERROR = {"message": "no", "code": "bad"}
JOB = begun_job(tier="cpu", attempts=(BEFORE,))
BOTH = (BEFORE, NOW)


def misfit(tier, error=ERROR, status=None):
    return Attempt(tier, Verdict.UNFIT, 1.0, status=status, error=error)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (hand_on(JOB, NOW, 2), HandOn(BOTH, 2)),
        (expired(JOB), Finish(status=Status.EXPIRED, attempts=(BEFORE,))),
        (expired(JOB, NOW), Finish(status=Status.EXPIRED, attempts=BOTH)),
        (
            answered(JOB, Trial(NOW, answer=b"{}", model="m", tokens=Tokens(1, 2))),
            Finish(
                status=Status.SUCCEEDED,
                attempts=BOTH,
                tier_used="cpu",
                answer=b"{}",
                model="m",
                tokens=Tokens(1, 2),
            ),
        ),
        (
            answered(JOB, Trial(NOW, answer=b"{}", cache_age_seconds=0.0)),
            Finish(
                status=Status.SUCCEEDED,
                attempts=BOTH,
                tier_used="cpu",
                answer=b"{}",
                cache_age_seconds=0.0,
            ),
        ),
        (
            degraded((BEFORE,), b"{}"),
            Finish(status=Status.SUCCEEDED, attempts=(BEFORE,), tier_used="degraded", answer=b"{}"),
        ),
        (
            refused(JOB, Trial(Attempt("cpu", Verdict.REFUSED, 1.0, status=422), error=ERROR)),
            Finish(
                status=Status.FAILED,
                attempts=(BEFORE, Attempt("cpu", Verdict.REFUSED, 1.0, status=422)),
                tier_used="cpu",
                error=ERROR,
                error_status=422,
            ),
        ),
        (
            refused(JOB, Trial(Attempt("cpu", Verdict.REFUSED, 1.0))),
            Finish(
                status=Status.FAILED,
                attempts=(BEFORE, Attempt("cpu", Verdict.REFUSED, 1.0)),
                tier_used="cpu",
                error=error_of("the request was refused", "refused"),
                error_status=400,
            ),
        ),
        (
            unfit((misfit("cpu"),), misfit("cpu")),
            Finish(
                status=Status.FAILED,
                attempts=(misfit("cpu"),),
                tier_used="cpu",
                error=ERROR,
                error_status=400,
            ),
        ),
        (
            unfit((misfit("cpu", status=413),), misfit("cpu", status=413)),
            Finish(
                status=Status.FAILED,
                attempts=(misfit("cpu", status=413),),
                tier_used="cpu",
                error=ERROR,
                error_status=413,
            ),
        ),
        (
            exhausted(()),
            Finish(
                status=Status.FAILED,
                attempts=(),
                error=error_of("no tier could answer: ", "tiers_exhausted"),
                error_status=503,
            ),
        ),
    ],
)
def test_each_outcome_carries_what_is_known(outcome, expected):
    assert outcome == expected


def test_an_exhausted_job_names_its_last_three_tries():
    attempts = [Attempt(f"t{n}", Verdict.FAILURE, 1.0) for n in range(5)]
    message = exhausted(tuple(attempts)).error["message"]
    assert message == "no tier could answer: t2 failure, t3 failure, t4 failure"


@pytest.mark.parametrize(
    ("tier_used", "answer", "kept"),
    [
        ("gpu", b"{}", b"{}"),
        ("cpu", b"{}", b"{}"),
        ("cache", b"{}", None),
        ("degraded", b"{}", None),
        ("gpu", None, None),
        ("", None, None),
    ],
)
def test_only_what_a_model_said_just_now_is_fresh(tier_used, answer, kept):
    finish = Finish(status=Status.SUCCEEDED, attempts=(), tier_used=tier_used, answer=answer)
    assert finish.fresh_answer == kept


GPU, CPU = misfit("gpu"), misfit("cpu", {"message": "longer"})
MISS, LOST = Attempt("cache", Verdict.MISS, 1.0), Attempt("gpu", Verdict.LOST, 0.0)


@pytest.mark.parametrize(
    ("attempts", "last"),
    [
        ((), None),
        ((MISS,), None),
        ((LOST,), None),
        ((GPU,), GPU),
        ((GPU, CPU), CPU),
        ((LOST, GPU, MISS), GPU),
        ((GPU, BEFORE), None),
        ((BEFORE, GPU), None),
        ((GPU, misfit("cpu", None)), None),
        ((GPU, Attempt("cpu", Verdict.NOT_CONFIGURED, 0.0)), None),
    ],
)
def test_a_job_is_unfit_if_every_model_that_was_heard_said_so(attempts, last):
    assert unfit_everywhere(attempts) is last
