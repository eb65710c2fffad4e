"""Lines that wait for their tier go down to the next one: as many as that one takes soon."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from tasks.errors import StoreUnavailable

if TYPE_CHECKING:
    from tasks.execution.unit_run import UnitRun
    from tasks.store import Store

LOOK_SECONDS = 0.5  # until it is looked again whether there is room: being told is only faster
COALESCE_SECONDS = 0.02  # in which others may leave room as well

log = logging.getLogger(__name__)


class Descent:
    """One loop for all units of this process whose lines wait; it runs while there are any."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._units: dict[UnitRun, None] = {}  # in the order in which they came
        self._room = asyncio.Event()
        self._going: asyncio.Task[None] | None = None

    def enter(self, run: UnitRun) -> None:
        """Say that a line of a unit waits, or one more."""
        self._units.setdefault(run)
        self._room.set()
        if self._going is None:
            self._going = asyncio.create_task(self._go())

    def leave(self, run: UnitRun) -> None:
        """Say that none of a unit's lines waits any more."""
        self._units.pop(run, None)

    async def listen(self) -> None:
        """Notice at once that there is room; run until cancelled."""
        while True:
            with contextlib.suppress(StoreUnavailable):
                async for _ in self._store.connection.events("room"):
                    self._room.set()
            await asyncio.sleep(1)

    async def _go(self) -> None:
        try:
            while self._units:
                await asyncio.sleep(COALESCE_SECONDS)
                self._room.clear()
                await self._send_down()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_SECONDS):
                        await self._room.wait()
        finally:
            self._going = None

    async def _send_down(self) -> None:
        for run in list(self._units):
            try:
                if not await run.send_down():
                    return  # there is no more room
            except StoreUnavailable:
                return
            except Exception:
                # Ours. Its lines wait on, where they are.
                log.exception("%s: its lines do not go down", run.unit.id)
                self.leave(run)
