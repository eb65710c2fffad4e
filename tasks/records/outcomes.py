"""What a try at a tier comes to for its job: data; the runner acts on it. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from fallback_chain import Attempt, Tokens, Trial, Verdict
from tasks.records.jobs import BegunJob, Status
from tasks.records.losses import MOST_LOSSES, broke_off

LATE_SECONDS = 5.0  # until what should have ended here is looked at again


class Finish(msgspec.Struct, frozen=True, kw_only=True):
    """The job has its result: a whole chat completion, or an error object, or neither (expired).

    tier_used: who answered, or whose words the error is; "" for nobody.
    """

    status: Status
    attempts: tuple[Attempt, ...]
    tier_used: str = ""
    answer: bytes | None = None
    model: str = ""
    cache_age_seconds: float | None = None
    error: dict[str, Any] | None = None
    error_status: int | None = None
    tokens: Tokens = Tokens()

    @property
    def fresh_answer(self) -> bytes | None:
        """The answer if a model gave it just now: what the cache may keep."""
        return None if self.tier_used in {"cache", "degraded"} else self.answer


class HandOn(msgspec.Struct, frozen=True):
    """The tier could not answer it."""

    attempts: tuple[Attempt, ...]
    failures: int


class Park(msgspec.Struct, frozen=True):
    """Every tier failed, and the job waits."""

    attempts: tuple[Attempt, ...]
    failures: int
    due_seconds: float


class HandBack(msgspec.Struct, frozen=True):
    """Begun but not called: this process stops."""


Outcome = Finish | HandOn | Park | HandBack


def error_of(message: str, code: str) -> dict[str, Any]:
    """Return an error object of ours, as OpenAI's clients read it."""
    return {"message": message, "type": "server_error", "param": None, "code": code}


def hand_on(job: BegunJob, attempt: Attempt, failures: int) -> HandOn:
    """Return what is left to the next tier."""
    return HandOn((*job.attempts, attempt), failures)


def broken_off(job: BegunJob) -> HandOn | Park:
    """Return what a defect of ours comes to: a job that does it again and again must end."""
    outcome = hand_on(job, broke_off(job.tier), job.failures + 1)
    if job.tier == "cache":
        return Park(outcome.attempts, outcome.failures, LATE_SECONDS)
    return outcome


def expired(job: BegunJob, *attempt: Attempt) -> Finish:
    """Return the end of a job whose deadline has come, at its last try if there was one."""
    return Finish(status=Status.EXPIRED, attempts=(*job.attempts, *attempt))


def answered(job: BegunJob, trial: Trial) -> Finish:
    """Return the end of a job that was answered."""
    return Finish(
        status=Status.SUCCEEDED,
        attempts=(*job.attempts, trial.attempt),
        tier_used=trial.attempt.tier,
        answer=trial.answer,
        model=trial.model or "",
        cache_age_seconds=trial.cache_age_seconds,
        tokens=trial.tokens,
    )


def degraded(attempts: tuple[Attempt, ...], answer: bytes) -> Finish:
    """Return the end of a job that nobody could answer, and that says so."""
    return Finish(status=Status.SUCCEEDED, attempts=attempts, tier_used="degraded", answer=answer)


def refused(job: BegunJob, trial: Trial) -> Finish:
    """Return the end of a job that is itself at fault, in the server's own words."""
    return Finish(
        status=Status.FAILED,
        attempts=(*job.attempts, trial.attempt),
        tier_used=trial.attempt.tier,
        error=trial.error or error_of("the request was refused", "refused"),
        error_status=trial.attempt.status or 400,
    )


def unfit(attempts: tuple[Attempt, ...], last: Attempt) -> Finish:
    """Return the end of a job that no model can take, in the last one's words."""
    return Finish(
        status=Status.FAILED,
        attempts=attempts,
        tier_used=last.tier,
        error=last.error,
        error_status=last.status or 400,
    )


def poisoned(attempts: tuple[Attempt, ...]) -> Finish:
    """Return the end of a job that takes its workers with it."""
    message = f"the job was given up: {MOST_LOSSES} times its worker was lost, or broke off with it"
    return Finish(
        status=Status.FAILED,
        attempts=attempts,
        error=error_of(message, "worker_lost"),
        error_status=500,
    )


def exhausted(attempts: tuple[Attempt, ...]) -> Finish:
    """Return the end of a job that no tier could answer."""
    tried = ", ".join(f"{attempt.tier} {attempt.verdict}" for attempt in attempts[-3:])
    return Finish(
        status=Status.FAILED,
        attempts=attempts,
        error=error_of(f"no tier could answer: {tried}", "tiers_exhausted"),
        error_status=503,
    )


def unfit_everywhere(attempts: tuple[Attempt, ...]) -> Attempt | None:
    """Return the last "not for this model" if that is what every model tier said."""
    models = [a for a in attempts if a.tier != "cache" and a.verdict is not Verdict.LOST]
    if models and all(a.verdict is Verdict.UNFIT and a.error is not None for a in models):
        return models[-1]
    return None
