"""What a try at a tier comes to for its job: data; the runner acts on it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from fallback_chain import (
    Attempt,
    Tokens,
    Trial,
    Verdict,
)
from tasks.records.jobs import BegunJob, Status

if TYPE_CHECKING:
    from collections.abc import Mapping


class Finish(msgspec.Struct, frozen=True):
    """The job has its result. answer: to be kept in the cache, if it came from a real tier."""

    status: Status
    fields: dict[str, Any]
    answer: bytes | None = None
    model: str = ""
    tokens: Tokens = Tokens()


class HandOn(msgspec.Struct, frozen=True):
    """The tier could not answer it."""

    attempts: tuple[Mapping[str, Any], ...]
    failures: int


class Park(msgspec.Struct, frozen=True):
    """Every tier failed, and the job waits."""

    attempts: tuple[Mapping[str, Any], ...]
    failures: int
    due_seconds: float


class HandBack(msgspec.Struct, frozen=True):
    """Begun but not called: this process stops."""


Outcome = Finish | HandOn | Park | HandBack


def error_of(message: str, code: str) -> dict[str, Any]:
    """Return an error object of ours, as OpenAI's clients read it."""
    return {"message": message, "type": "server_error", "param": None, "code": code}


def with_attempt(
    job: BegunJob, attempt: Attempt, error: dict[str, Any] | None = None
) -> tuple[Mapping[str, Any], ...]:
    """Return the job's attempts, and this one."""
    line = msgspec.to_builtins(attempt)
    if error is not None:
        line["error"] = error
    return (*job.attempts, line)


def _encoded(job: BegunJob, attempt: Attempt) -> bytes:
    return msgspec.json.encode(with_attempt(job, attempt))


def hand_on(
    job: BegunJob,
    attempt: Attempt,
    failures: int,
    error: dict[str, Any] | None = None,
    status: int | None = None,  # noqa: ARG001 - the attempt carries it
) -> HandOn:
    """Return what is left to the next tier."""
    return HandOn(with_attempt(job, attempt, error), failures)


def answered(job: BegunJob, trial: Trial) -> Finish:
    """Return the end of a job that was answered."""
    fields: dict[str, Any] = {
        "tier_used": trial.attempt.tier,
        "answer": trial.answer,
        "attempts": _encoded(job, trial.attempt),
    }
    if trial.model:
        fields["answer_model"] = trial.model
    if trial.cache_age_seconds is not None:
        fields["cache_age_seconds"] = trial.cache_age_seconds
    fresh = trial.attempt.tier != "cache"
    kept = trial.answer if fresh else None
    return Finish(Status.SUCCEEDED, fields, kept, trial.model or "", trial.tokens)


def refused(job: BegunJob, trial: Trial) -> Finish:
    """Return the end of a job that is itself at fault, in the server's own words."""
    error = trial.error or error_of("the request was refused", "refused")
    status = trial.attempt.status or 400
    return failed(with_attempt(job, trial.attempt), error, status, trial.attempt.tier)


def failed(
    attempts: tuple[Mapping[str, Any], ...],
    error: Mapping[str, Any],
    status: int,
    refused_by: str = "",
) -> Finish:
    """Return the end of a job without an answer."""
    fields: dict[str, Any] = {
        "error": msgspec.json.encode(error),
        "error_status": status,
        "attempts": msgspec.json.encode(attempts),
    }
    if refused_by:  # the request's own fault, in this tier's words
        fields["tier_used"] = refused_by
    return Finish(Status.FAILED, fields)


def unfit_everywhere(attempts: tuple[Mapping[str, Any], ...]) -> Mapping[str, Any] | None:
    """Return the last "not for this model" if that is what every model tier said."""
    models = [a for a in attempts if a["tier"] != "cache" and a["verdict"] != "lost"]
    if models and all(a["verdict"] == Verdict.UNFIT and "error" in a for a in models):
        return models[-1]
    return None
