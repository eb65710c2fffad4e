"""What one process changes of a breaker, every other knows at once, by pub/sub."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import statistics
import threading
import time

import pytest
import redis

from circuit_breaker import (
    CHANNEL,
    CircuitBreaker,
    CircuitBreakerConfig,
    CircuitState,
    Outcome,
    Permit,
    RedisStore,
    Refusal,
)
from circuit_breaker.events import Held, StateChanged
from circuit_breaker.machine import Report, Rules

CONFIG = CircuitBreakerConfig(recovery_timeout_seconds=60)
OPENED = StateChanged("fleet", CircuitState.CLOSED, CircuitState.OPEN)
CLOSED = StateChanged("fleet", CircuitState.OPEN, CircuitState.CLOSED)
ROUNDS = 3


class Listening:
    """A breaker in this process that takes in what is published, on a thread."""

    def __init__(self, port):
        self.client = redis.Redis(port=port)
        self.breaker = CircuitBreaker("fleet", CONFIG, RedisStore(self.client))
        self.events = []
        self.heard = threading.Condition()
        self.breaker.add_listener(self._hear)
        pubsub = self.client.pubsub(ignore_subscribe_messages=True)
        pubsub.subscribe(**{CHANNEL: lambda message: self.breaker.take_in(message["data"])})
        self._thread = pubsub.run_in_thread(sleep_time=1, daemon=True)

    def _hear(self, event):
        with self.heard:
            self.events.append((event, time.time()))
            self.heard.notify_all()

    def wait_for(self, event, seconds=10):
        """Return when it was heard (epoch s)."""
        with self.heard:
            assert self.heard.wait_for(lambda: event in [e for e, _ in self.events], seconds), (
                self.events
            )
            return next(at for e, at in self.events if e == event)

    def close(self):
        self._thread.stop()
        self._thread.join(10)
        self.client.close()


@pytest.fixture
def listening(valkey):
    each = Listening(valkey.port)
    assert isinstance(each.breaker.call_sync(lambda: 1), int)
    while valkey.client().pubsub_numsub(CHANNEL)[0][1] < 1:
        time.sleep(0.01)
    yield each
    each.close()


def open_and_reset(port, connection):
    """In another process: open the breaker and reset it, again and again; tell when."""
    client = redis.Redis(port=port)
    breaker = CircuitBreaker("fleet", CONFIG, RedisStore(client))

    def fail():
        for _ in range(3):
            with contextlib.suppress(ZeroDivisionError):
                breaker.call_sync(lambda: 1 / 0)

    breaker.call_sync(str)
    for change in (fail, breaker.reset) * ROUNDS:
        connection.recv()
        change()
        connection.send(time.time())


def test_another_process_that_opens_it_or_resets_it_is_known_of_within_100_ms(valkey, listening):
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    other = context.Process(target=open_and_reset, args=(valkey.port, theirs), daemon=True)
    other.start()
    took = []
    for event in (OPENED, CLOSED) * ROUNDS:
        listening.events.clear()
        ours.send("now")
        heard_at = listening.wait_for(event, 30)
        took.append(heard_at - ours.recv())
        assert listening.breaker.state is event.after
        assert isinstance(listening.breaker.refusal(), Refusal) is (event is OPENED)
    assert statistics.median(took) < 0.1, took
    other.join(30)
    assert other.exitcode == 0


def test_a_hold_of_another_is_known_of_too(valkey, listening):
    with valkey.client() as client:
        other = RedisStore(client)
        rules = listening.breaker._rules
        permit = other.acquire("fleet", rules)[0]
        other.record("fleet", permit, Report(Outcome.SATURATED, 5000), rules)
    listening.wait_for(Held("fleet", "saturated", 5.0))
    assert listening.breaker.refusal().reason == "held"


def test_only_what_changes_a_state_or_a_hold_is_published(valkey, listening):
    with valkey.client() as client, client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(CHANNEL)
        while client.pubsub_numsub(CHANNEL)[0][1] < 2:
            pubsub.get_message()
        for _ in range(5):
            listening.breaker.call_sync(str)
        with pytest.raises(ZeroDivisionError):
            listening.breaker.call_sync(lambda: 1 / 0)
        listening.breaker.call_sync(str)
        listening.breaker.reset()
        messages = (pubsub.get_message(timeout=1) for _ in range(5))
        message = next(each for each in messages if each)
        assert json.loads(message["data"])[0] == "fleet"
        assert pubsub.get_message(timeout=0.1) is None


def message_of(client, step):
    """What is published when step() is done."""
    with client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(CHANNEL)
        while client.pubsub_numsub(CHANNEL)[0][1] < 1:
            pubsub.get_message()
        step()
        messages = (pubsub.get_message(timeout=1) for _ in range(5))
        return next(message["data"] for message in messages if message)


def test_a_message_that_comes_late_changes_nothing(valkey):
    with valkey.client() as client:
        breaker = CircuitBreaker("fleet", CONFIG, RedisStore(client))

        def trip():
            for _ in range(3):
                with pytest.raises(ZeroDivisionError):
                    breaker.call_sync(lambda: 1 / 0)

        late = message_of(client, trip)
        newer = message_of(client, breaker.reset)
        assert breaker.state is CircuitState.CLOSED
        breaker.take_in(late)
        assert breaker.state is CircuitState.CLOSED
        breaker.take_in(newer)
        assert breaker.state is CircuitState.CLOSED


@pytest.mark.parametrize(("later_ms", "is_news"), [(99, False), (100, True), (-120_000, True)])
def test_a_hold_that_grows_is_told_again_if_it_grows_by_much(valkey, later_ms, is_news):
    """By whatever clock: one that was set back has kept what was left of it."""
    now = [1_000_000]
    rules = Rules.of(CONFIG)
    with valkey.client() as client, client.pubsub(ignore_subscribe_messages=True) as pubsub:
        store = RedisStore(client, lambda: now[0])
        permit = store.acquire("fleet", rules)[0]
        store.record("fleet", permit, Report(Outcome.SATURATED, 5000), rules)
        pubsub.subscribe(CHANNEL)
        while client.pubsub_numsub(CHANNEL)[0][1] < 1:
            pubsub.get_message()
        now[0] += later_ms
        hold_ms = 5000 if later_ms > 0 else 5100
        store.record("fleet", permit, Report(Outcome.SATURATED, hold_ms), rules)
        client.publish(CHANNEL, "the last one")
        messages = iter(lambda: (pubsub.get_message(timeout=1) or {}).get("data"), b"the last one")
        assert len([each for each in messages if each]) == is_news


def test_what_was_said_by_hand_is_told_even_where_no_state_changes(valkey):
    with valkey.client() as client:
        breaker = CircuitBreaker("fleet", CONFIG, RedisStore(client))
        breaker.call_sync(str)
        message = message_of(client, lambda: breaker.auto("ann", "nothing to end"))
        assert {"ann", "nothing to end"} <= set(json.loads(message)[1])


def test_a_message_of_before_a_flush_changes_nothing(valkey):
    with valkey.client() as client:
        breaker = CircuitBreaker("fleet", CONFIG, RedisStore(client))

        def trip():
            for _ in range(3):
                with pytest.raises(ZeroDivisionError):
                    breaker.call_sync(lambda: 1 / 0)

        late = message_of(client, trip)
        client.flushall()
        breaker.reset()
        breaker.take_in(late)
        assert breaker.call_sync(lambda: "asked") == "asked"


@pytest.mark.parametrize(
    "message", [b"", b"[]", b'["fleet"]', b'["fleet", ["shut"]]', b"7", b"\xff"]
)
def test_a_message_that_nobody_knows_changes_nothing(message):
    breaker = CircuitBreaker("fleet", CONFIG, RedisStore(redis.Redis(port=1)))
    breaker.take_in(message)
    assert breaker.state is CircuitState.CLOSED


def test_who_does_not_listen_knows_within_a_second(valkey):
    with valkey.client() as client:
        deaf = CircuitBreaker("fleet", CONFIG, RedisStore(client))
        other = CircuitBreaker("fleet", CONFIG, RedisStore(client))
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                deaf.call_sync(lambda: 1 / 0)
        other.reset()
        began = time.monotonic()
        while deaf.refusal() or not isinstance(deaf._ask_sync(deaf._acquire)[0], Permit):
            assert time.monotonic() - began < 5
            time.sleep(0.01)
        assert time.monotonic() - began < 1.2


def test_a_store_that_lost_its_last_writes_is_believed_all_the_same(valkey):
    with valkey.client() as client:
        breaker = CircuitBreaker("fleet", CONFIG, RedisStore(client))
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                breaker.call_sync(lambda: 1 / 0)
        # As after a failover to a replica that had not seen it.
        client.hset("cb:{fleet}:state", mapping={"state": "closed", "generation": 0, "version": 1})
        breaker._ask_sync(breaker._look)
        assert breaker.state is CircuitState.CLOSED


def test_who_may_not_publish_has_a_breaker_all_the_same(valkey):
    with valkey.client() as client:
        client.acl_setuser("mute", enabled=True, nopass=True, keys=["*"], commands=["+@all"])
        try:
            mute = redis.Redis(port=valkey.port, username="mute", password="any")  # noqa: S106
            breaker = CircuitBreaker("fleet", CONFIG, RedisStore(mute))
            for _ in range(3):
                with pytest.raises(ZeroDivisionError):
                    breaker.call_sync(lambda: 1 / 0)
            assert breaker.store_errors == 0
            assert RedisStore(client).view("fleet")[1].state is CircuitState.OPEN
        finally:
            client.acl_deluser("mute")


def test_a_listener_that_raises_spoils_no_call(caplog):
    breaker = CircuitBreaker("b")
    breaker.add_listener(lambda _: 1 / 0)
    heard = []
    breaker.add_listener(heard.append)
    assert breaker.call_sync(lambda: 3) == 3
    assert heard
    assert "a listener failed" in caplog.text
