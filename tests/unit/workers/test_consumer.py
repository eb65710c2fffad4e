"""What the worker's consumer does otherwise than Celery's."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from celery import Task
from celery.worker.consumer import Consumer as CeleryConsumer

from tasks.app import create_app
from tasks.settings import Settings
from workers.consumer import EVENTS_SECONDS, RETRY_SECONDS, UNUSED, Consumer
from workers.pulse import Pulse
from workers.release import release_step


@pytest.fixture
def consumer():
    """A consumer of RabbitMQ that was not started."""
    consumer = Consumer.__new__(Consumer)
    consumer.app = create_app(Settings(broker_url="amqp://127.0.0.1"))
    consumer.first_connection_attempt = True
    return consumer


class FakeConnection:
    """Notes how it is to be established."""

    def ensure_connection(self, errback, max_retries, **options):
        assert max_retries is None, "it is waited for, for ever"
        self.options = options
        return self


def test_a_broker_is_looked_for_as_often_after_an_hour_as_at_first(consumer):
    connection = FakeConnection()
    assert consumer.ensure_connected(connection) is connection
    options = connection.options
    assert (options["interval_start"], options["interval_step"]) == (RETRY_SECONDS, 0)


def test_no_queues_are_made_for_tasks_that_wait(consumer):
    assert UNUSED in CeleryConsumer.Blueprint.default_steps
    steps = set(CeleryConsumer.Blueprint.default_steps) - set(Consumer.Blueprint.default_steps)
    assert steps == {UNUSED}


def test_events_are_not_confirmed_and_messages_are(consumer, monkeypatch):
    monkeypatch.setattr(consumer, "ensure_connected", lambda connection: connection)
    assert consumer.connection_for_write().transport_options["confirm_publish"] is False
    with consumer.app.connection_for_write() as connection:
        assert connection.transport_options["confirm_publish"] is True


@pytest.mark.parametrize(
    ("error", "waits"), [(ConnectionResetError(), False), (LookupError("406"), True)]
)
def test_what_the_broker_refuses_is_not_asked_for_at_once_again(
    consumer, monkeypatch, error, waits
):
    collected, waited = [], []

    def collect(*, socket_timeout):
        collected.append(socket_timeout)

    consumer.event_dispatcher = SimpleNamespace(connection=SimpleNamespace(collect=collect))
    consumer.channel_errors = (LookupError,)
    monkeypatch.setattr(CeleryConsumer, "on_connection_error_after_connected", lambda _, exc: None)
    monkeypatch.setattr("workers.consumer._wait", lambda: waited.append(True))
    consumer.on_connection_error_after_connected(error)
    assert bool(waited) is waits
    assert collected, "no goodbye is said over a connection that may be dead"


@pytest.mark.parametrize(
    ("task", "known"),
    [("tasks.l4", True), ("tasks.gpu", True), ("tasks.L-4", False), ("os.system", False)],
)
def test_a_tier_that_others_of_the_fleet_know_has_its_task_here_too(
    consumer, task, known, caplog, monkeypatch
):
    """Celery would drop its message: the record would wait for the sweeper, again and again."""
    consumer.strategies = {"tasks.gpu": None}
    consumer.hostname = "here"
    monkeypatch.setattr(Task, "start_strategy", lambda task, app, consumer: task.name)
    consumer._know_tier(SimpleNamespace(headers={"task": task}))
    assert (task in consumer.strategies) == known
    assert ("not set up here" in caplog.text) == (task == "tasks.l4")
    if known:
        assert consumer.app.tasks[task].tier == task.removeprefix("tasks.")


@pytest.mark.parametrize("headers", [None, {}, {"task": 7}, {"task": None}])
def test_what_names_no_task_is_left_to_celery(consumer, headers):
    consumer.strategies = {}
    consumer._know_tier(SimpleNamespace(headers=headers))
    assert consumer.strategies == {}


class Loop:
    """A hub that notes what it is to do, and when."""

    def __init__(self):
        self.soon, self.later = [], []

    def call_soon(self, callback, *args):
        self.soon.append((callback, args))

    def call_later(self, seconds, callback):
        self.later.append((seconds, callback))

    def turn(self):
        for callback, args in self.soon:
            callback(*args)
        self.soon.clear()


def test_events_of_a_moment_are_published_together(consumer, monkeypatch):
    flushed, now = [], [100.0]
    monkeypatch.setattr("workers.consumer.time", SimpleNamespace(monotonic=lambda: now[0]))
    consumer.hub = loop = Loop()
    consumer.event_dispatcher = SimpleNamespace(flush=lambda: flushed.append(True))
    for _ in range(3):
        consumer.on_send_event_buffered()
        loop.turn()
        now[0] += 0.01
    [(seconds, flush)] = loop.later
    flush()
    assert (seconds, flushed) == (EVENTS_SECONDS, [True])
    # A hub that was reset in between has forgotten the time: the next event asks again.
    loop.later.clear()
    now[0] += EVENTS_SECONDS
    consumer.on_send_event_buffered()
    loop.turn()
    assert len(loop.later) == 1


@pytest.mark.parametrize("lost", [False, True])
def test_what_the_last_tasks_told_is_published_before_the_worker_ends(consumer, lost):
    flushed = []

    def flush():
        flushed.append(True)
        if lost:
            raise ConnectionResetError

    consumer.connection_errors, consumer.channel_errors = (ConnectionError,), ()
    consumer.event_dispatcher = SimpleNamespace(flush=flush)
    step = release_step(Pulse())
    step.shutdown(step.__new__(step), consumer)
    assert flushed
