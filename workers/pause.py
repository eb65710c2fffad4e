"""Leaving batch work where it is while no tier could serve it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from celery import bootsteps

from tasks.records.jobs import Queue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fallback_chain import Tier

LOOK_SECONDS = 0.5

log = logging.getLogger(__name__)


class Pause:
    """Watches the tiers on the loop; the consumer is touched on its own thread alone."""

    def __init__(self) -> None:
        self.consumer: Any = None
        self.paused = False

    async def keep(self, tiers: Sequence[Tier]) -> None:
        """Pause and resume the batch queue; run until cancelled. Without tiers, never pause."""
        while tiers:
            waits = await asyncio.gather(*(tier.due_seconds() for tier in tiers))
            vain = all(wait > 0 for wait in waits)
            if vain is not self.paused and self.consumer is not None:
                self.paused = vain
                log.warning("batch work is %s", "paused: no tier can serve" if vain else "resumed")
                self.consumer.call_soon(self._apply, self.consumer)
            await asyncio.sleep(LOOK_SECONDS)

    def _apply(self, consumer: Any) -> None:
        apply = consumer.cancel_task_queue if self.paused else consumer.add_task_queue
        for queue in (Queue.BATCH_BEGUN, Queue.BATCH):
            apply(queue.value)


def pause_step(pause: Pause) -> type[Any]:
    """Return the consumer's bootstep that makes it known to this pause."""

    class PauseStep(bootsteps.StartStopStep):  # type: ignore[misc]  # celery ships no types
        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, consumer: Any) -> None:
            pause.consumer = consumer

        def stop(self, consumer: Any) -> None:  # noqa: ARG002 - the bootstep's signature
            pause.consumer = None

        shutdown = stop

    return PauseStep
