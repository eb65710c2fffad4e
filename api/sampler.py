"""What is no event, seen every few seconds for the history: what waits, and how breakers stand."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from circuit_breaker import Override
from tasks.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from circuit_breaker import BreakerView, CircuitBreaker
    from tasks.store import Store

SAMPLE_SECONDS = 15.0
OVERRIDDEN = {Override.OPEN: "forced_open", Override.DISABLED: "disabled"}


async def keep_history(store: Store, breakers: Mapping[str, CircuitBreaker]) -> None:
    """Sample what is no event, for as long as this process runs; of all processes one at a time."""
    while True:
        with contextlib.suppress(StoreUnavailable):  # a minute without a sample says so
            # A little less, so that who has just sampled is not too early at its next turn.
            if await store.history.may_sample(SAMPLE_SECONDS - 1):
                await _sample(store, breakers)
        await asyncio.sleep(SAMPLE_SECONDS)


async def _sample(store: Store, breakers: Mapping[str, CircuitBreaker]) -> None:
    gauges = await store.fleet.gauges()
    views = await asyncio.gather(*(breaker.view() for breaker in breakers.values()))
    states = {name: state_of(view) for name, view in zip(breakers, views, strict=True)}
    work = (gauges.jobs, gauges.lines)
    await store.history.sample(sum(each.waiting + each.parked for each in work), states)


def state_of(view: BreakerView) -> str:
    """Return how a breaker stands, by hand or by itself."""
    return OVERRIDDEN.get(view.override, view.state.value)
