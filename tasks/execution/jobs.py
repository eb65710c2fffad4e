"""What a tier task does with its slice: begin, answer all at once, hand on what is left."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from tasks.errors import StoreUnavailable
from tasks.execution.calls import Calls
from tasks.records.jobs import BegunJob, Dispatch, Queue, Ref, Status, new_token
from tasks.records.losses import is_suspect
from tasks.records.outcomes import Finish, HandBack, HandOn, Outcome, Park, broken_off
from tasks.telemetry import logs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.execution.context import Context

log = logging.getLogger(__name__)


class JobRunner:
    """Runs slices on the event loop; the Celery task waits for it in its own thread."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def run_slice(
        self, tier: str, refs: Sequence[Ref], queue: str, lease_owner: str
    ) -> list[Ref]:
        """Answer a slice at a tier; return what the next task of the chain is to answer."""
        context = self._context
        if context.drain.started:
            await _dispatch(context, tier, queue, refs)
            return []
        jobs = await context.retrying(context.store.jobs.begin, lease_owner, tier, refs)
        for job in jobs:
            context.observer.begun(tier, job.waited)
        return await _SliceRun(context, tier, queue).run(jobs)


class _SliceRun:
    """One slice at one tier."""

    def __init__(self, context: Context, tier: str, queue: str) -> None:
        self._context = context
        self._tier, self._next_queue = tier, Queue(queue).begun.value
        self._calls = Calls(context.drain)
        self._left: list[tuple[BegunJob, HandOn]] = []  # not answered at this tier, and still here

    async def run(self, jobs: Sequence[BegunJob]) -> list[Ref]:
        """Answer all at once; return those that the next tier is to answer."""
        running = [asyncio.create_task(self._answer(job)) for job in jobs]
        for job, task in zip(jobs, running, strict=True):
            self._context.leases.hold(job.id, job.lease_owner, task)
        await self._calls.run(running, self._leave_early)
        return await self._hand_on()

    async def _answer(self, job: BegunJob) -> None:
        about = {"job_id": job.id, "tier": job.tier}
        if job.options.request_id:
            about["request_id"] = job.options.request_id
        logs.about.set(about)
        try:
            outcome = await self._outcome(job)
            if outcome is not None:
                await self._act(job, outcome)
        except asyncio.CancelledError:
            if not self._context.drain.cut_off:
                return  # dropped: its result is there, or it is another worker's now
            await self._hand_back(job)
        except StoreUnavailable as error:
            # At the end of the drain: the lease ends, and the job runs again elsewhere.
            log.warning("job %s at tier %s broke off: %s", job.id, job.tier, error)
        except Exception:
            # What became of it could not be said. The lease ends and the job runs again elsewhere.
            log.exception("job %s at tier %s was left", job.id, job.tier)
        finally:
            self._context.leases.release(job.id, job.lease_owner)

    async def _outcome(self, job: BegunJob) -> Outcome | None:
        """Return what a job comes to; None if it is not ours any more."""
        context = self._context
        try:
            if not is_suspect(job.attempts):
                return await context.answerer.answer(job)
            async with context.alone:
                if not await context.retrying(context.store.jobs.note_alone, job):
                    return None
                return await context.answerer.answer(job)
        except Exception:
            # Ours, not the tier's.
            log.exception("job %s at tier %s broke off", job.id, job.tier)
            return broken_off(job)

    async def _act(self, job: BegunJob, outcome: Outcome) -> None:
        context = self._context
        match outcome:
            case Finish():
                await self._finish(job, outcome)
            case HandOn():
                self._left.append((job, outcome))
                self._calls.leave()
            case Park():
                await context.retrying(context.store.jobs.park, job, new_token(), outcome)
            case HandBack():
                await self._hand_back(job)

    async def _finish(self, job: BegunJob, finish: Finish) -> None:
        context = self._context
        keeping = asyncio.create_task(context.answerer.keep(job, finish))
        won = await context.retrying(context.store.jobs.finish, job, finish)
        await keeping
        if won:
            age = time.monotonic() - job.created
            tier_used = finish.tier_used or "-"
            context.observer.finished(tier_used, finish.status.value, age, finish.tokens)
        level = logging.WARNING if finish.status is Status.FAILED else logging.DEBUG
        log.log(level, "job %s %s by tier %s", job.id, finish.status.value, job.tier)

    async def _leave_early(self) -> None:
        refs = await self._hand_on()
        if refs:
            next_tier = self._context.publisher.next_tier(self._tier)
            await _dispatch(self._context, next_tier, self._next_queue, refs)

    async def _hand_on(self) -> list[Ref]:
        left, self._left = self._left, []
        if not left:
            return []
        context = self._context
        return await context.retrying(
            context.store.jobs.hand_on,
            [job for job, _ in left],
            context.publisher.next_tier(self._tier),
            new_token(),
            [outcome for _, outcome in left],
        )

    async def _hand_back(self, job: BegunJob) -> None:
        context = self._context
        handing = context.retrying(context.store.jobs.hand_back, job, new_token())
        refs = await asyncio.shield(handing)
        if refs:
            await asyncio.shield(_dispatch(context, job.tier, job.queue.begun.value, refs))


async def _dispatch(context: Context, tier: str, queue: str, refs: Sequence[Ref]) -> None:
    # What the broker does not take is not lost: the record says that it is dispatched.
    await context.publisher.dispatch(Dispatch(ref.id, ref.attempt, tier, queue) for ref in refs)
