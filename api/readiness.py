"""Whether requests would be accepted now: one look for all who ask at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tasks.errors import FallthroughError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

READY_SECONDS = 2.0  # that the store and the broker have


class Readiness:
    """Looks at what a request needs. Anybody may ask, as often as he likes."""

    def __init__(self, **checks: Callable[[], Awaitable[None]]) -> None:
        self._checks = checks
        self._look: asyncio.Task[list[str]] | None = None

    async def reasons(self) -> list[str]:
        """Return what is not there; nothing, if all is."""
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._see())
        return await asyncio.shield(self._look)

    async def _see(self) -> list[str]:
        answers = await asyncio.gather(*(_reason(*check) for check in self._checks.items()))
        return [reason for reason in answers if reason]


async def _reason(name: str, check: Callable[[], Awaitable[None]]) -> str | None:
    try:
        await asyncio.wait_for(check(), READY_SECONDS)
    except (FallthroughError, TimeoutError):
        return f"no {name}"
    return None
