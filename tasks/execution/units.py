"""What a tier task does with units of batches: a turn each, so that lone jobs have threads."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING

from tasks.errors import StoreUnavailable
from tasks.execution.phases import drop_late
from tasks.execution.unit_run import UnitRun
from tasks.records.batches import SliceUnit
from tasks.records.jobs import Dispatch, Queue, Ref

if TYPE_CHECKING:
    from tasks.execution.context import Context
    from tasks.execution.phases import PhaseRunner

log = logging.getLogger(__name__)


class UnitRunner:
    """Runs units on the event loop; the Celery task waits for it in its own thread."""

    def __init__(self, context: Context, phases: PhaseRunner, most: int) -> None:
        """most: units at work at once."""
        self._context, self._phases = context, phases
        self._most, self._at_work = most, 0
        self._waiting: deque[UnitRun] = deque()

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
        run = UnitRun(context, self._phases, unit)
        context.leases.hold(unit.id, lease_owner, run.work)
        # What has begun before does not wait for its turn as well.
        if self._at_work >= self._most and not unit.first:
            self._waiting.append(run)  # its lease is kept, but no thread is: lone jobs need them
            return []
        self._at_work += 1
        try:
            return await self._work(run)
        finally:
            self._at_work -= 1

    async def _work(self, run: UnitRun) -> list[Ref]:
        """Run a unit, and then what waits for its turn; return what Celery's chain takes on."""
        left = await self._finish(run)
        if not self._waiting:
            return left
        while True:
            await self._publish(left, run.unit.tier)
            if not self._waiting:
                return []
            run = self._waiting.popleft()
            left = await self._finish(run)

    async def _publish(self, left: list[Ref], tier: str) -> None:
        publisher = self._context.publisher
        if left:
            to = publisher.next_tier(tier)
            await publisher.dispatch(
                Dispatch(ref.id, ref.attempt, to, Queue.BATCH_BEGUN.value) for ref in left
            )

    async def _finish(self, run: UnitRun) -> list[Ref]:
        tier = run.unit.tier
        run.turn.set()
        try:
            return await run.work
        except asyncio.CancelledError:
            return []  # dropped: its batch has ended, or it is another worker's now
        except (OSError, StoreUnavailable) as error:
            # The lease ends and the unit runs again: what is away comes back.
            log.warning("%s at tier %s broke off: %s", run.unit.id, tier, type(error).__name__)
            return []
        except Exception:
            # Ours. Its lease ends, and it runs again elsewhere; what waits here must go on.
            log.exception("%s at tier %s broke off", run.unit.id, tier)
            return []
        finally:
            self._context.leases.release(run.unit.id, run.unit.lease_owner)
