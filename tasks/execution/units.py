"""What a tier task does with units of batches: a turn each, so that lone jobs have threads."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING

from tasks.errors import StoreUnavailable
from tasks.execution.phases import drop_late
from tasks.execution.unit_run import UnitRun
from tasks.records.batches import LineHistory, SliceUnit
from tasks.records.jobs import Dispatch, Queue, Ref, new_token
from tasks.records.outcomes import passed_over
from tasks.telemetry.slices import current_report

if TYPE_CHECKING:
    from tasks.execution.context import Context
    from tasks.execution.phases import PhaseRunner

# Units of a process whose lines all wait for their tier; more are parked, so that others begin:
# they may be for another tier.
MOST_HELD = 8

log = logging.getLogger(__name__)


class UnitRunner:
    """Runs units on the event loop; the Celery task waits for it in its own thread."""

    def __init__(self, context: Context, phases: PhaseRunner, most: int, most_first: int) -> None:
        """most: units at work at once; most_first: if others are what comes first."""
        self._context, self._phases = context, phases
        self._most, self._most_first, self._at_work = most, most_first, 0
        self._waiting: deque[UnitRun] = deque()
        self._first: deque[UnitRun] = deque()  # of those that come first
        # Without a turn and a thread: all their lines wait for the tier, or they are handed back.
        self._held: dict[UnitRun, asyncio.Task[None]] = {}
        context.drain.at_start(self._hand_back_waiting)

    async def run_unit(self, tier: str, ref: Ref, queue: str, lease_owner: str) -> list[Ref]:
        """Answer a unit's lines at a tier; return what the next task of the chain is to answer."""
        context = self._context
        if context.drain.started:
            await context.publisher.dispatch([Dispatch(ref.id, ref.attempt, tier, queue)])
            return []
        unit = await context.retrying(context.store.batches.begin, lease_owner, tier, ref)
        if not isinstance(unit, SliceUnit):
            if unit is not None:
                await drop_late(context, unit)
            return []
        context.observer.begun(tier, unit.waited)
        if unit.passes_over:  # before it waits for a turn, or a line of it is read
            return await _pass_over(context, unit)
        run = UnitRun(context, self._phases, unit)
        context.leases.hold(unit.id, lease_owner, run.work)
        # What comes first does not wait for the turns of the others as well.
        busy = self._at_work >= (self._most_first if unit.first else self._most)
        if busy and not context.drain.started:
            # Its lease is kept, but no thread is: lone jobs need them.
            (self._first if unit.first else self._waiting).append(run)
            run.report.note_waiting(len(unit.open_lines))
            return []
        self._at_work += 1
        try:
            return await self._work(run)
        finally:
            self._at_work -= 1

    async def _work(self, run: UnitRun) -> list[Ref]:
        """Run a unit, and then what waits for its turn; return what Celery's chain takes on."""
        left = await self._finish(run)
        if not self._first and not self._waiting:
            return left
        while True:
            await self._publish(left, run.unit.tier)
            line = self._first or self._waiting
            if not line:
                return []
            run = line.popleft()
            left = await self._finish(run)

    async def _publish(self, left: list[Ref], tier: str) -> None:
        publisher = self._context.publisher
        if left:
            to = publisher.next_tier(tier)
            await publisher.dispatch(
                Dispatch(ref.id, ref.attempt, to, Queue.BATCH_BEGUN.value) for ref in left
            )

    async def _finish(self, run: UnitRun) -> list[Ref]:
        """Run a unit to its end, or until all that is left of it waits for its tier."""
        run.report = current_report()
        run.turn.set()
        idle = asyncio.create_task(run.idle.wait())
        await asyncio.wait({run.work, idle}, return_when=asyncio.FIRST_COMPLETED)
        idle.cancel()
        if run.work.done():
            return await self._ended(run)
        # It needs no thread, and no turn, as long as it waits; and its calls line up for a slot.
        run.tell_waiting()
        self._hold(run)
        waiting = [each for each in self._held if each.waits]
        for each in waiting[:-MOST_HELD]:
            each.park()
        return []

    def _hand_back_waiting(self) -> None:
        """Hand back what waits for its turn, as this process stops: those at work may take long."""
        for line in (self._first, self._waiting):
            while line:
                run = line.popleft()
                run.turn.set()
                self._hold(run)

    def _hold(self, run: UnitRun) -> None:
        self._held[run] = held = asyncio.create_task(self._finish_held(run))
        self._context.drain.wait_for(held)

    async def _finish_held(self, run: UnitRun) -> None:
        try:
            await self._publish(await self._ended(run), run.unit.tier)
        finally:
            del self._held[run]

    async def _ended(self, run: UnitRun) -> list[Ref]:
        tier = run.unit.tier
        try:
            return await run.work
        except asyncio.CancelledError:
            # Dropped: its batch has ended, it is another worker's now, or has just been handed on.
            return run.left
        except OSError as error:
            await self._phases.put_off(run.unit, error)
            return []
        except StoreUnavailable as error:
            # The lease ends and the unit runs again: what is away comes back.
            log.warning("%s at tier %s broke off: %s", run.unit.id, tier, type(error).__name__)
            return []
        except Exception:
            # Ours. Its lease ends, and it runs again elsewhere; what waits here must go on.
            log.exception("%s at tier %s broke off", run.unit.id, tier)
            return []
        finally:
            self._context.leases.release(run.unit.id, run.unit.lease_owner)


async def _pass_over(context: Context, unit: SliceUnit) -> list[Ref]:
    """Hand a unit on from a tier whose answers its batch does not want."""
    histories = {line: unit.histories.get(line, LineHistory(())) for line in unit.open_lines}
    passed = {
        line: LineHistory(passed_over(before.attempts, unit.tier), before.failures)
        for line, before in histories.items()
    }
    new = {line: history for line, history in passed.items() if history != histories[line]}
    to = context.publisher.next_tier(unit.tier)
    attempt = await context.retrying(context.store.batches.hand_on, unit, to, new_token(), new)
    return [] if attempt is None else [Ref(unit.id, attempt)]
