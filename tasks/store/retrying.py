"""Doing a step of the store's until it is done."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from tasks.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

BACKOFF_SECONDS = (0.05, 2.0)

T = TypeVar("T")


class Insist:
    """Repeats a step as long as the store is away: each may safely be asked again."""

    def __init__(self) -> None:
        self.cut_off = False  # set when the process ends: then an absent store is an error

    async def __call__(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do it as soon as the store is there."""
        wait, longest = BACKOFF_SECONDS
        while True:
            try:
                return await work()
            except StoreUnavailable:
                if self.cut_off:
                    raise
                await asyncio.sleep(wait)
                wait = min(wait * 2, longest)
