"""Who goes down when there is room: the units in their order, until there is none."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from harness.waiting import eventually

from tasks.errors import StoreUnavailable
from tasks.execution.descent import Descent


class Unit:
    """A unit's run. room: whether there is more after it has sent what it could, or an error."""

    def __init__(self, name, *, room=True) -> None:
        self.unit = SimpleNamespace(id=name)
        self.room, self.asked = room, 0

    async def send_down(self):
        self.asked += 1
        if isinstance(self.room, Exception):
            raise self.room
        return self.room


class Told:
    """A store's connection: each told() is one that has left room."""

    def __init__(self) -> None:
        self.queue = asyncio.Queue()

    async def events(self, channel):
        assert channel == "room"
        while True:
            yield await self.queue.get()


@pytest.fixture
async def told():
    return Told()


@pytest.fixture
async def descent(told, monkeypatch):
    monkeypatch.setattr("tasks.execution.descent.LOOK_SECONDS", 100)
    monkeypatch.setattr("tasks.execution.descent.COALESCE_SECONDS", 0.0)
    descent = Descent(SimpleNamespace(connection=told))
    listening = asyncio.create_task(descent.listen())
    yield descent
    listening.cancel()


def asked(*units):
    return [unit.asked for unit in units]


async def test_each_is_asked_as_long_as_there_is_room(descent, told):
    units = [Unit("a"), Unit("b", room=False), Unit("c")]
    for unit in units:
        descent.enter(unit)
    await eventually(lambda: asked(*units) == [1, 1, 0])
    units[1].room = True
    told.queue.put_nowait("left")
    await eventually(lambda: asked(*units) == [2, 2, 1])


async def test_it_looks_by_itself_where_nobody_tells(descent, monkeypatch):
    monkeypatch.setattr("tasks.execution.descent.LOOK_SECONDS", 0.005)
    unit = Unit("a")
    descent.enter(unit)
    await eventually(lambda: unit.asked > 3)
    descent.leave(unit)
    await asyncio.sleep(0.02)
    before = unit.asked
    await asyncio.sleep(0.03)
    assert unit.asked == before


async def test_a_run_of_a_unit_that_ends_late_takes_no_other_run_of_it_along(descent):
    first, again = Unit("a"), Unit("a")
    descent.enter(first)
    descent.enter(again)
    descent.leave(first)
    await eventually(lambda: again.asked)
    assert first.asked == 0


@pytest.mark.parametrize("leaves", [False, True])
async def test_one_more_line_that_waits_goes_down_at_once(descent, leaves):
    unit = Unit("a")
    for times in (1, 2):
        descent.enter(unit)
        await eventually(lambda times=times: unit.asked == times)
        if leaves:
            descent.leave(unit)


@pytest.mark.parametrize(
    ("error", "others"), [(StoreUnavailable("away"), [0, 0]), (ValueError("ours"), [1, 1])]
)
async def test_what_goes_wrong_with_one_keeps_the_others_from_nothing(
    descent, told, error, others, caplog
):
    broken, first, second = Unit("a", room=error), Unit("b"), Unit("c")
    for unit in (broken, first, second):
        descent.enter(unit)
    await eventually(lambda: broken.asked)
    await asyncio.sleep(0.02)
    assert asked(first, second) == others
    assert ("its lines do not go down" in caplog.text) == isinstance(error, ValueError)
    told.queue.put_nowait("left")
    broken.room = True
    await eventually(lambda: asked(first, second) == [others[0] + 1] * 2)
