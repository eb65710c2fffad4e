"""Run measurements and print a table: `./run bench [NAME …] [--runs N]`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import batch, fairness, lone_requests, size

if TYPE_CHECKING:
    from collections.abc import Callable

# name -> (what is measured, the budget in words)
ALL: dict[str, tuple[Callable[[], dict[str, float]], str]] = {
    "batch-0ms": (
        partial(batch.measure, 20_000, 0.0, 64),
        "share >= 0.5; cpu_ms <= 2 x bare_cpu_ms; round_trips <= 0.2",
    ),
    "batch-128": (partial(batch.measure, 20_000, 0.2, 128), "rate >= 0.97 of 640"),
    "batch-256": (partial(batch.measure, 20_000, 0.2, 256), "rate >= 0.9 of 1280"),
    "batch-5000": (partial(batch.measure, 5_000, 0.0, 64), "within 15 % of the others"),
    "batch-50000": (partial(batch.measure, 50_000, 0.0, 64), "within 15 % of the others"),
    "batch-2-workers": (
        partial(batch.measure, 20_000, 0.2, 64, workers=2),
        "rate >= 1.7 x one worker's (320)",
    ),
    "lone-jobs": (lone_requests.lone_jobs, "submit_rate >= 1500, share >= 0.35; chat64 >= 600, p99 <= 250"),
    "end-to-end": (lone_requests.end_to_end, "jobs_rate >= 600"),
    "sync-chat": (lone_requests.sync_chat, "p50 <= 8 ms, p99 <= 20 ms"),
    "upload": (size.upload, "api_grows_mb <= 64"),
    "memory": (size.batch, "worker <= 100 MB, store <= 64 MB, flat from line 10 000 on"),
    "fairness": (fairness.measure, "x <= 2"),
}


def main() -> int:
    """Measure; each figure is the median of the runs, with the least and the most."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("names", nargs="*", metavar="NAME", help=", ".join(ALL))
    options.add_argument("--runs", type=int, default=3)
    options.add_argument("--json", help="file for the figures")
    given = options.parse_args()
    unknown = set(given.names) - set(ALL)
    if unknown:
        options.error(f"there is no {', '.join(unknown)}; there are {', '.join(ALL)}")
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],  # noqa: S607 - git is where the user has it
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    ).stdout.strip()
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    _say(f"{machine}; commit {commit}; median of {given.runs} (least - most)\n")
    kept = {}
    for name in given.names or ALL:
        measure, budget = ALL[name]
        runs = [measure() for _ in range(given.runs)]
        kept[name] = runs
        _say(f"{name}: {budget}")
        for figure in runs[0]:
            values = [run[figure] for run in runs]
            middle = statistics.median(values)
            _say(f"    {figure:24} {middle:10.3f}   ({min(values):.3f} - {max(values):.3f})")
    if given.json:
        found = {"machine": machine, "commit": commit, "figures": kept}
        Path(given.json).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
