"""Who gets a slot at a tier next."""

from __future__ import annotations

from tasks.tiers.slots import LocalSlots


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


async def test_who_gave_up_gets_no_slot():
    slots = LocalSlots(1)
    token = slots.try_acquire()
    assert slots.try_acquire() is None
    gone, there = slots.batch_lane.line_up(), slots.batch_lane.line_up()
    gone.cancel()
    await slots.release(token)
    assert there.result() == token
