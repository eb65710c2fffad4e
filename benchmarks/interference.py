"""Interactive requests on an engine that a batch fills, but for the slots reserved for them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import httpx
from harness.waiting import wait_until

from benchmarks.batch import create, upload_file
from benchmarks.lone_requests import BODY, load
from benchmarks.stack import empty_fleet, stub_process

if TYPE_CHECKING:
    from collections.abc import Mapping

SLOTS, RESERVED, CALL_SECONDS = 32, 4, 0.2  # of the engine
LINES, REQUESTS = 50_000, 400
CLIENTS = 4  # each waits for its answer before it asks again
OF_THE_FLEET = {
    "FALLTHROUGH_GPU_LIMIT": f"{SLOTS}..{SLOTS}",
    "FALLTHROUGH_GPU_RESERVED": str(RESERVED),
}


def lines_rate(reserved: int) -> float:
    """Return the lines/s that are left to the batch. reserved: slots of all processes."""
    return (SLOTS - reserved - CLIENTS) / CALL_SECONDS


def of_each_worker(workers: int) -> dict[str, str]:
    """Return the settings by which so many workers share the engine's slots.

    Each reserves all that are to be free: all that is asked at once may come to one of them.
    """
    return {
        "FALLTHROUGH_GPU_CONCURRENCY": str(SLOTS // workers),
        "FALLTHROUGH_GPU_RESERVED": str(RESERVED),
    }


def measure(workers: int, settings: Mapping[str, str]) -> dict[str, float]:
    """Return how long interactive requests wait for their answers, idle and beside a batch.

    lines_rate: lines of the batch that were called meanwhile, a second.
    """
    with (
        stub_process(CALL_SECONDS, SLOTS) as engine,
        empty_fleet(engine.url, **settings) as (fleet, _),
    ):
        api, *_ = fleet.start(fleet.api(), *(fleet.worker() for _ in range(workers)))
        chat = f"{api.url}/v1/chat/completions"
        load(chat, BODY, 20, CLIENTS)
        idle = load(chat, BODY, REQUESTS, CLIENTS)
        with httpx.Client(base_url=api.url, timeout=120) as client:
            batch_id = create(client, upload_file(client, LINES))
            counts = lambda: client.get(f"/v1/batches/{batch_id}").json()["request_counts"]  # noqa: E731
            wait_until(lambda: counts()["completed"] > 0, 60)
            calls, began = len(engine.calls()), time.monotonic()
            busy = load(chat, BODY, REQUESTS, CLIENTS)
            lines = len(engine.calls()) - calls - REQUESTS
            seconds = time.monotonic() - began
            client.post(f"/v1/batches/{batch_id}/cancel")
    return {
        "idle_p50_ms": idle["p50"],
        "idle_p95_ms": idle["p95"],
        "busy_p50_ms": busy["p50"],
        "busy_p95_ms": busy["p95"],
        "added_p95_ms": busy["p95"] - idle["p95"],
        "x": busy["p95"] / idle["p95"],
        "lines_rate": lines / seconds,
    }
