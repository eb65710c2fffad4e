"""Sync chats from 1 to 512 clients, each of which asks again as soon as it is answered."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import uvloop
from pyreqwest.client import ClientBuilder

from benchmarks.lone_requests import BODY, load
from benchmarks.stack import bare_rate, cpu_seconds, empty_fleet, store_calls, store_reads, stub

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.processes import Process
    from harness.valkey import ValkeyServer

CLIENTS = (1, 4, 16, 32, 64, 128, 256, 512)
SECONDS = 4.0


async def closed_loop(
    url: str,
    clients: int,
    seconds: float,
    body: Mapping[str, object] = BODY,
    headers: Mapping[str, str] | None = None,
) -> list[float]:
    """Ask for so long; return the latency of each request in ms."""
    client = ClientBuilder().no_proxy().timeout(timedelta(seconds=60)).build()
    latencies, end = [], time.monotonic() + seconds

    async def work() -> None:
        while (start := time.monotonic()) < end:
            request = client.post(url).headers(dict(headers or {}))
            response = await request.body_json(body).build().send()
            await response.bytes()
            assert response.status == 200, response.status  # noqa: S101, PLR2004 - else no figure
            latencies.append((time.monotonic() - start) * 1000)

    await asyncio.gather(*(work() for _ in range(clients)))
    return latencies


def measure() -> dict[str, float]:
    """Return of each number of clients the rate, the latency, and what a request costs."""
    figures: dict[str, float] = {}
    with stub(0.0) as upstream, empty_fleet(upstream) as (fleet, valkey):
        figures["bare_rate"] = bare_rate(upstream, valkey.url)
        api, worker = fleet.start(fleet.api(), fleet.worker("interactive"))
        load(f"{api.url}/v1/chat/completions", BODY, 500, 64)
        for clients in CLIENTS:
            figures |= {
                f"{name}_{clients}": figure
                for name, figure in _with(clients, api, worker, valkey).items()
            }
    figures["falls"] = _greatest_fall([figures[f"p50_ms_{clients}"] for clients in CLIENTS])
    return figures


def _with(clients: int, api: Process, worker: Process, valkey: ValkeyServer) -> dict[str, float]:
    url = f"{api.url}/v1/chat/completions"
    before = _used(api, worker, valkey)
    start = time.monotonic()
    latencies = uvloop.run(closed_loop(url, clients, SECONDS))
    seconds = time.monotonic() - start
    api_cpu, worker_cpu, reads, messages = (
        after - earlier for after, earlier in zip(_used(api, worker, valkey), before, strict=True)
    )
    percentiles = statistics.quantiles(latencies, n=100)
    requests = len(latencies)
    return {
        "rate": requests / seconds,
        "p50_ms": percentiles[49],
        "p99_ms": percentiles[98],
        "api_cpu_ms": 1000 * api_cpu / requests,
        "worker_cpu_ms": 1000 * worker_cpu / requests,
        "cpu_ms": 1000 * (api_cpu + worker_cpu) / requests,
        "jobs_a_message": requests / messages,
        "reads": reads / requests,
    }


def _used(api: Process, worker: Process, valkey: ValkeyServer) -> tuple[float, ...]:
    assert api.process and worker.process  # noqa: S101, PT018 - they were started
    cpu = (cpu_seconds(each.process.pid) for each in (api, worker))
    return (*cpu, store_reads(valkey), store_calls(valkey, "lpush"))


def _greatest_fall(latencies: list[float]) -> float:
    """Return the greatest share by which one is below any before it."""
    highest = itertools.accumulate(latencies, max)
    return max(1 - now / most for now, most in zip(latencies, highest, strict=True))
