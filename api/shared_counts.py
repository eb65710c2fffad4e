"""What several API processes count, as one: whichever of them is asked tells of all.

Each writes its values into a file of its own (prometheus_client's mode for several processes). The
file is named by the process's number, so that one which is started again goes on counting.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector, values
from prometheus_client.multiprocess import MultiProcessCollector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

MEMORY = "/dev/shm"  # noqa: S108 - of a folder in it whose name nobody can foresee
PREFIX = "fallthrough-api-"
LEFT_SECONDS = 60.0  # until a folder that nobody holds is taken for one that was left behind
FIRST = {"process_start_time_seconds", "process_max_fds"}  # of the oldest; all else is added up
CPU = "process_cpu_seconds"
OF_REAPED = slice(13, 15)  # of /proc/PID/stat behind the name: cutime, cstime


@contextlib.contextmanager
def counts_folder() -> Iterator[str]:
    """Yield a folder for what several processes count; at the end it is gone.

    It lies in memory, if there is a place for that: on a disk that is full, who writes into a
    mapped file is killed, in the middle of a request.
    """
    place = MEMORY if os.access(MEMORY, os.W_OK | os.X_OK) else tempfile.gettempdir()
    for folder in Path(place).glob(f"{PREFIX}*"):
        _remove_if_left(folder)
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=place) as made:
        held = os.open(made, os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_EX)  # as long as this process, or a child of it, lives
        try:
            yield made
        finally:
            os.close(held)


def _remove_if_left(folder: Path) -> None:
    """Remove a folder that a process left behind as it was killed."""
    with contextlib.suppress(OSError):  # it is held, or another user's
        found = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - os.fstat(found).st_mtime > LEFT_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(found)


def share_counts(folder: str, number: int) -> None:
    """Have every metric that this process makes from now on be one of several processes'."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
    values.ValueClass = values.MultiProcessValue(lambda: number)  # type: ignore[no-untyped-call]


def shared_registry(folder: str) -> CollectorRegistry:
    """Return what tells the metrics of all the processes that share their counts in a folder."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, folder)  # type: ignore[no-untyped-call]
    registry.register(_Resources(os.getppid()))
    return registry


class _Resources:
    """The CPU, memory and open files of a process and of those that it started; a collector."""

    def __init__(self, parent: int) -> None:
        self._parent = parent

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        reaped, metrics = self._reaped_seconds(), self._added_up()
        while (now := self._reaped_seconds()) != reaped:  # one ended meanwhile, and was left out
            reaped, metrics = now, self._added_up()
        if CPU in metrics:
            [total] = metrics[CPU].samples
            metrics[CPU].samples = [total._replace(value=total.value + reaped)]
        yield from metrics.values()

    def _added_up(self) -> dict[str, Metric]:
        metrics: dict[str, Metric] = {}
        for pid in (self._parent, *self._children()):
            for metric in ProcessCollector(pid=partial(int, pid), registry=None).collect():
                known = metrics.setdefault(metric.name, metric)
                if known is not metric and metric.name not in FIRST:
                    [total], [more] = known.samples, metric.samples
                    known.samples = [total._replace(value=total.value + more.value)]
        return metrics

    def _reaped_seconds(self) -> float:
        """Return the CPU time of those that ended: without it the sum would go back, as at a start.

        Prometheus would take all that the others have used so far for new.
        """
        try:
            stat = Path(f"/proc/{self._parent}/stat").read_bytes()
        except OSError:
            return 0.0
        ticks = map(int, stat.rpartition(b")")[2].split()[OF_REAPED])
        return sum(ticks) / os.sysconf("SC_CLK_TCK")

    def _children(self) -> list[int]:
        try:
            told = Path(f"/proc/{self._parent}/task/{self._parent}/children").read_text()
        except OSError:
            return []  # it is gone, or this is no Linux
        return [int(pid) for pid in told.split()]
