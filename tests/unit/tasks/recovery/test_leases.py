"""What a process has in hand: kept, dropped, and never another's."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from harness.fakes import FakeJobs
from harness.waiting import eventually, turns

from tasks.errors import StoreUnavailable
from tasks.recovery.leases import Leases


class Slots:
    """Notes how often its slots are renewed."""

    def __init__(self) -> None:
        self.renewed = 0

    async def renew(self):
        self.renewed += 1


class Events:
    """What the store tells of cancelled jobs: None, ids, or an error that ends the listening."""

    def __init__(self) -> None:
        self.told: asyncio.Queue = asyncio.Queue()

    async def events(self, *kinds):
        assert kinds == ("cancelled",)
        while True:
            event = await self.told.get()
            if isinstance(event, Exception):
                raise event
            yield event and ("cancelled", event)

    def tell(self, *events):
        for event in events:
            self.told.put_nowait(event)


@pytest.fixture
async def events():
    return Events()


@pytest.fixture
def jobs():
    return FakeJobs()


@pytest.fixture
def slots():
    return Slots()


@pytest.fixture
async def leases(jobs, events, slots):
    store = SimpleNamespace(jobs=jobs, connection=events)
    return Leases(store, 0.04, [slots])


@pytest.fixture
async def hold(leases):
    """Hold ids, each with a task that works on it."""
    tasks = []

    def hold(*ids, owner="me"):
        mine = [asyncio.create_task(asyncio.Event().wait()) for _ in ids]
        for name, task in zip(ids, mine, strict=True):
            leases.hold(name, owner, task)
        tasks.extend(mine)
        return mine

    yield hold
    for task in tasks:
        task.cancel()


async def cancelled(*tasks):
    await turns()
    return [task.cancelled() for task in tasks]


async def test_what_is_dropped_is_worked_on_no_more(leases, hold):
    mine = hold("job_1", "job_2")
    leases.drop("job_1")
    assert await cancelled(*mine) == [True, False]
    assert len(leases) == 1
    leases.drop("job_1")
    leases.drop("job_unknown")
    assert len(leases) == 1


async def test_a_job_that_was_lost_and_came_back_is_worked_on_once(leases):
    first, second = (asyncio.create_task(asyncio.Event().wait()) for _ in range(2))
    leases.hold("job_1", "me:1", first)
    leases.hold("job_1", "me:2", second)
    await turns()
    assert first.cancelled()
    leases.release("job_1", "me:1")
    assert len(leases) == 1
    assert not second.done()
    second.cancel()


async def test_a_batch_is_dropped_with_all_its_units_and_with_no_other(leases, hold):
    mine = hold("unit_batch_1_0", "unit_batch_1_join", "unit_batch_12_0", "job_1")
    leases.drop_batch("batch_1")
    assert await cancelled(*mine) == [True, True, False, False]
    assert len(leases) == 2


async def test_a_release_ends_a_lease_and_not_the_work(leases, hold):
    mine = hold("job_1")
    leases.release("job_1", "me")
    leases.release("job_1", "me")
    assert len(leases) == 0
    assert await cancelled(*mine) == [False]


async def test_a_release_of_another_owners_lease_does_nothing(leases, hold, jobs):
    old = hold("job_1", owner="first try")
    new = hold("job_1", owner="second try")
    leases.release("job_1", "first try")
    assert len(leases) == 1
    leases.drop("job_1")
    assert await cancelled(*old, *new) == [True, True]


async def test_a_renewal_is_one_call_for_all_and_drops_what_is_lost(leases, hold, jobs, slots):
    mine = hold("job_1", "job_2")
    jobs.lost = ["job_2"]
    await leases.renew()
    assert jobs.moves == [("renew", {"job_1": "me", "job_2": "me"})]
    assert await cancelled(*mine) == [False, True]
    assert (len(leases), slots.renewed) == (1, 1)


async def test_without_a_lease_only_slots_are_renewed(leases, jobs, slots):
    await leases.renew()
    assert (jobs.moves, slots.renewed) == ([], 1)


@pytest.mark.parametrize("meanwhile", ["released", "held anew"])
async def test_what_changed_hands_during_a_renewal_is_left_alone(leases, hold, jobs, meanwhile):
    mine = hold("job_1", owner="first try")

    async def renew(_):
        leases.release("job_1", "first try")
        if meanwhile == "held anew":
            mine.extend(hold("job_1", owner="second try"))
        return ["job_1"]

    jobs.renew = renew
    await leases.renew()
    assert not any(await cancelled(*mine))


async def test_a_store_that_is_away_ends_no_renewing(leases, hold, jobs):
    hold("job_1")
    jobs.away = 2
    keeping = asyncio.create_task(leases.keep())
    await eventually(lambda: len(jobs.moves) >= 2)
    keeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeping


async def test_what_is_cancelled_is_dropped_as_soon_as_it_is_heard(leases, hold, events):
    mine = hold("job_1", "job_2", "unit_batch_1_0", "unit_batch_2_0")
    listening = asyncio.create_task(leases.listen())
    events.tell(None, "job_1", "batch_2", "job_unknown")
    await eventually(lambda: len(leases) == 2)
    assert await cancelled(*mine) == [True, False, False, True]
    listening.cancel()


async def test_a_listener_that_lost_its_store_listens_again(leases, hold, events, monkeypatch):
    async def at_once(_):
        """No test waits a second."""

    hold("job_1")
    sleep = SimpleNamespace(sleep=at_once)
    monkeypatch.setattr("tasks.recovery.leases.asyncio", sleep)
    listening = asyncio.create_task(leases.listen())
    events.tell(None, StoreUnavailable(), None, "job_1")
    await eventually(lambda: len(leases) == 0)
    listening.cancel()


async def test_leases_that_could_not_be_renewed_are_renewed_soon(monkeypatch):
    """Not a whole interval later, when they would be over."""
    monkeypatch.setattr("tasks.recovery.leases.AGAIN_SECONDS", 0.001)
    asked = []

    async def renew(_):
        asked.append(1)
        if len(asked) < 3:
            raise StoreUnavailable
        return []

    leases = Leases(SimpleNamespace(jobs=SimpleNamespace(renew=renew)), 3600, [])
    leases.hold("job_1", "me", None)
    keeping = asyncio.create_task(leases.keep())
    await eventually(lambda: len(asked) == 3)
    await turns(20)
    assert len(asked) == 3
    keeping.cancel()
