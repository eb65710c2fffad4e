"""What a try at a tier comes to for its job: data; the runner acts on it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from fallback_chain import (
    LACKING,
    MISFIT,
    NO_SUCH_MODEL,
    ONLY_EMBEDS,
    Attempt,
    Tokens,
    Trial,
    Verdict,
)
from tasks.records.jobs import BegunJob, Status
from tasks.records.losses import DEFECT, MOST_LOSSES, broke_off

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fallback_chain import Chunks

WORKER_LOST = "worker_lost"  # the code of what ended its workers, or broke off, too often
SERVER_ERRORS = 500  # the first HTTP status of those that are not the request's fault
MOST_ATTEMPTS = 30  # of a job that waits
LATE_SECONDS = 5.0  # until what should have ended here is looked at again


class Finish(msgspec.Struct, frozen=True, kw_only=True):
    """The job has its result: a whole chat completion, or an error object, or neither (expired).

    tier_used: who answered, or whose words the error is; "" for nobody. keep, rest: see Trial.
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
    keep: bool = True
    rest: Chunks | None = None

    @property
    def milliseconds(self) -> float | None:
        """How long the call took that answered it; None if a model or the cache has not."""
        last = self.attempts[-1] if self.attempts else None
        answered = self.status is Status.SUCCEEDED and last and last.tier == self.tier_used
        return last.milliseconds if last and answered else None

    @property
    def fresh_answer(self) -> bytes | None:
        """The answer if a model gave it just now, and whole: what the cache may keep."""
        return self.answer if self.keep and self.tier_used not in {"cache", "degraded"} else None


class HandOn(msgspec.Struct, frozen=True):
    """The tier could not answer it."""

    attempts: tuple[Attempt, ...]
    failures: int


class HandUp(msgspec.Struct, frozen=True):
    """A tier above, which had refused it, may be asked again: it was not called here."""

    to: str


class Park(msgspec.Struct, frozen=True):
    """Every tier failed, and the job waits."""

    attempts: tuple[Attempt, ...]
    failures: int
    due_seconds: float


class HandBack(msgspec.Struct, frozen=True):
    """Begun but not called: this process stops."""


Outcome = Finish | HandOn | HandUp | Park | HandBack


def error_of(message: str, code: str) -> dict[str, Any]:
    """Return an error object of ours, as OpenAI's clients read it."""
    return {"message": message, "type": "server_error", "param": None, "code": code}


def hand_on(job: BegunJob, attempt: Attempt, failures: int) -> HandOn:
    """Return what is left to the next tier."""
    return HandOn((*job.attempts, attempt), failures)


def passed_over(attempts: tuple[Attempt, ...], tier: str) -> tuple[Attempt, ...]:
    """Return the tries of what passes a tier whose answer its caller does not want: told once."""
    told = any(each.tier == tier and each.verdict is Verdict.NOT_ALLOWED for each in attempts)
    return attempts if told else (*attempts, Attempt(tier, Verdict.NOT_ALLOWED, 0.0))


def timed(attempts: tuple[Attempt, ...], known: int, now: float) -> tuple[Attempt, ...]:
    """Return tries of which those after the first so many have just ended, each with its beginning.

    now: epoch seconds. One ended when the next one began.
    """
    ended, dated = now, []
    for attempt in reversed(attempts[known:]):
        ended -= attempt.milliseconds / 1000
        dated.append(msgspec.structs.replace(attempt, began=round(ended, 3)))
    return (*attempts[:known], *reversed(dated))


def still_told(attempts: tuple[Attempt, ...]) -> tuple[Attempt, ...]:
    """Return, of days of tries, those that still say something.

    The newest, and what decides who is asked again.
    """
    old = attempts[:-MOST_ATTEMPTS]
    decide = (a for a in old if a.verdict in {Verdict.LOST, Verdict.UNFIT} or a.detail == DEFECT)
    return (*decide, *attempts[-MOST_ATTEMPTS:])


def park(job: BegunJob, attempts: tuple[Attempt, ...], due_seconds: float) -> Park:
    """Return what a job that waits is left with."""
    return Park(still_told(attempts), job.failures, due_seconds)


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
        attempts=(*job.attempts, *trial.attempts),
        tier_used=trial.attempt.tier,
        answer=trial.answer,
        model=trial.model or "",
        cache_age_seconds=trial.cache_age_seconds,
        tokens=trial.tokens,
        keep=trial.keep,
        rest=trial.rest,
    )


def interrupted(attempts: tuple[Attempt, ...]) -> Finish:
    """Return the end of a job whose answer broke off when a part of it had been shown."""
    message = "the answer broke off after its first words: no other model can go on with it"
    return Finish(
        status=Status.FAILED,
        attempts=attempts,
        error=error_of(message, "upstream_interrupted"),
        error_status=502,
    )


def degraded(attempts: tuple[Attempt, ...], answer: bytes) -> Finish:
    """Return the end of a job that nobody could answer, and that says so."""
    return Finish(status=Status.SUCCEEDED, attempts=attempts, tier_used="degraded", answer=answer)


def refused(job: BegunJob, trial: Trial) -> Finish:
    """Return the end of a job that is itself at fault, in the server's own words."""
    return Finish(
        status=Status.FAILED,
        attempts=(*job.attempts, *trial.attempts),
        tier_used=trial.attempt.tier,
        error=trial.error or error_of("the request was refused", "refused"),
        error_status=trial.attempt.status or 400,
    )


def no_tier_fits(attempts: tuple[Attempt, ...], misfits: Sequence[Attempt]) -> Finish:
    """Return the end of a job that no model can take; misfits: what each said of it, in order.

    In the last one's words where clients know what they mean: a prompt too long, a model not there.
    A tier that has no such model, or only embeds, has less to say than one that could be asked.
    """
    silent = (NO_SUCH_MODEL, ONLY_EMBEDS)
    last = max(reversed(misfits), key=lambda each: not each.detail.endswith(silent))
    tried = any(a.detail.startswith(MISFIT) for a in misfits)  # then another try may fit
    absent = last.detail.endswith(NO_SUCH_MODEL)
    status = 503 if tried else 404 if absent else 400
    if last.error is not None and not last.detail.endswith(LACKING):
        error = last.error
        if last.status and last.status < SERVER_ERRORS:
            status = last.status
    else:
        said = (f"{a.tier}: {(a.error or {}).get('message') or a.detail}" for a in misfits)
        error = error_of(f"no tier can take this request: {'; '.join(said)}", "no_tier_fits")
        if not tried:
            error["type"] = "invalid_request_error"
    return Finish(
        status=Status.FAILED,
        attempts=attempts,
        tier_used=last.tier,
        error=error,
        error_status=status,
    )


def poisoned(attempts: tuple[Attempt, ...]) -> Finish:
    """Return the end of a job that takes its workers with it."""
    message = f"the job was given up: {MOST_LOSSES} times its worker was lost, or broke off with it"
    return Finish(
        status=Status.FAILED,
        attempts=attempts,
        error=error_of(message, WORKER_LOST),
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


def is_unfit(attempts: Iterable[Attempt], tier: str) -> bool:
    """Whether a tier cannot take this job, or its answer did not fit: it is not asked again.

    What one of its several servers could not take another may.
    """
    return any(a.tier == tier and _of_a_whole_tier(a) for a in attempts)


def _of_a_whole_tier(attempt: Attempt) -> bool:
    return attempt.verdict is Verdict.UNFIT and not attempt.endpoint


def misfits(attempts: Sequence[Attempt], tiers: Iterable[str]) -> list[Attempt]:
    """Return what each of these tiers said of a job that fits none; [] while one may take it."""
    last = {a.tier: a for a in attempts if _of_a_whole_tier(a)}
    found = [last.get(tier) for tier in tiers]
    return [a for a in found if a is not None] if None not in found else []
