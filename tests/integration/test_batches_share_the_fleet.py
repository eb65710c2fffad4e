"""Batches beside one another, and beside lone requests: everybody gets a share."""

from __future__ import annotations

import math
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from harness.batches import check_every_line_once, ended, jsonl, line, start, upload
from harness.waiting import wait_until

HELLO = {"messages": [{"role": "user", "content": "x"}]}
AT_ONCE = 4  # lone requests


def client_of(api):
    return openai.OpenAI(base_url=f"{api.url}/v1", api_key="any", max_retries=0)


def lines_of(number):
    return [line(f"c{n}", str(n)) for n in range(number)]


def completed(sdk, batch):
    return sdk.batches.retrieve(batch.id).request_counts.completed


def p95_of_lone_requests(api, number):
    """Ask for so many, and return how long the 95th percentile of them waits for its answer."""
    with httpx.Client(base_url=api.url, timeout=30) as http, ThreadPoolExecutor(AT_ONCE) as pool:

        def ask(_):
            began = time.monotonic()
            http.post("/v1/chat/completions", json=HELLO).raise_for_status()
            return time.monotonic() - began

        took = sorted(pool.map(ask, range(number)))
    return took[math.ceil(0.95 * number) - 1]


def test_batches_share_the_fleet_and_a_low_priority_gets_less(fleet, gpu):
    settings = {"slice_lines": 8, "gpu_concurrency": 16, "batch_window": 16}
    api, _ = fleet.start(fleet.api(), fleet.worker("batch", **settings))
    gpu.delay = 0.02
    with client_of(api) as sdk:
        first = start(sdk, lines_of(3000))
        wait_until(lambda: completed(sdk, first) > 200)
        second = start(sdk, lines_of(3000))
        low = start(sdk, lines_of(3000), metadata={"priority": "low"})
        what = "a second batch does not wait for the first"
        wait_until(lambda: completed(sdk, second) > 100, what=what)
        before = [completed(sdk, batch) for batch in (first, second, low)]
        wait_until(lambda: completed(sdk, second) > before[1] + 400)
        after = [completed(sdk, batch) for batch in (first, second, low)]
    made = [now - then for now, then in zip(after, before, strict=True)]
    assert 0.5 < made[0] / made[1] < 2
    assert made[2] < made[1] / 2


def test_lone_requests_are_never_behind_a_batch(fleet, gpu):
    api, *_ = fleet.start(fleet.api(), fleet.worker("interactive"), fleet.worker("batch"))
    gpu.delay = 0.2
    idle = p95_of_lone_requests(api, 30)
    with client_of(api) as sdk:
        batch = start(sdk, lines_of(20_000))
        wait_until(lambda: completed(sdk, batch) > 0)
        assert p95_of_lone_requests(api, 30) < 2 * idle
        assert sdk.batches.retrieve(batch.id).status == "in_progress"


@pytest.mark.parametrize("crowd", [(1, 64), (4, 16)])
def test_a_worker_for_all_queues_answers_lone_requests_before_its_batches(fleet, gpu, crowd):
    batches, places = crowd  # the many batches want more threads than there are
    api, _ = fleet.start(fleet.api(), fleet.worker(gpu_concurrency=places))
    gpu.delay = 0.2
    idle = p95_of_lone_requests(api, 20)
    with client_of(api) as sdk:
        running = [start(sdk, lines_of(5_000)) for _ in range(batches)]
        # Which of them the worker begins with is its own affair.
        wait_until(lambda: any(completed(sdk, batch) > 0 for batch in running))
        wait_until(lambda: sdk.batches.retrieve(running[-1].id).status == "in_progress")
        assert p95_of_lone_requests(api, 20) < 2.5 * idle
        for batch in running:
            assert sdk.batches.cancel(batch.id).status == "cancelling"


def test_batches_beyond_what_a_worker_runs_at_once_all_end(fleet, gpu):
    # A message is taken for lost within its grace only if it is: no worker is there meanwhile.
    grace = {"dispatch_grace_seconds": 60}
    worker = fleet.worker(slice_lines=4, gpu_concurrency=4, **grace)
    api, _ = fleet.start(fleet.api(**grace), worker)
    gpu.delay = 0.01
    gpu.plan = lambda call: "no-choices" if int(call.prompt) % 10 == 3 else "ok"
    lines = lines_of(100)
    with client_of(api) as sdk:
        batches = [start(sdk, lines) for _ in range(4)]
        wait_until(lambda: completed(sdk, batches[-1]) > 0)
        worker.signal(signal.SIGTERM)
        assert worker.wait(30) == 0, worker.log
        worker.start()
        for batch in batches:
            done = ended(sdk, batch.id)
            check_every_line_once(sdk, done, [each["custom_id"] for each in lines])
    assert "unbegun" not in worker.log


def test_many_small_batches_leave_threads_to_lone_requests(fleet, gpu):
    gpu.plan = lambda call: "hang" if call.prompt == "slow" else "ok"
    worker = fleet.worker(gpu_concurrency=200, gpu_timeout_seconds="60")
    api, _ = fleet.start(fleet.api(), worker)
    with client_of(api) as sdk:
        file = upload(sdk, jsonl([line("c", "slow")]))
        fields = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
        for _ in range(100):  # more than the worker has threads; its GPU has places for all
            sdk.batches.create(input_file_id=file, **fields)

        def begun():
            page = sdk.batches.list(limit=100).data
            return {batch.status for batch in page} == {"in_progress"} and len(gpu.calls) > 30

        wait_until(begun, what="each wants a thread, and some have one")
        assert p95_of_lone_requests(api, 8) < 2
