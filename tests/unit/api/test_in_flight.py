"""Room for bytes: in all, for each owner, in the order of asking."""

from __future__ import annotations

import asyncio
import random

import pytest

from api.errors import TurnedAwayError
from api.in_flight import SMALL, Room

KB = 1024


class Holder:
    """One who asks for room, and keeps it until told to leave."""

    def __init__(self, room, owner, size):
        self.inside, self.leave = asyncio.Event(), asyncio.Event()
        self.task = asyncio.create_task(self._hold(room, owner, size))

    async def _hold(self, room, owner, size):
        async with room.hold(owner, size):
            self.inside.set()
            await self.leave.wait()

    async def gone(self):
        self.leave.set()
        await self.task


async def inside(*holders):
    for _ in range(3):
        await asyncio.sleep(0)
    return [each.inside.is_set() for each in holders]


async def end(*holders):
    for each in holders:
        await each.gone()


async def test_who_finds_no_room_waits_for_his_turn():
    room = Room(100 * KB, 100 * KB)
    first, large, small = (Holder(room, "ann", size * KB) for size in (60, 90, 10))
    assert await inside(first, large, small) == [True, False, False]
    await first.gone()
    assert await inside(large, small) == [True, True]
    await end(large, small)


async def test_one_owner_has_his_share_and_holds_up_no_other():
    room = Room(100 * KB, 50 * KB)
    anns = [Holder(room, "ann", 40 * KB) for _ in range(3)]
    bob = Holder(room, "bob", 40 * KB)
    assert await inside(*anns, bob) == [True, False, False, True]
    await anns[0].gone()
    assert await inside(*anns) == [True, True, False]
    await end(*anns, bob)


async def test_what_is_small_passes_and_what_is_larger_than_all_takes_all():
    room = Room(10 * KB, 10 * KB)
    large, small, other = (Holder(room, "ann", size) for size in (10**9, SMALL, SMALL + 1))
    assert await inside(large, small, other) == [True, True, False]
    await large.gone()
    assert await inside(other) == [True]
    await end(small, other)


async def test_who_waits_for_long_is_told_to_come_again():
    room = Room(10 * KB, 10 * KB, wait_seconds=0.05)
    first = Holder(room, "ann", 10 * KB)
    await inside(first)
    with pytest.raises(TurnedAwayError) as refused:
        async with room.hold("bob", 8 * KB):
            pass
    assert refused.value.code == "too_many_bytes"
    assert refused.value.headers["Retry-After"]
    await first.gone()
    async with room.hold("bob", 10 * KB):
        pass


async def test_who_goes_away_while_he_waits_holds_up_nobody():
    room = Room(10 * KB, 10 * KB)
    first, gone, last = (Holder(room, "ann", 10 * KB) for _ in range(3))
    await inside(first)
    gone.task.cancel()
    await first.gone()
    assert await inside(last) == [True]
    await last.gone()


async def test_whatever_is_cancelled_no_room_is_lost():
    chance = random.Random(7)
    room = Room(100 * KB, 60 * KB, wait_seconds=0.02)

    async def hold():
        async with room.hold(chance.choice("abc"), chance.randrange(SMALL, 60 * KB)):
            await asyncio.sleep(chance.random() / 100)

    for _ in range(30):
        tasks = [asyncio.create_task(hold()) for _ in range(20)]
        await asyncio.sleep(chance.random() / 50)
        for task in chance.sample(tasks, 8):
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        ends = {type(each) for each in ends} - {type(None)}
        assert ends <= {asyncio.CancelledError, TurnedAwayError}
    holders = [Holder(room, owner, 50 * KB) for owner in "ab"]
    assert await inside(*holders) == [True, True]
    await end(*holders)
