"""Loops that a process cannot do its work without, guarded in one place.

A loop that raises is a defect, or a fault that nobody thought of. It is logged and started again: a
process whose listener died silently would look well and answer nobody. A loop that dies again and
again ends the process, so that whoever watches over it sees it, and starts it anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING

from tasks import process

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

AGAIN_SECONDS = 1.0  # until a loop that died is started again
DEATHS, DEATHS_SECONDS = 3, 60.0  # so many within so long end the process

log = logging.getLogger(__name__)


class Background:
    """The loops of one process; belongs to one event loop."""

    def __init__(
        self,
        died: Callable[[str], None],
        end: Callable[[], None] = process.end,
        again_seconds: float = AGAIN_SECONDS,
    ) -> None:
        """died: told the name of a loop that died. end: called when one cannot be kept alive."""
        self._died, self._end, self._again = died, end, again_seconds
        self._loops: list[asyncio.Task[None]] = []
        self._stopping = False

    def start(self, name: str, work: Callable[[], Coroutine[object, object, None]]) -> None:
        """Run a loop until stop(); one that returns has done its work."""
        self._loops.append(asyncio.create_task(self._guarded(name, work), name=name))

    async def stop(self) -> None:
        """End the loops; one that raises now is not started again."""
        self._stopping = True
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)

    async def _guarded(
        self, name: str, work: Callable[[], Coroutine[object, object, None]]
    ) -> None:
        clock = asyncio.get_running_loop().time
        deaths: deque[float] = deque(maxlen=DEATHS)
        while True:
            try:
                return await work()
            except asyncio.CancelledError:
                if self._stopping:
                    raise
                # Of something that it waited for: nobody has cancelled the loop itself.
                log.exception("the loop %s died", name)
            except Exception:
                log.exception("the loop %s died", name)
            if self._stopping:
                return None
            self._died(name)
            deaths.append(clock())
            if len(deaths) == DEATHS and deaths[-1] - deaths[0] < DEATHS_SECONDS:
                log.critical("the loop %s cannot be kept alive: this process ends", name)
                return self._end()
            await asyncio.sleep(self._again)
