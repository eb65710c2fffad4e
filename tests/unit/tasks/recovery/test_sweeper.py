"""A sweep: what the store finds is published again, and told."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from harness.fakes import FakePublisher, Heard, meanwhile
from harness.waiting import eventually

from tasks.errors import PublishError, StoreUnavailable
from tasks.records.jobs import Dispatch, Queue, Swept
from tasks.recovery.sweeper import Sweeper


def swept(name, reason):
    return Swept(Dispatch(name, 1, "gpu", "interactive"), reason)


class FakeStore:
    """Finds what a test says; None: another process sweeps."""

    def __init__(self) -> None:
        self.found: list[Swept] | None = []
        self.asked: list[tuple] = []
        self.errors: list[Exception] = []
        self.beats: list[tuple] = []
        self.file_sweeps = self.prunes = 0
        self.jobs = SimpleNamespace(sweep=self._sweep)
        self.fleet = SimpleNamespace(heartbeat=self._heartbeat, prune_lists=self._prune)
        self.files = SimpleNamespace(sweep=self._sweep_files)

    async def _sweep(self, empty):
        self.asked.append(empty)
        if self.errors:
            raise self.errors.pop(0)
        return self.found

    async def _heartbeat(self, worker, seconds):
        self.beats.append((worker, seconds))

    async def _sweep_files(self):
        self.file_sweeps += 1

    async def _prune(self):
        self.prunes += 1


@pytest.fixture
def store():
    return FakeStore()


@pytest.fixture
def publisher():
    return FakePublisher()


@pytest.fixture
def observer():
    return Heard()


@pytest.fixture
def sweeper(store, publisher, observer):
    return Sweeper(store, publisher, observer, "worker-1")


@pytest.fixture
async def sweeping(sweeper):
    keeping = asyncio.create_task(sweeper.keep(0.001))
    yield keeping
    keeping.cancel()


async def test_what_is_found_is_published_again_and_counted(sweeper, store, publisher, observer):
    store.found = [swept("job_1", "lease"), swept("job_2", "parked"), swept("job_3", "unbegun")]
    assert await sweeper.sweep() == 3
    assert publisher.dispatched == [each.dispatch for each in store.found]
    assert observer.events == [("swept", "lease", "parked", "unbegun")]
    assert (store.file_sweeps, store.prunes) == (1, 1)


async def test_what_is_found_as_the_process_stops_is_still_published(store, sweeping, publisher):
    store.found = [swept("job_1", "parked")]
    meanwhile(store.jobs, "sweep", sweeping.cancel)
    await asyncio.wait([sweeping], timeout=5)
    assert sweeping.cancelled()
    assert publisher.dispatched == [store.found[0].dispatch]


async def test_only_what_was_lost_is_a_warning(sweeper, store, caplog):
    reasons = ("lease", "parked", "expired", "unbegun")
    store.found = [swept(f"job_{reason}", reason) for reason in reasons]
    await sweeper.sweep()
    assert [record.getMessage() for record in caplog.records] == [
        "job_lease dispatched again to gpu: lease",
        "job_unbegun dispatched again to gpu: unbegun",
    ]
    assert (caplog.records[0].job_id, caplog.records[0].tier) == ("job_lease", "gpu")


@pytest.mark.parametrize("is_empty", [True, False])
async def test_the_store_is_told_of_every_queue_whether_the_broker_has_messages(
    sweeper, store, publisher, is_empty
):
    publisher.is_empty = is_empty
    assert await sweeper.sweep() == 0
    assert store.asked == [{queue.value: is_empty for queue in Queue}]


async def test_what_the_broker_did_not_take_goes_out_by_the_next_sweep_of_this_process(
    sweeper, store, publisher
):
    store.found = None
    await sweeper.sweep()
    assert publisher.dispatched_refused == 1, "whoever sweeps: only this process knows of it"
    publisher.refuses = PublishError("away")
    with pytest.raises(PublishError):
        await sweeper.sweep()
    assert publisher.dispatched_refused == 1, "a broker that does not answer takes nothing"


async def test_while_another_process_sweeps_nothing_is_done(sweeper, store, observer):
    store.found = None
    assert await sweeper.sweep() == 0
    assert (observer.events, store.file_sweeps) == ([], 0)


async def test_every_sweep_says_that_its_worker_is_there_until_after_the_next(store, sweeping):
    await eventually(lambda: len(store.asked) >= 2)
    assert store.beats[0] == ("worker-1", pytest.approx(1.003))


@pytest.mark.parametrize("error", [StoreUnavailable("away"), PublishError("away")])
async def test_a_sweep_that_cannot_be_done_is_put_off(store, sweeping, caplog, error):
    store.errors = [error]
    await eventually(lambda: len(store.asked) >= 2)
    assert caplog.records[0].getMessage() == "sweep put off: away"
    await eventually(lambda: store.file_sweeps)


async def test_without_a_broker_nothing_is_taken_for_lost(sweeper, store, publisher):
    publisher.refuses = PublishError("away")
    with pytest.raises(PublishError):
        await sweeper.sweep()
    assert store.asked == []
