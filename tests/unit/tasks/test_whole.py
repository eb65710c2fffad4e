"""A step that is not cut in two."""

from __future__ import annotations

import asyncio

import pytest
from harness.waiting import turns

from tasks.errors import StoreUnavailable
from tasks.whole import whole


class Step:
    """One that goes on once it is let, and says how far it came."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.done = False
        self.error: Exception | None = None

    async def do(self):
        await self.go.wait()
        if self.error:
            raise self.error
        self.done = True
        return "what it came to"


@pytest.fixture
async def step():
    return Step()


async def test_it_returns_what_the_step_comes_to(step):
    step.go.set()
    assert await whole(step.do()) == "what it came to"


async def test_it_raises_what_the_step_raises(step):
    step.error = StoreUnavailable("away")
    step.go.set()
    with pytest.raises(StoreUnavailable):
        await whole(step.do())


@pytest.mark.parametrize("cancels", [1, 3])
async def test_who_is_cancelled_meanwhile_is_cancelled_after_it(step, cancels):
    asking = asyncio.create_task(whole(step.do()))
    for _ in range(cancels):
        await turns()
        asking.cancel()
    await turns()
    assert not asking.done()
    step.go.set()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert step.done


async def test_a_step_that_fails_meanwhile_is_told_of_and_the_cancel_holds(step, caplog):
    asking = asyncio.create_task(whole(step.do()))
    await turns()
    asking.cancel()
    step.error = StoreUnavailable("away")
    step.go.set()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "StoreUnavailable('away')" in caplog.text
