"""Fixtures of the tests that start some of our processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from harness import processes
from harness.nursery import Nurseries

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def _nurseries() -> Iterator[Nurseries]:
    nurseries = Nurseries()
    yield nurseries
    nurseries.close()


@pytest.fixture(scope="module", autouse=True)
def _forks(_nurseries: Nurseries) -> Iterator[None]:
    processes.nurseries = _nurseries
    yield
    processes.nurseries = None
