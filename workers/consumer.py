"""Celery's consumer, back soon after its broker is, and without what this product does not use."""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from functools import partial
from typing import Any

from celery.exceptions import CPendingDeprecationWarning
from celery.signals import task_rejected
from celery.worker.consumer import Consumer as CeleryConsumer
from celery.worker.state import maybe_shutdown

from tasks.app import register_tier, tier_of

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0  # between two tries to connect; Celery itself would wait for up to 30 s
EVENTS_SECONDS = 0.1  # how long events wait to be published together: Flower looks no closer
# On RabbitMQ it makes 28 exchanges and 28 quorum queues for tasks with an ETA, at every connect.
UNUSED = "celery.worker.consumer.delayed_delivery:DelayedDelivery"


class Consumer(CeleryConsumer):  # type: ignore[misc]  # celery ships no types
    """The consumer of a worker."""

    _events_due = 0.0  # when the next events are published (monotonic s)

    class Blueprint(CeleryConsumer.Blueprint):  # type: ignore[misc]
        """Its steps."""

        default_steps = tuple(
            step for step in CeleryConsumer.Blueprint.default_steps if step != UNUSED
        )

    def connection_for_write(self, url: str | None = None, heartbeat: int | None = None) -> Any:
        """Return the connection of events, on which nobody waits: their loss is none."""
        unconfirmed = {"confirm_publish": False}
        connection = self.app.connection_for_write(
            url=url, heartbeat=heartbeat, transport_options=unconfirmed
        )
        return self.ensure_connected(connection)

    def on_send_event_buffered(self) -> None:
        """Have events published soon, together: each alone is a trip to the broker of its own.

        In any thread. What a lost connection's loop has forgotten is asked for again.
        """
        now = time.monotonic()
        if now >= self._events_due:
            self._events_due = now + EVENTS_SECONDS
            self.hub.call_soon(self.hub.call_later, EVENTS_SECONDS, self._flush_events)

    def create_task_handler(self, *arguments: Any, **options: Any) -> Any:
        """Return what takes a message; one that Celery trips over ends no worker."""
        receive = super().create_task_handler(*arguments, **options)

        def receive_or_drop(message: Any) -> Any:
            try:
                self._know_tier(message)
                return receive(message)
            except (*self.connection_errors, *self.channel_errors):
                raise
            except Exception as error:  # noqa: BLE001 - anything may stand in a message
                return self.on_decode_error(message, error)

        return receive_or_drop

    def _know_tier(self, message: Any) -> None:
        """Have a task for a tier that others of the fleet know: what comes to it is handed on."""
        name = (message.headers or {}).get("task")
        if not isinstance(name, str) or name in self.strategies:
            return
        if tier := tier_of(name):
            log.warning("the tier %s is not set up here: what comes to it goes on", tier)
            register_tier(self.app, tier)
            self.update_strategies()

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Drop what cannot be read, without its words, and tell those who count it."""
        log.warning("the broker held a message that is no task: it is dropped")
        message.reject_log_error(log, self.connection_errors)
        task_rejected.send(sender=self, message=message, exc=exc)

    def ensure_connected(self, conn: Any) -> Any:
        """Return the connection once the broker takes it."""
        conn.ensure_connection = partial(
            conn.ensure_connection, interval_start=RETRY_SECONDS, interval_step=0
        )
        return super().ensure_connected(conn)

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Tell what the broker answered, such as that it has no such virtual host, and wait."""
        super().on_connection_error_before_connected(exc)
        _wait()

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Tell it; wait where the broker refused something, such as a queue declared otherwise."""
        with warnings.catch_warnings():
            # It says how running jobs could be cancelled now, which would lose them.
            warnings.simplefilter("ignore", CPendingDeprecationWarning)
            super().on_connection_error_after_connected(exc)
        if self.event_dispatcher and self.event_dispatcher.connection:
            # Celery would say goodbye on it, and wait for an answer of what is as dead.
            with contextlib.suppress(Exception):
                self.event_dispatcher.connection.collect(socket_timeout=1)
        if isinstance(exc, self.channel_errors):
            _wait()


def _wait() -> None:
    deadline = time.monotonic() + RETRY_SECONDS
    while time.monotonic() < deadline:
        maybe_shutdown()
        time.sleep(0.1)
