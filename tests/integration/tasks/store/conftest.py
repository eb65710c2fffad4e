"""The store's tests run on a plain Valkey, and on one in cluster mode that owns all slots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from harness.stores import Clock
from harness.valkey import ValkeyServer
from harness.waiting import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def clustered_valkey_session(tmp_path_factory) -> Iterator[ValkeyServer]:
    server = ValkeyServer(tmp_path_factory.mktemp("clustered"), free_port(), clustered=True)
    server.start()
    yield server
    server.kill()


@pytest.fixture(params=["valkey", "clustered"])
def store_url(request, valkey_session) -> str:
    """The URL of an empty store."""
    server = valkey_session
    if request.param == "clustered":
        server = request.getfixturevalue("clustered_valkey_session")
    with server.client() as client:
        client.flushall()
        client.script_flush()
    return server.url


@pytest.fixture
def clock() -> Clock:
    return Clock()
