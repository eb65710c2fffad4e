"""The thread that speaks to the broker: what it does with calls and with its connection."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
from harness.waiting import wait_until

from tasks.broker.thread import BrokerThread
from tasks.errors import PublishError


class FakeConnection:
    """A connection of RabbitMQ's kind. heard: frames that wait to be read."""

    supports_heartbeats = True
    alt = ()

    def __init__(self) -> None:
        self.heard, self.checks, self.dead = 2, 0, False
        self.collected = self.released = False

    def ensure_connection(self, **_):
        pass

    def drain_events(self, timeout):
        assert timeout == 0
        if not self.heard:
            raise TimeoutError
        self.heard -= 1

    def heartbeat_check(self):
        self.checks += 1
        if self.dead:
            raise ConnectionError

    def collect(self, socket_timeout):
        assert socket_timeout
        self.collected = True

    def release(self):
        self.released = True


class FakeApp:
    """Makes connections, and producers that are their connections."""

    def __init__(self) -> None:
        self.made: list[FakeConnection] = []
        self.amqp = SimpleNamespace(Producer=lambda connection: connection)

    def connection_for_write(self, heartbeat):
        assert heartbeat
        self.made.append(FakeConnection())
        return self.made[-1]


@pytest.fixture
def app():
    return FakeApp()


@pytest.fixture
def thread(app, monkeypatch):
    monkeypatch.setattr("tasks.broker.thread.BEAT_SECONDS", 0.01)
    thread = BrokerThread(app).start()
    yield thread
    thread.stop(5)


def use(thread):
    return thread.call(lambda producer: producer).result(5)


def fail(_):
    raise ConnectionResetError


def test_a_connection_is_kept_and_given_back_at_the_end(app, thread):
    assert use(thread) is use(thread) is app.made[0]
    thread.stop(5)
    assert app.made[0].released
    assert not app.made[0].collected


def test_what_a_call_raises_comes_as_one_error_and_ends_no_thread(app, thread):
    failed = thread.call(fail)
    with pytest.raises(PublishError, match=r"^the broker did not answer: ConnectionResetError$"):
        failed.result(5)
    assert app.made[0].collected
    assert use(thread) is app.made[-1]


def test_a_call_over_a_kept_connection_is_made_once_more_over_a_new_one(app, thread):
    first = use(thread)
    second = thread.call(lambda producer: fail(producer) if producer is first else producer)
    assert second.result(5) is app.made[1]
    assert first.collected
    failed = thread.call(fail)  # not for ever
    assert isinstance(failed.exception(5), PublishError)
    assert len(app.made) == 3


def test_an_idle_connection_hears_the_brokers_heartbeats_and_sends_its_own(app, thread):
    connection = use(thread)
    wait_until(lambda: connection.checks > 1)
    assert connection.heard == 0
    assert use(thread) is connection


def test_an_idle_connection_that_hears_nothing_is_dropped(app, thread):
    connection = use(thread)
    connection.dead = True
    wait_until(lambda: connection.collected)
    assert use(thread) is app.made[1]


def test_a_call_that_was_given_up_before_it_began_is_not_made(thread):
    let_go, made = threading.Event(), []
    hanging = thread.call(lambda _: let_go.wait(20))
    wait_until(lambda: thread.stuck(0))
    assert thread.call(made.append).cancel()
    let_go.set()
    assert hanging.result(5)
    use(thread)
    assert made == []
    assert not thread.stuck(0)


def test_a_thread_in_ones_place_does_what_waits_and_the_old_one_tries_nothing_again(app, thread):
    let_go = threading.Event()
    use(thread)

    def hang(_):
        let_go.wait(20)
        raise ConnectionResetError

    hanging = thread.call(hang)
    wait_until(lambda: thread.stuck(0))
    waiting = thread.call(lambda producer: producer)
    new = thread.replace()
    assert waiting.result(5) is app.made[1]
    let_go.set()
    assert isinstance(hanging.exception(5), PublishError)
    assert len(app.made) == 2, "the old thread made no new connection"
    wait_until(lambda: not thread._thread.is_alive())
    new.stop(5)
