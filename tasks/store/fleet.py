"""What the whole fleet has in hand, and how long jobs took."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping


class Gauges(msgspec.Struct, frozen=True):
    """What the fleet has in hand. By queue: a unit of a batch counts as one; seconds."""

    parked: int
    workers: int
    waiting: dict[str, int]
    running: dict[str, int]
    oldest: dict[str, float]  # since its dispatch; 0: nothing waits


def percentile(latencies: Mapping[int, int], share: float) -> float | None:
    """Return the latency in ms under which that share of jobs finished; None without jobs."""
    total = sum(latencies.values())
    rank = math.ceil(total * share)
    for bucket in sorted(latencies):
        rank -= latencies[bucket]
        if rank <= 0 < total:
            return float(round(1.1**bucket, 1))
    return None
