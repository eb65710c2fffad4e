"""A message that comes again while its job runs is no second run."""

from __future__ import annotations

import asyncio

import httpx
import openai
import pytest
from harness.batches import check_every_line_once, ended, line, start
from harness.waiting import wait_until

from tasks.app import create_app
from tasks.broker.publisher import Publisher
from tasks.records.jobs import Dispatch
from tasks.settings import Settings


def deliver_again(fleet, valkey, dispatches):
    """Publish once more what a worker has in hand, as a broken link does."""
    settings = Settings.from_env(fleet.settings)
    publisher = Publisher(create_app(settings), settings.model_tiers)
    publisher.start()

    async def publish():
        await publisher.dispatch(dispatches)
        await publisher.stop()

    asyncio.run(publish())
    with valkey.client() as client:
        queues = {each.queue for each in dispatches}
        wait_until(lambda: not any(map(client.llen, queues)), what="it was taken again")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_job_runs_once_however_often_its_message_comes(fleet, valkey, gpu, workers):
    gpu.delay = 1.5
    api = fleet.api().start()
    for _ in range(workers):
        fleet.worker("interactive").start()
    with httpx.Client(base_url=api.url, timeout=60) as http:
        jobs = [http.post("/v1/jobs", json={"prompt": f"{n}"}).json()["id"] for n in range(4)]
        wait_until(lambda: gpu.running == 4)
        deliver_again(fleet, valkey, [Dispatch(job, 0, "gpu", "interactive") for job in jobs])
        for job in jobs:
            assert http.get(f"/v1/jobs/{job}?wait=20").json()["status"] == "succeeded"
    assert sorted(call.prompt for call in gpu.calls) == ["0", "1", "2", "3"]


def test_lines_of_a_batch_run_once_however_often_their_message_comes(fleet, valkey, gpu):
    gpu.delay = 1.5
    api = fleet.api().start()
    fleet.worker("batch").start()
    sdk = openai.OpenAI(base_url=f"{api.url}/v1", api_key="none")
    batch = start(sdk, [line(f"{n}", f"{n}") for n in range(8)])
    wait_until(lambda: gpu.running == 8)
    deliver_again(fleet, valkey, [Dispatch(f"{batch.id}_0", 0, "gpu", "batch.begun")])
    check_every_line_once(sdk, ended(sdk, batch.id), [f"{n}" for n in range(8)])
    assert len(gpu.calls) == 8
