"""How one job is answered at one tier. What comes out is data; the runner acts on it."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

import msgspec

from circuit_breaker import CircuitState
from fallback_chain import (
    Attempt,
    Step,
    Trial,
    Verdict,
    cache_key,
    degraded_answer,
    next_step,
)
from tasks.records.jobs import BegunJob, Queue, Status
from tasks.records.outcomes import (
    Finish,
    HandBack,
    Outcome,
    Park,
    _encoded,
    answered,
    error_of,
    failed,
    hand_on,
    refused,
    unfit_everywhere,
    with_attempt,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from circuit_breaker import CircuitBreaker
    from fallback_chain import CacheTier, ChatTier
    from tasks.settings import Settings
    from tasks.telemetry.observer import Observer
    from tasks.tiers.slots import Place, Places

LOOK_AGAIN_SECONDS = 0.1  # how often a job that waits for a place looks whether it is worth it
POISON_FAILURES = 3  # tries that may fail at a healthy tier before a waiting job is given up
PARK_SECONDS = (1.0, 30.0)  # least and longest time that a waiting job is parked


log = logging.getLogger(__name__)


class Answering:
    """The tiers of this process, and what an answer from each of them comes to."""

    def __init__(  # noqa: PLR0913, PLR0917 - the process wires its parts here, once
        self,
        settings: Settings,
        tiers: Mapping[str, ChatTier],
        cache: CacheTier,
        breakers: Mapping[str, CircuitBreaker],
        places: Mapping[tuple[str, Queue], Places],
        observer: Observer,
    ) -> None:
        self._settings = settings
        self._tiers, self._cache, self._breakers = tiers, cache, breakers
        self._places = places
        self._observer = observer
        self._waiting: dict[Place, tuple[ChatTier, float]] = {}  # until when it is worth it
        self._looking: asyncio.Task[None] | None = None
        self.draining = asyncio.Event()
        self.running: set[asyncio.Task[Any]] = set()  # calls that a drain waits for
        self.cut_off = False

    async def answer(self, job: BegunJob) -> Outcome:
        """Try one job at the tier where it stands."""
        if job.tier == "cache":
            return await self._last_resort(job)
        if job.options.cache == "first" and job.tier == job.first_tier:
            trial = await self._look_up(job)
            if trial.attempt.verdict is Verdict.ANSWERED:
                return answered(job, trial)
        return await self._ask(job)

    async def keep(self, job: BegunJob, done: Finish) -> None:
        """Put the answer of a real tier into the cache; never raises."""
        if done.answer is not None and job.options.cache != "off":
            await self._cache.store(cache_key(job.owner, job.body), done.answer, done.model)

    async def drain(self, seconds: float) -> None:
        """Hand back what was not called yet, let calls finish for so long, cut off the rest."""
        self.draining.set()
        if self.running:
            await asyncio.wait(set(self.running), timeout=seconds)
        self.cut_off = True
        rest = set(self.running)
        if rest:
            log.warning("drain time is over: %d calls are cut off and handed over", len(rest))
        for task in rest:
            task.cancel()

    async def _ask(self, job: BegunJob) -> Outcome:
        tier = self._tiers.get(job.tier)
        if tier is None:
            return hand_on(job, Attempt(job.tier, Verdict.NOT_CONFIGURED, 0.0), job.failures)
        places = self._places[job.tier, job.queue]
        began = time.monotonic()
        token = await self._place(job, tier, places)
        if self.draining.is_set():
            if token:
                await places.give(token)
            return HandBack()
        if token is None:
            waited = round((time.monotonic() - began) * 1000, 1)
            if time.monotonic() >= job.deadline:
                return Finish(Status.EXPIRED, {})
            verdict = Verdict.REJECTED if tier.breaker.reject() else Verdict.NO_PERMIT
            self._observer.tried(job.tier, verdict, waited / 1000)
            return hand_on(job, Attempt(job.tier, verdict, waited), job.failures)
        try:
            trial = await tier.ask(job.body, job.deadline - time.monotonic(), job.endpoint)
        finally:
            await places.give(token)
        self._tell(trial)
        return self._judge(job, trial)

    async def _place(self, job: BegunJob, tier: ChatTier, places: Places) -> str | None:
        """Wait for a place, while it is worth it; None if it is not."""
        if self.draining.is_set() or tier.breaker.refusal() or time.monotonic() >= job.deadline:
            return None
        if token := places.take_now():
            return token
        until = job.deadline
        if job.tier == "cpu" and "gpu" in self._tiers:
            until = min(until, time.monotonic() + self._settings.cpu_wait_seconds)
        place = places.enter()
        self._waiting[place] = (tier, until)
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and (token := place.result()):
                await places.give(token)  # it came in the moment that we were cancelled
            raise
        finally:
            self._waiting.pop(place, None)

    async def _look(self) -> None:
        """Let those go that wait for a place in vain; one look for all of them."""
        while self._waiting:
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            now = time.monotonic()
            for place, (tier, until) in list(self._waiting.items()):
                vain = self.draining.is_set() or now >= until or tier.breaker.refusal()
                if vain and not place.done():
                    place.set_result(None)
        self._looking = None

    def _judge(self, job: BegunJob, trial: Trial) -> Outcome:
        step = next_step(trial.attempt.verdict)
        if step is Step.FINISH_ANSWER:
            return answered(job, trial)
        if step is Step.FINISH_ERROR:
            return refused(job, trial)
        if step is Step.EXPIRE:
            return Finish(Status.EXPIRED, {"attempts": _encoded(job, trial.attempt)})
        # A failure that opened the breaker is the tier's; one that did not may be the job's.
        breaker = self._tiers[job.tier].breaker
        own = trial.attempt.verdict is Verdict.FAILURE and breaker.state is CircuitState.CLOSED
        return hand_on(job, trial.attempt, job.failures + own, trial.error, trial.attempt.status)

    async def _look_up(self, job: BegunJob) -> Trial:
        trial = await self._cache.look_up(cache_key(job.owner, job.body))
        self._tell(trial)
        return trial

    def _tell(self, trial: Trial) -> None:
        attempt = trial.attempt
        self._observer.tried(attempt.tier, attempt.verdict, attempt.milliseconds / 1000)

    async def _last_resort(self, job: BegunJob) -> Outcome:
        if job.options.cache == "off":
            attempts: tuple[Mapping[str, Any], ...] = job.attempts
        else:
            trial = await self._look_up(job)
            if trial.attempt.verdict is Verdict.ANSWERED:
                return answered(job, trial)
            attempts = with_attempt(job, trial.attempt)
        unfit = unfit_everywhere(attempts)
        if unfit is not None:
            status = unfit.get("status") or 400
            return failed(attempts, unfit["error"], status, unfit["tier"])
        return await self._exhausted(job, attempts)

    async def _exhausted(self, job: BegunJob, attempts: tuple[Mapping[str, Any], ...]) -> Outcome:
        policy = job.options.on_exhausted
        if policy == "wait" and job.failures < POISON_FAILURES:
            return Park(attempts, job.failures, await self._due())
        if policy == "degraded":
            answer = degraded_answer(
                *(self._settings.degraded_message, str(job.body.get("model") or ""), job.id),
                legacy=job.endpoint == "/v1/completions",
            )
            fields = {"tier_used": "degraded", "answer": answer}
            return Finish(Status.SUCCEEDED, {**fields, "attempts": msgspec.json.encode(attempts)})
        message = "no tier could answer: " + ", ".join(
            f"{a['tier']} {a['verdict']}" for a in attempts[-3:]
        )
        error = error_of(message, "tiers_exhausted")
        return failed(attempts, error, 503)

    async def _due(self) -> float:
        """How long a waiting job is parked: until a tier is due for a probe."""
        waits = []
        for tier in self._tiers.values():
            view = await tier.breaker.view()
            waits.append(view.retry_after_seconds)
        least, longest = PARK_SECONDS
        return min(max(min(waits, default=longest), least), longest)
