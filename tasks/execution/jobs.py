"""What a tier task does with its slice: begin, answer all at once, hand on what is left."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

import msgspec

from fallback_chain import Body
from tasks.errors import StoreUnavailable, StreamLost
from tasks.execution.calls import Calls
from tasks.records.jobs import BegunJob, Dispatch, Queue, Ref, Status, new_token
from tasks.records.losses import is_suspect
from tasks.records.order import first_of
from tasks.records.outcomes import (
    Finish,
    HandBack,
    HandOn,
    HandUp,
    Outcome,
    Park,
    broken_off,
    interrupted,
    passed_over,
)
from tasks.telemetry import logs
from tasks.telemetry.slices import current_report
from tasks.whole import whole

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from tasks.execution.context import Context
    from tasks.execution.stream_log import StreamLog
    from tasks.records.streams import Addition

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
        self._report = current_report()
        self._streams: dict[str, StreamLog] = {}  # of jobs whose answer is followed
        self._settled: set[str] = set()  # jobs whose end, or way elsewhere, is in the store
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
            try:
                await self._answer_in_room(job)
            except asyncio.CancelledError:
                await self._let_go(job)
        except StoreUnavailable as error:
            # At the end of the drain: the lease ends, and the job runs again elsewhere.
            log.warning("job %s at tier %s broke off: %s", job.id, job.tier, error)
        except Exception:
            # What became of it could not be said. The lease ends and the job runs again elsewhere.
            log.exception("job %s at tier %s was left", job.id, job.tier)
        finally:
            self._context.leases.release(job.id, job.lease_owner)

    async def _let_go(self, job: BegunJob) -> None:
        """Hand over a job that was cut off; of one that was dropped nothing is to be said."""
        if not self._context.drain.cut_off or job.id in self._settled:
            return  # its result is there, or it is another worker's now
        if self._is_shown(job):
            await self._settle(job, self._finish(job, interrupted(job.attempts)))
            return
        self._report.note(HandBack())
        await self._settle(job, self._hand_back(job))

    async def _answer_in_room(self, job: BegunJob) -> None:
        context, began = self._context, time.monotonic()
        if job.streamed:  # its worker was lost in the middle of its answer
            await self._do(job, interrupted(job.attempts))
            return
        if job.passes_over:  # before it waits for anything that a call takes
            await self._do(job, HandOn(passed_over(job.attempts, job.tier), job.failures))
            return
        room, until = context.room_at(job.tier), context.answerer.worth_until(job)
        async with room.of(job.left_bytes, until) as inside:
            if not inside:
                await self._do(job, context.answerer.no_room(job, began))
                return
            whole: BegunJob | None = job
            if job.left_bytes:
                whole = await context.retrying(context.store.jobs.with_body, job)
            if whole:
                await self._do(whole, await self._outcome(whole))

    async def _do(self, job: BegunJob, outcome: Outcome | None) -> None:
        if outcome:
            self._report.note(outcome)
        match outcome:
            case Finish():
                await self._settle(job, self._finish(job, outcome))
            case HandOn():
                bare = msgspec.structs.replace(job, body=Body(b""))  # nobody holds it meanwhile
                self._left.append((bare, outcome))
                self._calls.leave()
            case Park():
                home = first_of(job.options.tiers, self._context.publisher.order)
                parking = self._context.store.jobs.park
                await self._context.retrying(parking, job, home, new_token(), outcome)
            case HandUp(to):
                await self._settle(job, self._hand_up(job, to))
            case HandBack():
                await self._settle(job, self._hand_back(job))

    async def _settle(self, job: BegunJob, step: Coroutine[Any, Any, None]) -> None:
        """Take what a job comes to to its end, though its call was cut off meanwhile."""

        async def settle() -> None:
            await step
            self._settled.add(job.id)

        await whole(settle())

    async def _outcome(self, job: BegunJob) -> Outcome | None:
        """Return what a job comes to; None if it is not ours any more."""
        stream = None
        if job.options.stream:
            self._streams[job.id] = stream = self._context.streams.open(job)
        try:
            outcome = await self._tried(job, stream)
        except Exception:
            # Ours, not the tier's.
            log.exception("job %s at tier %s broke off", job.id, job.tier)
            outcome = broken_off(job)
        if self._is_shown(job) and isinstance(outcome, HandOn | Park):
            return interrupted(outcome.attempts)
        return outcome

    async def _tried(self, job: BegunJob, stream: StreamLog | None) -> Outcome | None:
        context = self._context
        if not is_suspect(job.attempts):
            return await self._called(job, stream)
        async with context.alone():
            if not await context.retrying(context.store.jobs.note_alone, job):
                return None
            return await self._called(job, stream)

    async def _called(self, job: BegunJob, stream: StreamLog | None) -> Outcome:
        answer = self._context.answerer.answer(job, stream)
        if stream is None:
            return await answer
        calling, me = asyncio.create_task(answer), asyncio.current_task()
        stream.at_loss(calling.cancel)
        try:
            return await calling
        except asyncio.CancelledError:
            if stream.lost and me is not None and not me.cancelling():
                return interrupted(job.attempts)
            raise

    def _is_shown(self, job: BegunJob) -> bool:
        """Whether a part of its answer may have been shown."""
        return job.id in self._streams and self._streams[job.id].committed

    async def _finish(self, job: BegunJob, finish: Finish) -> None:
        context = self._context
        finish, last = await self._streamed(job, finish)
        keeping = asyncio.create_task(context.answerer.keep(job, finish))
        finishing = context.store.jobs.finish
        try:
            won = await context.retrying(finishing, job, finish, last)
        except StreamLost as error:
            log.warning("%s", error)
            finish = interrupted(finish.attempts)
            won = await context.retrying(finishing, job, finish)
        await keeping
        if won:
            age = time.monotonic() - job.created
            tier_used = finish.tier_used or "-"
            context.observer.finished(tier_used, finish.status.value, age, finish.tokens)
        level = logging.WARNING if finish.status is Status.FAILED else logging.DEBUG
        log.log(level, "job %s %s by tier %s", job.id, finish.status.value, job.tier)

    async def _streamed(self, job: BegunJob, finish: Finish) -> tuple[Finish, Addition | None]:
        """Return a job's end, and what ends the log of its stream, if it has one."""
        stream = self._streams.pop(job.id, None)
        if stream is None:
            return finish, None
        last = await stream.last(finish)
        if stream.lost and finish.status is Status.SUCCEEDED:
            return interrupted(finish.attempts), None
        return finish, last

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

    async def _hand_up(self, job: BegunJob, to: str) -> None:
        context = self._context
        same = [HandOn(job.attempts, job.failures)]
        refs = await context.retrying(context.store.jobs.hand_on, [job], to, new_token(), same)
        if refs:
            await _dispatch(context, to, self._next_queue, refs)

    async def _hand_back(self, job: BegunJob) -> None:
        context = self._context
        refs = await context.retrying(context.store.jobs.hand_back, job, new_token())
        if refs:
            await _dispatch(context, job.tier, job.queue.begun.value, refs)


async def _dispatch(context: Context, tier: str, queue: str, refs: Sequence[Ref]) -> None:
    # What the broker does not take is not lost: the record says that it is dispatched.
    await context.publisher.dispatch(Dispatch(ref.id, ref.attempt, tier, queue) for ref in refs)
