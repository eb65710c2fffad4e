"""The Lua scripts and the pure machine give the same answers, step by step; and hold in a fleet."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import threading
import time
from typing import TYPE_CHECKING, ClassVar, NamedTuple

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
WORKERS = st.integers(0, 2)


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


class Answers(NamedTuple):
    """What the machine in memory and the scripts answered to one acquire."""

    memory: Permit | Refusal
    shared: Permit | Refusal


class BothStores:
    """One breaker in memory, and the same in Redis, where three workers share it.

    Each step is done on both, and they must agree.
    """

    def __init__(self, client: redis.Redis) -> None:
        self.now = 1_000_000
        self.name = f"diff{next(NAMES)}"
        self._memory = MemoryStore(lambda: self.now)
        self._workers = [RedisStore(client, lambda: self.now) for _ in range(3)]

    def acquire(self, worker: int) -> Answers:
        in_memory, view = self._memory.acquire(self.name, RULES)
        shared, shared_view = self._workers[worker].acquire(self.name, RULES)
        agree(view, shared_view)
        if isinstance(in_memory, Refusal):
            assert in_memory == shared
        else:
            assert (in_memory.probe, in_memory.generation) == (shared.probe, shared.generation)
        return Answers(in_memory, shared)

    def record(self, worker: int, answers: Answers, outcome: Outcome, hold_ms: int = 0) -> None:
        if isinstance(answers.memory, Refusal):
            return
        counted, view = self._memory.record(self.name, answers.memory, outcome, hold_ms, RULES)
        shared_counted, shared_view = self._workers[worker].record(
            self.name, answers.shared, outcome, hold_ms, RULES
        )
        assert counted == shared_counted
        agree(view, shared_view)

    def reset(self) -> None:
        agree(self._memory.reset(self.name)[1], self._workers[0].reset(self.name)[1])

    def view(self) -> None:
        agree(self._memory.view(self.name)[1], self._workers[2].view(self.name)[1])


def agree(in_memory: BreakerView, shared: BreakerView) -> None:
    assert told(in_memory) == told(shared)
    SEEN[in_memory.state] = SEEN.get(in_memory.state, 0) + 1


class Steps(RuleBasedStateMachine):
    """Any worker, any time, even twice: duplicates and late results are part of it."""

    client: ClassVar[redis.Redis]
    permits = Bundle("permits")

    def __init__(self) -> None:
        super().__init__()
        self.both = BothStores(self.client)

    @rule(target=permits, worker=WORKERS)
    def acquire(self, worker):
        return self.both.acquire(worker)

    @rule(
        answers=permits,
        outcome=st.sampled_from(Outcome),
        worker=WORKERS,
        hold_ms=st.sampled_from([0, 100, 5000]),
    )
    def settle(self, answers, outcome, worker, hold_ms):
        self.both.record(worker, answers, outcome, hold_ms)

    @rule()
    def trip(self):
        for _ in range(3):
            self.both.record(0, self.both.acquire(0), Outcome.FAILURE)

    @rule(answers=permits)
    def late_after_an_outage_and_a_recovery(self, answers):
        self.trip()
        self.both.now += 1_000
        for _ in range(2):
            self.both.record(1, self.both.acquire(1), Outcome.SUCCESS)
        for _ in range(3):
            self.both.record(2, answers, Outcome.FAILURE)

    @rule(over=st.sampled_from([0, 1, 400]), outcome=st.sampled_from(Outcome))
    def overdue_probe(self, over, outcome):
        self.trip()
        self.both.now += 1_000
        answers = self.both.acquire(0)
        self.both.now += 500 + over
        self.both.record(1, answers, outcome)

    @rule()
    def reset(self):
        self.both.reset()

    @rule(ms=st.sampled_from([1, 100, 200, 499, 500, 501, 1000, 5000]))
    def tick(self, ms):
        self.both.now += ms
        self.both.view()

    def teardown(self):
        state, probes = (f"cb:{{{self.both.name}}}:{part}" for part in ("state", "probes"))
        if self.client.exists(state):  # no TTL shorter than what it must remember
            assert self.client.pttl(state) > 2 * 1_000
        self.client.delete(state, probes)


def test_the_scripts_mirror_the_machine(valkey):
    with valkey.client() as client:
        run_state_machine_as_test(
            type("StepsOnThisStore", (Steps,), {"client": client}),
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


@pytest.mark.parametrize("seen_by", ["a caller", "whoever looks"])
@pytest.mark.parametrize("state", ["open", "held", "probed"])
def test_a_clock_that_is_set_back_keeps_nobody_out_for_longer(valkey, state, seen_by):
    """By two minutes: what was left of its time is left of it still."""
    now = [1_000_000]
    with valkey.client() as client:
        store, name = RedisStore(client, lambda: now[0]), f"diff{next(NAMES)}"

        def fail(times):
            for n in range(times):
                permit, _ = store.acquire(name, RULES)
                outcome = Outcome.SATURATED if state == "held" else Outcome.FAILURE
                assert isinstance(permit, Permit), n
                store.record(name, permit, outcome, 1000, RULES)

        fail(1 if state == "held" else CONFIG.failure_threshold)
        left = 1.0
        if state == "probed":
            now[0] += 1000
            for _ in range(CONFIG.half_open_permits):
                assert isinstance(store.acquire(name, RULES)[0], Permit)
            left = 0.5
        now[0] += 100
        now[0] -= 120_000
        if seen_by == "a caller":
            assert isinstance(store.acquire(name, RULES)[0], Refusal)
        else:
            store.view(name)
        now[0] += int(left * 1000)
        assert isinstance(store.acquire(name, RULES)[0], Permit)


async def test_a_store_at_its_memory_limit_is_asked_as_ever(valkey):
    client = redis.asyncio.Redis(port=valkey.port)
    breaker = CircuitBreaker("fleet", CircuitBreakerConfig(), AsyncRedisStore(OneByOne(client)))
    await client.config_set("maxmemory", 1)
    try:
        for _ in range(3):
            await breaker.record(await breaker.acquire(), Outcome.FAILURE)
        assert (await breaker.view()).state is CircuitState.OPEN
        assert (await breaker.areset()).state is CircuitState.CLOSED
        assert breaker.store_errors == 0
    finally:
        await client.config_set("maxmemory", 0)
        await client.aclose()
