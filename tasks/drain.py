"""A worker that was told to stop: what runs may end, for so long; the rest is cut off."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

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
        self._handing_over: set[asyncio.Future[Any]] = set()
        self._at_start: list[Callable[[], None]] = []
        self._limit: asyncio.Timeout | None = None  # of the time that what runs has
        self._hurried = False

    def at_start(self, tell: Callable[[], None]) -> None:
        """Have somebody told as soon as it has started."""
        self._at_start.append(tell)

    def watch(self, calls: Iterable[asyncio.Task[Any]]) -> None:
        """Wait for these calls before the process stops."""
        self._running.update(calls)

    def wait_for(self, task: asyncio.Task[Any]) -> None:
        """Wait for it before the process stops, and cut off nothing of it but its calls.

        No thread of Celery's waits for it; it hands over what is cut off.
        """
        self._handing_over.add(task)
        task.add_done_callback(self._handing_over.discard)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Wait for what is done inside as well: its calls may have ended, and not be recorded yet.

        Their time is not over before it is: a store that is away for a moment is waited for.
        """
        work: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._handing_over.add(work)
        try:
            yield
        finally:
            self._handing_over.discard(work)
            work.set_result(None)

    def forget(self, calls: Iterable[asyncio.Task[Any]]) -> None:
        """Wait for these calls no more."""
        self._running.difference_update(calls)

    async def run(self, seconds: float) -> None:
        """Let what runs end for so long, then cut off the rest."""
        self.started = True
        for tell in self._at_start:
            tell()
        if running := self._running | self._handing_over:
            await self._wait(running, seconds)
        self.cut_off = True
        rest = {call for call in self._running if not call.done()}
        if rest:
            log.warning("drain time is over: %d calls are cut off and handed over", len(rest))
        for call in rest:
            call.cancel()
        await self.handed_over()

    def hurry(self) -> None:
        """Let nothing end any more: cut off what runs now, as if the time were over."""
        self._hurried = True
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time())

    async def _wait(self, running: Iterable[asyncio.Future[Any]], seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0 if self._hurried else seconds) as self._limit:
                await asyncio.wait(running)
        self._limit = None

    async def handed_over(self) -> None:
        """Return when nothing is being handed over any more."""
        while self._handing_over:
            await asyncio.wait(self._handing_over)
