"""One unit of a batch at one tier: read, answer all lines at once, record, hand on the rest."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from fallback_chain import Verdict
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
from tasks.records.losses import ALONE, is_suspect, lost
from tasks.records.order import below, first_of
from tasks.records.outcomes import (
    Finish,
    HandBack,
    HandOn,
    HandUp,
    Outcome,
    broken_off,
    still_told,
)
from tasks.telemetry import logs
from tasks.telemetry.slices import current_report
from tasks.tiers.gate import Word
from tasks.whole import whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.execution.context import Context
    from tasks.execution.line_reader import LineJob
    from tasks.execution.phases import PhaseRunner
    from tasks.records.batches import SliceUnit
    from tasks.records.jobs import BegunJob
    from tasks.tiers.gate import Turn

log = logging.getLogger(__name__)


class _Held(NamedTuple):
    """A line that waits for its tier."""

    job: BegunJob
    turn: Turn


def _after(job: BegunJob, outcome: HandOn) -> BegunJob:
    """Return a line as it is after a try; that it was refused, again, is known already."""
    attempts = outcome.attempts
    if attempts[-1].verdict is Verdict.REJECTED and job.attempts:
        last = job.attempts[-1]
        if (last.tier, last.verdict) == (attempts[-1].tier, Verdict.REJECTED):
            attempts = job.attempts
    return msgspec.structs.replace(job, attempts=still_told(attempts), failures=outcome.failures)


class UnitRun:
    """A unit whose lease is held; it works once its turn is set. work: what it comes to."""

    def __init__(self, context: Context, phases: PhaseRunner, unit: SliceUnit) -> None:
        self._context, self._phases = context, phases
        self.unit = unit
        self.turn = asyncio.Event()
        self.report = current_report()  # of the task whose turn it is
        self._recorder = LineRecorder(context, unit)
        self._calls = Calls(context.drain)
        self._left: dict[int, Outcome] = {}  # what this tier did not answer
        self._held: dict[int, _Held] = {}  # lines that wait here for it
        self._stepped_out: set[Turn] = set()  # of those, who may be leaving for a tier below
        self._parking = False  # those that still wait here are to be parked
        self._answering = 0  # lines that do not
        self.idle = asyncio.Event()  # all that is left here waits
        self.left: list[Ref] = []  # what the next task of the chain is to answer
        self.work = asyncio.create_task(self._run())

    async def _run(self) -> list[Ref]:
        """Answer the lines; return the unit if it is for the next task of the chain."""
        context, unit = self._context, self.unit
        await self.turn.wait()
        if context.drain.started:
            await self._phases.hand_back(unit)
            return []
        lines = await read_lines(context.store.files.storage, unit)
        if lines is None:
            log.warning("%s: its input file is gone from the storage", unit.batch)
            await self._phases.end_without_input(unit)
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
        return is_suspect(self.unit.attempts) or is_suspect(line.job.attempts)

    async def _answer_alone(self, index: int, line: LineJob) -> None:
        """Answer a line; if we die of it, this will be known."""
        context, job = self._context, line.job
        history = LineHistory((*job.attempts, lost(job.tier, ALONE)), job.failures)
        async with context.alone():
            if context.drain.started:
                return
            note = context.store.batches.note_line
            if not await context.retrying(note, self.unit, index, history):
                return
            await self._answer_together({index: line}, wait=False)
            if index in self.unit.open_lines and not self._leaves(index):
                # Not called, or cut off, as we stop: whoever is next must not take it for guilty.
                known = LineHistory(job.attempts, job.failures)
                await context.retrying(note, self.unit, index, known)

    def _leaves(self, index: int) -> bool:
        """Whether a line goes to another tier, with what it came to here."""
        return isinstance(self._left.get(index), HandOn | HandUp)

    async def _answer_together(self, jobs: Mapping[int, LineJob], *, wait: bool = True) -> None:
        """Answer lines at once. wait: they may wait here for the tier."""
        self._answering += len(jobs)
        begin = asyncio.get_running_loop().create_task
        running = [begin(self._answer(i, line, wait)) for i, line in jobs.items()]
        try:
            await self._calls.run(running, self._leave_early)
            await self._recorder.flush()
        except asyncio.CancelledError:  # dropped
            self._recorder.cancel()
            for call in running:
                call.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            raise

    async def _answer(self, index: int, line: LineJob, wait: bool) -> None:  # noqa: FBT001 - private
        """Answer a line. One whose call is cut off is handed back with what else is left."""
        custom_id, job = line
        logs.about.set({"job_id": job.id, "tier": job.tier})
        try:
            outcome = await self._outcome(index, job, wait=wait)
        except Exception:
            log.exception("line %s at tier %s broke off", job.id, job.tier)
            outcome = broken_off(job)
        finally:
            self._answering -= 1
            self._look_if_idle()
        if outcome is None:
            return
        self.report.note(outcome)
        if not isinstance(outcome, Finish):
            self._left[index] = outcome
            if self._leaves(index):
                self._calls.leave()
        elif outcome.status is not Status.EXPIRED:  # its batch is about to say so for every line
            self._recorder.add(answered_line(index, custom_id, job, outcome))
            await self._context.answerer.keep(job, outcome)

    # Lines that wait here for the tier

    async def _outcome(self, index: int, job: BegunJob, *, wait: bool) -> Outcome | None:
        """Return what a line comes to; None if it has left for another tier."""
        answerer, asked_cache = self._context.answerer, False
        while True:
            outcome = await answerer.answer(job)
            if not isinstance(outcome, HandOn) or not wait:
                return outcome
            if not answerer.waits(job, outcome):
                return await self._elsewhere(job, outcome)
            if not asked_cache and (kept := await answerer.cached(job)):
                return kept
            asked_cache = True
            turn = answerer.line_up(job, outcome)
            job = _after(job, outcome)
            match await self._told(index, _Held(job, turn)):
                case Word.GONE:
                    self.report.note(HandOn(job.attempts, job.failures))
                    return None
                case Word.STOP:
                    return HandBack()
                case Word.PARK:
                    return answerer.parked(job)

    async def _elsewhere(self, job: BegunJob, outcome: HandOn) -> Outcome:
        """Return what a line comes to that does not wait here: it goes home, or on."""
        answerer = self._context.answerer
        if answerer.goes_home(job, outcome):
            return answerer.sent_home(_after(job, outcome))
        return outcome

    async def _told(self, index: int, held: _Held) -> Word:
        """Wait for the tier, in the line."""
        context = self._context
        self._held[index] = held
        self._answering -= 1
        context.descent.enter(self)
        self._look_if_idle()
        try:
            return await held.turn
        finally:
            self._answering += 1
            del self._held[index]
            if not self._held:
                context.descent.leave(self)

    def _look_if_idle(self) -> None:
        if self.waits:
            self.idle.set()

    async def send_down(self) -> bool:
        """Let lines that wait go to a lower tier that has room; False: none has any more."""
        lower = below(self._context.publisher.order, self.unit.tier)
        return any([await self._send_down_to(tier) for tier in lower])

    async def _send_down_to(self, to: str) -> bool:
        context, unit = self._context, self.unit
        most = await context.answerer.room_at(to)
        going = {
            index: held
            for index, held in self._held.items()
            if most and not held.turn.done() and context.answerer.may_take(to, held.job)
        }
        if not going:
            return most > 0
        gate = context.answerer.gates[unit.tier]
        turns = [held.turn for held in going.values()]
        gate.step_out(turns)
        self._stepped_out.update(turns)
        try:
            histories = {i: LineHistory(h.job.attempts, h.job.failures) for i, h in going.items()}
            gone = await self._split(to, histories, most)
            for index in gone:
                if not going[index].turn.done():
                    going[index].turn.set_result(Word.GONE)
            return len(gone) == len(going)
        finally:
            self._stepped_out.clear()
            if self._parking:  # somebody said so meanwhile
                self.park()
            gate.come_back(turns)

    @property
    def waits(self) -> bool:
        """Whether all that is left here waits for the tier."""
        return bool(self._held) and not self._answering

    def tell_waiting(self) -> None:
        """Report what waits here for the tier."""
        attempts = (held.job.attempts[-1] for held in self._held.values())
        self.report.note_waiting(len(self._held), attempts)

    def park(self) -> None:
        """Let what waits here wait in the store instead: another unit is to have its place.

        What may be leaving for another tier in this moment follows when it did not.
        """
        self._parking = True
        for held in self._held.values():
            if not held.turn.done() and held.turn not in self._stepped_out:
                held.turn.set_result(Word.PARK)

    # Lines that leave

    async def _leave_early(self) -> None:
        await self._go_up()
        await self._go_on(leaving(self._left))

    async def _go_on(self, histories: Mapping[int, LineHistory]) -> None:
        """Let lines go to the next tier; of the last one, which has none after it, none does."""
        if histories:
            await self._leave(self._context.publisher.next_tier(self.unit.tier), histories)

    async def _go_up(self) -> None:
        """Let lines go that a tier above may be asked for again."""
        up = {i: outcome.to for i, outcome in self._left.items() if isinstance(outcome, HandUp)}
        for tier in dict.fromkeys(up.values()):
            known = self.unit.histories
            lines = [i for i, to in up.items() if to == tier]
            await self._leave(tier, {i: known.get(i, LineHistory(())) for i in lines})

    async def _leave(self, to: str, histories: Mapping[int, LineHistory]) -> None:
        for index in histories:
            del self._left[index]
        await self._split(to, histories)

    async def _split(
        self, to: str, histories: Mapping[int, LineHistory], most: int | None = None
    ) -> list[int]:
        """Let lines go to another tier as a unit of their own; return those that have left."""
        return await whole(self._split_off(to, histories, most))

    async def _split_off(
        self, to: str, histories: Mapping[int, LineHistory], most: int | None
    ) -> list[int]:
        context, unit = self._context, self.unit
        split = await context.retrying(
            context.store.batches.split, unit, to, new_token(), histories, most
        )
        if split is None:
            return []
        unit.moved_to.update(dict.fromkeys(split.lines, split.id))
        await context.publisher.dispatch([Dispatch(split.id, 0, to, Queue.BATCH_BEGUN.value)])
        return split.lines

    async def _end(self) -> list[Ref]:
        unit, recorder = self.unit, self._recorder
        await self._go_up()
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
                await self._phases.run(replace(unit, tier="part", attempt=unit.attempt + 1))
            case Drop():
                if await retrying(batches.drop, unit):
                    await self._phases.hand_back(
                        unit
                    )  # the store has forgotten what it had told us
            case HandBackUnit(histories):
                await self._go_on(histories)
                await self._phases.hand_back(unit)
            case ParkUnit(histories, due_seconds):
                home = first_of(unit.options.tiers, context.publisher.order)
                await retrying(batches.park, unit, home, new_token(), histories, due_seconds)
            case HandOnUnit(histories):
                await whole(self._hand_on(histories))
        return self.left

    async def _hand_on(self, histories: Mapping[int, LineHistory]) -> None:
        context, unit = self._context, self.unit
        to = context.publisher.next_tier(unit.tier)
        attempt = await context.retrying(
            context.store.batches.hand_on, unit, to, new_token(), histories
        )
        self.left = [] if attempt is None else [Ref(unit.id, attempt)]
