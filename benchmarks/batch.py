"""A batch from create to completed, beside the bare loop."""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

import httpx

from benchmarks.stack import bare, cpu_seconds, empty_fleet, store_reads, stub

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.processes import Fleet, Process
    from harness.valkey import ValkeyServer

PROMPT = "A prompt of some words. " * 4


def input_file(lines: int) -> bytes:
    """Return a batch's input."""
    body = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 64}
    fields = {"method": "POST", "url": "/v1/chat/completions", "body": body}
    return b"".join(
        json.dumps({"custom_id": f"line-{n}", **fields}).encode() + b"\n" for n in range(lines)
    )


def upload_file(client: httpx.Client, lines: int) -> str:
    """Upload an input file; return its id."""
    files = {"file": ("bench.jsonl", input_file(lines))}
    return str(client.post("/v1/files", files=files, data={"purpose": "batch"}).json()["id"])


def create(client: httpx.Client, file_id: str, **metadata: str) -> str:
    """Create a batch; return its id."""
    body = {
        "input_file_id": file_id,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "metadata": metadata,
    }
    return str(client.post("/v1/batches", json=body).json()["id"])


def follow(client: httpx.Client, batch_id: str) -> dict[str, Any]:
    """Wait for a batch's end."""
    while True:
        batch: dict[str, Any] = client.get(f"/v1/batches/{batch_id}").json()
        if batch["status"] in {"completed", "failed", "expired", "cancelled"}:
            return batch
        time.sleep(0.03)


def measure(lines: int, delay: float, at_once: int, workers: int = 1) -> dict[str, float]:
    """Run the bare loop and a batch once each, on the same servers."""
    with _fleet(delay, at_once) as (upstream, fleet, valkey):
        bare_loop = bare(upstream, valkey.url, lines, at_once * workers)
        figures = _run(fleet, valkey, lines, workers)
    return {
        "bare_rate": bare_loop["rate"],
        "share": figures["rate"] / bare_loop["rate"],
        "bare_cpu_ms": bare_loop["cpu_ms"],
        **figures,
    }


def rate(lines: int, delay: float, at_once: int, workers: int) -> float:
    """Return the lines/s of a batch alone."""
    with _fleet(delay, at_once) as (_, fleet, valkey):
        return _run(fleet, valkey, lines, workers)["rate"]


@contextlib.contextmanager
def _fleet(delay: float, at_once: int) -> Iterator[tuple[str, Fleet, ValkeyServer]]:
    settings = {"FALLTHROUGH_GPU_CONCURRENCY": str(at_once)}
    with stub(delay) as upstream, empty_fleet(upstream, **settings) as (fleet, valkey):
        yield upstream, fleet, valkey


def _run(fleet: Fleet, valkey: ValkeyServer, lines: int, workers: int) -> dict[str, float]:
    api = fleet.api().start()
    processes = [fleet.worker("batch").start() for _ in range(workers)]
    with httpx.Client(base_url=api.url, timeout=120) as client:
        follow(client, create(client, upload_file(client, 200)))  # warm
        file_id = upload_file(client, lines)
        cpu = _total_cpu_seconds(processes)
        reads = store_reads(valkey)
        start = time.monotonic()
        batch = follow(client, create(client, file_id))
        seconds = time.monotonic() - start
        reads = store_reads(valkey) - reads
        cpu = _total_cpu_seconds(processes) - cpu
    assert batch["status"] == "completed", batch  # noqa: S101 - else there is no figure
    assert batch["request_counts"]["completed"] == lines, batch  # noqa: S101 - as above
    return {
        "rate": lines / seconds,
        "cpu_ms": 1000 * cpu / lines,
        "round_trips": reads / lines,
    }


def _total_cpu_seconds(processes: list[Process]) -> float:
    return sum(cpu_seconds(each.process.pid) for each in processes if each.process)
