"""What a tier's try came to: data, and what follows from it."""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import Any, NamedTuple

import msgspec

from circuit_breaker import Outcome

# Details of a FAILURE that say more than a status: the model was cut off; nobody can be shown it.
INTERRUPTED, UNSHOWABLE = "interrupted", "unshowable"
# Details of what does not fit: a tier that declares that it lacks something; an answer that is not
# what was asked for. And of an answer of which that could not be said as a whole.
LACKS, MISFIT, UNCHECKED = "lacks", "misfit", "unchecked"


class Verdict(StrEnum):
    """How a try ended."""

    ANSWERED = "answered"
    FAILURE = "failure"
    SATURATED = "saturated"  # the server is busy
    REJECTED = "rejected"  # the breaker refused
    REFUSED = "refused"  # the request's own fault
    UNFIT = "unfit"  # not for this model: another tier's may take it
    MISCONFIGURED = "misconfigured"  # the tier does not let us in
    EXPIRED = "expired"  # the caller's deadline
    CANCELLED = "cancelled"
    MISS = "miss"  # nothing in the cache
    NO_PERMIT = "no_permit"  # no place was free in time
    NOT_CONFIGURED = "not_configured"
    LOST = "lost"  # whoever tried it was not heard of again


class Step(Enum):
    """What a verdict means for the request."""

    FINISH_ANSWER = "finish_answer"
    FINISH_ERROR = "finish_error"
    EXPIRE = "expire"
    CANCEL = "cancel"
    HAND_ON = "hand_on"


_STEPS = {
    Verdict.ANSWERED: Step.FINISH_ANSWER,
    Verdict.REFUSED: Step.FINISH_ERROR,
    Verdict.EXPIRED: Step.EXPIRE,
    Verdict.CANCELLED: Step.CANCEL,
}
_OUTCOMES = {
    Verdict.ANSWERED: Outcome.SUCCESS,
    Verdict.MISS: Outcome.SUCCESS,
    Verdict.FAILURE: Outcome.FAILURE,
    Verdict.SATURATED: Outcome.SATURATED,
    Verdict.MISCONFIGURED: Outcome.MISCONFIGURED,
}


def next_step(verdict: Verdict) -> Step:
    """Return what a verdict means for the request."""
    return _STEPS.get(verdict, Step.HAND_ON)


def outcome_of(verdict: Verdict) -> Outcome:
    """Return what a verdict says of the server's health."""
    return _OUTCOMES.get(verdict, Outcome.IGNORED)


class Attempt(msgspec.Struct, frozen=True, omit_defaults=True):
    """A try as it is told to the user. detail never holds a prompt or an answer.

    error: OpenAI's error object with the upstream's own words, of a request that does not fit.
    """

    tier: str
    verdict: Verdict
    milliseconds: float
    detail: str = ""
    status: int | None = None
    error: dict[str, Any] | None = None


def fit_of(verdict: str, detail: str) -> str | None:
    """Say how an answer fits the form that was asked for, by the last try of its request.

    "failed": it does not; "unchecked": that cannot be said; None: nothing is known against it, or
    no model gave it.
    """
    if verdict != Verdict.ANSWERED:
        return None
    if detail.startswith(MISFIT):
        return "failed"
    return UNCHECKED if detail == UNCHECKED else None


class Tokens(NamedTuple):
    """What a server counted. cached: of the prompt's; reasoning: of the answer's."""

    prompt: int = 0
    answer: int = 0
    cached: int = 0
    reasoning: int = 0


class Trial(msgspec.Struct, frozen=True):
    """A try as the pipeline needs it.

    answer: the upstream's chat completion, verbatim JSON. error: OpenAI's error object, with the
    upstream's own words for the caller. model: who spoke. keep: the answer may be cached.
    """

    attempt: Attempt
    answer: bytes | None = None
    error: dict[str, Any] | None = None
    model: str | None = None
    retry_after_seconds: float | None = None
    cache_age_seconds: float | None = None
    tokens: Tokens = Tokens()
    keep: bool = True
