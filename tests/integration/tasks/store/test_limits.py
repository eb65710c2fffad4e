"""Semaphores whose holds lapse, on a real Valkey whose clock the test turns."""

from __future__ import annotations

import pytest
from harness.stores import store_on


@pytest.fixture
async def limits(store_url, clock):
    store = store_on(store_url, clock, lease_seconds=1)
    yield store.limits
    await store.close()


async def test_slots_are_for_the_whole_fleet_and_leased(limits, clock):
    assert await limits.take_slot("cpu", 2, "a")
    assert await limits.take_slot("cpu", 2, "b")
    assert not await limits.take_slot("cpu", 2, "c")
    await limits.release_slot("cpu", "a")
    assert await limits.take_slot("cpu", 2, "c")
    clock.advance(0.6)
    await limits.renew_slots("cpu", ["b"])
    clock.advance(0.6)
    assert await limits.take_slot("cpu", 2, "d"), "c's holder is gone"
    assert not await limits.take_slot("cpu", 2, "e"), "b's is not"


async def test_a_slot_that_lapsed_is_not_renewed(limits, clock):
    assert await limits.take_slot("cpu", 1, "a")
    clock.advance(1)
    await limits.renew_slots("cpu", ["a"])
    assert await limits.take_slot("cpu", 1, "b")


async def test_a_slot_that_is_renewed_is_held_however_long(limits, clock):
    assert await limits.take_slot("cpu", 1, "a")
    for _ in range(5):
        clock.advance(0.9)
        await limits.renew_slots("cpu", ["a"])
        assert not await limits.take_slot("cpu", 1, "b")


async def test_an_owners_requests_are_counted_by_the_minute_and_at_once(limits, clock):
    clock.ms = 600_000
    first = await limits.admit("ann", 3, 1, 15)
    assert (first.remaining, first.reset_seconds, first.full) == (2, 60.0, "")
    refused = await limits.admit("ann", 3, 1, 15)
    assert (refused.remaining, refused.full) == (2, "concurrency"), "it counts for no minute"
    await limits.release_request("ann", first.token)
    for remaining in (1, 0):
        admitted = await limits.admit("ann", 3, 1, 15)
        assert (admitted.remaining, admitted.full) == (remaining, "")
        await limits.release_request("ann", admitted.token)
    assert (await limits.admit("ann", 3, 1, 15)).full == "rate"
    assert (await limits.admit("bob", 3, 1, 15)).full == ""
    clock.advance(60)
    assert (await limits.admit("ann", 3, 1, 15)).remaining == 2


async def test_a_request_that_runs_on_takes_its_place_again_after_an_outage(limits, clock):
    mine = await limits.admit("ann", 0, 1, 15)
    clock.advance(20)  # the store was away for longer than the lease
    await limits.renew_requests(15, [("ann", mine.token)])
    assert (await limits.admit("ann", 0, 1, 15)).full == "concurrency"


async def test_a_server_that_crashed_holds_nothing_for_long(limits, clock):
    await limits.admit("ann", 0, 1, 15)
    clock.advance(15)
    assert (await limits.admit("ann", 0, 1, 15)).full == ""
