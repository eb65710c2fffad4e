"""What a try comes to for its job, as data."""

from __future__ import annotations

import pytest
from harness.records import begun_job

from fallback_chain import Attempt, Tokens, Trial, Verdict
from tasks.records.jobs import Status
from tasks.records.losses import broke_off, lost
from tasks.records.outcomes import (
    MOST_ATTEMPTS,
    Finish,
    HandOn,
    answered,
    degraded,
    error_of,
    exhausted,
    expired,
    hand_on,
    is_unfit,
    misfits,
    no_tier_fits,
    park,
    refused,
)

BEFORE = Attempt("gpu", Verdict.FAILURE, 1.0)
NOW = Attempt("cpu", Verdict.ANSWERED, 2.0, status=200)
ERROR = {"message": "no", "code": "bad"}
JOB = begun_job(tier="cpu", attempts=(BEFORE,))
BOTH = (BEFORE, NOW)


def misfit(tier, error=ERROR, status=None):
    return Attempt(tier, Verdict.UNFIT, 1.0, status=status, error=error)


GPU, CPU = misfit("gpu"), misfit("cpu", {"message": "longer"})
GPU_413 = misfit("gpu", status=413)
EMBEDS = Attempt("embed", Verdict.UNFIT, 0.0, "lacks chat")
GPU_LACKS = Attempt(
    "gpu", Verdict.UNFIT, 1.0, "HTTP 500 not supported", 500, {"message": "no tools here"}
)
ABSENT = Attempt("cpu", Verdict.UNFIT, 1.0, "no such model", error=ERROR)
CPU_LACKS = Attempt("cpu", Verdict.UNFIT, 0.0, "lacks tools")


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
            no_tier_fits((misfit("cpu"),), [misfit("cpu")]),
            Finish(
                status=Status.FAILED,
                attempts=(misfit("cpu"),),
                tier_used="cpu",
                error=ERROR,
                error_status=400,
            ),
        ),
        (
            no_tier_fits((misfit("cpu", status=413),), [misfit("cpu", status=413)]),
            Finish(
                status=Status.FAILED,
                attempts=(misfit("cpu", status=413),),
                tier_used="cpu",
                error=ERROR,
                error_status=413,
            ),
        ),
        (
            no_tier_fits((GPU_LACKS, CPU_LACKS), [GPU_LACKS, CPU_LACKS]),
            Finish(
                status=Status.FAILED,
                attempts=(GPU_LACKS, CPU_LACKS),
                tier_used="cpu",
                error={
                    **error_of(
                        "no tier can take this request: gpu: no tools here; cpu: lacks tools",
                        "no_tier_fits",
                    ),
                    "type": "invalid_request_error",
                },
                error_status=400,
            ),
        ),
        (
            no_tier_fits((GPU_413, ABSENT, EMBEDS), [GPU_413, ABSENT, EMBEDS]),
            Finish(
                status=Status.FAILED,
                attempts=(GPU_413, ABSENT, EMBEDS),
                tier_used="gpu",
                error=ERROR,
                error_status=413,
            ),
        ),
        (
            no_tier_fits((ABSENT,), [ABSENT]),
            Finish(
                status=Status.FAILED,
                attempts=(ABSENT,),
                tier_used="cpu",
                error=ERROR,
                error_status=404,
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


# Of one of several servers, which says nothing of the others.
GPU_ONE = Attempt("gpu", Verdict.UNFIT, 1.0, endpoint=1)
MISS, LOST = Attempt("cache", Verdict.MISS, 1.0), Attempt("gpu", Verdict.LOST, 0.0)


@pytest.mark.parametrize(
    ("attempts", "tiers", "said"),
    [
        ((), ("gpu", "cpu"), []),
        ((MISS,), ("gpu",), []),
        ((LOST,), ("gpu",), []),
        ((GPU,), ("gpu",), [GPU]),
        ((GPU, CPU), ("gpu", "cpu"), [GPU, CPU]),
        ((LOST, GPU, MISS), ("gpu",), [GPU]),
        ((GPU,), ("gpu", "cpu"), []),
        ((GPU, Attempt("cpu", Verdict.REJECTED, 0.0)), ("gpu", "cpu"), []),
        ((Attempt("gpu", Verdict.REJECTED, 0.0), CPU, GPU), ("gpu", "cpu"), [GPU, CPU]),
        ((GPU, CPU_LACKS), ("gpu", "cpu"), [GPU, CPU_LACKS]),
        ((GPU, Attempt("cpu", Verdict.NOT_CONFIGURED, 0.0)), ("gpu",), [GPU]),
        ((GPU_ONE,), ("gpu",), []),
        ((GPU_ONE, GPU), ("gpu",), [GPU]),
    ],
)
def test_a_job_fits_no_tier_if_each_that_is_there_has_said_so(attempts, tiers, said):
    assert misfits(attempts, tiers) == said


def test_a_tier_that_a_job_does_not_fit_is_known():
    attempts = (Attempt("gpu", Verdict.FAILURE, 1.0), GPU_ONE, CPU)
    assert [is_unfit(attempts, tier) for tier in ("gpu", "cpu")] == [False, True]


def test_of_days_of_waiting_the_newest_tries_are_kept_and_those_that_decide():
    decide = [
        Attempt("cpu", Verdict.UNFIT, 1.0, "lacks json"),
        lost("gpu"),
        broke_off("gpu"),
    ]
    waits = [Attempt("gpu", Verdict.REJECTED, float(n)) for n in range(1000)]
    attempts = (*waits[:10], *decide, *waits[10:])
    parked = park(JOB, attempts, 7.0)
    assert parked.attempts == (*decide, *waits[-MOST_ATTEMPTS:])
    assert park(JOB, parked.attempts, 7.0) == parked
    assert park(JOB, attempts[:5], 7.0).attempts == attempts[:5]
