"""How soon what a killed worker had begun runs elsewhere, behind a backlog of 10 000 jobs."""

from __future__ import annotations

import signal
import statistics
import time
from typing import TYPE_CHECKING

import httpx
from harness.waiting import wait_until

from benchmarks.stack import empty_fleet, stub
from tasks.store import keyspace
from tasks.store.keyspace import PREFIX

if TYPE_CHECKING:
    from harness.valkey import ValkeyServer

JOBS, IN_ONE_REQUEST = 10_000, 1_000
CALL_SECONDS = 0.1
LONGEST_SECONDS = 60.0

Holders = dict[str, str]  # job -> whose lease it is under, of those that run or have run


def measure() -> dict[str, float]:
    """Return how many jobs the worker had begun, and the seconds until they ran again."""
    with stub(CALL_SECONDS) as upstream, empty_fleet(upstream) as (fleet, valkey):
        api, killed = fleet.start(fleet.api(), fleet.worker())
        with httpx.Client(base_url=api.url, timeout=60) as client:
            requests = [{"prompt": "x", "cache": "off"}] * IN_ONE_REQUEST
            for _ in range(JOBS // IN_ONE_REQUEST):
                client.post("/v1/jobs", json={"requests": requests}).raise_for_status()
        [name] = {holder.split(":")[0] for holder in _holders(valkey).values()}
        fleet.worker().start()
        wait_until(lambda: len({h.split(":")[0] for h in _holders(valkey).values()}) > 1)
        killed.signal(signal.SIGKILL)
        killed.wait()
        began = time.monotonic()
        lost = {job for job, holder in _holders(valkey).items() if holder.startswith(name)}
        seconds: list[float] = []
        while lost and time.monotonic() - began < LONGEST_SECONDS:
            taken = lost & _elsewhere(valkey, name, lost)
            seconds += [time.monotonic() - began] * len(taken)
            lost -= taken
            time.sleep(0.05)
        seconds += [LONGEST_SECONDS] * len(lost)
    return {"begun": len(seconds), "median_s": statistics.median(seconds), "worst_s": max(seconds)}


def _holders(valkey: ValkeyServer) -> Holders:
    with valkey.client() as client:
        running = [name.decode() for name in client.zrange(PREFIX + keyspace.LEASES, 0, -1)]
        pipeline = client.pipeline(transaction=False)
        for job in running:
            pipeline.hget(PREFIX + keyspace.job(job), "lease_owner")
        found = zip(running, pipeline.execute(), strict=True)
        return {job: holder.decode() for job, holder in found if holder}


def _elsewhere(valkey: ValkeyServer, name: str, jobs: set[str]) -> set[str]:
    """Return those that run, or have ended, under another's lease."""
    with valkey.client() as client:
        pipeline = client.pipeline(transaction=False)
        for job in jobs:
            pipeline.hmget(PREFIX + keyspace.job(job), "status", "lease_owner")
        found = zip(jobs, pipeline.execute(), strict=True)
        return {
            job
            for job, (status, holder) in found
            if status == b"succeeded" or (holder and not holder.decode().startswith(name))
        }
