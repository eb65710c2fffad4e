"""The pipeline as a Celery application, through pytest-celery's setup of broker and workers."""

from __future__ import annotations

import asyncio

import pytest
from harness.nodes import ProcessNode
from harness.stores import store_on
from harness.waiting import wait_until
from pytest_celery import (
    CeleryBrokerCluster,
    CeleryTestBroker,
    CeleryTestWorker,
    CeleryWorkerCluster,
)

from fallback_chain import Body
from tasks.app import create_app
from tasks.broker.publisher import Publisher
from tasks.records.jobs import Options, Queue, Status, Submission, new_job_id
from tasks.settings import Settings
from tasks.submit import Submitter


@pytest.fixture
def celery_broker_cluster(own_valkey):
    node = ProcessNode("valkey", own_valkey, {"url": own_valkey.url, "host_url": own_valkey.url})
    cluster = CeleryBrokerCluster(CeleryTestBroker(node))
    yield cluster
    cluster.teardown()


@pytest.fixture
def celery_backend_cluster():
    """None: the record is the truth, there is no result backend."""


@pytest.fixture
def settings(own_fleet):
    return Settings.from_env(own_fleet.settings)


@pytest.fixture
def celery_setup_app(settings):
    return create_app(settings)


@pytest.fixture
def celery_worker_cluster(celery_broker_cluster, celery_setup_app, own_fleet):
    queues = ("interactive", "batch")
    workers = own_fleet.start(*(own_fleet.worker(queue) for queue in queues))
    nodes = (ProcessNode(queue, worker, {}) for queue, worker in zip(queues, workers, strict=True))
    cluster = CeleryWorkerCluster(*(CeleryTestWorker(node, celery_setup_app) for node in nodes))
    yield cluster
    cluster.teardown()


@pytest.fixture
async def submitter(celery_setup, settings):
    store = store_on(settings.redis_url)
    publisher = Publisher(celery_setup.app, ["gpu", "cpu"])
    publisher.start()
    yield Submitter(store, publisher)
    await publisher.stop()
    await store.close()


def submission(prompt, queue=Queue.INTERACTIVE):
    return Submission(
        id=new_job_id(),
        owner="ann",
        queue=queue,
        body=Body.of({"messages": [{"role": "user", "content": prompt}]}),
        options=Options(),
        deadline_seconds=60.0,
    )


async def ask(submitter, prompt, queue=Queue.INTERACTIVE):
    job = submission(prompt, queue)
    await submitter.submit([job])
    store = submitter._store
    listening = store.connection.events("finished")
    try:
        async for _ in listening:
            record = await store.jobs.get(job.id, "ann")
            if record.status.final:
                return record
    finally:
        await listening.aclose()
    raise AssertionError


async def test_each_queue_has_its_worker_and_each_tier_its_task(celery_setup, submitter, gpu):
    inspect = celery_setup.app.control.inspect(timeout=5, limit=2)

    def answered(ask):
        """Return what both workers answer: a broadcast reaches who listens already."""
        found = []
        wait_until(lambda: found.append(ask()) or len(found[-1] or {}) == 2, 30)
        return found[-1]

    registered = answered(inspect.registered)
    for tasks in registered.values():
        assert {"tasks.gpu", "tasks.cpu", "tasks.cache"} <= set(tasks)
    queues = [
        sorted(q["name"] for q in found) for found in answered(inspect.active_queues).values()
    ]
    assert sorted(queues) == [
        ["batch", "batch.begun", "phases", "phases.begun"],
        ["interactive", "interactive.begun"],
    ]
    for queue in (Queue.INTERACTIVE, Queue.BATCH):
        record = await ask(submitter, f"for {queue}", queue)
        assert (record.status, record.tier_used) == (Status.SUCCEEDED, "gpu")


async def test_the_chain_goes_on_in_celery_when_a_tier_cannot(celery_setup, submitter, gpu, cpu):
    gpu.mode = "500"
    record = await ask(submitter, "falls through")
    assert [a["tier"] for a in record.attempts] == ["gpu", "cpu"]
    assert record.tier_used == "cpu"


async def test_a_warm_shutdown_finishes_what_runs(celery_setup, submitter, gpu):
    gpu.delay = 0.3  # well below the time that a try has here
    job = submission("warm")
    await submitter.submit([job])
    wait_until(lambda: gpu.running == 1)
    celery_setup.worker.kill("SIGTERM")
    assert celery_setup.worker.container.status == "exited"
    record = await submitter._store.jobs.get(job.id, "ann")
    assert record.status is Status.SUCCEEDED


async def test_a_restarted_broker_is_found_again(celery_setup, submitter, gpu):
    assert (await ask(submitter, "before")).status is Status.SUCCEEDED
    await asyncio.to_thread(celery_setup.broker.restart, force=True)
    assert (await ask(submitter, "after")).status is Status.SUCCEEDED
