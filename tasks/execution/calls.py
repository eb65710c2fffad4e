"""The calls of one slice or unit: all at once, and nobody waits for the slowest."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from tasks.drain import Drain

COALESCE_SECONDS = 0.05  # how long what is left waits for others to leave with it


class Calls:
    """Watches calls until the last has ended; what is left meanwhile leaves early."""

    def __init__(self, drain: Drain) -> None:
        self._drain = drain
        self._running = 0
        self._leaving = False
        self._changed = asyncio.Event()  # something is left, or the last call has ended
        self._ended = asyncio.Event()

    def leave(self) -> None:
        """Say that something is left here that could go on elsewhere."""
        self._leaving = True
        self._changed.set()

    async def run(
        self, calls: Collection[asyncio.Task[None]], leave_early: Callable[[], Awaitable[None]]
    ) -> None:
        """Return when all have ended. leave_early: takes along what is left by now."""
        self._running = len(calls)
        self._ended.clear()
        for call in calls:
            call.add_done_callback(self._one_ended)
        self._drain.watch(calls)
        try:
            while self._running:
                await self._changed.wait()
                self._changed.clear()
                if not self._leaving:
                    continue
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(COALESCE_SECONDS):
                        await self._ended.wait()
                if self._running:
                    self._leaving = False
                    await leave_early()
        finally:
            self._drain.forget(calls)

    def _one_ended(self, _: object) -> None:
        self._running -= 1
        if not self._running:
            self._ended.set()
            self._changed.set()
