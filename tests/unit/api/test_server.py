"""How many connections fit into what a process may open."""

from __future__ import annotations

import resource

import pytest

from api import server


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "most"),
    [
        (1024, 4096, 4096, 3968),
        (1024, 1_000_000, 10_128, 10_000),
        (1024, resource.RLIM_INFINITY, 10_128, 10_000),
        (50_000, 50_000, None, 10_000),
        (1024, 1024, None, 896),
    ],
)
def test_files_are_as_many_as_clients_need_and_the_process_may(
    monkeypatch, soft, hard, raised, most
):
    done = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: done.append(limits))
    assert server.raise_file_limit() == most
    assert done == ([(raised, hard)] if raised else [])
