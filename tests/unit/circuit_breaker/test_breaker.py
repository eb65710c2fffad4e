"""The breaker as the quick start uses it, and what it promises beyond."""

import asyncio
import contextlib
import math
import os
import signal
import time
import warnings

import pytest
from harness.waiting import eventually, turns

from circuit_breaker import (
    ChangeLostError,
    CircuitBreaker,
    CircuitBreakerConfig,
    CircuitBreakerError,
    CircuitState,
    MemoryStore,
    Outcome,
    Override,
    Permit,
    Refusal,
    get_circuit_breaker,
    registry,
)
from circuit_breaker.breaker import SHARED_RECORD_SECONDS
from circuit_breaker.errors import StoreError
from circuit_breaker.events import (
    CallRejected,
    LateResult,
    Overridden,
    StateChanged,
    StoreUnavailable,
)


class Clock:
    now = 1_000_000

    def __call__(self):
        return self.now


async def fail():
    raise ConnectionError


async def work():
    return "done"


def make(clock=None, **config):
    events = []
    store = MemoryStore(clock) if clock else None
    breaker = CircuitBreaker("b", CircuitBreakerConfig(**config), store, events.append)
    return breaker, events


async def open_up(breaker):
    for _ in range(breaker.config.failure_threshold):
        with pytest.raises(ConnectionError):
            await breaker.call(fail)


async def test_it_opens_after_so_many_failures_in_a_row_and_refuses():
    breaker, events = make(failure_threshold=2)
    await open_up(breaker)
    assert breaker.state == CircuitState.OPEN
    with pytest.raises(CircuitBreakerError) as refused:
        await breaker.call(work)
    assert refused.value.name == "b"
    assert 29 < refused.value.retry_after <= 30
    assert StateChanged("b", CircuitState.CLOSED, CircuitState.OPEN) in events
    assert CallRejected("b", "open") in events


async def test_a_success_between_failures_starts_the_count_again():
    breaker, _ = make(failure_threshold=2)
    for _ in range(3):
        with pytest.raises(ConnectionError):
            await breaker.call(fail)
        assert await breaker.call(work) == "done"
    assert breaker.state == CircuitState.CLOSED


async def test_it_closes_after_enough_probes_succeeded():
    clock = Clock()
    breaker, _ = make(clock, success_threshold=2)
    await open_up(breaker)
    clock.now += 30_000
    await breaker.call(work)
    assert breaker.state == CircuitState.HALF_OPEN
    await breaker.call(work)
    assert breaker.state == CircuitState.CLOSED


async def test_it_tells_when_a_probe_is_due():
    clock = Clock()
    breaker, _ = make(clock)
    assert breaker.due_in_seconds is None
    await open_up(breaker)
    assert breaker.due_in_seconds == 30
    clock.now += 29_000
    assert breaker.due_in_seconds == 1
    clock.now += 2_000
    assert breaker.due_in_seconds == 0
    breaker.reset()
    assert breaker.due_in_seconds is None


async def test_a_probe_that_fails_opens_it_again():
    clock = Clock()
    breaker, _ = make(clock)
    await open_up(breaker)
    clock.now += 30_000
    with pytest.raises(ConnectionError):
        await breaker.call(fail)
    assert breaker.state == CircuitState.OPEN


async def test_only_so_many_probe_at_once():
    clock = Clock()
    breaker, _ = make(clock, half_open_permits=2)
    await open_up(breaker)
    clock.now += 30_000
    answers = [await breaker.acquire() for _ in range(5)]
    assert [isinstance(a, Permit) for a in answers] == [True, True, False, False, False]
    assert {a.reason for a in answers[2:]} == {"half_open"}


async def test_a_lost_probes_place_comes_back_when_its_lease_ends():
    clock = Clock()
    breaker, _ = make(clock, probe_lease_seconds=6.0)
    await open_up(breaker)
    clock.now += 30_000
    await breaker.acquire()
    assert isinstance(await breaker.acquire(), Refusal)
    clock.now += 6_000
    assert isinstance(await breaker.acquire(), Permit)


async def test_probes_that_keep_hanging_open_it_again():
    clock = Clock()
    breaker, _ = make(clock, probe_lease_seconds=1.0)
    await open_up(breaker)
    clock.now += 30_000
    for _ in range(3):
        assert isinstance(await breaker.acquire(), Permit)
        clock.now += 1_000
    refusal = await breaker.acquire()
    assert refusal.state == CircuitState.OPEN


async def test_a_late_result_of_an_earlier_generation_is_dropped():
    clock = Clock()
    breaker, events = make(clock, success_threshold=1)
    late = await breaker.acquire()
    await open_up(breaker)
    clock.now += 30_000
    await breaker.call(work)
    for _ in range(3):
        await breaker.record(late, Outcome.FAILURE)
    assert breaker.state == CircuitState.CLOSED
    assert LateResult("b") in events


@pytest.mark.parametrize(
    ("outcome", "asked", "seconds"),
    [
        (Outcome.SATURATED, None, 1.0),
        (Outcome.SATURATED, 7.0, 7.0),
        (Outcome.MISCONFIGURED, None, 30.0),
    ],
)
async def test_a_busy_or_refusing_server_is_left_alone_without_a_failure(outcome, asked, seconds):
    clock = Clock()
    breaker, _ = make(clock)
    view = await breaker.record(await breaker.acquire(), outcome, asked)
    assert (view.held, view.hold_reason, view.consecutive_failures) == (True, outcome.value, 0)
    assert breaker.refusal() == Refusal(CircuitState.CLOSED, seconds, "held")
    clock.now += int(seconds * 1000)
    assert breaker.refusal() is None
    assert isinstance(await breaker.acquire(), Permit)


async def test_a_cancelled_call_counts_for_nothing_and_gives_its_permit_back():
    clock = Clock()
    breaker, _ = make(clock, failure_threshold=1)
    await open_up(breaker)
    clock.now += 30_000
    started = asyncio.Event()

    async def hang():
        started.set()
        await asyncio.Event().wait()

    call = asyncio.create_task(breaker.call(hang))
    await started.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert breaker.state == CircuitState.HALF_OPEN
    assert isinstance(await breaker.acquire(), Permit)


async def test_a_call_over_its_time_limit_is_a_failure():
    breaker, _ = make(failure_threshold=1, timeout_seconds=0.01)
    with pytest.raises(TimeoutError):
        await breaker.call(asyncio.Event().wait)
    assert breaker.state == CircuitState.OPEN


async def keeps_on():
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(5)
    return "a default"


async def blocks():
    time.sleep(0.05)  # noqa: ASYNC251 - it is the point
    return "late"


@pytest.mark.parametrize("work", [keeps_on, blocks])
async def test_a_call_over_its_time_limit_that_returns_all_the_same_is_a_failure(work):
    breaker, _ = make(failure_threshold=1, timeout_seconds=0.02)
    await breaker.call(work)
    assert breaker.state == CircuitState.OPEN


async def test_an_ignored_exception_is_no_failure():
    breaker, _ = make(failure_threshold=1, ignored_exceptions=(ConnectionError,))
    with pytest.raises(ConnectionError):
        await breaker.call(fail)
    assert breaker.state == CircuitState.CLOSED


async def test_reset_closes_it():
    breaker, _ = make(failure_threshold=1)
    await open_up(breaker)
    breaker.reset()
    assert breaker.state == CircuitState.CLOSED
    assert await breaker.call(work) == "done"


def test_synchronous_calls_share_the_state():
    breaker, _ = make(failure_threshold=1)
    with pytest.raises(ZeroDivisionError):
        breaker.call_sync(lambda: 1 / 0)
    with pytest.raises(CircuitBreakerError):
        breaker.call_sync(str)


def test_the_registry_gives_one_breaker_a_name():
    config = CircuitBreakerConfig(failure_threshold=7)
    assert get_circuit_breaker("x", config) is get_circuit_breaker("x")
    with pytest.raises(ValueError, match="another configuration"):
        get_circuit_breaker("x", CircuitBreakerConfig())


@pytest.mark.parametrize(
    "config",
    [{"failure_threshold": 0}, {"timeout_seconds": 0}, {"recovery_timeout_seconds": -1}],
)
def test_a_senseless_configuration_is_named(config):
    with pytest.raises(ValueError, match=next(iter(config))):
        CircuitBreakerConfig(**config)


def test_two_event_loops_may_use_one_breaker():
    breaker, _ = make(failure_threshold=2)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            asyncio.run(breaker.call(fail))
    assert breaker.state == CircuitState.OPEN


class SharedStore:
    """A store as the fleet's is: not the process's own, and sometimes away."""

    def __init__(self):
        self.inner, self.down, self.asked = MemoryStore(), False, 0

    def __getattr__(self, what):
        def ask(*args):
            self.asked += 1
            if self.down:
                raise StoreError
            return getattr(self.inner, what)(*args)

        return ask


async def test_an_outage_of_the_store_never_reaches_a_caller_and_keeps_an_open_breaker_open():
    store, events = SharedStore(), []
    breaker = CircuitBreaker("b", CircuitBreakerConfig(), store, events.append)
    await open_up(breaker)
    store.down = True
    await breaker.view()
    assert breaker.store_errors == 1
    assert StoreUnavailable("b") in events
    with pytest.raises(CircuitBreakerError):
        await breaker.call(work)


async def test_alone_a_breaker_still_opens():
    store = SharedStore()
    store.down = True
    breaker = CircuitBreaker("b", CircuitBreakerConfig(), store)
    assert await breaker.call(work) == "done"
    await open_up(breaker)
    assert breaker.state == CircuitState.OPEN
    assert store.asked == 1


async def test_alone_a_breaker_goes_on_with_its_ramp():
    store, clock = SharedStore(), Clock()
    store.inner = MemoryStore(clock)
    breaker = await ramping(store, clock, *[0.9] * 4)
    assert breaker.share == pytest.approx(0.1, abs=0.01)
    store.down = True
    breaker._seen_at = 0.0
    for _ in range(2):
        assert (await breaker.acquire()).reason == "ramping"
    assert breaker.share == pytest.approx(0.1, abs=0.05)


def test_a_store_that_comes_back_in_another_thread_raises_nothing(monkeypatch):
    store = SharedStore()
    breaker = CircuitBreaker("b", CircuitBreakerConfig(), store)
    assert breaker.call_sync(lambda: 1) == 1
    seed = MemoryStore.seed

    def meanwhile(*args):  # the answer comes that another thread has waited for
        breaker._answered(store.inner.view("b"), 0.0)
        return seed(*args)

    monkeypatch.setattr(MemoryStore, "seed", meanwhile)
    store.down = True
    breaker._calm.clear()
    breaker._seen_at = 0.0
    assert breaker.call_sync(lambda: 2) == 2
    assert breaker.store_errors > 0


@pytest.mark.parametrize(("between", "asked"), [(0.02, 10), (0.0, 1)])
async def test_a_closed_breaker_asks_the_store_once_a_call_at_most(monkeypatch, between, asked):
    monkeypatch.setattr("circuit_breaker.breaker.SHARED_RECORD_SECONDS", 0.01)
    store = SharedStore()
    breaker = CircuitBreaker("b", CircuitBreakerConfig(failure_rate=0.5), store)
    for number in range(10):
        await breaker.call(work)
        if number == 0:
            assert store.asked == 2, "a lone one is recorded at once"
        await asyncio.sleep(between)
    await eventually(lambda: store.inner.view("b")[1].calls == 10)
    assert store.asked <= 1 + max(asked, 2), "leave at first, and the records"


async def test_a_success_that_is_not_recorded_yet_is_known_to_a_failure_behind_it():
    store = SharedStore()
    breaker = CircuitBreaker("b", CircuitBreakerConfig(failure_threshold=2), store)
    outcomes = [Outcome.SUCCESS, Outcome.FAILURE, Outcome.SUCCESS, Outcome.FAILURE]
    for outcome in outcomes:
        view = await breaker.record(await breaker.acquire(), outcome)
    assert (view.state, view.consecutive_failures) == (CircuitState.CLOSED, 1)


@pytest.mark.parametrize("ends", ["closed", "cancelled"])
def test_a_loop_that_ends_takes_no_later_success_along(ends):
    """A library's user may have a loop for each call."""
    store = SharedStore()
    breaker = CircuitBreaker("b", CircuitBreakerConfig(failure_rate=0.5), store)
    for number in range(5):
        if ends == "cancelled":
            asyncio.run(two_calls(breaker))
        else:
            loop = asyncio.new_event_loop()
            loop.run_until_complete(two_calls(breaker))
            loop.close()
        assert store.inner.view("b")[1].calls > number, "the first one of each loop, by itself"
        time.sleep(SHARED_RECORD_SECONDS + 0.005)
    asyncio.run(breaker.record(asyncio.run(breaker.acquire()), Outcome.FAILURE))
    view = store.inner.view("b")[1]
    assert view.calls == 11, "all, as the failure lets those before it be recorded"


async def two_calls(breaker):
    for _ in range(2):
        await breaker.call(work)


async def test_a_failure_comes_behind_a_success_that_is_on_its_way():
    store = SharedStore()
    breaker = CircuitBreaker("b", CircuitBreakerConfig(failure_threshold=2), store)
    permit = await breaker.acquire()
    await breaker.record(permit, Outcome.FAILURE)
    for outcome in (Outcome.SUCCESS, Outcome.FAILURE):
        await breaker.record(permit, outcome, wait=False)
    view = store.inner.view("b")[1]
    assert (view.state, view.consecutive_failures) == (CircuitState.CLOSED, 1)


async def test_who_is_cut_off_as_others_are_recorded_before_him_is_recorded_all_the_same():
    store = SlowStore()
    breaker = CircuitBreaker("b", CircuitBreakerConfig(), store)
    permit = await breaker.acquire()
    await breaker.record(permit, Outcome.SUCCESS, wait=False)
    recording = asyncio.create_task(breaker.record(permit, Outcome.FAILURE))
    await turns()
    recording.cancel()
    await turns()
    store.let_go.set()
    await eventually(lambda: store.inner.view("b")[1].consecutive_failures == 1)


class SlowStore(SharedStore):
    """One whose answers come when they are let."""

    def __init__(self):
        super().__init__()
        self.let_go = asyncio.Event()

    async def acquire(self, *args):
        return self.inner.acquire(*args)

    async def record(self, *args):
        self.asked += 1
        await self.let_go.wait()
        return self.inner.record(*args)


@pytest.mark.parametrize(("outcome", "waits"), [(Outcome.SUCCESS, False), (Outcome.FAILURE, True)])
async def test_nobody_waits_until_the_store_has_a_success(outcome, waits):
    store, events = SlowStore(), []
    breaker = CircuitBreaker("b", CircuitBreakerConfig(), store, events.append)
    permit = await breaker.acquire()
    recording = asyncio.create_task(breaker.record(permit, outcome, wait=False))
    await turns()
    assert (recording.done(), store.asked) == (not waits, 1)
    store.let_go.set()
    await eventually(lambda: [e for e in events if hasattr(e, "outcome")])
    assert (await recording).state is CircuitState.CLOSED
    assert store.inner.view("b")[1].consecutive_failures == waits


async def test_a_probes_success_is_waited_for_whatever_is_said():
    store = SlowStore()
    store.let_go.set()
    config = CircuitBreakerConfig(recovery_timeout_seconds=0.01, success_threshold=1)
    breaker = CircuitBreaker("b", config, store)
    await open_up(breaker)
    await asyncio.sleep(0.02)
    permit = await breaker.acquire()
    assert permit.probe
    view = await breaker.record(permit, Outcome.SUCCESS, wait=False)
    assert view.state is CircuitState.CLOSED


async def test_an_open_breaker_refuses_without_asking_the_store():
    store = SharedStore()
    breaker = CircuitBreaker("b", CircuitBreakerConfig(), store)
    await open_up(breaker)
    before = store.asked
    for _ in range(100):
        assert isinstance(await breaker.acquire(), Refusal)
    assert store.asked == before


@pytest.mark.parametrize(
    ("result", "outcome"),
    [("fine", Outcome.SUCCESS), ("bad", Outcome.FAILURE)],
)
async def test_a_predicate_judges_results(result, outcome):
    breaker, events = make(failure_threshold=1, is_failure=lambda each: each == "bad")

    async def answer():
        return result

    assert await breaker.call(answer) == result
    assert [event.outcome for event in events if hasattr(event, "outcome")] == [outcome]
    assert (breaker.state is CircuitState.OPEN) is (outcome is Outcome.FAILURE)


async def answer_of(call, work):
    """What a synchronous or an asynchronous call comes to."""
    answer = call(work)
    return await answer if asyncio.iscoroutine(answer) else answer


@pytest.mark.parametrize(
    ("error", "counts"),
    [(ConnectionError, True), (KeyError, False)],
)
async def test_a_predicate_judges_exceptions(error, counts):
    breaker, _ = make(failure_threshold=1, is_failure=lambda each: isinstance(each, OSError))

    def work():
        raise error

    for call in (breaker.call_sync, breaker.call):
        with pytest.raises(error):
            await answer_of(call, work)
        assert (breaker.state is CircuitState.OPEN) is counts
        breaker.reset()


async def test_a_call_over_its_time_limit_fails_whatever_a_predicate_says():
    breaker, _ = make(failure_threshold=1, timeout_seconds=0.01, is_failure=lambda _: False)
    with pytest.raises(TimeoutError):
        await breaker.call(asyncio.Event().wait)
    assert breaker.state is CircuitState.OPEN


async def test_a_predicate_that_raises_counts_for_nothing_and_keeps_no_permit():
    clock = Clock()
    breaker, _ = make(clock, is_failure=lambda _: 1 / 0)
    for call in (breaker.call_sync, breaker.call):
        with pytest.raises(ZeroDivisionError):
            await answer_of(call, lambda: 1)
    assert breaker._local.view("b")[1].consecutive_failures == 0


async def test_calls_that_are_slow_open_it():
    breaker, _ = make(slow_call_seconds=0.001, slow_call_rate=1.0, minimum_calls=2)

    async def slow():
        await asyncio.sleep(0.002)

    for _ in range(2):
        await breaker.call(slow)
    assert breaker.state is CircuitState.OPEN


def drawn(*places):
    """What is drawn by chance, in turn; then the middle."""
    left = list(places)
    return lambda: left.pop(0) if left else 0.5


async def ramping(store, clock, *places):
    """A breaker that has just closed after an outage; its next call's place is drawn."""
    config = CircuitBreakerConfig(ramp_seconds=10, failure_threshold=1, success_threshold=1)
    breaker = CircuitBreaker("b", config, store, draw=lambda: 0.5)
    await breaker.record(await breaker.acquire(), Outcome.FAILURE)
    clock.now += 30_000
    breaker._seen_at = 0.0
    await breaker.record(await breaker.acquire(), Outcome.SUCCESS)
    breaker._first_at, breaker._draw = math.inf, drawn(*places)
    return breaker


async def test_while_it_ramps_up_a_share_of_calls_goes_through_and_refusal_tells_nothing():
    clock = Clock()
    breaker = await ramping(MemoryStore(clock), clock, 0.05, 0.5, 0.5, 0.95)
    assert breaker.share == pytest.approx(0.1)
    assert isinstance(await breaker.acquire(), Permit)
    refused = await breaker.acquire()
    assert (refused.reason, refused.state) == ("ramping", CircuitState.CLOSED)
    assert 0 < refused.retry_after_seconds < 1
    assert breaker.refusal() is None
    clock.now += 5_000
    assert breaker.share == pytest.approx(0.55)
    assert isinstance(await breaker.acquire(), Permit)
    clock.now += 5_000
    assert breaker.share == 1
    assert isinstance(await breaker.acquire(), Permit)


async def test_a_lone_call_goes_through_while_it_ramps_up():
    clock = Clock()
    breaker = await ramping(MemoryStore(clock), clock, 0.99, 0.99)
    breaker._first_at = 0.0  # its last one was long ago
    assert isinstance(await breaker.acquire(), Permit)
    assert isinstance(await breaker.acquire(), Refusal), "it is no longer a lone one"


async def test_a_shared_breaker_ramps_up_by_its_view_without_asking():
    store = SharedStore()
    store.inner = MemoryStore(clock := Clock())
    breaker = await ramping(store, clock, *[0.999] * 5, 0.01)
    asked = store.asked
    for _ in range(5):
        assert (await breaker.acquire()).reason == "ramping"
    assert isinstance(await breaker.acquire(), Permit)
    assert store.asked == asked


async def test_successes_that_share_a_record_count_each():
    store = SharedStore()
    config = CircuitBreakerConfig(failure_rate=0.5, minimum_calls=1000)
    breaker = CircuitBreaker("b", config, Slowly(store.inner))
    permits = [await breaker.acquire() for _ in range(50)]
    await asyncio.gather(*(breaker.record(permit, Outcome.SUCCESS) for permit in permits))
    await eventually(lambda: store.inner.view("b")[1].calls == 50)


@pytest.mark.parametrize("form", ["sync", "async"])
async def test_by_hand_it_is_opened_disabled_and_left_to_itself(form):
    clock = Clock()
    breaker, events = make(clock)

    async def by_hand(name, *who):
        return (
            getattr(breaker, name)(*who)
            if form == "sync"
            else await getattr(breaker, f"a{name}")(*who)
        )

    view = await by_hand("force_open", "ann", "a new model")
    assert (view.override, view.by, view.why) == (Override.OPEN, "ann", "a new model")
    assert Overridden("b", Override.OPEN, "ann", "a new model") in events
    assert breaker.state is CircuitState.OPEN
    assert breaker.due_in_seconds == math.inf
    assert breaker.refusal().reason == "forced_open"
    clock.now += 10**9
    with pytest.raises(CircuitBreakerError):
        await breaker.call(work)
    await by_hand("disable", "bob", "no guard")
    for _ in range(5):
        with pytest.raises(ConnectionError):
            await breaker.call(fail)
    assert breaker.due_in_seconds is None
    await by_hand("auto", "bob", "guarded")
    await open_up(breaker)
    view = await by_hand("reset", "ann", "well")
    assert (view.state, view.override, view.by) == (CircuitState.CLOSED, Override.NONE, "ann")


async def test_what_an_operator_wants_and_nobody_stored_is_said_to_be_lost():
    store = SharedStore()
    store.down = True
    breaker = CircuitBreaker("b", CircuitBreakerConfig(), store)
    with pytest.raises(ChangeLostError, match="'b' was not changed"):
        await breaker.aforce_open("ann", "a new model")
    with pytest.raises(ChangeLostError):
        breaker.reset()
    store.down = False
    assert breaker.force_open("ann", "a new model").override is Override.OPEN


async def test_alone_a_breaker_keeps_to_what_was_done_by_hand():
    store = SharedStore()
    breaker = CircuitBreaker("b", CircuitBreakerConfig(), store)
    breaker.force_open("ann", "a new model")
    store.down = True
    await breaker.view()
    assert (await breaker.acquire()).reason == "forced_open"


class Slowly:
    """A store that answers a moment later; `gate`, if set, is awaited before or after the step."""

    def __init__(self, inner):
        self.inner, self.gates, self.reached = inner, {}, asyncio.Event()

    def __getattr__(self, what):
        async def ask(*args):
            await self._pass((what, "before"))
            answer = getattr(self.inner, what)(*args)
            await self._pass((what, "after"))
            return answer

        return ask

    async def _pass(self, place):
        await asyncio.sleep(0)
        if place in self.gates:
            self.reached.set()
            await self.gates[place].wait()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["acquire", "work", "record"])
async def test_a_probe_that_is_cancelled_anywhere_gives_its_place_back(step, when):
    clock, gate = Clock(), asyncio.Event()
    inner = MemoryStore(clock)
    store = Slowly(inner)
    breaker = CircuitBreaker("b", CircuitBreakerConfig(success_threshold=9), store)
    await open_up(breaker)
    clock.now += 30_000
    breaker._seen_at = 0.0  # what it knows is a second old
    store.gates = {(step, when): gate}

    async def probed():
        if step == "work":
            store.reached.set()
            await gate.wait()

    call = asyncio.create_task(breaker.call(probed))
    await store.reached.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    gate.set()
    await turns(50)
    view = inner.view("b")[1]
    assert (view.state, view.probes) == (CircuitState.HALF_OPEN, 0)
    assert isinstance(await breaker.acquire(), Permit)


def test_a_child_of_a_fork_is_not_locked_out_by_what_its_parent_held():
    breaker, _ = make()
    breaker.call_sync(str)
    with breaker._local._lock, breaker._lock, registry._lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn of threads, of which there are none
        child = os.fork()
        if not child:
            signal.alarm(10)
            get_circuit_breaker("another")
            os._exit(0 if breaker.call_sync(lambda: 7) == 7 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert breaker.call_sync(lambda: 7) == 7


@pytest.mark.parametrize(
    "config",
    [
        {"failure_rate": 0},
        {"failure_rate": 1.5},
        {"slow_call_rate": -1},
        {"slow_call_seconds": 0},
        {"window_seconds": 0},
        {"minimum_calls": 0},
        {"recovery_multiplier": 0.5},
        {"recovery_cap_seconds": -1},
        {"recovery_jitter": 2},
        {"ramp_seconds": -1},
        {"saturation_limit_seconds": 0},
    ],
)
def test_a_senseless_rule_is_named(config):
    with pytest.raises(ValueError, match=next(iter(config))):
        CircuitBreakerConfig(**config)
