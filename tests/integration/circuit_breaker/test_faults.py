"""What goes wrong around a breaker's store: each costs no call, and no count."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
import redis
import redis.asyncio

from circuit_breaker import (
    AsyncRedisStore,
    CircuitBreaker,
    CircuitBreakerConfig,
    CircuitBreakerError,
    CircuitState,
    OneByOne,
    RedisStore,
)

PATIENT = CircuitBreakerConfig(failure_threshold=1000)


async def fail():
    raise ConnectionError


async def failures_of(breaker, number):
    for _ in range(number):
        with pytest.raises(ConnectionError):
            await breaker.call(fail)


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_scripts_that_the_server_forgot_are_sent_again_and_run_once(valkey, kind):
    theirs = redis.asyncio.Redis(port=valkey.port)
    with valkey.client() as client:
        store = RedisStore(client) if kind == "sync" else AsyncRedisStore(OneByOne(theirs))
        breaker = CircuitBreaker("fleet", PATIENT, store)
        for n in range(1, 6):
            await failures_of(breaker, 1)
            client.script_flush()
            assert (await breaker.view()).consecutive_failures == n
            client.script_flush()
        assert breaker.store_errors == 0
    await theirs.aclose()


async def test_a_store_that_hangs_holds_one_call_up_and_is_asked_again_when_it_goes_on(own_valkey):
    client = redis.asyncio.Redis(port=own_valkey.port)
    store = AsyncRedisStore(OneByOne(client), timeout_seconds=0.2)
    breaker = CircuitBreaker("fleet", PATIENT, store)
    await failures_of(breaker, 1)
    with own_valkey.stopped():
        await failures_of(breaker, 1)
        began = time.monotonic()
        await failures_of(breaker, 50)
        assert time.monotonic() - began < 0.2
        assert breaker.store_errors == 1
    with own_valkey.client() as other:
        CircuitBreaker("fleet", PATIENT, RedisStore(other)).force_open("ann", "a new model")
        for _ in range(1000):
            if (await breaker.view()).override:
                break
            await asyncio.sleep(0.01)
    assert (await breaker.acquire()).reason == "forced_open"
    await client.aclose()


def test_a_callers_clock_that_is_an_hour_off_changes_nothing(valkey, monkeypatch):
    with valkey.client() as client:
        breakers = [
            CircuitBreaker("fleet", CircuitBreakerConfig(), RedisStore(client)) for _ in range(2)
        ]
        off, right = breakers
        right_time, right_ns = time.time, time.time_ns
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                right.call_sync(lambda: 1 / 0)
        for seconds in (3600, -3600):
            monkeypatch.setattr(time, "time", lambda s=seconds: right_time() + s)
            monkeypatch.setattr(time, "time_ns", lambda s=seconds: right_ns() + s * 10**9)
            with pytest.raises(CircuitBreakerError) as refused:
                off.call_sync(str)
            assert 20 < refused.value.retry_after <= 30
        off.reset()
        assert RedisStore(client).view("fleet")[1].state is CircuitState.CLOSED


def test_two_event_loops_of_two_threads_share_a_breaker(valkey):
    with valkey.client() as client:
        breaker = CircuitBreaker("fleet", PATIENT, RedisStore(client))
        threads = [
            threading.Thread(target=asyncio.run, args=[failures_of(breaker, 40)]) for _ in range(2)
        ]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert RedisStore(client).view("fleet")[1].consecutive_failures == 80
        assert breaker.store_errors == 0
