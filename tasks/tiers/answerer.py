"""How one job is answered at one tier. What comes out is data; the runner acts on it."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from circuit_breaker.stores import draw
from fallback_chain import (
    TIMER_SECONDS,
    Attempt,
    Endpoint,
    Step,
    Trial,
    Verdict,
    cache_key,
    degraded_answer,
    next_step,
)
from tasks.records.jobs import Queue
from tasks.records.losses import is_poison, leaves_tier
from tasks.records.order import CACHE, below, first_of, order_of
from tasks.records.outcomes import (
    Finish,
    HandBack,
    HandOn,
    HandUp,
    Outcome,
    Park,
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
from tasks.tiers.gate import LOOK_SECONDS, Gate
from tasks.tiers.slots import free_for_batches

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fallback_chain import Sink, Tier
    from tasks.drain import Drain
    from tasks.records.jobs import BegunJob
    from tasks.settings import Settings
    from tasks.telemetry.observer import Observer
    from tasks.tiers.build import Tiers
    from tasks.tiers.gate import Turn as GateTurn
    from tasks.tiers.slots import Slots, Turn

AHEAD = 2  # lines that are sent down to a tier, for each call that it takes at once
MOST_ASKED = 3  # times that a tier is asked which turned a call away because we made too many
LAST_SECONDS, LAST_SHARE = 1.0, 0.1  # of a job's time, left to the cache and an answer of ours
LOOK_AGAIN_SECONDS = 0.1  # how often a job that waits for a slot looks whether it is worth it
POISON_FAILURES = 3  # tries that may fail at a healthy tier before a waiting job is given up
MOST_TIMES_UP = 2  # that a job goes up again to a tier that refused it then
PARK_SECONDS = (1.0, 30.0)  # least and longest time that a waiting job is parked
RAMPING = "ramping"  # why a tier refuses some calls that has just become well
FAILED_SECONDS = 5.0  # until a line that failed at a tier that is well is tried there again
# What a tier's try says of the tier: its line waits for it, unless the next one has room.
_TIERS_OWN = {Verdict.REJECTED, Verdict.SATURATED, Verdict.MISCONFIGURED, Verdict.FAILURE}


class _Waiting(NamedTuple):
    """Who waits for a slot. until: how long it is worth it."""

    job: BegunJob
    tier: Tier
    until: float


class Answerer:
    """The tiers of this process, and what an answer from each of them comes to."""

    def __init__(self, settings: Settings, tiers: Tiers, drain: Drain, observer: Observer) -> None:
        self._settings = settings
        self.models, self._cache, self._slots = tiers.models, tiers.cache, tiers.slots
        self._order = order_of(tiers.models)
        self._wait_seconds = {n: t.wait_seconds for n, t in settings.model_tiers.items()}
        self._drain = drain
        self._observer = observer
        self._waiting: dict[Turn, _Waiting] = {}
        self._looking: asyncio.Task[None] | None = None
        self._up: dict[str, str] = {}  # job -> the tier above that is due, which it is to try
        self._calling: Counter[str] = Counter()  # calls that run, by tier
        self._free = {
            name: partial(free_for_batches, tiers.slots_of(name), draw()) for name in tiers.models
        }
        self.gates = {name: Gate(tier, self._free[name]) for name, tier in tiers.models.items()}
        for gate in self.gates.values():
            drain.at_start(gate.shut)

    async def answer(self, job: BegunJob, sink: Sink | None = None) -> Outcome:
        """Try one job at the tier where it stands. sink: who follows its answer as it comes."""
        if is_poison(job.attempts):
            return poisoned(job.attempts)
        if job.tier == CACHE:
            return await self._last_resort(job)
        leaves = leaves_tier(job.attempts, job.tier) and self._is_another(job)
        if leaves or is_unfit(job.attempts, job.tier):
            return HandOn(job.attempts, job.failures)
        if job.options.cache == "first" and job.may_ask(CACHE) and self._begins(job):
            trial = await self._look_up(job)
            if trial.attempt.verdict is Verdict.ANSWERED:
                return answered(job, trial)
        return await self._ask(job, sink)

    def _begins(self, job: BegunJob) -> bool:
        """Whether a job stands at the first tier that may answer it."""
        return job.tier == first_of(job.options.tiers, self._order)

    def _models_for(self, job: BegunJob) -> dict[str, Tier]:
        """Return the model tiers that may answer a job, by name."""
        return {name: tier for name, tier in self.models.items() if job.may_ask(name)}

    def _is_another(self, job: BegunJob) -> bool:
        """Whether a model tier that may answer a job comes after the one where it stands."""
        return any(job.may_ask(name) for name in below(self._order, job.tier))

    async def keep(self, job: BegunJob, finish: Finish) -> None:
        """Put the answer of a real tier into the cache; never raises."""
        answer = finish.fresh_answer
        if answer is not None and job.options.cache != "off":
            await self._cache.store(_key(job), answer, finish.model)

    async def _ask(self, job: BegunJob, sink: Sink | None) -> Outcome:
        tier = self.models[job.tier]
        if misfit := tier.misfit(job.body.needs):  # before it waits for a slot
            self._tell(misfit)
            return hand_on(job, misfit.attempt, job.failures)
        if above := await self._well_above(job):
            return HandUp(above)
        return await self._call(job, tier, sink)

    async def _call(
        self, job: BegunJob, tier: Tier, sink: Sink | None, time_asked: int = 1
    ) -> Outcome:
        slots = self._slots[job.tier, job.queue]
        began = time.monotonic()
        token = await self._slot(job, tier, slots)
        if token is None:
            return self._not_called(job, tier, began)
        if self._drain.started:
            await slots.release(token)
            return HandBack()
        if self._has_its_share(job, tier):
            await slots.release(token)
            self._observer.tried(job.tier, Verdict.REJECTED, 0.0)
            return hand_on(job, Attempt(job.tier, Verdict.REJECTED, 0.0, "ramping"), job.failures)
        trial = None
        if sink:
            self._observer.stream_begun(job.tier)
        try:
            left = _until(job) - time.monotonic()
            self._calling[job.tier] += 1
            name = f"{job.id}-{job.attempt}" + (f"x{time_asked}" if time_asked > 1 else "")
            trial = await tier.ask(job.body, left, job.endpoint, name, sink)
        finally:
            self._calling[job.tier] -= 1
            if sink:
                self._tell_of_stream(job.tier, trial, sink)
            try:
                await slots.release(token, trial.attempt if trial else None)
            except asyncio.CancelledError:
                if trial is None:  # else it is kept: nobody has to be asked for it again
                    raise
        self._tell(trial)
        if not tier.closed:  # this was a probe: another one may be due
            self.gates[job.tier].changed()
        if time_asked < MOST_ASKED and _was_one_too_many(tier, trial):
            again = msgspec.structs.replace(job, first=True)
            return await self._call(again, tier, sink, time_asked + 1)
        return self._judge(job, trial)

    def _has_its_share(self, job: BegunJob, tier: Tier) -> bool:
        """Whether a tier that takes a share of calls after an outage has as many of ours."""
        ramps = job.queue is Queue.BATCH and tier.share < 1 and tier.closed
        return ramps and self._free[job.tier](tier.share) < 0

    def worth_until(self, job: BegunJob) -> float:
        """Return how long a job's wait for what a call takes is worth it, where it stands."""
        if job.tier == CACHE:
            return job.deadline
        until = _until(job)
        if not self._begins(job):
            until = min(until, time.monotonic() + self._wait_seconds[job.tier])
        return until

    def no_room(self, job: BegunJob, began: float) -> Outcome:
        """Return what a job comes to whose body found no room until then."""
        if self._drain.started:
            return HandBack()
        if job.tier == CACHE:
            return expired(job)
        return self._no_slot(job, self.models[job.tier], began)

    def _not_called(self, job: BegunJob, tier: Tier, began: float) -> Outcome:
        called_up = self._up.pop(job.id, None)
        if self._drain.started:
            return HandBack()
        if above := called_up or self._again_at(self._above(job), job):
            return HandUp(above)
        return self._no_slot(job, tier, began)

    def _no_slot(self, job: BegunJob, tier: Tier, began: float) -> Outcome:
        now = time.monotonic()
        if now >= job.deadline:
            return expired(job)
        waited = round((now - began) * 1000, 1)
        verdict = Verdict.REJECTED if tier.reject() else Verdict.NO_PERMIT
        self._observer.tried(job.tier, verdict, waited / 1000)
        return hand_on(job, Attempt(job.tier, verdict, waited), job.failures)

    async def _slot(self, job: BegunJob, tier: Tier, slots: Slots) -> str | None:
        """Wait for a slot, while it is worth it; None if it is not."""
        if self._drain.started or tier.refusal() or time.monotonic() >= _until(job):
            return None
        if token := slots.try_acquire():
            return token
        until = self.worth_until(job)
        turn = slots.line_up(first=job.first)
        self._waiting[turn] = _Waiting(job, tier, until)
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        try:
            return await turn
        except asyncio.CancelledError:
            self._up.pop(job.id, None)
            if turn.done() and not turn.cancelled() and (token := turn.result()):
                await slots.release(token)  # it came in the moment that we were cancelled
            raise
        finally:
            self._waiting.pop(turn, None)

    async def _look(self) -> None:
        """Take out of the line whoever waits for a slot in vain; one look for all of them."""
        try:
            await self._take_out()
        finally:
            self._looking = None

    async def _take_out(self) -> None:
        looked = 0.0
        while self._waiting:
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            now = time.monotonic()
            if now > looked + LOOK_SECONDS:
                looked = now
                above = (self._above(waiting.job) for waiting in self._waiting.values())
                for name in {name for names in above for name in names}:
                    await self.models[name].due_seconds()
            for turn, (job, tier, until) in list(self._waiting.items()):
                vain = self._drain.started or now >= until or tier.refusal()
                if (vain or self._again_at(self._above(job), job)) and not turn.done():
                    turn.set_result(None)

    # Tiers above, that refused what waits here

    def _above(self, job: BegunJob) -> list[str]:
        """Return the tiers above a job's that refused it, and may be asked again."""
        if job.failures:
            return []
        above = self._order[: self._order.index(job.tier)]
        return [name for name in above if job.may_ask(name) and self._may_go_up(job, name)]

    def _may_go_up(self, job: BegunJob, tier: str) -> bool:
        refusals = [a for a in job.attempts if a.tier == tier and a.verdict in _TIERS_OWN]
        unfit = is_unfit(job.attempts, tier) or leaves_tier(job.attempts, tier)
        return not unfit and 0 < len(refusals) <= MOST_TIMES_UP

    def _again_at(self, above: Iterable[str], job: BegunJob) -> str | None:
        """Return the first of these tiers that takes a job again, as last seen here."""
        return next((name for name in above if self._takes_again(name, job)), None)

    async def _well_above(self, job: BegunJob) -> str | None:
        """Return one that is well now: what comes too late for it goes up again."""
        above = self._above(job)
        for name in above:
            await self.models[name].due_seconds()
        return self._again_at(above, job)

    def _takes_again(self, above: str, job: BegunJob) -> bool:
        """Whether that tier is well; of a job that was one too many as it ramped up, wholly so."""
        tier = self.models[above]
        ramped = any(a.tier == above and a.detail == RAMPING for a in job.attempts)
        return tier.well and (tier.share >= 1 or not ramped)

    # Lines that wait for their tier

    def waits(self, job: BegunJob, outcome: HandOn) -> bool:
        """Whether a line that its first tier did not answer waits there for it."""
        verdict = outcome.attempts[-1].verdict
        return self._begins(job) and verdict in _TIERS_OWN and self._may_wait(job, outcome)

    def goes_home(self, job: BegunJob, outcome: HandOn) -> bool:
        """Whether a line that a tier between did not answer goes back to its first one.

        From there it comes to a tier below as soon as that has room, and not with all others.
        """
        verdict = outcome.attempts[-1].verdict
        between = not self._begins(job) and self._is_another(job)
        trouble = verdict in _TIERS_OWN or verdict is Verdict.NO_PERMIT
        return between and trouble and self._may_wait(job, outcome)

    def _may_wait(self, job: BegunJob, outcome: HandOn) -> bool:
        return (
            job.options.on_exhausted == "wait"
            and outcome.failures < POISON_FAILURES
            and not (is_poison(outcome.attempts) or leaves_tier(outcome.attempts, job.tier))
        )

    def line_up(self, job: BegunJob, outcome: HandOn) -> GateTurn:
        """Wait for the tier; a line that failed by itself comes later."""
        itself = outcome.failures > job.failures
        return self.gates[job.tier].line_up(FAILED_SECONDS if itself else 0.0)

    async def cached(self, job: BegunJob) -> Outcome | None:
        """Return a kept answer to a line that would wait, if it may have one."""
        if not job.may_ask(CACHE):
            return None
        trial = await self._look_up(job)
        return answered(job, trial) if trial.attempt.verdict is Verdict.ANSWERED else None

    def parked(self, job: BegunJob) -> Park:
        """Return what a line that waits comes to if others are to have its place.

        It is called back once its tier is well, or is due and nobody else is there to probe it:
        until then it would only have to make room again.
        """
        tier = self.models[job.tier]
        least, longest = PARK_SECONDS
        if not tier.closed:
            return park(job, job.attempts, longest)
        refusal = tier.refusal()
        held = refusal.retry_after_seconds if refusal else 0.0
        return park(job, job.attempts, min(max(held, least), longest))

    def sent_home(self, job: BegunJob) -> Park:
        """Return what a line comes to that goes back to its first tier.

        In a moment, though that may refuse it: it may be sent down from there.
        """
        return park(job, job.attempts, PARK_SECONDS[0])

    async def room_at(self, tier: str) -> int:
        """Return how many lines that are sent down may stand at a tier: a few seconds' work.

        One where it is due for a probe: the others have tiers below it, or wait where they are.
        """
        if tier not in self.models or await self.models[tier].due_seconds() > 0:
            return 0
        return AHEAD * self._slots[tier, Queue.BATCH].limit if self.models[tier].closed else 1

    def may_take(self, tier: str, job: BegunJob) -> bool:
        """Whether a job that waits for its own tier may go down to this one.

        One that was only refused is to be asked again in a moment if its own is well by now: as
        that ramps up, it would come back at once.
        """
        if job.attempts[-1].verdict is Verdict.REJECTED and self.models[job.tier].well:
            return False
        unfit = is_unfit(job.attempts, tier) or leaves_tier(job.attempts, tier)
        takes = self.models[tier].misfit(job.body.needs) is None
        return takes and not unfit and job.may_ask(tier)

    async def has_room_below(self, tier: str) -> bool:
        """Whether a tier below this one takes calls, for all that is known here."""
        return any([await self.room_at(name) for name in below(self._order, tier)])

    def works_below(self, tier: str) -> bool:
        """Whether a job runs, or waits for a slot, at a tier below this one."""
        lower = below(self._order, tier)
        waiting = any(each.job.tier in lower for each in self._waiting.values())
        return waiting or any(self._calling[name] for name in lower)

    def call_up(self, tier: str) -> bool:
        """Send a job that waits for a slot below to a tier that is due for a probe."""
        for turn, waiting in self._waiting.items():
            if tier in self._above(waiting.job) and not turn.done():
                self._up[waiting.job.id] = tier
                turn.set_result(None)
                return True
        return False

    def _judge(self, job: BegunJob, trial: Trial) -> Outcome:
        attempt = trial.attempt
        match next_step(attempt.verdict):
            case Step.FINISH_ANSWER:
                return answered(job, trial)
            case Step.FINISH_ERROR:
                return refused(job, trial)
            case Step.EXPIRE if _has_ended(job):
                return expired(job, *trial.attempts)
        # A failure that opened the breaker is the tier's; one that did not may be the job's.
        own = attempt.verdict is Verdict.FAILURE and self.models[job.tier].closed
        if trial.error is not None:
            attempt = msgspec.structs.replace(attempt, error=trial.error)
        return HandOn((*job.attempts, *trial.before, attempt), job.failures + own)

    async def _look_up(self, job: BegunJob) -> Trial:
        trial = await self._cache.look_up(_key(job))
        self._tell(trial)
        return trial

    def _tell(self, trial: Trial) -> None:
        for attempt in trial.attempts:
            seconds = attempt.milliseconds / 1000
            told = attempt.verdict, seconds, attempt.detail, attempt.endpoint
            self._observer.tried(attempt.tier, *told)

    def _tell_of_stream(self, tier: str, trial: Trial | None, sink: Sink) -> None:
        self._observer.stream_ended(tier, trial.pace if trial else None)
        if trial and trial.attempt.verdict is not Verdict.ANSWERED and sink.committed:
            self._observer.stream_cut(tier)

    async def _last_resort(self, job: BegunJob) -> Outcome:
        attempts = job.attempts
        if job.may_ask(CACHE):
            trial = await self._look_up(job)
            if trial.attempt.verdict is Verdict.ANSWERED:
                return answered(job, trial)
            attempts = (*attempts, trial.attempt)
        if unfit := misfits(attempts, self._models_for(job)):
            return no_tier_fits(attempts, unfit)
        return await self._exhausted(job, attempts)

    async def _exhausted(self, job: BegunJob, attempts: tuple[Attempt, ...]) -> Outcome:
        policy = job.options.on_exhausted
        if policy == "wait" and job.failures < POISON_FAILURES:
            if time.monotonic() >= _until(job):  # no model is asked any more: it waits in vain
                return expired(job, *attempts[len(job.attempts) :])
            return park(job, attempts, await self._due(job))
        # A message of ours is not what was asked for where a form is demanded, or vectors are.
        words = job.endpoint != Endpoint.EMBEDDINGS and not job.body.needs.strict_form
        if policy == "degraded" and words:
            answer = degraded_answer(
                self._settings.degraded_message,
                job.body.model,
                job.id,
                legacy=job.endpoint == Endpoint.COMPLETIONS,
            )
            return degraded(attempts, answer)
        return exhausted(attempts)

    async def _due(self, job: BegunJob) -> float:
        """How long a waiting job is parked: until a tier that may answer it is due for a probe.

        Or until no model is asked for it any more.
        """
        waits = [await tier.due_seconds() for tier in self._models_for(job).values()]
        left = _until(job) - time.monotonic()
        least, longest = PARK_SECONDS
        return max(min(*waits, longest, left), least)


def _key(job: BegunJob) -> str:
    return cache_key(job.owner, job.body.decoded(), job.endpoint)


def _until(job: BegunJob) -> float:
    """Return until when models are asked: who wants an answer in any case gets ours in time.

    Of a stream that is to begin before its deadline: until then.
    """
    options = job.options
    end = min(job.deadline, job.created + (options.answer_by or math.inf))
    if options.on_exhausted != "degraded":
        return end
    return end - min(LAST_SECONDS, (end - job.created) * LAST_SHARE)


def _has_ended(job: BegunJob) -> bool:
    """Whether it was its deadline that ended a call, and not the time that is left to us."""
    return _until(job) == job.deadline or time.monotonic() >= job.deadline - TIMER_SECONDS


def _was_one_too_many(tier: Tier, trial: Trial) -> bool:
    """Whether a busy server says no more than that the limit of calls at once was too high."""
    busy = trial.attempt.verdict is Verdict.SATURATED
    return busy and tier.config.adapts and not trial.retry_after_seconds
