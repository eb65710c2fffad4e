"""How long this machine stood still: what shares its cores may starve every process of a run."""

from __future__ import annotations

import threading
import time

TICK_SECONDS = 0.02


class Stalls:
    """Notes every time that a thread which sleeps for a moment wakes much later."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._seen: list[tuple[float, float]] = []  # until when, seconds
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def longest(self, begin: float, end: float) -> float:
        """Return the seconds of the longest stall that touches a time."""
        touching = (s for until, s in list(self._seen) if until >= begin and until - s <= end)
        return max(touching, default=0.0)

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(5)

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(TICK_SECONDS):
            now = time.monotonic()
            if now - last > 10 * TICK_SECONDS:
                self._seen.append((now, now - last))
            last = now
