"""What a message has done: a phase, a unit or a slice of jobs, at its tier or on the way to ours.

Not every process of a fleet need know the same tiers: some are started with other settings before
the rest is. What comes to a tier that is not set up here goes on at once, uncalled; and what a tier
of ours left goes on as this process knows it, whatever follows in its message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from fallback_chain import Attempt, Verdict
from tasks.execution.phases import drop_late
from tasks.records.batches import PHASES, LineHistory, SliceUnit, is_unit
from tasks.records.jobs import Dispatch, Queue, new_token
from tasks.records.order import way_on
from tasks.records.outcomes import HandOn
from tasks.telemetry.slices import current_report

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tasks.execution.context import Context
    from tasks.execution.jobs import JobRunner
    from tasks.execution.phases import PhaseRunner
    from tasks.execution.units import UnitRunner
    from tasks.records.jobs import BegunJob, Ref


class Message(NamedTuple):
    """A message of a tier's task. queue: that it came by; following: its chain's next, or ""."""

    tier: str
    refs: Sequence[Ref]
    queue: str
    following: str = ""


class Runners(NamedTuple):
    """Who runs what a message may bring."""

    jobs: JobRunner
    units: UnitRunner
    phases: PhaseRunner


class MessageRunner:
    """Runs messages on the event loop; the Celery task waits for it in its own thread."""

    def __init__(self, context: Context, runners: Runners) -> None:
        self._context, self._runners = context, runners

    async def run(self, message: Message, lease_owner: str) -> list[Ref]:
        """Do what a message asks for; return what the next task of its chain is to answer."""
        with self._context.drain.at_work():
            return await self._do(message, lease_owner)

    async def _do(self, message: Message, lease_owner: str) -> list[Ref]:
        tier, refs, queue, following = message
        publisher = self._context.publisher
        if tier in PHASES:
            await self._runners.phases.run_phase(tier, refs[0], lease_owner)
            return []
        is_of_batch = is_unit(refs[0].id)
        if tier not in publisher.order:
            hand_on = self._unit_on if is_of_batch else self._jobs_on
            await hand_on(message, lease_owner)
            return []
        if is_of_batch:
            left = await self._runners.units.run_unit(tier, refs[0], queue, lease_owner)
        else:
            left = await self._runners.jobs.run_slice(tier, refs, queue, lease_owner)
        if not left or (to := publisher.next_tier(tier)) == following:
            return left
        begun = Queue(queue).begun.value
        await publisher.dispatch(Dispatch(ref.id, ref.attempt, to, begun) for ref in left)
        return []

    async def _jobs_on(self, message: Message, lease_owner: str) -> None:
        """Hand jobs on from a tier that is not set up here."""
        context, queue = self._context, Queue(message.queue).begun.value
        store = context.store.jobs
        jobs = await context.retrying(store.begin, lease_owner, message.tier, message.refs)
        ways: dict[str, list[BegunJob]] = {}
        for job in jobs:
            ways.setdefault(self._way_on(job.attempts), []).append(job)
        report = current_report()
        for to, its_jobs in ways.items():
            outcomes = [HandOn(_noted(job.attempts, job.tier), job.failures) for job in its_jobs]
            for outcome in outcomes:
                report.note(outcome)
            refs = await context.retrying(store.hand_on, its_jobs, to, new_token(), outcomes)
            await context.publisher.dispatch(
                Dispatch(ref.id, ref.attempt, to, queue) for ref in refs
            )

    async def _unit_on(self, message: Message, lease_owner: str) -> None:
        """Hand a unit on in the same way: to the first tier where not all its lines were tried."""
        context, store = self._context, self._context.store.batches
        ref = message.refs[0]
        unit = await context.retrying(store.begin, lease_owner, message.tier, ref)
        if not isinstance(unit, SliceUnit):
            if unit is not None:
                await drop_late(context, unit)
            return
        known = {i: unit.histories.get(i, LineHistory(())) for i in unit.open_lines}
        tried = [{attempt.tier for attempt in each.attempts} for each in known.values()]
        to = way_on(context.publisher.order, set.intersection(*tried) if tried else ())
        noted = {
            i: msgspec.structs.replace(each, attempts=_noted(each.attempts, unit.tier))
            for i, each in known.items()
        }
        report = current_report()
        for each in noted.values():
            report.note(HandOn(each.attempts, each.failures))
        attempt = await context.retrying(store.hand_on, unit, to, new_token(), noted)
        if attempt is not None:
            on = Dispatch(unit.id, attempt, to, Queue.BATCH_BEGUN.value)
            await context.publisher.dispatch([on])

    def _way_on(self, attempts: Iterable[Attempt]) -> str:
        return way_on(self._context.publisher.order, {attempt.tier for attempt in attempts})


def _noted(attempts: tuple[Attempt, ...], tier: str) -> tuple[Attempt, ...]:
    return (*attempts, Attempt(tier, Verdict.NOT_CONFIGURED, 0.0))
