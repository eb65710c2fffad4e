"""kombu's Redis transport as Celery gets it from us, on a real Valkey."""

from __future__ import annotations

import contextlib
import tempfile
import time
from contextlib import suppress

import pytest
from kombu import Connection, Queue
from kombu.transport import TRANSPORT_ALIASES, get_transport_cls
from kombu.transport.redis import Channel as PlainChannel
from redis.exceptions import ConnectionError as RedisConnectionError

from tasks.broker import transport
from tasks.broker.transport import Channel, Transport

QUEUE = Queue("interactive", routing_key="interactive")


@pytest.fixture(autouse=True)
def _ours(monkeypatch):
    for scheme in ("redis", "rediss"):
        monkeypatch.setitem(TRANSPORT_ALIASES, scheme, TRANSPORT_ALIASES[scheme])
    transport.use()


@pytest.fixture
def connection(valkey):
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


@pytest.fixture
def full(valkey):
    """A function that has the server be at its memory limit, to the test's end."""
    with valkey.client() as client:
        yield lambda: client.config_set("maxmemory", 1)
        client.config_set("maxmemory", 0)


def received(connection, consumer):
    """Return the messages that a worker's connection gets."""
    messages = []
    consumer.on_message = messages.append
    consumer.consume()
    with contextlib.suppress(TimeoutError):
        while True:
            connection.drain_events(timeout=0.5)
    return messages


def test_on_a_full_server_messages_come_and_go(valkey, connection, channel, full):
    full()
    publish(valkey, "one")
    producer = connection.Producer()
    with producer.batch():
        producer.publish("two", routing_key=QUEUE.name, declare=[QUEUE])
    consumer = connection.Consumer([QUEUE], channel=channel)
    one, two = received(connection, consumer)
    one.ack()
    two.requeue()
    [again] = received(connection, consumer)
    assert again.payload == "two"
    again.ack()
    with valkey.client() as client:
        assert not client.exists(QUEUE.name)


def test_a_worker_that_stops_gives_back_what_it_has_to_a_full_server(
    valkey, connection, channel, full
):
    publish(valkey, "a job")
    full()
    received(connection, connection.Consumer([QUEUE], channel=channel))
    channel.close()
    with connection.channel() as other:
        assert waiting(other) == 1


def test_a_server_that_refuses_is_a_connection_that_is_lost(own_valkey):
    with Connection(own_valkey.url) as connection, own_valkey.client() as client:
        channel = connection.channel()
        channel._create_client().set("mine", "x")
        client.execute_command("REPLICAOF", "127.0.0.1", "9")
        with pytest.raises(RedisConnectionError, match="ReadOnlyError"):
            channel._create_client().delete("mine")
        with (
            pytest.raises(RedisConnectionError, match="ReadOnlyError"),
            channel._create_client().pipeline() as pipeline,
        ):
            pipeline.delete("mine").execute()
        client.execute_command("REPLICAOF", "NO", "ONE")
        assert channel._create_client().delete("mine") == 1


def test_a_message_costs_its_pop_and_no_book_of_what_is_in_hand(own_valkey):
    with Connection(own_valkey.url) as connection, own_valkey.client() as client:
        publish(own_valkey, "a job")
        channel = connection.channel()
        before = client.info("commandstats")
        [message] = received(connection, connection.Consumer([QUEUE], channel=channel))
        message.ack()
        after = client.info("commandstats")
        written = {"zadd", "hset", "zrem", "hdel", "multi"}
        assert not {f"cmdstat_{name}" for name in written} & (after.keys() - before.keys())
        assert client.llen(QUEUE.name) == 0


def test_what_is_in_hand_when_the_broker_is_gone_is_said_and_written_into_no_file(
    own_valkey, tmp_path, monkeypatch, caplog, capfd
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    publish(own_valkey, "a job")
    connection = Connection(own_valkey.url)
    channel = connection.channel()
    received(connection, connection.Consumer([QUEUE], channel=channel))
    own_valkey.kill()
    channel.qos.restore_unacked_once()
    assert "1 messages could not be put back" in caplog.text
    assert not list((tmp_path / "temporary").iterdir())
    assert "a job" not in "".join(capfd.readouterr())
    own_valkey.start()


def test_what_is_acknowledged_to_nobody_keeps_no_place_of_the_consumers(own_valkey):
    with Connection(own_valkey.url) as connection, own_valkey.client() as client:
        publish(own_valkey, "a job")
        channel = connection.channel()
        channel.basic_qos(prefetch_count=1)
        [message] = received(connection, connection.Consumer([QUEUE], channel=channel))
        assert not channel.qos.can_consume()
        client.execute_command("REPLICAOF", "127.0.0.1", "9")
        message.ack()
        assert channel.qos.can_consume()
        client.execute_command("REPLICAOF", "NO", "ONE")


@pytest.fixture
def busy(valkey, monkeypatch):
    """A worker's connection that may hold three messages, one of which is kept for begun work."""
    for scheme in ("redis", "rediss"):
        monkeypatch.setitem(TRANSPORT_ALIASES, scheme, TRANSPORT_ALIASES[scheme])
    transport.use()
    with Connection(valkey.url, transport_options={"spare": 1}) as connection:
        channel = connection.channel()
        channel.basic_qos(0, 3, apply_global=False)
        yield connection, channel


def test_fresh_work_leaves_a_place_for_begun_work_and_is_never_kept_waiting(valkey, busy):
    connection, channel = busy
    begun = Queue("interactive.begun", routing_key="interactive.begun")
    got = []
    consumer = connection.Consumer([QUEUE, begun], channel=channel)
    consumer.register_callback(lambda body, message: got.append((body, message)))
    consumer.consume()

    def take(seconds=1.0):
        """Return what comes within so long."""
        until, before = time.monotonic() + seconds, len(got)
        while time.monotonic() < until:
            with suppress(TimeoutError):
                connection.drain_events(timeout=0.05)
        return [body for body, _ in got[before:]]

    with Connection(valkey.url) as other:
        producer = other.Producer()
        for n in range(4):
            producer.publish(f"fresh {n}", routing_key=QUEUE.name, declare=[QUEUE])
        assert take() == ["fresh 0", "fresh 1"]
        producer.publish("begun", routing_key=begun.name, declare=[begun])
        assert take() == ["begun"]
        got.pop()[1].ack()
        # It looks for begun work from time to time: a pop that waited would hold fresh work up.
        looking = [take(0.05) or bool(channel._in_poll) for _ in range(20)]
        assert sum(looking) < 10
        got[0][1].ack()
        assert take() == ["fresh 2"]
