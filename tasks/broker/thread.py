"""A thread that speaks to the broker, over a connection that no other thread uses.

kombu blocks. A call that never returns costs its thread, which is then replaced: the new one begins
with a new connection. The old one ends when its call returns. What it publishes then was reported
as failed; its messages are stale by then, or they begin what they name, which is as well.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.errors import PublishError

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

HEARTBEAT_SECONDS = 10  # RabbitMQ and we close a connection that is silent for twice as long
BEAT_SECONDS = 3.0  # how often an idle thread looks after its connection


class Call(NamedTuple):
    """What is to be done with a producer, and where its result goes."""

    work: Callable[[Any], Any]
    result: Future[Any]


class BrokerThread:
    """Does one call after the other."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._connection: Any = None
        self._began: float | None = None  # when the call under way began
        self._replaced = False
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def start(self) -> BrokerThread:
        """Start the thread."""
        self._thread.start()
        return self

    def stop(self, seconds: float) -> None:
        """Do what was asked before, then end the thread; wait for it that long at most."""
        self._calls.put(None)
        self._thread.join(seconds)

    def call(self, work: Callable[[Any], Any]) -> Future[Any]:
        """Have work done; what it raises comes as a PublishError. Cancelled, it is not begun."""
        result: Future[Any] = Future()
        self._calls.put(Call(work, result))
        return result

    def stuck(self, seconds: float) -> bool:
        """Whether the call under way takes longer than that."""
        began = self._began
        return began is not None and time.monotonic() - began >= seconds

    def replace(self) -> BrokerThread:
        """Return a new thread, which does what this one has not begun."""
        self._replaced = True
        new = BrokerThread(self._app)
        with contextlib.suppress(queue.Empty):
            while True:
                new._calls.put(self._calls.get_nowait())
        self._calls.put(None)
        return new.start()

    def _run(self) -> None:
        while True:
            try:
                call = self._calls.get(timeout=BEAT_SECONDS)
            except queue.Empty:
                self._beat()
                continue
            if call is None:
                break
            if call.result.set_running_or_notify_cancel():
                self._do(call)
        if self._connection is not None:
            with contextlib.suppress(Exception):
                self._connection.release()

    def _do(self, call: Call) -> None:
        self._began = time.monotonic()
        try:
            result = self._attempt(call.work)
        except Exception as error:  # noqa: BLE001 - kombu raises each transport's own
            failure = PublishError(f"the broker did not answer: {type(error).__name__}")
            failure.__cause__ = error
            call.result.set_exception(failure)
        else:
            call.result.set_result(result)
        finally:
            self._began = None

    def _attempt(self, work: Callable[[Any], Any]) -> Any:
        kept = self._connection is not None
        try:
            return work(self._producer())
        except Exception:
            self._drop()
            if not kept or self._replaced:
                raise
        # The connection may have died while nobody used it: once more, over a new one.
        return self._attempt(work)

    def _producer(self) -> Any:
        if self._connection is None:
            connection = self._app.connection_for_write(heartbeat=HEARTBEAT_SECONDS)
            self._connection = connection
            # At once, and each host of the URL once: whoever asked may ask again.
            connection.ensure_connection(max_retries=len(connection.alt), interval_start=0)
            self._made = self._app.amqp.Producer(connection)
        return self._made

    def _beat(self) -> None:
        connection = self._connection
        if connection is None or not connection.supports_heartbeats:
            return
        try:
            with contextlib.suppress(TimeoutError):
                while True:
                    connection.drain_events(timeout=0)  # the broker's own heartbeats
            connection.heartbeat_check()
        except Exception:  # noqa: BLE001 - kombu raises each transport's own
            self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            # Without a word to the broker, for which a dead link would be waited for once more.
            with contextlib.suppress(Exception):
                connection.collect(socket_timeout=1)
