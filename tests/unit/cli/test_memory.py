"""How much memory the embedded store may fill."""

from __future__ import annotations

import os

import pytest

from cli.stack.memory import machine_memory, store_memory

MIB = 1024 * 1024
GIB = 1024 * MIB
MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("machine", "store"),
    [
        (16 * GIB, 4 * GIB),
        (2 * GIB, 512 * MIB),
        (1 * GIB, 256 * MIB),
        (1 * GIB - 4096, 256 * MIB),
        (100 * MIB, 256 * MIB),
    ],
)
def test_the_store_may_fill_a_quarter_and_not_less_than_it_needs(machine, store):
    assert store_memory(machine) == store


@pytest.mark.parametrize(
    ("told", "memory"),
    [
        ([], MACHINE),
        (["max\n"], MACHINE),
        (["9223372036854771712\n"], MACHINE),  # how v1 tells that there is no limit
        (["67108864\n"], 64 * MIB),
        (["max\n", "67108864\n"], 64 * MIB),
        ([None, "67108864\n"], 64 * MIB),
    ],
)
def test_a_container_has_no_more_memory_than_its_limit(tmp_path, told, memory):
    paths = [tmp_path / str(n) for n in range(len(told))]
    for path, text in zip(paths, told, strict=True):
        if text is not None:
            path.write_text(text)
    assert machine_memory(paths) == memory
