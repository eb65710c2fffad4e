"""Where lines of batches wait while a tier refuses: in memory, uncounted, until it may be asked."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fallback_chain import Tier

LOOK_SECONDS = 1.0  # how old what is known of the tier may be while somebody waits for it
PROBE_SECONDS = 0.1  # between two lines that try a tier which is due, or takes only some calls

log = logging.getLogger(__name__)


class Word(Enum):
    """What a line that waits is told."""

    ASK = "ask"  # the tier may take it
    GONE = "gone"  # it has left for another tier, with a unit of its own
    PARK = "park"  # others are to have its place in this process
    STOP = "stop"  # this process stops


Turn = asyncio.Future[Word]


class Gate:
    """A tier's; belongs to one event loop.

    Once it is closed again, the tier is asked by all. One that is due for a probe is tried by one
    line at a time: its breaker decides how many of the whole fleet's get through. One that takes a
    share of calls after an outage gets that share of what runs at once, however long calls take.
    """

    def __init__(self, tier: Tier, free: Callable[[float], int]) -> None:
        """free: how many calls this process may begin now, at a tier that takes such a share."""
        self._tier, self._free = tier, free
        self._waiting: deque[Turn] = deque()
        self._later: set[Turn] = set()  # who is to stand in it, but not yet
        self._out: set[Turn] = set()  # who stepped out of it
        self._changed = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._shut = False

    def line_up(self, after_seconds: float = 0.0) -> Turn:
        """Wait for the tier, from then on; who tells the future something himself leaves."""
        loop = asyncio.get_running_loop()
        turn: Turn = loop.create_future()
        if self._shut:
            turn.set_result(Word.STOP)
        elif after_seconds:
            self._later.add(turn)
            loop.call_later(after_seconds, self._now, turn)
        else:
            self.come_back([turn])
        return turn

    def _now(self, turn: Turn) -> None:
        self._later.discard(turn)
        if turn not in self._out:
            self.come_back([turn])

    def step_out(self, turns: Iterable[Turn]) -> None:
        """Have turns told nothing, until they come back."""
        for turn in turns:
            self._out.add(turn)
            with contextlib.suppress(ValueError):
                self._waiting.remove(turn)

    def come_back(self, turns: Iterable[Turn]) -> None:
        """Stand in the line (again), or wait until it is time to."""
        for turn in turns:
            self._out.discard(turn)
            if self._shut and not turn.done():
                turn.set_result(Word.STOP)
            elif not turn.done() and turn not in self._later:
                self._waiting.append(turn)
        if self._waiting and self._watching is None:
            self._watching = asyncio.create_task(self._watch())

    @property
    def anybody(self) -> bool:
        """Whether somebody waits here."""
        while self._waiting and self._waiting[0].done():
            self._waiting.popleft()
        return bool(self._waiting)

    def changed(self) -> None:
        """Say that the tier's breaker has changed."""
        self._changed.set()

    def shut(self) -> None:
        """Let nobody wait any more, as this process stops."""
        self._shut = True
        self._tell(Word.STOP, len(self._waiting))
        self.come_back(self._later - self._out)

    async def _watch(self) -> None:
        try:
            while self.anybody:
                await self._pause(await self._let_some_go())
        except Exception:
            # Ours. They are refused, and wait again.
            log.exception("the gate of tier %s broke off", self._tier.config.name)
            self._tell(Word.ASK, len(self._waiting))
        finally:
            self._watching = None

    async def _let_some_go(self) -> float:
        """Let go who may ask now; return the seconds until it is to be looked at again."""
        due = await self._tier.due_seconds()
        if due > 0:
            return min(due, LOOK_SECONDS)
        share = self._tier.share
        if share <= 0:
            self._tell(Word.ASK, 1)
        elif share < 1:  # of these it takes its share; the others come back
            self._tell(Word.ASK, self._free(share))
        else:
            self._tell(Word.ASK, len(self._waiting))
        return PROBE_SECONDS

    def _tell(self, word: Word, most: int) -> None:
        while most > 0 and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(word)
                most -= 1

    async def _pause(self, seconds: float) -> None:
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()
