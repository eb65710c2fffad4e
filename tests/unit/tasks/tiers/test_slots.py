"""Who gets a place at a tier next."""

from __future__ import annotations

from tasks.tiers.slots import LocalPlaces


async def test_lone_calls_get_a_place_before_those_of_batches():
    places = LocalPlaces(1)
    token = places.second.take_now()
    batch = [places.second.enter() for _ in range(3)]
    lone = [places.enter() for _ in range(2)]
    waiting = [*lone, *batch]
    while waiting:
        assert not any(place.done() for place in waiting)
        await places.second.give(token)
        assert waiting.pop(0).result() == token
    assert (places.taken, places.second.taken) == (1, 0)
    await places.give(token)
    assert places.taken == 0


async def test_who_gave_up_gets_no_place():
    places = LocalPlaces(1)
    token = places.take_now()
    assert places.take_now() is None
    gone, there = places.second.enter(), places.second.enter()
    gone.cancel()
    await places.give(token)
    assert there.result() == token
