"""kombu's Redis transport as Celery gets it from us, on a real Valkey."""

from __future__ import annotations

import pytest
from kombu import Connection, Queue
from kombu.transport import TRANSPORT_ALIASES, get_transport_cls
from kombu.transport.redis import Channel as PlainChannel

from tasks.broker import transport
from tasks.broker.transport import Channel, Transport

QUEUE = Queue("interactive", routing_key="interactive")


@pytest.fixture
def connection(valkey, monkeypatch):
    for scheme in ("redis", "rediss"):
        monkeypatch.setitem(TRANSPORT_ALIASES, scheme, TRANSPORT_ALIASES[scheme])
    transport.use()
    with Connection(valkey.url) as connection:
        yield connection


@pytest.fixture
def channel(connection):
    return connection.channel()


def publish(valkey, text):
    with Connection(valkey.url) as other:
        other.Producer().publish(text, routing_key=QUEUE.name, declare=[QUEUE])


def ask(connection):
    """Have a worker's connection ask for messages, of which there are none yet."""
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.01)


def waiting(channel):
    return QUEUE(channel).queue_declare(passive=False).message_count


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_every_redis_url_has_our_transport(connection, scheme):
    assert get_transport_cls(scheme) is Transport
    assert Transport.Channel is Channel


def test_a_channel_keeps_its_client_as_long_as_its_pool(channel):
    assert isinstance(channel, Channel)
    client = channel._create_client()
    assert channel._create_client() is client
    channel._disconnect_pools()
    assert channel._create_client() is not client
    assert channel._create_client().ping()


def test_the_client_that_polls_is_one_of_its_own(channel):
    assert channel._create_client(asynchronous=True) is not channel._create_client()
    assert channel._create_client(asynchronous=True).ping()


def test_a_channel_whose_connection_is_gone_says_so_in_a_way_that_celery_knows(channel):
    channel.connection.client = None
    with pytest.raises(ConnectionResetError) as lost:
        channel._connparams()
    assert isinstance(lost.value, tuple(Transport.connection_errors))
    with pytest.raises(AttributeError):
        PlainChannel._connparams(channel)


def test_what_a_worker_that_stops_has_asked_for_goes_back(valkey, connection, channel):
    consumer = connection.Consumer([QUEUE], channel=channel)
    consumer.consume()
    ask(connection)
    assert channel._in_poll
    publish(valkey, "a job")
    consumer.cancel()
    channel.let_go()
    assert not channel._in_poll
    assert waiting(channel) == 1


def test_who_has_asked_for_nothing_lets_go_at_once(channel):
    channel.let_go()
    assert waiting(channel) == 0


def test_a_connection_that_is_lost_as_it_lets_go_is_no_error(
    valkey, connection, channel, monkeypatch
):
    def lost(**_):
        raise ConnectionResetError

    consumer = connection.Consumer([QUEUE], channel=channel)
    consumer.consume()
    ask(connection)
    consumer.cancel()
    with monkeypatch.context() as patch:
        patch.setattr(channel, "_brpop_read", lost)
        channel.let_go()
    publish(valkey, "a job")
    channel.let_go()
    assert waiting(channel) == 1
