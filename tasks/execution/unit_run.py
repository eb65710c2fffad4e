"""One unit of a batch at one tier: read, answer all lines at once, record, hand on the rest."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from tasks.execution.calls import Calls
from tasks.execution.ending import (
    Drop,
    Ending,
    HandBackUnit,
    HandOnUnit,
    ParkUnit,
    WritePart,
    ending,
    leaving,
)
from tasks.execution.line_reader import read_lines
from tasks.execution.line_recorder import LineRecorder
from tasks.jsonl.output import answered_line
from tasks.records.batches import LineHistory
from tasks.records.jobs import Dispatch, Queue, Ref, Status, new_token
from tasks.records.losses import ALONE, SUSPICIOUS, is_suspect, lost
from tasks.records.outcomes import Finish, HandOn, Outcome, broken_off
from tasks.telemetry import logs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.execution.context import Context
    from tasks.execution.line_reader import LineJob
    from tasks.execution.phases import PhaseRunner
    from tasks.records.batches import SliceUnit

log = logging.getLogger(__name__)


class UnitRun:
    """A unit whose lease is held; it works once its turn is set. work: what it comes to."""

    def __init__(self, context: Context, phases: PhaseRunner, unit: SliceUnit) -> None:
        self._context, self._phases = context, phases
        self.unit = unit
        self.turn = asyncio.Event()
        self._recorder = LineRecorder(context, unit)
        self._calls = Calls(context.drain)
        self._left: dict[int, Outcome] = {}  # what this tier did not answer
        self.work = asyncio.create_task(self._run())

    async def _run(self) -> list[Ref]:
        """Answer the lines; return the unit if it is for the next task of the chain."""
        context, unit = self._context, self.unit
        await self.turn.wait()
        if context.drain.started:
            await self._hand_back()
            return []
        lines = await read_lines(context.store.files.storage, unit, context.publisher.first_tier)
        if lines is None:
            log.warning("%s: its input file is gone from the storage", unit.batch)
            await asyncio.shield(self._phases.end_without_input(unit))
            return []
        for result in lines.unreadable:
            self._recorder.add(result)
        await self._answer_all(lines.jobs)
        return await self._end()

    async def _answer_all(self, jobs: Mapping[int, LineJob]) -> None:
        suspects = {i: line for i, line in jobs.items() if self._is_suspect(line)}
        await self._answer_together({i: line for i, line in jobs.items() if i not in suspects})
        for i, line in suspects.items():
            await self._answer_alone(i, line)

    def _is_suspect(self, line: LineJob) -> bool:
        # Nobody knows which of its lines the workers died of that had the unit.
        return self.unit.losses >= SUSPICIOUS or is_suspect(line.job.attempts)

    async def _answer_alone(self, index: int, line: LineJob) -> None:
        """Answer a line; if we die of it, this will be known."""
        context, job = self._context, line.job
        history = LineHistory((*job.attempts, lost(job.tier, ALONE)), job.failures)
        async with context.alone:
            if context.drain.started:
                return
            if await context.retrying(context.store.batches.note_line, self.unit, index, history):
                await self._answer_together({index: line})

    async def _answer_together(self, jobs: Mapping[int, LineJob]) -> None:
        running = [asyncio.create_task(self._answer(i, line)) for i, line in jobs.items()]
        try:
            await self._calls.run(running, self._leave_early)
            await self._recorder.flush()
        except asyncio.CancelledError:  # dropped
            self._recorder.cancel()
            for call in running:
                call.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            raise

    async def _answer(self, index: int, line: LineJob) -> None:
        """Answer a line. One whose call is cut off is handed back with what else is left."""
        custom_id, job = line
        logs.about.set({"job_id": job.id, "tier": job.tier})
        try:
            outcome = await self._context.answerer.answer(job)
        except Exception:
            log.exception("line %s at tier %s broke off", job.id, job.tier)
            outcome = broken_off(job)
        if not isinstance(outcome, Finish):
            self._left[index] = outcome
            if isinstance(outcome, HandOn):
                self._calls.leave()
        elif outcome.status is not Status.EXPIRED:  # its batch is about to say so for every line
            self._recorder.add(answered_line(index, custom_id, job, outcome))
            await self._context.answerer.keep(job, outcome)

    async def _leave_early(self) -> None:
        await self._split(leaving(self._left))

    async def _split(self, histories: Mapping[int, LineHistory]) -> None:
        """Let lines go to the next tier as a unit of their own."""
        if not histories:
            return
        for index in histories:
            del self._left[index]
        context, unit = self._context, self.unit
        to = context.publisher.next_tier(unit.tier)
        child = await context.retrying(
            context.store.batches.split, unit, to, new_token(), histories
        )
        if child:
            await context.publisher.dispatch([Dispatch(child, 0, to, Queue.BATCH_BEGUN.value)])
            unit.moved_to.update(dict.fromkeys(histories, child))

    async def _end(self) -> list[Ref]:
        unit, recorder = self.unit, self._recorder
        if not recorder.complete and unit.complete:
            # The last line was recorded by somebody whose lease had ended: the part is ours.
            await recorder.record([])
        decision = ending(
            unit,
            self._left,
            complete=recorder.complete,
            past_deadline=time.monotonic() >= unit.deadline,
        )
        return await self._do(decision)

    async def _do(self, decision: Ending) -> list[Ref]:
        context, unit = self._context, self.unit
        batches, retrying = context.store.batches, context.retrying
        match decision:
            case WritePart():
                await self._write_part()
            case Drop():
                if await retrying(batches.drop, unit):
                    await self._hand_back()  # the store has forgotten what it had told us
            case HandBackUnit(histories):
                await self._split(histories)
                await self._hand_back()
            case ParkUnit(histories, due_seconds):
                await retrying(batches.park, unit, new_token(), histories, due_seconds)
            case HandOnUnit(histories):
                to = context.publisher.next_tier(unit.tier)
                attempt = await retrying(batches.hand_on, unit, to, new_token(), histories)
                return [] if attempt is None else [Ref(unit.id, attempt)]
        return []

    async def _write_part(self) -> None:
        context, unit = self._context, self.unit
        try:
            if not self._recorder.alone or not unit.complete:
                # Others recorded results of this slice after we had begun.
                unit.results.update(
                    await context.retrying(context.store.batches.results, unit.batch, unit.slice)
                )
            await self._phases.write_part(unit)
        except OSError as error:  # the lease ends, and the part is written by who comes next
            log.warning("a part of %s is not written: %s", unit.batch, type(error).__name__)

    async def _hand_back(self) -> None:
        """Hand back what was not called, or cut off, to whoever comes next at this tier."""
        context, unit = self._context, self.unit
        attempt = await asyncio.shield(
            context.retrying(context.store.batches.hand_back, unit, new_token())
        )
        if attempt is not None:
            again = Dispatch(unit.id, attempt, unit.tier, Queue.BATCH_BEGUN.value)
            await asyncio.shield(context.publisher.dispatch([again]))
