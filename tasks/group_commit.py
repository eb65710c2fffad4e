"""Group commit: what is asked while a flight is under way shares the next one.

There is no timer: an idle carrier departs at once, a busy one leaves as full as the time that the
flight before it took.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

A = TypeVar("A")
R = TypeVar("R")


class Flights(Generic[A, R]):
    """One flight at a time; belongs to one event loop."""

    def __init__(
        self, carry: Callable[[list[A]], Awaitable[Sequence[R | Exception]]], largest: int
    ) -> None:
        """carry: does up to `largest` askings; returns (in their order) answers or errors."""
        self._carry, self._largest = carry, largest
        self._waiting: deque[tuple[A, asyncio.Future[R]]] = deque()
        self._flight: asyncio.Task[None] | None = None

    async def join(self, asked: A) -> R:
        """Be carried with the next flight; raise the error that it came to."""
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, answer))
        if self._flight is None:
            self._flight = asyncio.create_task(self._fly())
        return await answer

    async def _fly(self) -> None:
        try:
            while self._waiting:
                size = min(len(self._waiting), self._largest)
                taken = (self._waiting.popleft() for _ in range(size))
                # What its asker went away from while it waited must not be done any more.
                await self._depart([each for each in taken if not each[1].done()])
        finally:
            self._flight = None

    async def _depart(self, boarded: list[tuple[A, asyncio.Future[R]]]) -> None:
        if not boarded:
            return
        try:
            answers = await self._carry([asked for asked, _ in boarded])
        except Exception as error:  # noqa: BLE001 - every asker is told, whatever it was
            answers = [error] * len(boarded)
        for (_, waiting), answer in zip(boarded, answers, strict=True):
            if waiting.done():
                continue
            if isinstance(answer, Exception):
                waiting.set_exception(answer)
            else:
                waiting.set_result(answer)
