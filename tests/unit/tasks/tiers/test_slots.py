"""Who gets a slot at a tier next."""

from __future__ import annotations

import asyncio

import pytest
from harness.waiting import eventually, turns

from fallback_chain import Attempt, Verdict
from tasks.tiers.slots import FleetSlots, LocalSlots, free_for_batches, load_of

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


async def test_calls_of_batches_leave_the_last_free_slots_to_lone_ones():
    slots = LocalSlots(3, reserved=1)
    lane = slots.batch_lane
    tokens = [lane.try_acquire(), slots.try_acquire()]
    assert (lane.try_acquire(), lane.limit) == (None, 2)
    waiting = lane.line_up()
    tokens.append(slots.try_acquire())
    assert None not in tokens
    await slots.release(tokens.pop())
    assert not waiting.done(), "it would take the last"
    await slots.release(tokens.pop())
    assert waiting.done()
    assert slots.taken == 2


@pytest.mark.parametrize("reserved", [1, 9])
async def test_calls_of_batches_have_one_slot_whatever_is_reserved(reserved):
    slots = LocalSlots(1, reserved)
    assert slots.batch_lane.try_acquire()
    waiting = slots.batch_lane.line_up()
    await slots.batch_lane.release("local")
    assert waiting.done()


@pytest.mark.parametrize(
    ("share", "chance", "taken", "free"),
    [
        (0.1, 0.1, 0, 0),
        (0.1, 0.3, 0, 1),
        (0.1, 0.3, 1, 0),
        (0.5, 0, 0, 4),
        (0.5, 0.99, 0, 4),
        (0.5, 0, 3, 1),
        (0.5, 0, 9, -5),
        (1, 0.99, 2, 6),
    ],
)
def test_of_a_tier_that_takes_a_share_batches_have_it_of_its_slots(share, chance, taken, free):
    slots = LocalSlots(10, reserved=2)
    for _ in range(taken):
        slots.try_acquire()
    assert free_for_batches({slots, slots.batch_lane}, chance, share) == free


def test_processes_of_one_slot_have_together_the_share_of_all():
    chances = [number / 20 for number in range(20)]
    free = [free_for_batches([LocalSlots(1)], chance, 0.35) for chance in chances]
    assert sum(free) == 7


async def test_what_runs_for_lone_calls_and_for_batches_is_counted_in_the_fleet_as_well(limits):
    limits.free = 3
    lone, batch = FleetSlots(limits, "cpu", 4), FleetSlots(limits, "cpu", 3)
    tokens = [(slots, await slots.line_up()) for slots in (lone, lone, batch)]
    assert free_for_batches({lone, batch}, 0, 1) == 0
    for slots, token in tokens:
        await slots.release(token)


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


async def test_who_waits_is_given_one_though_the_asking_breaks_off(fleet, limits, caplog):
    take, failures = limits.take_slot, [ValueError("ours")]

    async def once(*args):
        if failures:
            raise failures.pop()
        return await take(*args)

    limits.take_slot = once
    await fleet.release(await held(fleet))
    assert "could not be asked for" in caplog.text


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


# What a call tells of its server


@pytest.mark.parametrize(
    ("verdict", "detail", "how"),
    [
        (Verdict.ANSWERED, "", "well"),
        (Verdict.SATURATED, "HTTP 429", "busy"),
        (Verdict.FAILURE, "timeout", "slow"),
        (Verdict.FAILURE, "HTTP 500", "none"),
        (Verdict.REJECTED, "open", "none"),
        (Verdict.REFUSED, "HTTP 400", "none"),
        (Verdict.EXPIRED, "deadline", "none"),
    ],
)
def test_what_a_call_tells_of_what_its_server_bears(verdict, detail, how):
    assert load_of(Attempt("gpu", verdict, 700.0, detail), 0.0) == (how, 700.0 * (how != "none"))


def test_an_answer_is_slow_beyond_the_limit_that_was_set():
    answered = Attempt("gpu", Verdict.ANSWERED, 700.0)
    hows = [load_of(answered, seconds).how for seconds in (0.0, 0.6, 0.8)]
    assert hows == ["well", "slow", "well"]
    assert load_of(None, 0.6).how == "none"
