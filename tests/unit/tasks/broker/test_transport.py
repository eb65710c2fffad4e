"""A queue of RabbitMQ of which a worker holds so many messages at most."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tasks.broker.transport import LimitedQueue


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
