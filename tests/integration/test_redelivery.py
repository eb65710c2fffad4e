"""A message that comes again while its job runs is no second run."""

from __future__ import annotations

import json

import httpx
import openai
import pytest
from harness.batches import check_every_line_once, ended, line, start
from harness.waiting import wait_until


def deliver_again(valkey, queue):
    """Put what a worker has taken from a queue into it once more, as a broken link does."""
    with valkey.client() as client:
        taken = [json.loads(raw) for raw in client.hvals("unacked")]
        again = [message for message, _, routing_key in taken if routing_key == queue]
        assert again
        for message in again:
            client.lpush(queue, json.dumps(message))
        wait_until(lambda: client.llen(queue) == 0, what="it was taken again")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_job_runs_once_however_often_its_message_comes(fleet, valkey, gpu, workers):
    gpu.delay = 1.5
    api = fleet.api().start()
    for _ in range(workers):
        fleet.worker("interactive").start()
    with httpx.Client(base_url=api.url, timeout=60) as http:
        jobs = [http.post("/v1/jobs", json={"prompt": f"{n}"}).json()["id"] for n in range(4)]
        wait_until(lambda: gpu.running == 4)
        deliver_again(valkey, "interactive")
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
    deliver_again(valkey, "batch.begun")  # of a batch of one slice
    check_every_line_once(sdk, ended(sdk, batch.id), [f"{n}" for n in range(8)])
    assert len(gpu.calls) == 8
