"""A test that takes too long is interrupted until it ends: a plugin of pytest-timeout.

By itself that interrupts once. An event loop may take what is raised in a callback for the
callback's fault, and go on; and what a test waited for is often what its fixtures then wait for.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from pytest_timeout import Settings

AGAIN_SECONDS = 20.0
TEARDOWN_SECONDS = 60.0


def pytest_timeout_set_timer(item: pytest.Item, settings: Settings) -> bool | None:
    if settings.timeout:
        _interrupt_after(settings.timeout)
    return True


def pytest_timeout_cancel_timer(item: pytest.Item) -> bool:
    signal.setitimer(signal.ITIMER_REAL, 0)
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """A test that failed has no timer any more; what cleans up after it needs one most."""
    if not signal.getitimer(signal.ITIMER_REAL)[0]:
        _interrupt_after(TEARDOWN_SECONDS)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _interrupt_after(seconds: float) -> None:
    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        pytest.fail(f"Timeout (>{seconds:g}s)")

    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_SECONDS)
