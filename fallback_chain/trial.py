"""What a tier's try came to: data, and what follows from it."""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from circuit_breaker import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fallback_chain.streams import Chunks

# Details of a FAILURE that say more than a status: the model was cut off; nobody can be shown it;
# not every input has its embedding.
INTERRUPTED, UNSHOWABLE, NO_VECTORS = "interrupted", "unshowable", "no embeddings"
STALLED = "stalled"  # a stream that began, and said no more
# Details of what does not fit: a tier that declares that it lacks something; an answer that is not
# what was asked for. And of an answer of which that could not be said as a whole.
LACKS, MISFIT, UNCHECKED = "lacks", "misfit", "unchecked"
ONLY_EMBEDS = f"{LACKS} chat"


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
    NOT_ALLOWED = "not_allowed"  # its caller wants no answer of this tier
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

    endpoint: which of a tier's several servers was asked, from 1; 0: its only one, or the tier as
    a whole. error: OpenAI's error object with the upstream's own words, of a request that does not
    fit. began: epoch seconds; 0: not known.
    """

    tier: str
    verdict: Verdict
    milliseconds: float
    detail: str = ""
    status: int | None = None
    error: dict[str, Any] | None = None
    endpoint: int = 0
    began: float = 0.0


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


class Pace(NamedTuple):
    """How fast an answer came in pieces; seconds.

    first: from the request to the first word. pauses: from each piece that said something to the
    next one.
    """

    first: float
    pauses: Sequence[float] = ()


class Trial(msgspec.Struct, frozen=True):
    """A try as the pipeline needs it.

    answer: the upstream's chat completion, verbatim JSON. error: OpenAI's error object, with the
    upstream's own words for the caller. model: who spoke. keep: the answer may be cached. before:
    tries at other servers of the tier that came before this one. rest: of an answer that came in
    pieces, some of which were given to its reader already, the last ones. pace: of a stream that
    said something.
    """

    attempt: Attempt
    answer: bytes | None = None
    error: dict[str, Any] | None = None
    model: str | None = None
    retry_after_seconds: float | None = None
    cache_age_seconds: float | None = None
    tokens: Tokens = Tokens()
    keep: bool = True
    before: tuple[Attempt, ...] = ()
    rest: Chunks | None = None
    pace: Pace | None = None

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """Every try of it, in order."""
        return (*self.before, self.attempt)
