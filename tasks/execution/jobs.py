"""What a tier task does with its slice: begin, answer all at once, hand on what is left."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tasks.errors import PublishError
from tasks.records.jobs import BegunJob, Status
from tasks.records.outcomes import Finish, HandBack, HandOn, Outcome, Park
from tasks.telemetry import logs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tasks.broker.publisher import Publisher
    from tasks.records.jobs import Pairs
    from tasks.recovery.leases import Leases
    from tasks.store.jobs import JobStore
    from tasks.store.retrying import Insist
    from tasks.telemetry.observer import Observer
    from tasks.tiers.answering import Answering

COALESCE_SECONDS = 0.05  # how long a job that failed waits for its slice-mates to move on with it

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Left:
    """Jobs of one slice that this tier could not answer, and that are still here."""

    jobs: list[tuple[BegunJob, HandOn]] = field(default_factory=list)

    def take(self) -> list[tuple[BegunJob, HandOn]]:
        jobs, self.jobs = self.jobs, []
        return jobs


class SliceRunner:
    """Runs slices on the event loop; the Celery task waits for it in its own thread."""

    def __init__(  # noqa: PLR0913, PLR0917 - the process wires its parts here, once
        self,
        store: JobStore,
        publisher: Publisher,
        answering: Answering,
        leases: Leases,
        insist: Insist,
        observer: Observer,
    ) -> None:
        self._store, self._publisher = store, publisher
        self._answering, self._leases = answering, leases
        self._insist = insist
        self._observer = observer

    async def run(self, tier: str, pairs: Pairs, queue: str, lease_owner: str) -> Pairs:
        """Answer a slice at a tier; return what the next task of the chain is to answer."""
        if self._answering.draining.is_set():
            await self._publisher.publish(tier, queue, pairs)
            return []
        begun = await self._insist(lambda: self._store.begin(lease_owner, tier, pairs))
        for job in begun:
            self._observer.begun(tier, job.waited)
        left = _Left()
        running = [asyncio.create_task(self._one(job, left)) for job in begun]
        for job, task in zip(begun, running, strict=True):
            self._leases.hold(job.id, lease_owner, task)
        self._answering.running.update(running)
        try:
            await self._until_done(set(running), tier, queue, left)
        finally:
            self._answering.running.difference_update(running)
        return await self._hand_on(left.take(), tier)

    async def _until_done(
        self, running: set[asyncio.Task[None]], tier: str, queue: str, left: _Left
    ) -> None:
        # A job never waits for its slice-mates: what failed leaves early, a few together.
        while running:
            if not left.jobs:
                _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                continue
            _, running = await asyncio.wait(running, timeout=COALESCE_SECONDS)
            if running:
                await self._leave_early(left.take(), tier, queue)

    async def _leave_early(
        self, jobs: list[tuple[BegunJob, HandOn]], tier: str, queue: str
    ) -> None:
        pairs = await self._hand_on(jobs, tier)
        if pairs:
            await self._publish(self._publisher.next_tier(tier), queue, pairs)

    async def _one(self, job: BegunJob, left: _Left) -> None:
        logs.about.set({"job_id": job.id, "tier": job.tier})
        try:
            outcome: Outcome = await self._answering.answer(job)
            await self._act(job, outcome, left)
        except asyncio.CancelledError:
            if not self._answering.cut_off:
                return  # dropped: its result is there, or it is another worker's now
            await self._hand_back(job)
        except Exception:
            # Ours, not the tier's. The lease ends and the job runs again elsewhere.
            log.exception("job %s at tier %s broke off", job.id, job.tier)
        finally:
            self._leases.release(job.id, job.lease_owner)

    async def _act(self, job: BegunJob, outcome: Outcome, left: _Left) -> None:
        match outcome:
            case Finish():
                await self._finish(job, outcome)
            case HandOn():
                left.jobs.append((job, outcome))
            case Park():
                await self._move([job], "", [outcome], due_seconds=outcome.due_seconds)
            case HandBack():
                await self._hand_back(job)

    async def _finish(self, job: BegunJob, done: Finish) -> None:
        keeping = asyncio.create_task(self._answering.keep(job, done))
        won = await self._insist(lambda: self._store.finish(job, done.status, done.fields))
        await keeping
        if won:
            used = str(done.fields.get("tier_used") or "-")
            age = time.monotonic() - job.created
            self._observer.finished(used, done.status.value, age, done.tokens)
        level = logging.WARNING if done.status is Status.FAILED else logging.DEBUG
        log.log(level, "job %s %s by tier %s", job.id, done.status.value, job.tier)

    async def _hand_on(self, left: Sequence[tuple[BegunJob, HandOn]], tier: str) -> Pairs:
        if not left:
            return []
        jobs = [job for job, _ in left]
        to = self._publisher.next_tier(tier)
        return await self._move(jobs, to, [outcome for _, outcome in left])

    async def _hand_back(self, job: BegunJob) -> None:
        same = HandOn(job.attempts, job.failures)
        pairs = await asyncio.shield(self._move([job], job.tier, [same]))
        if pairs:
            await asyncio.shield(self._publish(job.tier, job.queue.value, pairs))

    async def _move(
        self,
        jobs: Sequence[BegunJob],
        to: str,
        outcomes: Sequence[HandOn | Park],
        due_seconds: float | None = None,
    ) -> Pairs:
        token = os.urandom(8).hex()
        attempts: list[Sequence[Mapping[str, Any]]] = [o.attempts for o in outcomes]
        failures = [o.failures for o in outcomes]
        return await self._insist(
            lambda: self._store.move(
                jobs, to, token, attempts=attempts, failures=failures, due_seconds=due_seconds
            )
        )

    async def _publish(self, tier: str, queue: str, pairs: Pairs) -> None:
        # Not published is not lost: the record says dispatched, and the sweeper sees to it.
        try:
            await self._publisher.publish(tier, queue, pairs)
        except PublishError as error:
            log.warning("%d jobs wait for the sweeper: %s", len(pairs), error)
