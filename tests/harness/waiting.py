"""Waiting for conditions, never for time to pass."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import socket
import time
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")
FIRST_PORT, LAST_PORT, SHARES = 20_000, 32_000, 8  # below those of outgoing connections


def wait_until(condition: Callable[[], T], seconds: float = 20.0, what: str = "") -> T:
    """Wait until condition() is true and return what it gave; fail the test otherwise."""
    began = time.monotonic()
    while not (found := condition()):
        waited = time.monotonic() - began
        if waited > seconds:
            pytest.fail(f"not within {seconds:g} s: {what or condition}")
        time.sleep(_pause(waited, 0.02))
    return found


def _pause(waited: float, least: float) -> float:
    """Return the seconds until the next look: what takes long is looked at less often.

    Each look at a server takes some of the core that it needs for what is waited for.
    """
    return max(least, min(waited / 20, 0.1))


async def eventually(condition: Callable[[], T], seconds: float = 5.0, what: str = "") -> T:
    """Let the event loop go on until condition() is true and return what it gave; fail if not."""
    began = time.monotonic()
    while not (found := condition()):
        waited = time.monotonic() - began
        if waited > seconds:
            pytest.fail(f"not within {seconds:g} s: {what or condition}")
        await asyncio.sleep(_pause(waited, 0.001))
    return found


async def turns(number: int = 5) -> None:
    """Let everything run that can run without time passing."""
    for _ in range(number):
        await asyncio.sleep(0)


def answers(url: str, seconds: float = 3.0) -> bool:
    """Whether a server on this machine answers with success.

    Not with httpx: its client reads certificates first, 30 ms of a core that the server which is
    waited for wants to start with.
    """
    where = urlsplit(url)
    connection = HTTPConnection(where.netloc, timeout=seconds)
    try:
        connection.request("GET", where.path)
        return connection.getresponse().status < 300
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _ports() -> Iterator[int]:
    """Yield ports that no other test run's process beside this one takes, each once in a while.

    A server begins to listen a little later: one of another test that got the same port meanwhile
    would be taken for it.
    """
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    share = (LAST_PORT - FIRST_PORT) // SHARES
    first = FIRST_PORT + number % SHARES * share
    ports = list(range(first, first + share))
    random.SystemRandom().shuffle(ports)  # no seed of a test makes two processes pick the same
    return itertools.cycle(ports)


PORTS = _ports()


def free_port() -> int:
    """Return a port that nobody listens on.

    Not one that the system picks: from those come the ports of outgoing connections, too, and the
    server that is to have this one starts a little later.
    """
    for port in PORTS:
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(("127.0.0.1", port))
            return port
    raise AssertionError("unreachable: the ports go round")
