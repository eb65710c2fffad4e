"""Guessing keys is slow, and costs this server nothing that grows."""

from __future__ import annotations

from api.access import FREE_GUESSES, MOST_ADDRESSES, WRONG_SECONDS, WrongKeys


def test_a_few_wrong_keys_cost_nothing_more_are_slow_and_time_forgives():
    wrong = WrongKeys()
    waits = [wrong.wait_of("a", 100.0) for _ in range(FREE_GUESSES + 5)]
    assert waits == [0.0] * FREE_GUESSES + [WRONG_SECONDS] * 5
    assert wrong.wait_of("b", 100.0) == 0.0, "nobody pays for another"
    assert wrong.wait_of("a", 110.0) == WRONG_SECONDS
    assert wrong.wait_of("a", 1000.0) == 0.0


def test_who_comes_from_very_many_addresses_is_not_remembered_for_ever():
    wrong = WrongKeys()
    for n in range(MOST_ADDRESSES + 50):
        wrong.wait_of(str(n), 0.0)
    assert len(wrong._last) == MOST_ADDRESSES
