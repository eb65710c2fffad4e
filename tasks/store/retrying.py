"""Doing a step of the store's until it is done."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from tasks.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tasks.drain import Drain

BACKOFF_SECONDS = (0.05, 2.0)

T = TypeVar("T")
P = ParamSpec("P")


class Retrying:
    """Repeats a step as long as the store is away: each may safely be asked again."""

    def __init__(self, drain: Drain) -> None:
        self._drain = drain

    async def __call__(
        self, step: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Do a step as soon as the store is there; once the drain's time is over, raise."""
        wait, longest = BACKOFF_SECONDS
        while True:
            try:
                return await step(*args, **kwargs)
            except StoreUnavailable:
                if self._drain.cut_off:
                    raise
                await asyncio.sleep(wait)
                wait = min(wait * 2, longest)
