"""Two hundred answers that come as they are made, through one API process and one worker.

Beside them, in the same run, the same streams through a proxy that only passes them on.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING

import uvloop
from harness.waiting import free_port, wait_until

from benchmarks.paced import Script
from benchmarks.readers import Reading, read_all
from benchmarks.stack import answers, cpu_seconds, empty_fleet, resident_mb, stub

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

STREAMS, STARTS = 200, 20.0  # of which so many start a second
# Of each, and a second: the first one still speaks when the last begins, and no two in step.
WORDS, PACE = 300, 19.0
WARM = 20  # streams before those that are measured
# A worker has a thread for each slice, which one job is here.
SETTINGS = {"FALLTHROUGH_GPU_CONCURRENCY": "256", "FALLTHROUGH_WORKER_THREADS": "256"}

_names = itertools.count()


class Used:
    """What processes use from its making on; their sizes are looked at when all streams run."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = pids
        self._cpu = {name: cpu_seconds(pid) for name, pid in pids.items()}
        self._sizes = {name: resident_mb(pid) for name, pid in pids.items()}
        self._grown_mb: dict[str, float] = {}

    def at_most(self) -> None:
        """Note how large the processes are now."""
        self._grown_mb = {
            name: resident_mb(pid) - self._sizes[name] for name, pid in self._pids.items()
        }

    def figures(self) -> dict[str, float]:
        """Return the CPU time of each, of 1,000 tokens and of a stream, and its memory of one."""
        figures = {}
        for name, pid in self._pids.items():
            used_ms = 1000 * (cpu_seconds(pid) - self._cpu[name])
            figures[f"{name}_cpu_ms_1000"] = used_ms / (STREAMS * WORDS / 1000)
            figures[f"{name}_cpu_ms_stream"] = used_ms / STREAMS
            figures[f"{name}_kb_stream"] = 1024 * self._grown_mb[name] / STREAMS
        return figures


def _scripts(number: int, words: int) -> list[Script]:
    return [Script(f"s{next(_names)}", words, PACE) for _ in range(number)]


def _run(url: str, pids: Mapping[str, int]) -> dict[str, float]:
    """Read all streams at a URL; return what came, and what the processes used."""
    uvloop.run(read_all(url, _scripts(WARM, 20), STARTS, lambda: None))
    used = Used(pids)
    readings = uvloop.run(read_all(url, _scripts(STREAMS, WORDS), STARTS, used.at_most))
    return _lateness(readings) | used.figures()


def _lateness(readings: Sequence[Reading]) -> dict[str, float]:
    """Return how late words come, and how many of all streams a second."""
    seconds = max(each.ended for each in readings) - min(each.first for each in readings)
    firsts = [each.late_ms[0] for each in readings]
    others = [late for each in readings for late in each.late_ms[1:]]
    return {
        "first_p50_ms": _percentile(firsts, 50),
        "first_p99_ms": _percentile(firsts, 99),
        "word_p50_ms": _percentile(others, 50),
        "word_p99_ms": _percentile(others, 99),
        "tokens_rate": sum(len(each.late_ms) for each in readings) / seconds,
    }


def _percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]


@contextlib.contextmanager
def _proxy(upstream: str) -> Iterator[tuple[str, int]]:
    """Yield the URL of a proxy that does nothing else, and its process's id."""
    port = free_port()
    process = subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-m", "benchmarks.bare_proxy", str(port), upstream]
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: answers(url))
        yield url, process.pid
    finally:
        process.kill()
        process.wait()


def measure() -> dict[str, float]:
    """Return the figures of all streams; bare: those through the proxy.

    first, word: how much later than from the upstream a word comes.
    """
    with stub(0.0) as upstream:
        with _proxy(upstream) as (url, pid):
            bare = _run(url, {"proxy": pid})
        with empty_fleet(upstream, **SETTINGS) as (fleet, valkey):
            processes = (*fleet.start(fleet.api(), fleet.worker("interactive")), valkey)
            pids = [each.process.pid for each in processes if each.process]
            ours = _run(processes[0].url, dict(zip(("api", "worker", "store"), pids, strict=True)))
    figures = {f"bare_{name}": value for name, value in bare.items()} | ours
    return figures | {"share": ours["tokens_rate"] / bare["tokens_rate"]}
