"""A queue of RabbitMQ of which a worker holds so many messages at most."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from kombu import Connection
from kombu.asynchronous import Hub

from tasks.broker.transport import TIMERS, LimitedQueue, Transport


class FakeChannel:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple] = []
        self.connection = SimpleNamespace(client=SimpleNamespace(declared_entities=set()))

    def basic_qos(self, size, count, apply_global):
        self.told.append(("qos", size, count, apply_global))

    def basic_consume(self, queue, **_):
        self.told.append(("consume", queue))


@pytest.mark.parametrize(
    ("prefetch", "told"),
    [(7, [("qos", 0, 7, False), ("consume", "batch")]), (0, [("consume", "batch")])],
)
def test_the_limit_is_told_before_the_consumer_begins(prefetch, told):
    queue, channel = LimitedQueue("batch"), FakeChannel()
    queue.prefetch = prefetch
    bound = queue(channel)
    bound.consume("tag", print)
    assert channel.told == told


def test_a_loop_forgets_the_connection_before(monkeypatch):
    """Each one that was cut would stay in the loop of its worker for ever, timers and all."""
    hub = Hub()
    registered = []
    for _ in range(5):
        connection = Connection("redis://127.0.0.1:1/0", transport=Transport)
        transport = connection.transport
        monkeypatch.setattr(type(transport.cycle), "on_poll_init", lambda self, poller: None)
        transport.register_with_event_loop(SimpleNamespace(client=connection), hub)
        registered.append(transport)
        assert len(hub.on_tick) == 1
    timers = [entry.entry for entry in hub.timer._queue if not entry.entry.canceled]
    assert len(timers) == len(TIMERS)
    assert all(getattr(registered[-1].cycle, name) in timers for name in TIMERS)
    hub.close()
