"""Who gets a slot at a tier next."""

from __future__ import annotations

import asyncio

import pytest
from harness.waiting import eventually, turns

from tasks.tiers.slots import FleetSlots, LocalSlots

# In one process


async def test_lone_calls_get_a_slot_before_those_of_batches():
    slots = LocalSlots(1)
    token = slots.batch_lane.try_acquire()
    batch = [slots.batch_lane.line_up() for _ in range(3)]
    lone = [slots.line_up() for _ in range(2)]
    waiting = [*lone, *batch]
    while waiting:
        assert not any(turn.done() for turn in waiting)
        await slots.batch_lane.release(token)
        assert waiting.pop(0).result() == token
    assert (slots.taken, slots.batch_lane.taken) == (1, 0)
    await slots.release(token)
    assert slots.taken == 0


async def test_what_has_begun_before_gets_a_slot_before_what_has_not():
    slots = LocalSlots(1)
    token = slots.try_acquire()
    fresh = [slots.line_up(), slots.batch_lane.line_up()]
    begun = [slots.line_up(first=True), slots.batch_lane.line_up(first=True)]
    for turn in (begun[0], fresh[0], begun[1], fresh[1]):
        assert not turn.done()
        await slots.release(token)
        assert turn.result() == token


async def test_who_gave_up_gets_no_slot():
    slots = LocalSlots(1)
    token = slots.try_acquire()
    assert slots.try_acquire() is None
    gone, there = slots.batch_lane.line_up(), slots.batch_lane.line_up()
    gone.cancel()
    await slots.release(token)
    assert there.result() == token


async def test_there_are_no_more_slots_than_the_limit():
    slots = LocalSlots(2)
    tokens = [slots.try_acquire(), slots.batch_lane.try_acquire()]
    assert (slots.try_acquire(), slots.batch_lane.try_acquire(), slots.taken) == (None, None, 2)
    await slots.renew()
    await slots.batch_lane.renew()
    for token in tokens:
        await slots.release(token)
    assert (slots.taken, slots.try_acquire()) == (0, "local")


# In the whole fleet


@pytest.fixture
async def fleet(limits, monkeypatch):
    monkeypatch.setattr("tasks.tiers.slots.ASK_AGAIN_SECONDS", 0.001)
    return FleetSlots(limits, "cpu", 1)


async def held(fleet):
    """Have the only slot."""
    return await asyncio.wait_for(fleet.line_up(), 5)


async def test_only_the_store_knows_whether_a_slot_is_free(fleet, limits):
    assert fleet.try_acquire() is None
    token = await held(fleet)
    assert (limits.held, fleet.taken) == ({token}, 1)
    await fleet.release(token)
    assert (limits.held, fleet.taken) == (set(), 0)


async def test_only_the_first_in_line_asks_until_a_slot_is_free(fleet, limits):
    token = await held(fleet)
    first, second = fleet.line_up(), fleet.line_up()
    await eventually(lambda: len(limits.asked) > 3)
    assert len(set(limits.asked)) == 2, "the one who has it, and the first"
    await fleet.release(token)
    await eventually(first.done)
    assert not second.done()
    await fleet.release(first.result())
    assert await second != first.result()
    await fleet.release(second.result())
    assert (limits.held, fleet.taken) == (set(), 0)


async def test_a_slot_that_this_process_gives_back_is_asked_for_at_once(fleet, limits, monkeypatch):
    monkeypatch.setattr("tasks.tiers.slots.ASK_AGAIN_SECONDS", 60.0)
    token = await held(fleet)
    turn = fleet.line_up()
    await eventually(lambda: len(limits.asked) == 2)
    await fleet.release(token)
    await fleet.release(await asyncio.wait_for(turn, 5))


async def test_while_the_store_is_away_there_is_no_slot(fleet, limits):
    limits.away = True
    turn = fleet.line_up()
    await eventually(lambda: len(limits.asked) > 3)
    assert (turn.done(), fleet.taken) == (False, 0)
    limits.away = False
    await fleet.release(await turn)


async def test_a_slot_that_the_store_cannot_take_back_ends_with_its_lease(fleet, limits):
    token = await held(fleet)
    limits.away = True
    await fleet.release(token)
    assert (fleet.taken, limits.held) == (0, {token})


@pytest.mark.parametrize("how", ["gives up", "is cancelled"])
@pytest.mark.parametrize("answered", [True, False])
async def test_a_slot_that_comes_too_late_goes_back(fleet, limits, how, answered):
    limits.open.clear()
    turn = fleet.line_up()
    await eventually(lambda: limits.held)
    assert fleet.taken == 1, "it is renewed: nobody knows yet whether we have it"
    if answered:
        limits.open.set()
    if how == "gives up":
        turn.set_result(None)
    else:
        turn.cancel()
    await turns()
    limits.open.set()
    await eventually(lambda: not limits.held)
    assert fleet.taken == 0


async def test_who_gives_up_in_the_line_leaves_it_to_the_next(fleet, limits):
    token = await held(fleet)
    gone, there = fleet.line_up(), fleet.line_up()
    await eventually(lambda: len(limits.asked) > 1)
    gone.set_result(None)
    await fleet.release(token)
    await fleet.release(await asyncio.wait_for(there, 5))
    assert limits.held == set()


async def test_only_slots_that_are_taken_are_renewed(fleet, limits):
    await fleet.renew()
    assert limits.renewals == []
    token = await held(fleet)
    await fleet.renew()
    assert limits.renewals == [[token]]
    await fleet.release(token)


async def test_in_the_fleet_as_well_what_has_begun_before_goes_first(fleet, limits):
    token = await held(fleet)
    fresh, begun = fleet.line_up(), fleet.line_up(first=True)
    await fleet.release(token)
    await fleet.release(await asyncio.wait_for(begun, 5))
    await fleet.release(await asyncio.wait_for(fresh, 5))
    assert limits.held == set()


async def test_a_slot_goes_back_though_who_gives_it_is_cut_off(limits):
    go_on = asyncio.Event()
    slots = FleetSlots(limits, "cpu", 1)
    token = await slots.line_up()
    release = limits.release_slot

    async def slow(tier, token):
        await go_on.wait()
        await release(tier, token)

    limits.release_slot = slow
    releasing = asyncio.create_task(slots.release(token))
    await asyncio.sleep(0)
    releasing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await releasing
    go_on.set()
    await eventually(lambda: not limits.held)
