"""The store's tests run on a plain Valkey, and on one in cluster mode that owns all slots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from harness.stores import Clock

if TYPE_CHECKING:
    from harness.valkey import ValkeyServer


@pytest.fixture(params=["valkey", "clustered_valkey"])
def store_url(request) -> str:
    """The URL of an empty store."""
    server: ValkeyServer = request.getfixturevalue(request.param)
    return server.url


@pytest.fixture
def clock() -> Clock:
    return Clock()
