"""A step that is not cut in two: who is cancelled while it is done is cancelled after it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")
log = logging.getLogger(__name__)


async def whole(step: Coroutine[Any, Any, T]) -> T:
    """Return what a step comes to; a cancel that came meanwhile is raised when it is done.

    For what says in the store that something is under way, and then sends it: cut in between, it
    would lie there until a sweep finds it. And the step itself may be what has us cancelled: a
    lease that ends with it is a lease that cannot be renewed.
    """
    doing = asyncio.create_task(step)
    cancelled: asyncio.CancelledError | None = None
    while not doing.done():
        try:
            await asyncio.wait([doing])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not doing.cancelled() and (failure := doing.exception()):
            log.warning("what was being done at a cancel failed: %r", failure)
        raise cancelled
    return doing.result()
