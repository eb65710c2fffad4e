"""What a tier task does with a unit of a batch: answer its lines, record them, hand on the rest."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from tasks.jsonl.input import UNREADABLE, custom_id_of, read_line
from tasks.jsonl.output import answered_line, unanswered_line
from tasks.records.batches import LineResult, Tried
from tasks.records.jobs import BegunJob, Options, Queue, Status
from tasks.records.outcomes import Finish, HandOn, Outcome, Park
from tasks.storage import content_name
from tasks.store.batches import new_token
from tasks.telemetry import logs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.broker.publisher import Publisher
    from tasks.execution.phases import Phases
    from tasks.records.batches import Unit
    from tasks.records.jobs import Pairs
    from tasks.recovery.leases import Leases
    from tasks.store.batches import BatchStore
    from tasks.store.files import FileStore
    from tasks.store.retrying import Insist
    from tasks.telemetry.observer import Observer
    from tasks.tiers.answering import Answering

COALESCE_SECONDS = 0.05  # how long a line that failed waits for others to leave with it
GATHER_SECONDS = 0.02  # how long a line that is answered waits for others to be recorded with it
GATHER_LINES = 64  # … or for so many
PARK_SECONDS = 5.0  # until what cannot go on now is looked at again
MISSING_TRIES, MISSING_SECONDS = 5, 1.0  # looks for an input file, and the time between them

log = logging.getLogger(__name__)


class LineRunner:
    """Runs units on the event loop; the Celery task waits for it in its own thread."""

    def __init__(  # noqa: PLR0913, PLR0917 - the process wires its parts here, once
        self,
        store: BatchStore,
        files: FileStore,
        publisher: Publisher,
        answering: Answering,
        leases: Leases,
        phases: Phases,
        insist: Insist,
        observer: Observer,
        most: int,
    ) -> None:
        """most: units at work at once."""
        self._store, self._files = store, files
        self._publisher = publisher
        self._answering, self._leases = answering, leases
        self._phases = phases
        self._insist = insist
        self._observer = observer
        self._most, self._at_work = most, 0
        self._waiting: deque[_Run] = deque()

    async def run(self, tier: str, unit_id: str, attempt: int, lease_owner: str) -> Pairs:
        """Answer a unit's lines at a tier; return what the next task of the chain is to answer."""
        if self._answering.draining.is_set():
            await self._publisher.dispatch([(unit_id, attempt, tier, Queue.BATCH.value)])
            return []
        unit = await self._insist(lambda: self._store.begin(lease_owner, tier, unit_id, attempt))
        if unit is None:
            return []
        self._observer.begun(tier, unit.waited)
        run = _Run(self, unit)
        self._leases.hold(unit.id, lease_owner, run.work)
        if self._at_work >= self._most:
            self._waiting.append(run)  # its lease is kept, but no thread is: lone jobs need them
            return []
        self._at_work += 1
        try:
            return await self._work(run)
        finally:
            self._at_work -= 1

    async def _work(self, run: _Run) -> Pairs:
        """Run a unit, and then what waits for its turn; return what Celery's chain takes on."""
        left = await self._finish(run)
        if not self._waiting:
            return left
        while True:
            to = self._publisher.next_tier(run.unit.tier) if left else ""
            await self._publisher.dispatch((*pair, to, Queue.BATCH.value) for pair in left)
            if not self._waiting:
                return []
            run = self._waiting.popleft()
            left = await self._finish(run)

    async def _finish(self, run: _Run) -> Pairs:
        run.turn.set()
        try:
            return await run.work
        except asyncio.CancelledError:
            return []  # dropped: its batch has ended, or it is another worker's now
        except Exception:
            # Ours. Its lease ends, and it runs again elsewhere; what waits here must go on.
            log.exception("%s at tier %s broke off", run.unit.id, run.unit.tier)
            return []
        finally:
            self._leases.release(run.unit.id, run.unit.lease_owner)


class _Run:
    """One unit at one tier."""

    def __init__(self, runner: LineRunner, unit: Unit) -> None:
        self._runner = runner
        self.unit, self.turn = unit, asyncio.Event()
        self._store, self._insist = runner._store, runner._insist  # noqa: SLF001 - its own part
        self._answering, self._publisher = runner._answering, runner._publisher  # noqa: SLF001
        self._first_tier = self._publisher.first_tier
        self._options = Options(unit.options.cache, unit.options.on_exhausted)
        self._pending: list[LineResult] = []
        self._ready = asyncio.Event()
        self._complete = False
        self._alone = True  # every result that we recorded was the first of its line
        self._running = 0
        self._moved = asyncio.Event()  # a line was not answered here, or the last one ended
        self._left: dict[int, Outcome] = {}  # what this tier did not answer
        self._calls: dict[int, asyncio.Task[None]] = {}
        self.work = asyncio.create_task(self._go())

    async def _go(self) -> Pairs:
        """Answer, record, hand on, once it is its turn."""
        await self.turn.wait()
        if self._answering.draining.is_set():
            await self._again(self.unit)
            return []
        lines = await self._read_if_there()
        if lines is None:
            log.warning("%s: its input file is gone from the storage", self.unit.batch)
            await asyncio.shield(self._runner._phases.input_gone(self.unit))  # noqa: SLF001
            return []
        writer = asyncio.create_task(self._write_results())
        self._calls = {i: asyncio.create_task(self._one(i, job)) for i, job in lines.items()}
        try:
            await self._until_done()
        except asyncio.CancelledError:
            await self._stop([*self._calls.values(), writer])
            raise
        finally:
            self._answering.running.difference_update(self._calls.values())
        self._ready.set()
        self._calls = {}
        await writer
        return await self._end()

    @staticmethod
    async def _stop(tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _read_if_there(self) -> dict[int, tuple[str, BegunJob]] | None:
        for _ in range(MISSING_TRIES - 1):
            with contextlib.suppress(FileNotFoundError):
                return await self._read()
            await asyncio.sleep(MISSING_SECONDS)
        with contextlib.suppress(FileNotFoundError):
            return await self._read()
        return None

    async def _read(self) -> dict[int, tuple[str, BegunJob]]:
        unit = self.unit
        assert unit.place is not None  # noqa: S101 - a tier gets no phases
        name = content_name(unit.input_file_id)
        place = unit.place
        content = await asyncio.to_thread(
            self._runner._files.storage.read,  # noqa: SLF001 - its own part
            *(name, place.offset, place.length),
        )
        texts = [text for text in content.split(b"\n") if text.strip()]
        texts += [b""] * (place.lines - len(texts))  # somebody made the file shorter
        jobs = {}
        for i in unit.open_lines:
            try:
                jobs[i] = self._job(i, texts[i])
            except UNREADABLE:  # validation read it, so the file has changed since
                self._pending.append(self._unreadable(i, texts[i]))
        return jobs

    def _unreadable(self, index: int, text: bytes) -> LineResult:
        unit = self.unit
        said = unanswered_line(unit.batch, unit.slice, index, custom_id_of(text), "unreadable")
        return LineResult(index, good=False, content=said, counted_as="-:failed")

    def _job(self, index: int, text: bytes) -> tuple[str, BegunJob]:
        unit, line = self.unit, read_line(text)
        tried = unit.tried.get(index)
        job = BegunJob(
            id=f"{unit.batch}-{unit.slice}-{index}",
            attempt=unit.attempt,
            lease_owner=unit.lease_owner,
            tier=unit.tier,
            body=line.body,
            owner=unit.owner,
            queue=Queue.BATCH,
            deadline=unit.deadline,
            options=self._options,
            attempts=tuple(tried.attempts) if tried else (),
            failures=tried.failures if tried else 0,
            first_tier=self._first_tier,
            endpoint=unit.endpoint.value,
        )
        return line.custom_id, job

    async def _one(self, index: int, asked: tuple[str, BegunJob]) -> None:
        custom_id, job = asked
        logs.about.set({"job_id": job.id, "tier": job.tier})
        try:
            outcome = await self._answering.answer(job)
        except asyncio.CancelledError:
            if not self._answering.cut_off:
                raise
            return  # it is handed over with what else is left
        except Exception:
            # Ours, not the tier's; but a line that does it again and again must come to an end.
            log.exception("line %s at tier %s broke off", job.id, job.tier)
            said = {"tier": job.tier, "verdict": "failure", "milliseconds": 0.0, "detail": "defect"}
            attempts, failures = (*job.attempts, said), job.failures + 1
            last = job.tier == "cache"
            self._left[index] = (
                Park(attempts, failures, PARK_SECONDS) if last else HandOn(attempts, failures)
            )
            return
        if isinstance(outcome, Finish):
            if outcome.status is Status.EXPIRED:
                return  # its batch is about to expire, and says so for every such line
            await self._answering.keep(job, outcome)
            self._pending.append(answered_line(index, custom_id, job, outcome))
            if len(self._pending) >= GATHER_LINES:
                self._ready.set()
        else:
            self._left[index] = outcome

    async def _until_done(self) -> None:
        # A line never waits for its slice-mates: what failed leaves early, a few together.
        self._answering.running.update(self._calls.values())
        self._running = len(self._calls)
        for call in self._calls.values():
            call.add_done_callback(self._one_done)
        while self._running:
            await self._moved.wait()
            self._moved.clear()
            if self._running and any(isinstance(o, HandOn) for o in self._left.values()):
                await asyncio.sleep(COALESCE_SECONDS)
                if self._running:
                    await self._leave_early()

    def _one_done(self, _: object) -> None:
        self._running -= 1
        if self._left or not self._running:
            self._moved.set()

    async def _write_results(self) -> None:
        """Record what is answered; what is answered meanwhile shares the next write."""
        while self._calls or self._pending or not self._ready.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ready.wait(), GATHER_SECONDS)
            if self._calls:
                self._ready.clear()
            pending, self._pending = self._pending, []
            if pending:
                await self._record(pending)

    async def _record(self, pending: list[LineResult]) -> None:
        new, complete = await self._insist(lambda: self._store.lines_done(self.unit, pending))
        if new < 0:
            return  # the batch has ended; its cancellation drops us in a moment
        self._alone = self._alone and new == len(pending)
        self._complete = self._complete or complete
        for result in pending:
            self.unit.results[result.line] = result.stored
        self._runner._observer.lines_finished(pending)  # noqa: SLF001

    async def _leave_early(self) -> None:
        tried = self._take_hand_ons()
        token = new_token()
        to = self._publisher.next_tier(self.unit.tier)
        child = await self._insist(lambda: self._store.split(self.unit, to, token, tried))
        if child:
            await self._publisher.dispatch([(child, 0, to, Queue.BATCH.value)])
            self.unit.elsewhere.update(dict.fromkeys(tried, child))

    def _take_hand_ons(self) -> dict[int, Tried]:
        taken = {i: o for i, o in self._left.items() if isinstance(o, HandOn)}
        for index in taken:
            del self._left[index]
        return {i: _tried(outcome) for i, outcome in taken.items()}

    async def _end(self) -> Pairs:
        unit = self.unit
        if not self._complete and unit.place and len(unit.results) == unit.place.lines:
            # The last line was recorded by somebody whose lease had ended: the part is ours.
            await self._record([])
        if self._complete:
            try:
                if not self._alone or len(unit.results) < (unit.place.lines if unit.place else 0):
                    # Others recorded results of this slice after we had begun.
                    results = await self._insist(
                        lambda: self._store.results(unit.batch, unit.slice)
                    )
                    unit.results.update(results)
                await self._runner._phases.write_part(unit)  # noqa: SLF001 - its own part
            except OSError as error:  # the lease ends, and the part is written by who comes next
                log.warning("a part of %s is not written: %s", unit.batch, type(error).__name__)
            return []
        open_lines = unit.open_lines
        if not open_lines:
            await self._insist(lambda: self._store.drop(unit))
            return []
        if time.monotonic() >= unit.deadline:  # the sweeper is about to end the batch
            await self._move("", {}, PARK_SECONDS)
            return []
        stays = [i for i in open_lines if not isinstance(self._left.get(i), HandOn | Park)]
        if stays:
            if any(isinstance(o, HandOn) for o in self._left.values()):
                await self._leave_early()
            await self._again(unit)
            return []
        left = {i: self._left[i] for i in open_lines}
        parked = [o for o in left.values() if isinstance(o, Park)]
        tried = {i: _tried(o) for i, o in left.items()}
        if parked:
            due = min(o.due_seconds for o in parked)
            await self._move("", tried, due)
            return []
        to = self._publisher.next_tier(unit.tier)
        attempt = await self._move(to, tried)
        return [] if attempt is None else [(unit.id, attempt)]

    async def _again(self, unit: Unit) -> None:
        """Hand back what was not called, or cut off, to whoever comes next at this tier."""
        attempt = await asyncio.shield(self._move(unit.tier, {}))
        if attempt is not None:
            again = (unit.id, attempt, unit.tier, Queue.BATCH.value)
            await asyncio.shield(self._publisher.dispatch([again]))

    async def _move(
        self, to: str, tried: Mapping[int, Tried], due_seconds: float | None = None
    ) -> int | None:
        token = new_token()
        return await self._insist(
            lambda: self._store.move(self.unit, to, token, tried, due_seconds)
        )


def _tried(outcome: Any) -> Tried:
    return Tried([dict(a) for a in outcome.attempts], outcome.failures)
