"""Work comes home: all that is parked once a tier is well, one job or call to probe it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from harness.fakes import FakePublisher, meanwhile
from harness.waiting import eventually

from tasks.errors import StoreUnavailable
from tasks.records.jobs import Dispatch
from tasks.recovery.recaller import MOST, Recaller


class Tier:
    def __init__(self) -> None:
        self.due, self.closed, self.knocks = 0.0, True, 0

    async def due_seconds(self):
        return self.due

    async def knock(self):
        self.knocks += 1


class Gate:
    anybody = False
    told = 0

    def changed(self):
        self.told += 1


class Home:
    """A recaller, and all that it works with. parked: what waits in the store."""

    def __init__(self, *, knocks=True) -> None:
        self.tier, self.gate, self.publisher = Tier(), Gate(), FakePublisher()
        self.parked, self.recalls, self.away = [], [], False
        self.waits_below = self.works_below = self.room_below = False
        answerer = SimpleNamespace(
            models={"gpu": self.tier},
            gates={"gpu": self.gate},
            call_up=lambda _: self.waits_below,
            works_below=lambda _: self.works_below,
            has_room_below=self._has_room_below,
        )
        self.jobs = SimpleNamespace(recall=self._recall)
        store = SimpleNamespace(jobs=self.jobs)
        self.recaller = Recaller(store, self.publisher, answerer, knocks=knocks)

    async def _has_room_below(self, _):
        return self.room_below

    async def _recall(self, tier, most):
        if self.away:
            raise StoreUnavailable
        self.recalls.append((tier, most))
        found, self.parked = self.parked[:most], self.parked[most:]
        return found

    def opens(self, due=100.0):
        self.tier.due, self.tier.closed = due, False

    def closes(self):
        self.tier.due, self.tier.closed = 0.0, True


@pytest.fixture
def start(monkeypatch):
    monkeypatch.setattr("tasks.recovery.recaller.LOOK_SECONDS", 0.01)
    running = []

    def start(**options):
        home = Home(**options)
        home.keeping = asyncio.create_task(home.recaller.keep())
        running.append(home.keeping)
        return home

    yield start
    for task in running:
        task.cancel()


PARKED = [Dispatch(f"unit_{n}", 1, "gpu", "batch.begun") for n in range(3)]


async def some_looks():
    await asyncio.sleep(0.05)


async def test_while_a_tier_is_well_nothing_is_done(start):
    home = start()
    home.parked = list(PARKED)
    await some_looks()
    assert home.recalls == []


async def test_what_is_called_back_as_the_process_stops_is_still_sent(start):
    home = start()
    home.opens()
    home.parked = list(PARKED)
    await some_looks()
    meanwhile(home.jobs, "recall", home.keeping.cancel)
    home.closes()
    await asyncio.wait([home.keeping], timeout=5)
    assert home.keeping.cancelled()
    assert home.publisher.dispatched == PARKED


async def test_once_it_is_well_again_all_that_is_parked_comes_and_once(start):
    home = start()
    home.opens()
    home.parked = list(PARKED)
    await some_looks()
    assert home.recalls == []
    home.closes()
    await eventually(lambda: home.publisher.dispatched == PARKED)
    await some_looks()
    assert home.recalls == [("gpu", MOST)]


async def test_what_more_is_parked_than_comes_at_once_comes_as_well(start, monkeypatch):
    monkeypatch.setattr("tasks.recovery.recaller.MOST", 2)
    home = start()
    home.opens()
    home.parked = list(PARKED)
    await some_looks()
    home.closes()
    await eventually(lambda: home.publisher.dispatched == PARKED)
    await some_looks()
    assert home.recalls == [("gpu", 2), ("gpu", 2)]


async def test_a_store_that_was_away_as_the_tier_closed_is_asked_again(start):
    home = start()
    home.opens()
    home.parked = list(PARKED)
    await some_looks()
    home.away = True
    home.closes()
    await some_looks()
    home.away = False
    await eventually(lambda: home.publisher.dispatched == PARKED)
    await some_looks()
    assert home.recalls == [("gpu", MOST)]


async def test_a_tier_that_is_due_is_probed_by_one_that_is_parked(start, monkeypatch):
    home = start()
    monkeypatch.setattr("tasks.recovery.recaller.LOOK_SECONDS", 100)
    await some_looks()
    home.parked = list(PARKED)
    home.opens(due=0.0)
    home.recaller.changed()
    await eventually(lambda: home.publisher.dispatched)
    assert (home.publisher.dispatched, home.recalls) == (PARKED[:1], [("gpu", 1)])
    assert home.gate.told == 1


async def test_a_line_that_waits_here_probes_by_itself(start):
    home = start()
    home.gate.anybody = home.works_below = True
    home.parked = list(PARKED)
    home.opens(due=0.0)
    await some_looks()
    assert (home.recalls, home.tier.knocks) == ([], 0)


async def test_where_a_probe_failed_one_that_is_parked_joins_the_lines_that_wait_here(
    start, monkeypatch
):
    """They may all be what the tier fails at, as it does not at the others."""
    home = start()
    monkeypatch.setattr("tasks.recovery.recaller.LOOK_SECONDS", 100)
    await some_looks()
    home.gate.anybody = True
    home.parked = list(PARKED)
    home.opens()
    for times in (1, 2):
        home.recaller.changed()  # it is due, and somebody tries
        await some_looks()
        home.recaller.changed(probe_failed=True)
        await some_looks()
        assert home.recalls == [("gpu", 1)] * times
    assert home.publisher.dispatched == PARKED[:2]


@pytest.mark.parametrize(
    ("waits", "works", "knocks", "asked"),
    [
        (True, True, True, False),  # a job that waits for a slot below goes up
        (False, True, True, True),
        (False, False, True, False),  # nobody wants the tier
        (False, True, False, False),
    ],
)
async def test_where_no_job_is_parked_another_probes_or_a_call_that_costs_nothing(
    start, waits, works, knocks, asked
):
    home = start(knocks=knocks)
    home.waits_below, home.works_below = waits, works
    home.opens(due=0.0)
    await some_looks()
    assert (home.tier.knocks > 0) == asked


@pytest.mark.parametrize(("room", "line"), [(True, False), (True, True), (False, False)])
async def test_where_no_line_waits_and_a_tier_below_has_room_one_comes_to_go_there(
    start, room, line
):
    home = start()
    home.room_below, home.gate.anybody = room, line
    home.parked = list(PARKED)
    home.opens()
    await some_looks()
    assert (home.publisher.dispatched[:1] == PARKED[:1]) == (room and not line)
    assert {most for _, most in home.recalls} <= {1}


async def test_a_store_that_is_away_is_asked_again(start):
    home = start()
    home.opens(due=0.0)
    home.away, home.parked = True, list(PARKED)
    await some_looks()
    home.away = False
    await eventually(lambda: home.publisher.dispatched)
