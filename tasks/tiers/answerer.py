"""How one job is answered at one tier. What comes out is data; the runner acts on it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import msgspec

from circuit_breaker import CircuitState
from fallback_chain import (
    Attempt,
    Needs,
    Step,
    Trial,
    Verdict,
    cache_key,
    degraded_answer,
    next_step,
)
from tasks.records.jobs import TIERS
from tasks.records.losses import is_poison, leaves_tier
from tasks.records.outcomes import (
    Finish,
    HandBack,
    HandOn,
    Outcome,
    answered,
    degraded,
    exhausted,
    expired,
    hand_on,
    is_unfit,
    misfits,
    no_tier_fits,
    park,
    poisoned,
    refused,
)

if TYPE_CHECKING:
    from fallback_chain import ChatTier
    from tasks.drain import Drain
    from tasks.records.jobs import BegunJob
    from tasks.settings import Settings
    from tasks.telemetry.observer import Observer
    from tasks.tiers.build import Tiers
    from tasks.tiers.slots import Slots, Turn

LAST_SECONDS, LAST_SHARE = 1.0, 0.1  # of a job's time, left to the cache and an answer of ours
LOOK_AGAIN_SECONDS = 0.1  # how often a job that waits for a slot looks whether it is worth it
POISON_FAILURES = 3  # tries that may fail at a healthy tier before a waiting job is given up
PARK_SECONDS = (1.0, 30.0)  # least and longest time that a waiting job is parked


class Answerer:
    """The tiers of this process, and what an answer from each of them comes to."""

    def __init__(self, settings: Settings, tiers: Tiers, drain: Drain, observer: Observer) -> None:
        self._settings = settings
        self._models, self._cache, self._slots = tiers.models, tiers.cache, tiers.slots
        self._drain = drain
        self._observer = observer
        self._waiting: dict[Turn, tuple[ChatTier, float]] = {}  # until when it is worth it
        self._looking: asyncio.Task[None] | None = None

    async def answer(self, job: BegunJob) -> Outcome:
        """Try one job at the tier where it stands."""
        if is_poison(job.attempts):
            return poisoned(job.attempts)
        if job.tier == "cache":
            return await self._last_resort(job)
        leaves = leaves_tier(job.attempts, job.tier) and self._is_another(job.tier)
        if leaves or is_unfit(job.attempts, job.tier):
            return HandOn(job.attempts, job.failures)
        if job.options.cache == "first" and job.tier == job.first_tier:
            trial = await self._look_up(job)
            if trial.attempt.verdict is Verdict.ANSWERED:
                return answered(job, trial)
        return await self._ask(job)

    def _is_another(self, tier: str) -> bool:
        """Whether a model tier comes after this one."""
        return any(name in self._models for name in TIERS[TIERS.index(tier) + 1 :])

    async def keep(self, job: BegunJob, finish: Finish) -> None:
        """Put the answer of a real tier into the cache; never raises."""
        answer = finish.fresh_answer
        if answer is not None and job.options.cache != "off":
            await self._cache.store(cache_key(job.owner, job.body), answer, finish.model)

    async def _ask(self, job: BegunJob) -> Outcome:
        tier = self._models.get(job.tier)
        if tier is None:
            return hand_on(job, Attempt(job.tier, Verdict.NOT_CONFIGURED, 0.0), job.failures)
        if misfit := tier.misfit(job.body):  # before it waits for a slot
            self._tell(misfit)
            return hand_on(job, misfit.attempt, job.failures)
        slots = self._slots[job.tier, job.queue]
        began = time.monotonic()
        token = await self._slot(job, tier, slots)
        if self._drain.started:
            if token:
                await slots.release(token)
            return HandBack()
        if token is None:
            return self._no_slot(job, tier, began)
        trial = None
        try:
            left = _until(job) - time.monotonic()
            trial = await tier.ask(job.body, left, job.endpoint, f"{job.id}-{job.attempt}")
        finally:
            try:
                await slots.release(token)
            except asyncio.CancelledError:
                if trial is None:  # else it is kept: nobody has to be asked for it again
                    raise
        self._tell(trial)
        return self._judge(job, trial)

    def _no_slot(self, job: BegunJob, tier: ChatTier, began: float) -> Outcome:
        now = time.monotonic()
        if now >= job.deadline:
            return expired(job)
        waited = round((now - began) * 1000, 1)
        verdict = Verdict.REJECTED if tier.breaker.reject() else Verdict.NO_PERMIT
        self._observer.tried(job.tier, verdict, waited / 1000)
        return hand_on(job, Attempt(job.tier, verdict, waited), job.failures)

    async def _slot(self, job: BegunJob, tier: ChatTier, slots: Slots) -> str | None:
        """Wait for a slot, while it is worth it; None if it is not."""
        if self._drain.started or tier.breaker.refusal() or time.monotonic() >= _until(job):
            return None
        if token := slots.try_acquire():
            return token
        until = _until(job)
        if job.tier == "cpu" and "gpu" in self._models:
            until = min(until, time.monotonic() + self._settings.cpu_wait_seconds)
        turn = slots.line_up(first=job.first)
        self._waiting[turn] = (tier, until)
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and (token := turn.result()):
                await slots.release(token)  # it came in the moment that we were cancelled
            raise
        finally:
            self._waiting.pop(turn, None)

    async def _look(self) -> None:
        """Take out of the line whoever waits for a slot in vain; one look for all of them."""
        while self._waiting:
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            now = time.monotonic()
            for turn, (tier, until) in list(self._waiting.items()):
                vain = self._drain.started or now >= until or tier.breaker.refusal()
                if vain and not turn.done():
                    turn.set_result(None)
        self._looking = None

    def _judge(self, job: BegunJob, trial: Trial) -> Outcome:
        attempt = trial.attempt
        match next_step(attempt.verdict):
            case Step.FINISH_ANSWER:
                return answered(job, trial)
            case Step.FINISH_ERROR:
                return refused(job, trial)
            case Step.EXPIRE if time.monotonic() >= job.deadline or _until(job) == job.deadline:
                return expired(job, attempt)
        # A failure that opened the breaker is the tier's; one that did not may be the job's.
        breaker = self._models[job.tier].breaker
        own = attempt.verdict is Verdict.FAILURE and breaker.state is CircuitState.CLOSED
        if trial.error is not None:
            attempt = msgspec.structs.replace(attempt, error=trial.error)
        return hand_on(job, attempt, job.failures + own)

    async def _look_up(self, job: BegunJob) -> Trial:
        trial = await self._cache.look_up(cache_key(job.owner, job.body))
        self._tell(trial)
        return trial

    def _tell(self, trial: Trial) -> None:
        attempt = trial.attempt
        seconds = attempt.milliseconds / 1000
        self._observer.tried(attempt.tier, attempt.verdict, seconds, attempt.detail)

    async def _last_resort(self, job: BegunJob) -> Outcome:
        attempts = job.attempts
        if job.options.cache != "off":
            trial = await self._look_up(job)
            if trial.attempt.verdict is Verdict.ANSWERED:
                return answered(job, trial)
            attempts = (*attempts, trial.attempt)
        if unfit := misfits(attempts, self._models):
            return no_tier_fits(attempts, unfit)
        return await self._exhausted(job, attempts)

    async def _exhausted(self, job: BegunJob, attempts: tuple[Attempt, ...]) -> Outcome:
        policy = job.options.on_exhausted
        if policy == "wait" and job.failures < POISON_FAILURES:
            return park(job, attempts, await self._due())
        # A message of ours is not what was asked for where a form is demanded.
        if policy == "degraded" and not Needs.of(job.body).strict_form:
            answer = degraded_answer(
                self._settings.degraded_message,
                str(job.body.get("model") or ""),
                job.id,
                legacy=job.endpoint == "/v1/completions",
            )
            return degraded(attempts, answer)
        return exhausted(attempts)

    async def _due(self) -> float:
        """How long a waiting job is parked: until a tier is due for a probe."""
        waits = []
        for tier in self._models.values():
            view = await tier.breaker.view()
            waits.append(view.retry_after_seconds)
        least, longest = PARK_SECONDS
        return min(max(min(waits, default=longest), least), longest)


def _until(job: BegunJob) -> float:
    """Return until when models are asked: who wants an answer in any case gets ours in time."""
    if job.options.on_exhausted != "degraded":
        return job.deadline
    return job.deadline - min(LAST_SECONDS, (job.deadline - job.created) * LAST_SHARE)
