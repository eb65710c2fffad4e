"""Many at once, or one alone."""

from __future__ import annotations

import asyncio

import pytest
from harness.waiting import turns

from tasks.execution.exclusive import Exclusive


class Visitors:
    def __init__(self):
        self.place, self.inside = Exclusive(), []
        self.tasks = {}

    async def enter(self, name, *, alone=False):
        self.tasks[name] = asyncio.create_task(self._stay(name, alone))
        await turns()

    async def _stay(self, name, alone):
        async with self.place.alone() if alone else self.place.together(10):
            self.inside.append(name)
            try:
                await asyncio.Event().wait()
            finally:
                self.inside.remove(name)

    async def leave(self, name):
        self.tasks[name].cancel()
        await turns()


@pytest.fixture
def visitors():
    return Visitors()


async def test_many_are_inside_together(visitors):
    await visitors.enter("a")
    await visitors.enter("b")
    assert visitors.inside == ["a", "b"]


async def test_who_is_to_be_alone_waits_for_all_and_keeps_others_out(visitors):
    await visitors.enter("a")
    await visitors.enter("b")
    await visitors.enter("alone", alone=True)
    await visitors.enter("c")
    await visitors.leave("a")
    assert visitors.inside == ["b"]
    await visitors.leave("b")
    assert visitors.inside == ["alone"]
    await visitors.leave("alone")
    assert visitors.inside == ["c"]


async def test_who_has_waited_long_enough_comes_in_beside_who_is_alone():
    place = Exclusive()
    async with place.alone(), place.together(0.01):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), place.together(10):
                pytest.fail("it has not waited")
    async with place.alone():
        pass


async def test_two_that_are_to_be_alone_come_one_after_the_other(visitors):
    await visitors.enter("a", alone=True)
    await visitors.enter("b", alone=True)
    assert visitors.inside == ["a"]
    await visitors.leave("a")
    assert visitors.inside == ["b"]


@pytest.mark.parametrize("alone", [True, False])
async def test_who_goes_away_before_he_comes_in_keeps_nobody_out(visitors, alone):
    await visitors.enter("a")
    await visitors.enter("b", alone=True)
    await visitors.enter("c", alone=alone)
    await visitors.leave("b")
    await visitors.leave("c")
    await visitors.enter("d")
    assert visitors.inside == ["a", "d"]
