"""The breaker as the quick start uses it, and what it promises beyond."""

import asyncio

import pytest

from circuit_breaker import (
    CircuitBreaker,
    CircuitBreakerConfig,
    CircuitBreakerError,
    CircuitState,
    MemoryStore,
    Outcome,
    Permit,
    Refusal,
    get_circuit_breaker,
)
from circuit_breaker.errors import StoreError
from circuit_breaker.events import CallRejected, LateResult, StateChanged, StoreUnavailable


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


async def test_a_closed_breaker_asks_the_store_once_a_call():
    store = SharedStore()
    breaker = CircuitBreaker("b", CircuitBreakerConfig(), store)
    await breaker.call(work)
    before = store.asked
    for _ in range(10):
        await breaker.call(work)
    assert store.asked == before + 10


async def test_an_open_breaker_refuses_without_asking_the_store():
    store = SharedStore()
    breaker = CircuitBreaker("b", CircuitBreakerConfig(), store)
    await open_up(breaker)
    before = store.asked
    for _ in range(100):
        assert isinstance(await breaker.acquire(), Refusal)
    assert store.asked == before
