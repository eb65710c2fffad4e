"""A worker that was told to stop: what runs may end, for so long; the rest is cut off."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

log = logging.getLogger(__name__)


class Drain:
    """How far the stopping of this process has come; belongs to one event loop.

    First it has started: nothing new is called, and what was not called yet is handed back. Then,
    when its time is over, it is cut off: what is cancelled now is handed over to another worker,
    and a store that is away is not waited for any more.
    """

    def __init__(self) -> None:
        self.started = False
        self.cut_off = False
        self._running: set[asyncio.Task[Any]] = set()

    def watch(self, calls: Iterable[asyncio.Task[Any]]) -> None:
        """Wait for these calls before the process stops."""
        self._running.update(calls)

    def forget(self, calls: Iterable[asyncio.Task[Any]]) -> None:
        """Wait for these calls no more."""
        self._running.difference_update(calls)

    async def run(self, seconds: float) -> None:
        """Let what runs end for so long, then cut off the rest."""
        self.started = True
        if self._running:
            await asyncio.wait(set(self._running), timeout=seconds)
        self.cut_off = True
        rest = {call for call in self._running if not call.done()}
        if rest:
            log.warning("drain time is over: %d calls are cut off and handed over", len(rest))
        for call in rest:
            call.cancel()
