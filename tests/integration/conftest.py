"""Fixtures of the tests that start some of our processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from harness import processes
from harness.nursery import Nursery

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session", autouse=True)
def _nursery() -> Iterator[None]:
    processes.nursery = Nursery()
    yield
    processes.nursery.close()
    processes.nursery = None
