"""Whether the consumer makes progress: a beat from its own event loop, read by /health."""

from __future__ import annotations

import time
from typing import Any

from celery import bootsteps

STALE_SECONDS = 30.0
BEAT_SECONDS = 0.25  # also how soon Celery's loop, asleep in a poll, sees a SIGTERM


class Pulse:
    """Written by the consumer's thread, read by the health port's."""

    def __init__(self) -> None:
        self.last_beat = time.monotonic()
        self.connected = False
        self.draining = False

    def beat(self) -> None:
        """Say that the consumer is alive."""
        self.last_beat = time.monotonic()

    @property
    def alive(self) -> bool:
        """False when the consumer hangs. Waiting for a broker, or draining, is no hang."""
        waits = not self.connected or self.draining
        return waits or time.monotonic() - self.last_beat < STALE_SECONDS


def pulse_step(pulse: Pulse) -> type[Any]:
    """Return the consumer's bootstep that keeps this pulse."""

    class PulseStep(bootsteps.StartStopStep):  # type: ignore[misc]  # celery ships no types
        requires = ("celery.worker.consumer.control:Control",)

        def start(self, consumer: Any) -> None:
            pulse.connected = True
            pulse.beat()
            self.timer = consumer.timer.call_repeatedly(BEAT_SECONDS, pulse.beat)

        def stop(self, consumer: Any) -> None:  # noqa: ARG002 - the bootstep's signature
            pulse.connected = False
            timer = getattr(self, "timer", None)
            if timer is not None:
                timer.cancel()

        shutdown = stop

    return PulseStep
