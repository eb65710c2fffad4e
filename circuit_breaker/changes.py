"""Breakers on asyncio that know at once what other processes change: one subscription for all."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from circuit_breaker.stores import CHANNEL

if TYPE_CHECKING:
    from collections.abc import Collection

    from circuit_breaker.breaker import CircuitBreaker

AGAIN_SECONDS = 0.5  # before a lost subscription is taken up again


async def follow_changes(redis: Any, breakers: Collection[CircuitBreaker]) -> None:
    """Have breakers take in what other processes change; run until cancelled.

    redis: a redis.asyncio client, of which this takes one connection. What is missed while there
    is no subscription is looked up once there is one again; until then a view is believed for a
    second, as ever.
    """
    from redis.exceptions import RedisError  # noqa: PLC0415 - optional package

    while True:
        with contextlib.suppress(RedisError, OSError):
            async with redis.pubsub() as pubsub:
                await pubsub.subscribe(CHANNEL)
                while True:
                    await _take_in(await pubsub.get_message(timeout=None), breakers)
        await asyncio.sleep(AGAIN_SECONDS)


async def _take_in(message: Any, breakers: Collection[CircuitBreaker]) -> None:
    kind = message["type"] if message else ""
    if kind == "subscribe":  # for the first time, or again after a lost connection
        await asyncio.gather(*(breaker.view() for breaker in breakers))
    elif kind == "message":
        for breaker in breakers:
            breaker.take_in(message["data"])
