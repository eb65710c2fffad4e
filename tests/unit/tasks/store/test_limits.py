"""Leave to run, when the store is away."""

from __future__ import annotations

import pytest

from tasks.errors import StoreUnavailable
from tasks.settings import Settings
from tasks.store.limits import Limits


class Away:
    """A store that does not answer."""

    async def command(self, *_):
        raise StoreUnavailable

    async def run(self, *_):
        raise StoreUnavailable


@pytest.fixture
def limits():
    return Limits(Away(), Settings())


async def test_a_request_that_cannot_be_released_lapses_by_itself(limits):
    await limits.release_request("ann", "token")


@pytest.mark.parametrize(
    "ask",
    [
        lambda limits: limits.take_slot("cpu", 1, "token"),
        lambda limits: limits.release_slot("cpu", "token"),
        lambda limits: limits.renew_slots("cpu", ["token"]),
        lambda limits: limits.admit("ann", 1, 1, 15),
        lambda limits: limits.renew_requests(15, [("ann", "token")]),
    ],
)
async def test_who_asks_for_leave_is_told_that_nobody_can_give_it(limits, ask):
    with pytest.raises(StoreUnavailable):
        await ask(limits)
