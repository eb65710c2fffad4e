"""The Lua scripts and the pure machine give the same answers, step by step; and hold in a fleet."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest
import redis
import redis.asyncio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, rule, run_state_machine_as_test

from circuit_breaker import (
    AsyncRedisStore,
    CircuitBreaker,
    CircuitBreakerConfig,
    CircuitState,
    MemoryStore,
    OneByOne,
    Outcome,
    Permit,
    RedisStore,
    Refusal,
)
from circuit_breaker.machine import Rules

if TYPE_CHECKING:
    from circuit_breaker.machine import BreakerView

CONFIG = CircuitBreakerConfig(
    recovery_timeout_seconds=1.0,
    half_open_permits=2,
    probe_lease_seconds=0.5,
    saturation_hold_seconds=0.2,
)
RULES = Rules.of(CONFIG)
NAMES = itertools.count()
SEEN: dict[str, int] = {}


def told(view: BreakerView) -> tuple[object, ...]:
    """Everything but the epoch, which is random."""
    return (
        view.state,
        view.generation,
        view.consecutive_failures,
        view.half_open_successes,
        view.retry_after_seconds,
        view.hold_reason,
    )


def differential(client: redis.Redis) -> type[RuleBasedStateMachine]:  # noqa: C901
    class Differential(RuleBasedStateMachine):
        permits = Bundle("permits")

        def __init__(self):
            super().__init__()
            self.now = 1_000_000
            self.name = f"diff{next(NAMES)}"
            self.memory = MemoryStore(lambda: self.now)
            self.workers = [RedisStore(client, lambda: self.now) for _ in range(3)]

        def compare(self, memory, shared):
            assert told(memory[1]) == told(shared[1])
            SEEN[memory[1].state] = SEEN.get(memory[1].state, 0) + 1

        @rule(target=permits, worker=st.integers(0, 2))
        def acquire(self, worker):
            memory = self.memory.acquire(self.name, RULES)
            shared = self.workers[worker].acquire(self.name, RULES)
            self.compare(memory, shared)
            if isinstance(memory[0], Refusal):
                assert memory[0] == shared[0]
            else:
                assert (memory[0].probe, memory[0].generation) == (
                    shared[0].probe,
                    shared[0].generation,
                )
            return memory[0], shared[0]

        @rule(
            pair=permits,
            outcome=st.sampled_from(Outcome),
            worker=st.integers(0, 2),
            hold=st.sampled_from([0, 100, 5000]),
        )
        def settle(self, pair, outcome, worker, hold):
            # Any worker, any time, even twice: duplicates and late results are part of it.
            if isinstance(pair[0], Refusal):
                return
            memory = self.memory.record(self.name, pair[0], outcome, hold, RULES)
            shared = self.workers[worker].record(self.name, pair[1], outcome, hold, RULES)
            assert memory[0] == shared[0]
            self.compare(memory, shared)

        @rule()
        def trip(self):
            for _ in range(3):
                self.settle(self.acquire(0), Outcome.FAILURE, 0, 0)

        @rule(pair=permits)
        def late_after_an_outage_and_a_recovery(self, pair):
            self.trip()
            self.now += 1_000
            for _ in range(2):
                self.settle(self.acquire(1), Outcome.SUCCESS, 1, 0)
            for _ in range(3):
                self.settle(pair, Outcome.FAILURE, 2, 0)

        @rule(over=st.sampled_from([0, 1, 400]), outcome=st.sampled_from(Outcome))
        def overdue_probe(self, over, outcome):
            self.trip()
            self.now += 1_000
            pair = self.acquire(0)
            self.now += 500 + over
            self.settle(pair, outcome, 1, 0)

        @rule()
        def reset(self):
            self.compare(self.memory.reset(self.name), self.workers[0].reset(self.name))

        @rule(ms=st.sampled_from([1, 100, 200, 499, 500, 501, 1000, 5000]))
        def tick(self, ms):
            self.now += ms
            self.compare(self.memory.view(self.name), self.workers[2].view(self.name))

        def teardown(self):
            key = f"cb:{{{self.name}}}:state"
            if client.exists(key):  # no TTL shorter than what it must remember
                assert client.pttl(key) > 2 * 1_000
            client.delete(key, f"cb:{{{self.name}}}:probes")

    return Differential


def test_the_scripts_mirror_the_machine(valkey):
    with valkey.client() as client:
        run_state_machine_as_test(
            differential(client),
            settings=settings(
                max_examples=120,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    assert min(SEEN[state] for state in CircuitState) > 100, SEEN


def make(client, **config):
    return CircuitBreaker("fleet", CircuitBreakerConfig(**config), RedisStore(client))


def fail(breaker):
    for _ in range(breaker.config.failure_threshold):
        with pytest.raises(ZeroDivisionError):
            breaker.call_sync(lambda: 1 / 0)


def wait_out(client):
    """Let the open time be over, by the server's clock."""
    client.hset("cb:{fleet}:state", "open_until", 1)


def test_failures_seen_by_different_workers_add_up(valkey):
    with valkey.client() as client:
        workers = [make(client) for _ in range(3)]
        for worker in workers:
            with pytest.raises(ZeroDivisionError):
                worker.call_sync(lambda: 1 / 0)
        assert RedisStore(client).view("fleet")[1].state == CircuitState.OPEN


def test_of_twenty_that_come_at_once_one_probes(valkey):
    with valkey.client() as client:
        fail(make(client))
        wait_out(client)
        start, answers = threading.Barrier(20), []

        def ask():
            with valkey.client() as own:
                store = RedisStore(own)
                start.wait()
                answers.append(store.acquire("fleet", Rules.of(CircuitBreakerConfig()))[0])

        threads = [threading.Thread(target=ask) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(isinstance(answer, Permit) for answer in answers) == 1


def probe_and_die(port):
    client = redis.Redis(port=port)
    answer, _ = RedisStore(client).acquire("fleet", Rules.of(LEASED))
    os._exit(0 if isinstance(answer, Permit) else 1)


LEASED = CircuitBreakerConfig(probe_lease_seconds=0.3)


def test_a_prober_that_died_gives_its_place_back_when_its_lease_ends(valkey):
    with valkey.client() as client:
        fail(make(client))
        wait_out(client)
        prober = multiprocessing.get_context("spawn").Process(
            target=probe_and_die, args=(valkey.port,)
        )
        prober.start()
        prober.join(30)
        assert prober.exitcode == 0
        began = time.monotonic()
        store = RedisStore(client)
        while isinstance(store.acquire("fleet", Rules.of(LEASED))[0], Refusal):
            assert time.monotonic() - began < 5


def test_a_flushed_store_drops_results_of_before_and_counts_on(valkey):
    with valkey.client() as client:
        store, rules = RedisStore(client), Rules.of(CircuitBreakerConfig())
        before = store.acquire("fleet", rules)[0]
        client.flushall()
        assert store.record("fleet", before, Outcome.FAILURE, 0, rules)[0] is False
        breaker = make(client)
        fail(breaker)
        assert breaker.state == CircuitState.OPEN


async def test_the_asynchronous_store_runs_the_same_scripts(valkey):
    client = redis.asyncio.Redis(port=valkey.port)
    breaker = CircuitBreaker("fleet", CircuitBreakerConfig(), AsyncRedisStore(OneByOne(client)))

    async def broken():
        raise ConnectionError

    for _ in range(3):
        with pytest.raises(ConnectionError):
            await breaker.call(broken)
    assert (await breaker.view()).state == CircuitState.OPEN
    assert (await breaker.areset()).state == CircuitState.CLOSED
    with pytest.raises(TypeError, match="await"):
        breaker.reset()
    await client.aclose()


async def test_a_store_that_dies_in_the_middle_of_a_call_does_not_reach_the_caller(own_valkey):
    client = redis.asyncio.Redis(port=own_valkey.port, socket_timeout=0.5)
    breaker = CircuitBreaker("fleet", CircuitBreakerConfig(), AsyncRedisStore(OneByOne(client)))

    async def outage():
        own_valkey.kill()
        return "done"

    assert await breaker.call(outage) == "done"
    assert breaker.store_errors == 1
    await client.aclose()


async def test_one_round_trip_a_call_and_none_while_it_is_open(valkey):
    client = redis.asyncio.Redis(port=valkey.port)
    breaker = CircuitBreaker("fleet", CircuitBreakerConfig(), AsyncRedisStore(OneByOne(client)))

    async def calls():
        stats = await client.info("commandstats")
        return sum(stats.get(f"cmdstat_{c}", {"calls": 0})["calls"] for c in ("evalsha", "eval"))

    async def fine():
        pass

    await breaker.call(fine)
    before = await calls()
    for _ in range(20):
        await breaker.call(fine)
    assert await calls() == before + 20
    for _ in range(3):
        permit = await breaker.acquire()
        await breaker.record(permit, Outcome.FAILURE)
    before = await calls()
    for _ in range(20):
        assert isinstance(await breaker.acquire(), Refusal)
    assert await calls() == before
    await client.aclose()
