"""How much memory the embedded store may fill."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MIB = 1024 * 1024
# What a container may use, as the kernel tells those who run in it (cgroup v2, v1).
CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
SHARE, LEAST = 4, 256 * MIB


def machine_memory(limits: Iterable[Path] = CGROUP_LIMITS) -> int:
    """Return the bytes of memory of this machine, or of this container where it may use less."""
    amounts = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in limits:
        try:
            amounts.append(int(path.read_text()))
        except (OSError, ValueError):  # none such here; "max"
            continue
    return min(amounts)


def store_memory(machine: int) -> int:
    """Return the bytes that the store may fill: a quarter, but 256 MiB at least.

    The rest is for the model, the other parts, and the copies that the store makes of what changes
    while it rewrites its log.
    """
    return max(machine // SHARE, LEAST)
