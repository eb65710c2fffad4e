"""Lone jobs and sync chat over HTTP, beside the same framework's empty endpoint."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import subprocess
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import uvloop
from harness.waiting import free_port, wait_until
from pyreqwest.client import ClientBuilder

from benchmarks.stack import answers, bare_rate, empty_fleet, stub
from tasks.store.keyspace import PREFIX, STATS

if TYPE_CHECKING:
    from collections.abc import Iterator

BODY = {"messages": [{"role": "user", "content": "A prompt of some words."}], "max_tokens": 64}
JOB = {"prompt": "A prompt of some words.", "max_tokens": 64, "cache": "off"}


async def _load(url: str, body: dict[str, object], number: int, clients: int) -> list[float]:
    """Post number requests from so many clients; return the latency of each in ms."""
    client = ClientBuilder().no_proxy().timeout(timedelta(seconds=60)).build()
    left, latencies = number, []

    async def work() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            start = time.monotonic()
            response = await client.post(url).body_json(body).build().send()
            await response.bytes()
            assert response.status in {200, 202}, response.status  # noqa: S101 - else no figure
            latencies.append((time.monotonic() - start) * 1000)

    await asyncio.gather(*(work() for _ in range(clients)))
    return latencies


def load(url: str, body: dict[str, object], number: int, clients: int) -> dict[str, float]:
    """Return rate and percentiles."""
    start = time.monotonic()
    latencies = sorted(uvloop.run(_load(url, body, number, clients)))
    seconds = time.monotonic() - start
    percentiles = statistics.quantiles(latencies, n=100)
    p50, p95, p99 = (percentiles[percent - 1] for percent in (50, 95, 99))
    return {"rate": number / seconds, "p50": p50, "p95": p95, "p99": p99}


@contextlib.contextmanager
def empty_endpoint() -> Iterator[str]:
    """Yield the URL of an endpoint of the same framework that does nothing."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.empty", str(port)]
    process = subprocess.Popen(command)  # noqa: S603 - our own module
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: answers(url))
        yield url
    finally:
        process.kill()
        process.wait()


def lone_jobs() -> dict[str, float]:
    """Submissions over HTTP, 64 clients, one API process; and end to end with one worker."""
    with empty_endpoint() as url:
        empty = load(url, JOB, 6000, 64)["rate"]
    with stub(0.0) as upstream, empty_fleet(upstream) as (fleet, valkey):
        bare = bare_rate(upstream, valkey.url)
        api = fleet.api().start()
        load(f"{api.url}/v1/jobs", JOB, 500, 64)
        submissions = load(f"{api.url}/v1/jobs", JOB, 6000, 64)["rate"]
    with stub(0.0) as upstream, empty_fleet(upstream) as (fleet, _):
        api = fleet.api().start()
        fleet.worker("interactive").start()
        load(f"{api.url}/v1/chat/completions", BODY, 300, 64)
        chat = load(f"{api.url}/v1/chat/completions", BODY, 4000, 64)
    return {
        "bare_rate": bare,
        "empty_rate": empty,
        "submit_rate": submissions,
        "submit_share": submissions / empty,
        "chat64_rate": chat["rate"],
        "chat64_p50_ms": chat["p50"],
        "chat64_p99_ms": chat["p99"],
    }


def end_to_end() -> dict[str, float]:
    """Lone jobs from 64 clients until all are finished."""
    number = 4000
    with stub(0.0) as upstream, empty_fleet(upstream) as (fleet, valkey):
        bare = bare_rate(upstream, valkey.url)
        api = fleet.api().start()
        fleet.worker("interactive").start()
        load(f"{api.url}/v1/chat/completions", BODY, 300, 64)
        with valkey.client() as client:
            start = time.monotonic()
            load(f"{api.url}/v1/jobs", JOB, number, 64)
            finishes = lambda: sum(int(n) for n in client.hvals(PREFIX + STATS))  # noqa: E731
            wait_until(lambda: finishes() >= number + 300, 60)
            seconds = time.monotonic() - start
    return {"bare_rate": bare, "jobs_rate": number / seconds}


def sync_chat() -> dict[str, float]:
    """One client: what the pipeline adds to the upstream's own time."""
    with stub(0.0) as upstream, empty_fleet(upstream) as (fleet, valkey):
        bare = bare_rate(upstream, valkey.url)
        direct = load(f"{upstream}/v1/chat/completions", BODY, 1000, 1)
        api = fleet.api().start()
        fleet.worker("interactive").start()
        load(f"{api.url}/v1/chat/completions", BODY, 100, 1)
        through = load(f"{api.url}/v1/chat/completions", BODY, 1000, 1)
    return {
        "bare_rate": bare,
        "added_p50_ms": through["p50"] - direct["p50"],
        "added_p99_ms": through["p99"] - direct["p99"],
    }
