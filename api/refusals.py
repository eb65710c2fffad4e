"""What the log says of requests that are told to come again: the metrics count them.

A store that is away, or full, refuses every one of them. A line for each would fill a disk with one
and the same word.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

AGAIN_SECONDS = 10.0  # between two lines of one kind

log = logging.getLogger(__name__)


class _Told(NamedTuple):
    at: float
    since: int  # refused, and not told


class Refusals:
    """Says the first of each kind at once, and then how many there were; of one process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[type[Exception], _Told] = {}

    def note(self, error: Exception) -> None:
        """Note a refusal: its caller is told what the error says."""
        kind = type(error)  # the store and the broker are "unavailable" both, and told apart here
        now, last = self._clock(), self._told.get(kind)
        if last and now - last.at < AGAIN_SECONDS:
            self._told[kind] = _Told(last.at, last.since + 1)
            return
        self._told[kind] = _Told(now, 0)
        more = (
            f" (and {last.since} more since the last line of these)" if last and last.since else ""
        )
        log.warning("request refused: %s%s", error, more)
