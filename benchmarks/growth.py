"""What more worker processes bring, where the upstream and not this machine sets the pace."""

from __future__ import annotations

from benchmarks import batch

WORKERS = (1, 2, 4, 8)
CALLS, DELAY = 16, 0.2  # at once of each worker, and seconds of each: 80 lines/s a worker
SECONDS = 20


def measure() -> dict[str, float]:
    """Return the lines/s of each number of workers, and what is left of growing with it."""
    figures: dict[str, float] = {}
    for workers in WORKERS:
        lines = int(workers * CALLS / DELAY * SECONDS)
        figures[f"rate_{workers}"] = batch.rate(lines, DELAY, CALLS, workers)
    for workers in WORKERS[1:]:
        figures[f"linear_{workers}"] = figures[f"rate_{workers}"] / workers / figures["rate_1"]
    return figures
