"""Work comes home: what is parked until a tier is well goes there once it is, one job to probe it.

A probe waits for no luck: while anything waits for a tier, or runs below it, something tries it as
soon as that is due. That is the next job, or a line that waits in a process; else a job or a unit
that is parked; else one that waits for a slot below; else a call that costs no tokens.

Where a probe has failed and lines wait in a process, one that is parked joins them: they may all be
what the tier fails at. And where no line waits in a process, and a tier below has room, it calls
back a parked unit to go there.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from tasks.errors import PublishError, StoreUnavailable
from tasks.whole import whole

if TYPE_CHECKING:
    from tasks.broker.publisher import Publisher
    from tasks.store import Store
    from tasks.tiers.answerer import Answerer

LOOK_SECONDS = 0.5  # between two looks at the tiers: being told of a change is only faster
MOST = 1000  # jobs and units that are called back at once


class Recaller:
    """Runs in every worker; belongs to one event loop."""

    def __init__(
        self, store: Store, publisher: Publisher, answerer: Answerer, *, knocks: bool
    ) -> None:
        """knocks: whether a call that costs no tokens may be the probe."""
        self._store, self._publisher, self._answerer = store, publisher, answerer
        self._tiers, self._knocks = answerer.models, knocks
        self._well = dict.fromkeys(self._tiers, True)
        self._probe_failed = False  # since the last look
        self._changed = asyncio.Event()

    def changed(self, *, probe_failed: bool = False) -> None:
        """Say that a breaker has changed. probe_failed: it has opened again."""
        self._probe_failed |= probe_failed
        self._changed.set()
        for gate in self._answerer.gates.values():
            gate.changed()

    async def keep(self) -> None:
        """Look at every change, and in between; run until cancelled."""
        while True:
            self._changed.clear()
            probe_failed, self._probe_failed = self._probe_failed, False
            with contextlib.suppress(StoreUnavailable, PublishError):
                for name in self._tiers:
                    await self._look(name, probe_failed=probe_failed)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._changed.wait()

    async def _look(self, name: str, *, probe_failed: bool) -> None:
        tier = self._tiers[name]
        due = await tier.due_seconds()
        if tier.closed and due <= 0:
            if not self._well[name]:
                while await self._recall(name, MOST) == MOST:
                    pass
                self._well[name] = True  # not before: the store may be away
            return
        self._well[name] = False
        if self._answerer.gates[name].anybody:
            if probe_failed:
                await self._recall(name, 1)
        elif due <= 0:
            await self._probe(name)
        elif await self._answerer.has_room_below(name):
            await self._recall(name, 1)

    async def _recall(self, name: str, most: int) -> int:
        return await whole(self._recall_and_send(name, most))

    async def _recall_and_send(self, name: str, most: int) -> int:
        dispatches = await self._store.jobs.recall(name, most)
        await self._publisher.dispatch(dispatches)
        return len(dispatches)

    async def _probe(self, name: str) -> None:
        if await self._recall(name, 1) or self._answerer.call_up(name):
            return
        if self._knocks and self._answerer.works_below(name):
            await self._tiers[name].knock()
