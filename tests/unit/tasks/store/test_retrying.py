"""A step of the store's that is repeated until it is done."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tasks.drain import Drain
from tasks.errors import StoreUnavailable
from tasks.store.retrying import BACKOFF_SECONDS, Retrying


class Step:
    """Is not answered so many times; then is. then: what happens while it waits."""

    def __init__(self, away: int, then=None) -> None:
        self.away, self.then = away, then
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, name: str, *, number: int) -> str:
        self.asked.append((name, number))
        if len(self.asked) <= self.away:
            if self.then:
                self.then()
            raise StoreUnavailable
        return "done"


@pytest.fixture
def waits(monkeypatch):
    """The seconds that it waited, none of which passed."""
    waits = []

    async def sleep(seconds):
        waits.append(seconds)

    monkeypatch.setattr("tasks.store.retrying.asyncio", SimpleNamespace(sleep=sleep))
    return waits


@pytest.fixture
def drain():
    return Drain()


async def test_a_step_that_is_answered_is_done_once(waits, drain):
    step = Step(away=0)
    assert await Retrying(drain)(step, "a", number=1) == "done"
    assert (step.asked, waits) == ([("a", 1)], [])


async def test_a_store_that_is_away_is_asked_the_same_again_ever_more_slowly(waits, drain):
    step = Step(away=9)
    assert await Retrying(drain)(step, "a", number=1) == "done"
    assert step.asked == [("a", 1)] * 10
    least, longest = BACKOFF_SECONDS
    assert waits == [min(least * 2**n, longest) for n in range(9)]
    assert waits[-1] == longest


async def test_a_drain_goes_on_asking_as_long_as_it_has_time(waits, drain):
    drain.started = True
    assert await Retrying(drain)(Step(away=2), "a", number=1) == "done"


async def test_who_is_cut_off_waits_for_no_store(waits, drain):
    def cut_off():
        drain.cut_off = True

    step = Step(away=5, then=cut_off)
    with pytest.raises(StoreUnavailable):
        await Retrying(drain)(step, "a", number=1)
    assert (len(step.asked), waits) == (1, [])


async def test_who_is_cut_off_still_does_what_can_be_done(waits, drain):
    drain.cut_off = True
    assert await Retrying(drain)(Step(away=0), "a", number=1) == "done"


async def test_what_is_wrong_with_the_step_itself_is_not_repeated(waits, drain):
    async def wrong():
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        await Retrying(drain)(wrong)
    assert waits == []
