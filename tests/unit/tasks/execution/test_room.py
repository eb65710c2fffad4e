"""Bytes that are held at once, and who waits for them."""

from __future__ import annotations

import asyncio
import time

import pytest
from harness.waiting import turns

from tasks.execution.room import Room


class Holders:
    """Each holds some bytes of a room until it is let go."""

    def __init__(self, most):
        self.room, self.inside = Room(most), []
        self.refused = []
        self.tasks, self.going = {}, {}

    async def enter(self, name, size, seconds=60.0):
        self.going[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._hold(name, size, time.monotonic() + seconds))
        await turns()

    async def _hold(self, name, size, until):
        async with self.room.of(size, until) as held:
            if not held:
                self.refused.append(name)
                return
            self.inside.append(name)
            await self.going[name].wait()
        self.inside.remove(name)

    async def leave(self, name):
        self.going[name].set()
        await turns()

    async def cancel(self, name):
        self.tasks[name].cancel()
        await turns()


@pytest.fixture
def holders():
    return Holders(10)


async def test_so_many_bytes_are_held_and_who_came_first_is_first(holders):
    await holders.enter("a", 6)
    await holders.enter("b", 6)
    await holders.enter("c", 4)
    assert holders.inside == ["a"], "c does not overtake b"
    await holders.leave("a")
    assert holders.inside == ["b", "c"]


async def test_what_holds_nothing_never_waits(holders):
    await holders.enter("a", 10)
    await holders.enter("b", 10)
    await holders.enter("none", 0)
    assert holders.inside == ["a", "none"]


async def test_what_is_larger_than_the_room_has_all_of_it(holders):
    await holders.enter("a", 1)
    await holders.enter("large", 99)
    assert holders.inside == ["a"]
    await holders.leave("a")
    await holders.enter("b", 1)
    assert holders.inside == ["large"]
    await holders.leave("large")
    assert holders.inside == ["b"]


@pytest.mark.parametrize("gone", ["b", "c"])
async def test_who_goes_away_before_his_turn_leaves_the_line(holders, gone):
    await holders.enter("a", 10)
    await holders.enter("b", 7)
    await holders.enter("c", 7)
    await holders.enter("d", 3)
    await holders.cancel(gone)
    await holders.leave("a")
    [left] = {"b", "c"} - {gone}
    assert holders.inside == [left, "d"]


async def test_who_is_cancelled_inside_gives_back_what_he_held(holders):
    await holders.enter("a", 10)
    await holders.enter("b", 10)
    await holders.cancel("a")
    assert holders.inside == ["a", "b"], "b has come in"


async def test_a_turn_that_comes_as_its_holder_goes_away_is_the_next_ones():
    room, until = Room(10), time.monotonic() + 60
    first = room.of(10, until)
    await first.__aenter__()
    second = asyncio.create_task(room.of(7, until).__aenter__())
    third = asyncio.create_task(room.of(10, until).__aenter__())
    await turns()
    await first.__aexit__(None, None, None)
    second.cancel()
    await turns()
    assert second.cancelled()
    assert third.done()


async def test_who_waits_in_vain_leaves_the_line_and_those_behind_him_find_room(holders):
    await holders.enter("a", 6)
    await holders.enter("b", 6, seconds=0.05)
    await holders.enter("c", 4)
    assert holders.inside == ["a"]
    await asyncio.wait_for(holders.tasks["b"], 5)
    await turns()
    assert (holders.refused, holders.inside) == (["b"], ["a", "c"])
    await holders.leave("a")
    await holders.leave("c")
    await holders.enter("d", 10)
    assert holders.inside == ["d"], "he gave nothing back, as he had nothing"


async def test_a_room_that_is_closed_has_nobody_wait(holders):
    await holders.enter("a", 6)
    await holders.enter("b", 6)
    holders.room.close()
    await turns()
    await holders.enter("c", 5)
    await holders.enter("d", 4)
    assert (holders.refused, holders.inside) == (["b", "c"], ["a", "d"])
