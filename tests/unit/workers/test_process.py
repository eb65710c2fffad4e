"""What a worker process tells its parts, and in which order they end."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from circuit_breaker import CircuitBreaker, CircuitBreakerConfig, Outcome
from tasks import process
from tasks.drain import Drain
from tasks.errors import SettingsError
from tasks.settings import Settings
from workers.process import WorkerProcess


class Worker:
    """A worker process whose parts note in which order they end."""

    def __init__(self, **settings: str) -> None:
        self.ended: list[str] = []
        self.process = WorkerProcess(Settings(gpu_url="http://gpu", **settings))
        self.process._drain = self.drain = Drain()
        self.drain.at_start(lambda: self.ended.append("drained"))
        self.process._background = SimpleNamespace(stop=self.ends("loops"))
        self.process._tiers = SimpleNamespace(http=SimpleNamespace(aclose=self.ends("calls")))
        self.process._publisher = SimpleNamespace(stop=self.ends("messages"))
        fleet = SimpleNamespace(count=lambda _: asyncio.sleep(0))
        self.process._store = SimpleNamespace(fleet=fleet, close=self.ends("store"))

    def ends(self, name):
        async def end():
            self.ended.append(name)

        return end


def test_a_worker_passes_cancels_on_before_anything_runs(monkeypatch):
    ours = asyncio.wait_for
    monkeypatch.setattr("asyncio.wait_for", process._of_3_11)
    with process.listen("127.0.0.1", 0) as taken:
        worker = Worker(worker_port=taken.getsockname()[1])
        with pytest.raises(SettingsError, match="FALLTHROUGH_WORKER_PORT"):
            worker.process.run()
    assert asyncio.wait_for is ours


async def test_a_unit_that_begins_to_wait_as_the_drain_ends_is_handed_back_before_the_end():
    worker = Worker()
    await worker.drain.run(0)

    async def hand_back():
        await asyncio.sleep(0.02)
        worker.ended.append("handed back")

    worker.drain.wait_for(asyncio.create_task(hand_back()))
    await worker.process._close()
    assert worker.ended == ["drained", "handed back", "loops", "calls", "messages", "store"]


async def test_a_worker_that_ends_without_a_signal_hands_back_what_waits_as_well():
    worker = Worker()
    stops = asyncio.Event()
    worker.drain.at_start(stops.set)
    worker.drain.wait_for(asyncio.create_task(stops.wait()))
    await asyncio.wait_for(worker.process._close(), 5)
    assert worker.ended == ["drained", "loops", "calls", "messages", "store"]


async def test_who_calls_work_back_is_told_of_each_change_and_of_a_probe_that_failed():
    worker, told = Worker(), []
    worker.process._recaller = SimpleNamespace(
        changed=lambda *, probe_failed: told.append(probe_failed)
    )
    config = CircuitBreakerConfig(failure_threshold=1, recovery_timeout_seconds=0.01)
    breaker = CircuitBreaker("max_gpu", config, on_event=worker.process._breaker_event)
    for _ in range(2):
        await breaker.record(await breaker.acquire(), Outcome.FAILURE)
        await asyncio.sleep(2 * config.recovery_timeout_seconds)  # until it is due for a probe
    assert told == [False, False, True], "it opened, was probed, and in vain"


@pytest.mark.parametrize(
    "queues", ["batch, interactive", ",batch,,interactive", "batch,interactive"]
)
def test_a_list_of_queues_is_read_with_its_blanks_and_its_gaps(queues):
    process = Worker(worker_queues=queues).process
    assert process._queues() == Worker(worker_queues="batch,interactive").process._queues()
    assert process._name.startswith("batch-interactive-")
    assert process._mixed()


def test_one_queue_that_is_named_twice_is_one():
    assert not Worker(worker_queues="batch, batch,").process._mixed()
