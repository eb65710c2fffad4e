"""A change of a breaker in one process is taken in by another that follows the breakers."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import statistics
import time

import pytest
import redis
from harness.stores import store_on
from harness.waiting import eventually

from circuit_breaker import (
    CHANNEL,
    CircuitBreaker,
    CircuitBreakerConfig,
    CircuitState,
    Outcome,
    Override,
    RedisStore,
)
from circuit_breaker.events import StateChanged
from tasks.settings import Settings
from tasks.tiers.build import build_breakers
from tasks.tiers.changes import follow_breakers

OPENED = StateChanged("max_gpu", CircuitState.CLOSED, CircuitState.OPEN)
CLOSED = StateChanged("max_gpu", CircuitState.OPEN, CircuitState.CLOSED)


@pytest.fixture
async def processes(valkey):
    """The breakers of two processes; what the second one's tell; its subscription."""
    stores = [store_on(valkey.url) for _ in range(2)]
    heard = []
    one, other = (
        build_breakers(Settings(redis_url=valkey.url), store.connection, heard_by)
        for store, heard_by in zip(stores, (lambda _: None, heard.append), strict=True)
    )
    following = asyncio.create_task(follow_breakers(stores[1].connection, other))
    with valkey.client() as client:
        await eventually(lambda: client.pubsub_numsub(CHANNEL)[0][1])
    yield one, other, heard
    following.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await following
    for store in stores:
        await store.close()


async def trip(breaker):
    for _ in range(breaker.config.failure_threshold):
        await breaker.record(await breaker.acquire(), Outcome.FAILURE)


async def test_it_opens_and_closes_where_nobody_asks(processes):
    (one, other, heard) = processes
    await trip(one["max_gpu"])
    await eventually(lambda: OPENED in heard)
    assert other["max_gpu"].refusal()
    assert other["ollama_cpu"].state is CircuitState.CLOSED
    await one["max_gpu"].areset()
    await eventually(lambda: CLOSED in heard)
    assert other["max_gpu"].refusal() is None


async def test_what_happened_while_nobody_listened_is_looked_up(processes, valkey):
    (one, other, heard) = processes
    with valkey.client() as client:
        client.client_kill_filter(_type="pubsub")
        await trip(one["max_gpu"])
        await eventually(lambda: OPENED in heard)
        assert other["max_gpu"].refusal()


ROUNDS = 5


def change_synchronously(port, connection):
    """A program without an event loop: change the fleet's breaker again and again; tell when."""
    with redis.Redis(port=port) as client:
        config = CircuitBreakerConfig(failure_threshold=1)
        breaker = CircuitBreaker("max_gpu", config, RedisStore(client))

        def fail():
            with contextlib.suppress(ZeroDivisionError):
                breaker.call_sync(lambda: 1 / 0)

        changes = [
            lambda: breaker.force_open("ann", "a new model"),
            lambda: breaker.disable("ann", "it answers"),
            lambda: breaker.auto("ann", "done"),
            fail,
            lambda: breaker.reset("ann", "it is well"),
        ]
        breaker.call_sync(str)
        for change in changes * ROUNDS:
            connection.recv()
            change()
            connection.send(time.monotonic())


async def test_what_a_synchronous_program_changes_is_known_within_100_ms(processes, valkey):
    """time.monotonic() is one clock for all processes of a machine."""
    _, other, heard = processes
    ours, theirs = multiprocessing.Pipe()
    program = multiprocessing.get_context("spawn").Process(
        target=change_synchronously, args=(valkey.port, theirs), daemon=True
    )
    program.start()
    took = []
    expected = [
        ("open", Override.OPEN),
        ("closed", Override.DISABLED),
        ("closed", Override.NONE),
        ("open", Override.NONE),
        ("closed", Override.NONE),
    ]
    breaker = other["max_gpu"]
    loop = asyncio.get_running_loop()
    for n, (state, override) in enumerate(expected * ROUNDS):
        heard.clear()
        ours.send("next")
        await eventually(lambda: heard, 10)
        at = time.monotonic()
        changed_at = await loop.run_in_executor(None, ours.recv)
        assert (breaker.state.value, breaker._view.override) == (state, override), n
        took.append(at - changed_at)
    assert statistics.median(took) < 0.1, took
    await loop.run_in_executor(None, program.join, 30)
    assert program.exitcode == 0
