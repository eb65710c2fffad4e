"""Several processes share a breaker, and a server that dies and comes back under their calls."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import pytest
import redis
from harness.waiting import wait_until

from circuit_breaker import (
    AsyncRedisStore,
    CircuitBreaker,
    CircuitBreakerConfig,
    CircuitBreakerError,
    CircuitState,
    OneByOne,
    RedisStore,
)

STATE = "cb:{fleet}:state"
PROCESSES = 5


def call_again_and_again(port, config):
    """Call the server in Redis until "stop" is there; note what it sees of the calls."""
    client = redis.Redis(port=port, decode_responses=True)
    breaker = CircuitBreaker("fleet", config, RedisStore(client))

    def server():
        probing = client.hget(STATE, "state") == "half_open"
        if probing:
            client.incr("probes")
            most = client.incr("probing")
            client.zadd("most", {"probing": most}, gt=True)
            if client.getdel("hang"):
                client.set("hanging", os.getpid())
                time.sleep(60)
        time.sleep(0.01)
        if probing:
            client.decr("probing")
        if client.exists("down"):
            raise ConnectionError

    client.incr("started")
    while not client.exists("stop"):
        try:
            breaker.call_sync(server)
            client.incr(f"admitted:{_tenth(client, config)}")
        except CircuitBreakerError as refused:
            if refused.reason == "ramping":
                client.incr(f"refused:{_tenth(client, config)}")
            time.sleep(0.005)
        except ConnectionError:
            pass


def _tenth(client, config):
    """In which tenth of the ramp it is; 10: it is over, or there was none."""
    closed_at = int(client.hget(STATE, "closed_at") or 0)
    seconds = time.time() - closed_at / 1000
    return min(int(10 * seconds / config.ramp_seconds), 10) if closed_at else 10


@pytest.fixture
def fleet(valkey):
    """Start processes with a configuration; their Redis."""
    started = []
    client = redis.Redis(port=valkey.port, decode_responses=True)

    def start(config, number=PROCESSES):
        context = multiprocessing.get_context("spawn")
        for _ in range(number):
            process = context.Process(
                target=call_again_and_again, args=(valkey.port, config), daemon=True
            )
            process.start()
            started.append(process)
        wait_until(lambda: int(client.get("started") or 0) == number, 30)
        return client

    yield start
    client.set("stop", 1)
    for process in started:
        process.join(10)
        process.kill()
    client.close()


def state(client):
    return client.hget(STATE, "state")


def test_a_server_that_is_down_gets_no_more_probes_at_once_than_are_permitted_and_then_a_ramp(
    fleet,
):
    config = CircuitBreakerConfig(
        recovery_timeout_seconds=0.1,
        half_open_permits=2,
        success_threshold=6,
        ramp_seconds=2,
    )
    client = fleet(config)
    assert state(client) in {None, "closed"}
    client.set("down", 1)
    wait_until(lambda: state(client) == "open")
    wait_until(lambda: int(client.get("probes") or 0) >= 10)
    client.delete("down")
    wait_until(lambda: state(client) == "closed")
    assert client.zscore("most", "probing") <= config.half_open_permits
    wait_until(lambda: int(client.get("admitted:10") or 0) > 0 and _tenth(client, config) == 10)
    at = [
        (int(client.get(f"admitted:{n}") or 0), int(client.get(f"refused:{n}") or 0))
        for n in range(10)
    ]
    early = [sum(numbers) for numbers in zip(*at[:3], strict=True)]
    late = [sum(numbers) for numbers in zip(*at[7:], strict=True)]
    assert early[0] / sum(early) < 0.5, at
    assert late[0] / sum(late) > 0.7, at


def test_a_prober_that_is_killed_gives_its_place_back(fleet):
    config = CircuitBreakerConfig(
        recovery_timeout_seconds=0.1, probe_lease_seconds=0.5, success_threshold=1
    )
    client = fleet(config, 3)
    client.mset({"down": 1, "hang": 1})
    pid = int(wait_until(lambda: client.get("hanging")))
    client.delete("down")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: state(client) == "closed", 10)


async def test_synchronous_and_asynchronous_callers_share_one_state(valkey):
    with valkey.client() as client:
        asynchronous = redis.asyncio.Redis(port=valkey.port)
        one = CircuitBreaker("fleet", CircuitBreakerConfig(), RedisStore(client))
        other = CircuitBreaker(
            "fleet", CircuitBreakerConfig(), AsyncRedisStore(OneByOne(asynchronous))
        )

        async def fail():
            raise ConnectionError

        with pytest.raises(ZeroDivisionError):
            one.call_sync(lambda: 1 / 0)
        for _ in range(2):
            with pytest.raises(ConnectionError):
                await other.call(fail)
        assert (await other.view()).state is CircuitState.OPEN
        one._ask_sync(one._look)
        with pytest.raises(CircuitBreakerError):
            one.call_sync(str)
        one.force_open("ann", "a new model")
        assert (await other.view()).why == "a new model"
        await other.areset("bob")
        one._ask_sync(one._look)
        assert one.call_sync(lambda: 3) == 3
        await asynchronous.aclose()


def test_what_was_done_by_hand_is_kept_for_as_long_as_it_is_so(valkey):
    with valkey.client() as client:
        breaker = CircuitBreaker("fleet", CircuitBreakerConfig(), RedisStore(client))
        breaker.force_open("ann", "a new model")
        assert client.pttl(STATE) > 365 * 86_400_000
        breaker.auto("ann", "it is there")
        assert client.pttl(STATE) <= 3_600_000
