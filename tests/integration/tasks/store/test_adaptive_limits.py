"""A limit that adapts: what raises it, what lowers it, and how often, by the clock of the test."""

from __future__ import annotations

import pytest
from harness.stores import store_on

from tasks.store.limits import Load, Share

WELL, BUSY, SLOW = Load("well", 200), Load("busy", 5), Load("slow", 9000)
LOWEST, HIGHEST = 2, 40


class Tier:
    """A tier's slots, and calls that all run to their end."""

    def __init__(self, limits, **bounds) -> None:
        self.limits, self.calls = limits, 0
        self.share = Share("gpu", **{"lowest": LOWEST, "highest": HIGHEST, **bounds})

    async def take(self, *, reserved=0):
        """Return a token, or None: all are taken."""
        self.calls += 1
        token = f"call-{self.calls}"
        share = self.share._replace(reserved=reserved)
        taken, _ = await self.limits.take_share(share, 1.0, token)
        return token if taken else None

    async def take_all(self, *, reserved=0):
        tokens = []
        while token := await self.take(reserved=reserved):
            tokens.append(token)
        return tokens

    async def give_back(self, tokens, load):
        """Return the limit after the last of them."""
        for token in tokens:
            limit = await self.limits.return_share(self.share, token, load)
        return limit

    async def round(self, load=WELL):
        return await self.give_back(await self.take_all(), load)


@pytest.fixture
async def limits(store_url, clock):
    store = store_on(store_url, clock, lease_seconds=60)
    yield store.limits
    await store.close()


@pytest.fixture
def tier(limits):
    return Tier(limits)


async def test_it_begins_at_the_lowest_and_rises_with_each_call_until_it_was_lowered_once(tier):
    assert await tier.take()
    assert await tier.take()
    assert await tier.take() is None
    for more in range(1, 20):
        assert await tier.give_back([f"call-{tier.calls}"], WELL) == LOWEST + more
        assert len(await tier.take_all()) >= 1


async def test_after_that_it_rises_slowly_and_faster_the_longer_nothing_was_too_much(tier, clock):
    for _ in range(6):
        await tier.round()
    held = await tier.take_all()
    lowered = await tier.give_back(held[:1], BUSY)
    assert lowered == int(len(held) * 0.9)
    await tier.give_back(held[1:], Load())
    clock.advance(0.2)
    for _ in range(4):  # half of a round's calls find half of the limit unused here
        assert await tier.round() <= lowered + 1
    clock.advance(8)  # 40 rounds, each of which takes as long as a call
    assert lowered + 1 <= await tier.round() <= lowered + 3


async def test_it_is_lowered_once_in_the_time_of_a_call(tier, clock):
    for _ in range(6):
        await tier.round()
    held = await tier.take_all()
    first = await tier.give_back(held[:1], BUSY)
    assert await tier.give_back(held[1:5], BUSY) == first
    clock.advance(0.201)
    assert await tier.give_back(held[5:6], BUSY) < first


async def test_slow_calls_lower_it_too_and_what_says_nothing_does_nothing(tier):
    for _ in range(6):
        await tier.round()
    held = await tier.take_all()
    assert await tier.give_back(held[:1], Load("none", 5)) == len(held)
    assert await tier.give_back(held[1:2], SLOW) < len(held)


async def test_it_stays_within_its_bounds(tier, clock):
    for _ in range(12):
        assert LOWEST <= await tier.round() <= HIGHEST
    assert len(await tier.take_all()) == HIGHEST
    for number in range(1, 30):
        clock.advance(1)
        assert await tier.give_back([f"call-{number}"], BUSY) >= LOWEST
    assert await tier.give_back(["call-1"], Load()) == LOWEST


async def test_bounds_that_were_set_anew_hold_at_once(tier):
    for _ in range(12):
        await tier.round()
    tier.share = Share("gpu", LOWEST, 7)
    assert len(await tier.take_all()) == 7
    tier.share = Share("gpu", 99, 100)
    assert len(await tier.take_all()) == 99 - 7


async def test_where_it_is_not_used_it_does_not_rise(tier):
    for _ in range(4):
        at = await tier.round()
    for _ in range(50):
        assert await tier.give_back([await tier.take()], WELL) == at


async def test_a_server_that_is_busy_at_the_lowest_is_left_alone_for_a_second(tier, clock):
    held = await tier.take_all()
    assert await tier.give_back(held, BUSY) == LOWEST
    assert await tier.take() is None
    clock.advance(-3600)
    assert await tier.take(), "nobody is kept waiting by a clock that was set back"
    clock.advance(3600)
    assert await tier.take() is None
    clock.advance(1)
    assert await tier.take()


@pytest.mark.parametrize(
    ("limit", "reserved", "left"),
    [(1, 1, 0), (2, 1, 1), (9, 1, 1), (20, 1, 2), (40, 1, 4), (40, 6, 6), (40, 3, 4), (5, 9, 4)],
)
async def test_calls_of_batches_leave_some_to_lone_ones(limits, limit, reserved, left):
    tier = Tier(limits, lowest=limit, highest=limit)
    assert len(await tier.take_all(reserved=reserved)) == limit - left
    assert len(await tier.take_all()) == left


async def test_a_crash_frees_what_it_held(tier, clock):
    assert len(await tier.take_all()) == LOWEST
    clock.advance(61)
    assert len(await tier.take_all()) == LOWEST
