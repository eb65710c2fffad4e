"""A test that takes too long is interrupted until it ends: a plugin of pytest-timeout.

By itself that interrupts once. An event loop may take what is raised in a callback for the
callback's fault, and go on; and what a test waited for is often what its fixtures then wait for.
"""

from __future__ import annotations

import contextlib
import signal
import time
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from pytest_timeout import Settings

AGAIN_SECONDS = 20.0
TEARDOWN_SECONDS = 60.0
SOON = 0.001
DEADLINE = pytest.StashKey[float]()


def pytest_timeout_set_timer(item: pytest.Item, settings: Settings) -> bool:
    item.stash[DEADLINE] = time.monotonic() + settings.timeout
    return True


def pytest_timeout_cancel_timer() -> bool:
    return True


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    with _interrupted_after(_left(item)):
        return (yield)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    with _interrupted_after(_left(item)):
        return (yield)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_teardown() -> Iterator[None]:
    with _interrupted_after(TEARDOWN_SECONDS):
        return (yield)


def _left(item: pytest.Item) -> float:
    """Return the seconds that a test has left; 0: it has no limit."""
    deadline = item.stash.get(DEADLINE, None)
    return 0.0 if deadline is None else max(deadline - time.monotonic(), SOON)


@contextlib.contextmanager
def _interrupted_after(seconds: float) -> Iterator[None]:
    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        pytest.fail(f"Timeout (>{seconds:g}s)")

    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
