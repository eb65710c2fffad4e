"""A batch of 40,000 lines whose GPU server fails for a minute: when, and how, it comes home."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx

from benchmarks.batch import create, upload_file
from benchmarks.stack import empty_fleet, stub_process

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.stack import Stub

LINES, GPU_CALLS, GPU_SECONDS = 40_000, 64, 0.4  # 160 lines/s
CPU_CALLS = 2
BEFORE_SECONDS, OUTAGE_SECONDS, LONGEST_SECONDS = 10.0, 60.0, 300.0
LOOK_SECONDS, WINDOW_SECONDS = 0.05, 1.0
FULL_SHARE, GOOD = 0.9, 200


def most_lines(cpu_seconds: float) -> float:
    """Return how many lines the CPU tier can begin during the outage."""
    return CPU_CALLS * (OUTAGE_SECONDS / cpu_seconds + 1)


Calls = list[tuple[float, int]]  # when (s, monotonic), and the status


@dataclass
class _Watch:
    """What is seen of the GPU's breaker meanwhile."""

    client: httpx.Client
    dues: list[float] = field(default_factory=list)  # when each probe was due (s, monotonic)

    def look(self) -> None:
        views = self.client.get("/circuit-breakers").json()["circuit_breakers"]
        view, now = views["max_gpu"], time.monotonic()
        if view["state"] == "open" and view["retry_after_seconds"] > 0:
            due = now + view["retry_after_seconds"]
            if not self.dues or due - self.dues[-1] > 1:
                self.dues.append(due)
            self.dues[-1] = due

    def until(self, moment: float) -> None:
        while time.monotonic() < moment:
            self.look()
            time.sleep(LOOK_SECONDS)


def measure(cpu_seconds: float) -> dict[str, float]:
    """Return how late probes were, when the full rate was reached again, and what the CPU did."""
    with (
        stub_process(GPU_SECONDS) as gpu,
        stub_process(cpu_seconds) as cpu,
        empty_fleet(
            gpu.url,
            FALLTHROUGH_CPU_URL=cpu.url,
            FALLTHROUGH_GPU_CONCURRENCY=str(GPU_CALLS),
            FALLTHROUGH_CPU_CONCURRENCY=str(CPU_CALLS),
        ) as (fleet, _),
    ):
        api, _ = fleet.start(fleet.api(), fleet.worker())
        with httpx.Client(base_url=api.url, timeout=120) as client:
            batch_id = create(client, upload_file(client, LINES))
            watch = _Watch(client)
            while not gpu.calls():
                time.sleep(0.1)
            watch.until(time.monotonic() + BEFORE_SECONDS)
            gpu.turn()
            failed = time.monotonic()
            watch.until(failed + OUTAGE_SECONDS)
            gpu.turn()
            well = time.monotonic()
            while not _full_again(gpu.calls(), well) and time.monotonic() < well + LONGEST_SECONDS:
                watch.until(time.monotonic() + WINDOW_SECONDS)
            client.post(f"/v1/batches/{batch_id}/cancel")
        return _figures(gpu, cpu, watch.dues, failed, well)


def _figures(
    gpu: Stub, cpu: Stub, dues: Sequence[float], failed: float, well: float
) -> dict[str, float]:
    calls = gpu.calls()
    probes = [min((at for at, _ in calls if at >= due), default=due + 999) for due in dues]
    home = next((at for at, status in calls if at >= well and status == GOOD), well + 999)
    full = _full_again(calls, well) or well + 999
    below = sum(failed <= at < well for at, _ in cpu.calls())
    return {
        "probe_late_s": max(at - due for at, due in zip(probes, dues, strict=True)),
        "probes_while_down": sum(failed + 1 <= at < well for at, _ in calls),
        "first_answer_s": home - well,
        "full_rate_s": full - home,
        "cpu_lines": below,
        "cpu_lines_after": sum(at >= home + 1 for at, _ in cpu.calls()),
    }


def _full_again(calls: Calls, well: float) -> float | None:
    """Return when a second began in which all that the server can was asked of it; None: never."""
    enough = int(FULL_SHARE * GPU_CALLS / GPU_SECONDS * WINDOW_SECONDS)
    times = [at for at, _ in calls if at >= well]
    windows = zip(times, times[enough - 1 :], strict=False)
    return next((first for first, last in windows if last - first <= WINDOW_SECONDS), None)
