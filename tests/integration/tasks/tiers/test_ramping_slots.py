"""A tier that ramps up gets its share of what the whole fleet runs at once, however many ask."""

from __future__ import annotations

import asyncio

import pytest
from harness.stores import store_on
from harness.waiting import eventually

from fallback_chain import Attempt, Verdict
from tasks.store.limits import Share
from tasks.tiers.slots import (
    ASK_AGAIN_SECONDS,
    AdaptiveSlots,
    FleetSlots,
    Known,
    free_for_batches,
)

LIMIT, PROCESSES = 32, 4
WELL = Attempt("gpu", Verdict.ANSWERED, 100.0)


@pytest.fixture
async def stores(valkey):
    """One of each process."""
    found = [store_on(valkey.url) for _ in range(PROCESSES)]
    yield found
    for store in found:
        await store.close()


async def taken_together(fleet, most):
    """How many slots processes get that ask for all that they might have, and keep them."""
    turns = [slots.line_up() for slots in fleet for _ in range(LIMIT)]
    await eventually(lambda: sum(turn.done() for turn in turns) >= most, 20)
    await asyncio.sleep(3 * ASK_AGAIN_SECONDS)  # in which each has asked for one more
    done = sum(turn.done() for turn in turns)
    for turn in turns:
        turn.cancel()
    for slots in fleet:
        if slots._serving:
            await slots._serving
    return done


@pytest.mark.parametrize(("share", "most"), [(0.0, 32), (0.01, 1), (0.1, 3), (0.5, 16), (1.0, 32)])
async def test_of_a_limit_of_the_fleet(stores, share, most):
    fleet = [FleetSlots(store.limits, "cpu", LIMIT, lambda: share) for store in stores]
    assert await taken_together(fleet, most) == most


@pytest.mark.parametrize(("share", "most"), [(0.0, 29), (0.01, 1), (0.1, 2), (0.5, 14), (1.0, 29)])
async def test_of_a_limit_that_adapts(stores, share, most):
    of_lines = Share("gpu", LIMIT, LIMIT, 1)
    fleet = [AdaptiveSlots(store.limits, of_lines, ramp=lambda: share) for store in stores]
    assert await taken_together(fleet, most) == most


async def test_what_calls_of_lines_teach_of_a_limit_lone_calls_know(stores):
    """Else the least that it may be would bound the share of a process without lone calls."""
    limits, known = stores[0].limits, Known(1)
    lone = AdaptiveSlots(limits, Share("gpu", 1, 64, 0), known=known)
    lines = AdaptiveSlots(limits, Share("gpu", 1, 64, 1), known=known)
    while lines.limit < 20:
        tokens = [await lines.line_up() for _ in range(max(lines.limit - 1, 1))]
        for token in tokens:
            await lines.release(token, WELL)
    assert lone.limit == lines.limit
    assert free_for_batches([lone, lines], 0.5, 0.5) >= 10
