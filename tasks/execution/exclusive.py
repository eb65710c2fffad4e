"""Many at once, or one alone."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Exclusive:
    """Who is to be alone waits for those inside, and keeps others out; belongs to one loop."""

    def __init__(self) -> None:
        self._gate, self._inside = asyncio.Lock(), 0
        self._empty = asyncio.Event()
        self._empty.set()

    @asynccontextmanager
    async def together(self, patience: float) -> AsyncIterator[None]:
        """Be inside with any number of others.

        patience: seconds after which who is alone is so no longer.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience), self._gate:
                pass
        self._inside += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Be inside without others."""
        async with self._gate:
            await self._empty.wait()
            yield
