"""What other processes changed of the breakers is known here at once: one subscription for all."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from circuit_breaker import CHANNEL
from tasks.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from circuit_breaker import CircuitBreaker
    from tasks.store.connection import Connection

AGAIN_SECONDS = 0.5  # before a lost subscription is taken up again


async def follow_breakers(connection: Connection, breakers: Mapping[str, CircuitBreaker]) -> None:
    """Have the breakers take in what others changed; run until cancelled.

    What is missed while there is no subscription is looked up once there is one again; until then
    a view is believed for a second, as ever.
    """
    while True:
        with contextlib.suppress(StoreUnavailable):
            async with contextlib.aclosing(connection.messages(CHANNEL)) as messages:
                async for message in messages:
                    if message is None:
                        await asyncio.gather(*(breaker.view() for breaker in breakers.values()))
                        continue
                    for breaker in breakers.values():
                        breaker.take_in(message[1])
        await asyncio.sleep(AGAIN_SECONDS)
