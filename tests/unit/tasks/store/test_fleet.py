"""How long jobs took, and what may be lost when the store is away."""

from __future__ import annotations

import pytest

from tasks.errors import StoreUnavailable
from tasks.settings import Settings
from tasks.store.fleet import FleetStore, percentile


class Away:
    """A store that does not answer."""

    async def command(self, *_):
        raise StoreUnavailable

    commands = run = command


@pytest.mark.parametrize(
    ("latencies", "share", "milliseconds"),
    [
        ({}, 0.5, None),
        ({10: 1}, 0.99, 2.6),
        ({10: 98, 50: 2}, 0.5, 2.6),
        ({10: 98, 50: 2}, 0.99, 117.4),
    ],
)
def test_percentiles_are_the_upper_edge_of_their_bucket(latencies, share, milliseconds):
    assert percentile(latencies, share) == milliseconds


async def test_an_event_that_cannot_be_counted_is_nobodys_error():
    await FleetStore(Away(), Settings()).count({"drains": 1})
    with pytest.raises(StoreUnavailable):
        await FleetStore(Away(), Settings()).counts()
