"""The order in which work falls through the tiers."""

from __future__ import annotations

import pytest

from tasks.records.order import below, first_of, next_of, order_of, way_on

ORDER = order_of(["h100", "l4", "cpu"])


def test_the_cache_comes_last():
    assert ORDER == ("h100", "l4", "cpu", "cache")
    assert order_of([]) == ("cache",)
    assert [next_of(ORDER, tier) for tier in ORDER[:-1]] == [*ORDER[1:]]


@pytest.mark.parametrize(
    ("wanted", "first"),
    [
        ((), "h100"),
        (("cpu", "l4"), "l4"),
        (("cpu", "cache"), "cpu"),
        (("cache",), "cache"),
        (("gone",), "cache"),
    ],
)
def test_work_begins_at_the_first_tier_that_may_answer_it(wanted, first):
    assert first_of(wanted, ORDER) == first


def test_below_a_tier_are_the_models_after_it():
    assert below(ORDER, "h100") == ("l4", "cpu")
    assert below(ORDER, "cpu") == ()


@pytest.mark.parametrize(
    ("tried", "to"),
    [
        ([], "h100"),
        (["h100"], "l4"),
        (["gone", "h100"], "l4"),
        (["l4"], "h100"),
        (["h100", "l4", "cpu"], "cache"),
        (["h100", "l4", "cpu", "cache"], "cache"),
    ],
)
def test_from_a_tier_that_is_not_there_work_goes_where_it_was_not_tried(tried, to):
    assert way_on(ORDER, tried) == to
