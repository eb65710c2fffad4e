"""What must not be lost to who cuts a call off."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine


async def finished(work: Coroutine[Any, Any, object], *, go_on: bool) -> None:
    """Do work to its end, though whoever waits for it is cancelled meanwhile.

    go_on: he goes on then, as he has something that is not to be thrown away: an answer, for which
    nobody has to be asked again.
    """
    try:
        await asyncio.shield(asyncio.ensure_future(work))
    except asyncio.CancelledError:
        if not go_on:
            raise
