"""The Lua scripts and the pure machine give the same answers, step by step; and hold in a fleet."""

from __future__ import annotations

import asyncio
import math
import multiprocessing
import os
import threading
import time
from dataclasses import replace
from typing import ClassVar

import pytest
import redis
import redis.asyncio
from harness.amounts import WALKS
from harness.both_breakers import CONFIG, CONFIGS, NAMES, RULES, SEEN, BothStores, Walk
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    rule,
    run_state_machine_as_test,
)

from circuit_breaker import (
    AsyncRedisStore,
    CircuitBreaker,
    CircuitBreakerConfig,
    CircuitState,
    OneByOne,
    Outcome,
    Permit,
    RedisStore,
    Refusal,
)
from circuit_breaker.machine import Action, Change, Report, Rules, share_of_calls

WORKERS = st.integers(0, 2)
DRAWS = st.floats(0, 1, exclude_max=True)
LAST = 0.999  # the last of calls in the order in which a share of them is let in
FAILED, SUCCEEDED = Report(Outcome.FAILURE), Report(Outcome.SUCCESS)
REPORTS = st.builds(
    Report,
    st.sampled_from(Outcome),
    hold_ms=st.sampled_from([0, 100, 5000]),
    calls=st.just(1),
    slow=st.integers(0, 1),
) | st.builds(
    Report,
    st.just(Outcome.SUCCESS),
    hold_ms=st.just(0),
    calls=st.just(4),
    slow=st.integers(0, 4),
)


class Steps(RuleBasedStateMachine):
    """Any worker, any time, even twice: duplicates and late results are part of it."""

    client: ClassVar[redis.Redis]
    config: ClassVar[str]
    permits = Bundle("permits")

    def __init__(self) -> None:
        super().__init__()
        self.both = BothStores(self.client, Rules.of(CONFIGS[self.config]))

    @rule(target=permits, worker=WORKERS, draw=DRAWS)
    def acquire(self, worker, draw):
        return self.both.acquire(worker, draw)

    @rule(answers=permits, report=REPORTS, worker=WORKERS, draw=DRAWS)
    def settle(self, answers, report, worker, draw):
        self.both.record(worker, answers, report, draw)

    @rule(report=REPORTS, worker=WORKERS, times=st.integers(1, 5), ms=st.sampled_from([0, 90]))
    def calls(self, report, worker, times, ms):
        for _ in range(times):
            self.both.record(worker, self.both.acquire(worker, 0.0), report)
            self.both.now += ms

    @rule(worker=WORKERS)
    def fail_too_often_and_never_in_a_row(self, worker):
        for report in (SUCCEEDED, FAILED, FAILED) * 3:
            self.both.record(worker, self.both.acquire(worker, 0.0), report)

    @rule(worker=WORKERS)
    def hold(self, worker):
        busy = Report(Outcome.SATURATED, hold_ms=5000)
        self.both.record(worker, self.both.acquire(worker, 0.0), busy)
        self.both.acquire(worker)

    @rule(draw=DRAWS)
    def trip(self, draw=0.5):
        for _ in range(self.both.rules.failure_threshold):
            self.both.record(0, self.both.acquire(0, 0.0), FAILED, draw)

    @rule(draw=DRAWS, place=DRAWS)
    def outage_and_recovery(self, draw=0.5, place=0.5):
        self.trip(draw)
        self.both.now += 1_500
        for _ in range(2):
            self.both.record(1, self.both.acquire(1, 0.0), SUCCEEDED)
        self.both.acquire(2, place)
        self.both.acquire(2, LAST)  # refused as long as it ramps up

    @rule(answers=permits)
    def late_after_an_outage_and_a_recovery(self, answers):
        self.outage_and_recovery()
        for _ in range(3):
            self.both.record(2, answers, FAILED)

    @rule(over=st.sampled_from([0, 1, 400]), report=REPORTS)
    def overdue_probe(self, over, report):
        self.trip()
        self.both.now += 1_000
        answers = self.both.acquire(0)
        self.both.now += 500 + over
        self.both.record(1, answers, report)

    @rule(
        action=st.sampled_from(Action),
        worker=WORKERS,
        by=st.sampled_from(["", "ann"]),
        why=st.sampled_from(["", 'a "new" model, ö']),
    )
    def override(self, action, worker, by, why):
        self.both.override(worker, Change(action, by, why))

    @rule(ms=st.sampled_from([1, 100, 200, 499, 500, 501, 1000, 5000]))
    def tick(self, ms):
        self.both.now += ms
        self.both.view()

    def teardown(self):
        state, probes = self.both.keys
        if self.client.exists(state):  # no TTL shorter than what it must remember
            assert self.client.pttl(state) > 2 * 5_000
        self.client.delete(state, probes)


@pytest.mark.timeout(300 * WALKS)
def test_the_scripts_mirror_the_machine(valkey):
    with valkey.client() as client:
        for config in sorted(CONFIGS):
            run_state_machine_as_test(
                type("StepsOnThisStore", (Steps,), {"client": client, "config": config}),
                settings=settings(
                    max_examples=math.ceil(100 * WALKS / len(CONFIGS)),
                    stateful_step_count=40,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
    assert min(SEEN[state] for state in CircuitState) > 60, SEEN
    reasons = ("open", "half_open", "held", "ramping", "forced_open")
    assert min(SEEN[reason] for reason in reasons) > 12, SEEN
    assert min(SEEN[how] for how in ("in a row", "by a rate", "again", "first")) > 12, SEEN


@pytest.mark.timeout(300 * WALKS)
def test_they_agree_where_something_just_ends(valkey):
    with valkey.client() as client:
        for seed in range(80 * WALKS):
            Walk(client, seed).run(60)


@pytest.mark.parametrize("names", [("by rates", "all"), ("all", "by rates")], ids="-".join)
def test_a_window_of_another_length_is_begun_anew_in_both(valkey, names):
    before, after = (
        Rules.of(replace(CONFIGS[name], failure_threshold=9, minimum_calls=9)) for name in names
    )
    assert before.window_ms != after.window_ms
    with valkey.client() as client:
        both = BothStores(client, before)
        for _ in range(3):
            both.record(0, both.acquire(0), FAILED)
        assert both.machine.window.sums(both.now) == (3, 3, 0)
        both.rules = after
        both.record(0, both.acquire(0), SUCCEEDED)
        assert both.machine.window.sums(both.now) == (1, 0, 0)


def test_a_draw_is_admitted_by_both_below_the_share_and_not_at_it(valkey):
    rules = Rules.of(CONFIGS["ramping up"])
    with valkey.client() as client:
        both = BothStores(client, rules)
        for _ in range(rules.failure_threshold):
            both.record(0, both.acquire(0), FAILED)
        both.now += rules.open_ms
        both.record(0, both.acquire(0), SUCCEEDED)
        for closed_ms in (0, 1, 700, 1999):
            both.now = both.machine.closed_at + closed_ms
            share = share_of_calls(closed_ms, rules.ramp_ms)
            assert both.acquire(0, share).shared.reason == "ramping"
            assert isinstance(both.acquire(0, math.nextafter(share, 0)).shared, Permit)


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
        assert store.record("fleet", before, FAILED, rules)[0] is False
        breaker = make(client)
        fail(breaker)
        assert breaker.state == CircuitState.OPEN


def test_a_long_hold_is_remembered_whatever_is_reported_after_it(valkey):
    hours = 3 * 3600
    with valkey.client() as client:
        store = RedisStore(client)
        rules = Rules.of(CircuitBreakerConfig())
        permit = store.acquire("held", rules)[0]
        store.record("held", permit, Report(Outcome.SATURATED, hold_ms=hours * 1000), rules)
        store.record("held", permit, FAILED, rules)
        assert client.ttl("cb:{held}:state") > 2 * hours - 60


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


async def test_an_asynchronous_store_admits_no_synchronous_call_even_by_what_it_knows(valkey):
    client = redis.asyncio.Redis(port=valkey.port)
    breaker = CircuitBreaker("fleet", CircuitBreakerConfig(), AsyncRedisStore(OneByOne(client)))
    await breaker.acquire()
    called = []
    for change in (breaker.reset, lambda: breaker.force_open("ann", "a new model")):
        with pytest.raises(TypeError, match="await"):
            breaker.call_sync(called.append, 1)
        with pytest.raises(TypeError, match="await"):
            change()
    assert not called
    assert isinstance(await breaker.acquire(), Permit)
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


async def test_one_round_trip_a_call_at_most_and_none_while_it_is_open(valkey, monkeypatch):
    monkeypatch.setattr("circuit_breaker.breaker.VIEW_SECONDS", 60.0)  # no view is too old here
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
        await asyncio.sleep(0.03)  # else successes would share one
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
                store.record(name, permit, Report(outcome, 1000), RULES)

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


class SetBack:
    """A breaker in Redis whose clock can be set back by two minutes."""

    def __init__(self, client, **config):
        self.now = 1_000_000
        self.rules = Rules.of(replace(CONFIG, **config))
        self.store = RedisStore(client, lambda: self.now)
        self.last = None

    def record(self, outcome):
        """Report a call that was let through now, or where none is, before."""
        permit = self.store.acquire("fleet", self.rules)[0]
        self.last = permit if isinstance(permit, Permit) else self.last
        return self.store.record("fleet", self.last, Report(outcome), self.rules)[1]

    def view(self):
        return self.store.view("fleet")[1]

    def set_back(self):
        self.now -= 120_000
        return self.view()


def test_what_never_was_is_not_made_by_a_clock_that_is_set_back(valkey):
    with valkey.client() as client:
        breaker = SetBack(client)
        breaker.record(Outcome.FAILURE)
        view = breaker.set_back()
        assert (view.closed_seconds, view.changed_seconds, view.held) == (None, None, False)
        assert view.consecutive_failures == 1


def test_a_window_is_begun_anew_when_the_clock_is_set_back(valkey):
    with valkey.client() as client:
        breaker = SetBack(client, failure_rate=0.5)
        assert breaker.record(Outcome.FAILURE).calls == 1
        assert breaker.set_back().calls == 0


def test_what_was_some_time_ago_is_as_long_ago_when_the_clock_is_set_back(valkey):
    with valkey.client() as client:
        breaker = SetBack(client, success_threshold=1)
        for _ in range(CONFIG.failure_threshold):
            breaker.record(Outcome.FAILURE)
        breaker.now += 1_000
        breaker.record(Outcome.SUCCESS)
        breaker.now += 100
        breaker.store.override("fleet", Change(Action.AUTO, "ann", "nothing to end"))
        view = breaker.set_back()
        assert (view.closed_seconds, view.changed_seconds) == (0.1, 0)
        breaker.now += 250
        assert (breaker.view().closed_seconds, breaker.view().changed_seconds) == (0.35, 0.25)


def test_a_server_is_busy_for_as_long_when_the_clock_is_set_back(valkey):
    with valkey.client() as client:
        breaker = SetBack(client, saturation_limit_seconds=0.5)
        breaker.record(Outcome.SATURATED)
        breaker.now += 400
        assert breaker.record(Outcome.SATURATED).consecutive_failures == 0
        breaker.set_back()
        breaker.now += 100
        assert breaker.record(Outcome.SATURATED).consecutive_failures == 1


def test_both_keys_go_when_nobody_has_asked_for_an_hour(valkey):
    with valkey.client() as client:
        fail(make(client))
        wait_out(client)
        assert isinstance(
            RedisStore(client).acquire("fleet", Rules.of(CircuitBreakerConfig()))[0], Permit
        )
        for key in ("cb:{fleet}:state", "cb:{fleet}:probes"):
            assert 3_500_000 < client.pttl(key) <= 3_600_000


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


def test_what_changes_nothing_writes_nothing(valkey):
    with valkey.client() as client:
        breaker = make(client)
        breaker.call_sync(str)
        before = client.hgetall("cb:{fleet}:state")
        for _ in range(5):
            breaker.call_sync(str)
        permit = breaker._ask_sync(breaker._acquire)[0]
        breaker._ask_sync(breaker._record(permit, Report(Outcome.IGNORED)))
        assert client.hgetall("cb:{fleet}:state") == before


def test_the_window_is_as_many_buckets_as_there_are_and_no_more(valkey):
    now = [1_000_000]
    config = CircuitBreakerConfig(failure_rate=1.0, window_seconds=10)
    with valkey.client() as client:
        store, rules = RedisStore(client, lambda: now[0]), Rules.of(config)
        for _ in range(30):
            for _ in range(3):
                store.record("fleet", store.acquire("fleet", rules)[0], SUCCEEDED, rules)
            now[0] += 1_000
        window = client.hget("cb:{fleet}:state", "window").decode()
        assert window.count(";") == 10
