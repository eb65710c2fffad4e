"""The rules of the state machine, each by a table: what is done, and what comes of it."""

from __future__ import annotations

import random
from dataclasses import fields, replace

import pytest

from circuit_breaker import CircuitBreakerConfig, CircuitState, Outcome, Override, Permit, Refusal
from circuit_breaker import machine as m
from circuit_breaker.machine import Action, Change, Moment, Report, Rules

CONFIG = CircuitBreakerConfig(recovery_timeout_seconds=10)


class Bench:
    """One breaker, its clock and its rules."""

    def __init__(self, **config):
        self.rules = Rules.of(replace(CONFIG, **config))
        self.machine = m.Machine("epoch")
        self.now = 1_000_000
        self.tokens = iter(range(10**6))

    def acquire(self, draw=0.5):
        moment = Moment(self.now, self.rules, draw)
        self.machine, answer = m.acquire(self.machine, str(next(self.tokens)), moment)
        return answer

    def record(self, permit, outcome, draw=0.5, **report):
        moment = Moment(self.now, self.rules, draw)
        self.machine, taken = m.record(self.machine, permit, Report(outcome, **report), moment)
        return taken

    def call(self, outcome, draw=0.0, **report):
        permit = self.acquire(draw)
        assert isinstance(permit, Permit), permit
        assert self.record(permit, outcome, draw, **report)

    def calls(self, word, **report):
        """Make calls: s that succeed, f that fail."""
        for letter in word:
            self.call({"s": Outcome.SUCCESS, "f": Outcome.FAILURE}[letter], **report)

    def trip(self, draw=0.5):
        for _ in range(self.rules.failure_threshold):
            self.record(self.acquire(0.0), Outcome.FAILURE, draw)
        return self.machine.open_until - self.now

    def probe(self, word, draw=0.5):
        """Wait for the probe to be due, and make calls."""
        self.now = self.machine.open_until
        for letter in word:
            self.record(
                self.acquire(0.0), Outcome.SUCCESS if letter == "s" else Outcome.FAILURE, draw
            )
        return self.machine.open_until - self.now

    @property
    def state(self):
        return self.machine.state.value

    def view(self):
        return m.view(self.machine, self.now)


def test_the_rules_are_packed_in_the_order_in_which_they_stand():
    rules = Rules.of(CONFIG)
    names = [each.name for each in fields(Rules) if each.init]
    assert [float(value) for value in rules.packed.split(",")] == [getattr(rules, n) for n in names]


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("sfsfsfsfs", "closed"),  # below the least number of calls
        ("sfsfsfsfsf", "open"),
        ("ssfssfssfss", "closed"),
        ("ssssssffssff", "closed"),  # 4 of 12
        ("ssssssffssffsff", "closed"),  # 6 of 15
        ("ssssssffssffsffsffsff", "closed"),  # 10 of 21
    ],
)
def test_so_large_a_share_of_failures_opens_it(word, state):
    bench = Bench(failure_threshold=3, failure_rate=0.5, minimum_calls=10)
    bench.calls(word[:-1])
    assert bench.state == "closed"
    bench.calls(word[-1])
    assert bench.state == state


def test_a_success_opens_it_when_it_makes_the_number_of_calls_enough():
    bench = Bench(failure_threshold=9, failure_rate=0.5, minimum_calls=8)
    bench.calls("ffffffs")
    assert bench.state == "closed"
    bench.calls("s")
    assert bench.state == "open"


def test_what_was_longer_ago_than_the_window_does_not_count():
    bench = Bench(failure_threshold=99, failure_rate=0.5, minimum_calls=4, window_seconds=10)
    bench.calls("fff")
    bench.now += 10_000
    bench.calls("ssf")
    assert (bench.state, bench.view().calls, bench.view().failed_calls) == ("closed", 3, 1)
    bench.now += 9_000
    assert bench.view().calls == 3
    bench.now += 1_000
    assert bench.view().calls == 0


def test_the_window_is_bounded():
    bench = Bench(failure_threshold=10**6, failure_rate=1, window_seconds=10)
    for _ in range(200):
        bench.calls("sf")
        bench.now += 170
    assert len(bench.machine.window.buckets) <= m.BUCKETS


def test_a_window_of_another_length_is_begun_anew():
    bench = Bench(failure_threshold=99, failure_rate=0.9, minimum_calls=4, window_seconds=10)
    bench.calls("fff")
    bench.rules = replace(bench.rules, window_ms=5_000)
    bench.calls("f")
    assert bench.view().calls == 1


def test_successes_that_were_recorded_together_count_each():
    bench = Bench(failure_threshold=99, failure_rate=0.5, minimum_calls=10)
    bench.calls("fff")
    bench.call(Outcome.SUCCESS, calls=9)
    bench.calls("ffffff")
    assert bench.state == "open"  # by 9 of 18 and not before
    assert bench.machine.generation == 1


def test_so_large_a_share_of_slow_calls_opens_it():
    bench = Bench(slow_call_seconds=1, slow_call_rate=0.75, minimum_calls=4)
    bench.calls("s")
    bench.calls("ss", slow=1)
    assert bench.state == "closed"
    bench.calls("s", slow=1)
    assert bench.state == "open"


def test_a_slow_probe_is_a_failed_one_where_slow_calls_count():
    for slow_call_seconds, state in ((1, "open"), (None, "half_open")):
        bench = Bench(slow_call_seconds=slow_call_seconds)
        bench.trip()
        bench.now = bench.machine.open_until
        bench.call(Outcome.SUCCESS, slow=1)
        assert bench.state == state


def test_it_stays_open_for_longer_each_time_up_to_a_cap():
    bench = Bench(recovery_multiplier=2, recovery_cap_seconds=35)
    lengths = [bench.trip(), *(bench.probe("f") for _ in range(4))]
    assert lengths == [10_000, 20_000, 35_000, 35_000, 35_000]


def test_a_cap_below_the_open_time_shortens_nothing():
    assert Bench(recovery_multiplier=2, recovery_cap_seconds=1).trip() == 10_000


@pytest.mark.parametrize(("draw", "length"), [(0.0, 8_000), (0.5, 10_000), (0.75, 11_000)])
def test_an_open_time_varies_by_chance(draw, length):
    assert Bench(recovery_jitter=0.2).trip(draw) == length


@pytest.mark.parametrize(("closed_ms", "length"), [(9_999, 20_000), (10_000, 10_000)])
def test_one_that_stayed_closed_for_as_long_as_it_was_open_begins_anew(closed_ms, length):
    bench = Bench(recovery_multiplier=2)
    bench.trip()
    bench.probe("ss")
    assert bench.state == "closed"
    bench.now += closed_ms
    assert bench.trip() == length


def test_opening_for_ever_overflows_nothing():
    bench = Bench(recovery_multiplier=1000, recovery_cap_seconds=1e9)
    bench.trip()
    for _ in range(1100):
        bench.probe("f")
    assert bench.machine.opened == m.MOST_OPENED


@pytest.mark.parametrize(
    ("after_ms", "share"), [(0, 0.1), (1_000, 0.28), (2_500, 0.55), (4_999, 0.9998), (5_000, 1.0)]
)
def test_after_an_outage_a_growing_share_of_calls_is_admitted(after_ms, share):
    bench = Bench(ramp_seconds=5)
    bench.trip()
    bench.probe("ss")
    bench.now += after_ms
    draws = [n / 100 for n in range(100)]
    admitted = [draw for draw in draws if isinstance(bench.acquire(draw), Permit)]
    assert len(admitted) == pytest.approx(100 * share, abs=1)
    if share < 1:
        refusal = Refusal(CircuitState.CLOSED, m.RAMP_WAIT_MS / 1000, "ramping")
        assert bench.acquire(0.9999) == refusal
    assert bench.view().retry_after_seconds == 0


def test_a_breaker_that_was_never_open_or_was_reset_admits_every_call():
    bench = Bench(ramp_seconds=5)
    assert isinstance(bench.acquire(0.999), Permit)
    bench.trip()
    bench.probe("ss")
    bench.machine = m.override(bench.machine, Change(Action.RESET), bench.now)
    assert isinstance(bench.acquire(0.999), Permit)


def test_a_server_that_is_busy_for_long_fails_in_the_end():
    bench = Bench(saturation_limit_seconds=5, failure_threshold=2)
    for _ in range(5):
        bench.call(Outcome.SATURATED)
        assert (bench.state, bench.machine.failures) == ("closed", 0)
        bench.now += 1_000
    bench.call(Outcome.SATURATED)
    assert (bench.state, bench.machine.failures) == ("closed", 1)
    bench.now += 1_000
    bench.call(Outcome.SATURATED)
    assert bench.state == "open"


@pytest.mark.parametrize("between", ["a success", "a long silence"])
def test_what_comes_between_ends_its_being_busy(between):
    bench = Bench(saturation_limit_seconds=5, failure_threshold=2)
    for _ in range(20):
        bench.call(Outcome.SATURATED)
        bench.now += 1_000
        if between == "a success":
            bench.calls("s")
        else:
            bench.now += 5_001
    assert (bench.state, bench.machine.failures) == ("closed", 0)


def override(bench, action):
    bench.machine = m.override(bench.machine, Change(action, "ann", "a new model"), bench.now)
    return bench.view()


@pytest.mark.parametrize("before", ["closed", "open", "half_open", "held"])
def test_one_that_is_forced_open_refuses_until_told_otherwise(before):
    bench = Bench()
    running = bench.acquire()
    if before == "held":
        bench.call(Outcome.SATURATED, hold_ms=1_000)
    elif before != "closed":
        bench.trip()
        if before == "half_open":
            bench.probe("s")
    view = override(bench, Action.OPEN)
    assert (view.state, view.override, view.by, view.why) == (
        *("open", Override.OPEN),
        *("ann", "a new model"),
    )
    assert view.retry_after_seconds > 0
    bench.now += 10**9
    assert bench.acquire().reason == "forced_open"
    assert not bench.record(running, Outcome.SUCCESS)
    assert bench.view().changed_seconds == 10**6
    override(bench, Action.AUTO)
    probe = bench.acquire()
    assert isinstance(probe, Permit)
    assert probe.probe


@pytest.mark.parametrize("before", ["closed", "open", "held"])
def test_one_that_is_disabled_admits_all_and_counts_nothing(before):
    bench = Bench(failure_rate=0.1, minimum_calls=1, failure_threshold=1)
    if before == "open":
        bench.trip()
    elif before == "held":
        bench.call(Outcome.SATURATED, hold_ms=1_000)
    assert override(bench, Action.DISABLE).state == "closed"
    for outcome in (Outcome.FAILURE, Outcome.SATURATED, Outcome.MISCONFIGURED):
        for _ in range(5):
            bench.call(outcome)
    view = bench.view()
    assert (view.state, view.held, view.calls) == ("closed", False, 0)
    late = bench.acquire()
    override(bench, Action.AUTO)
    assert not bench.record(late, Outcome.FAILURE)
    bench.calls("f")
    assert bench.state == "open"


@pytest.mark.parametrize("action", [None, Action.OPEN, Action.DISABLE])
def test_a_reset_ends_everything(action):
    bench = Bench(recovery_multiplier=2)
    bench.trip()
    bench.probe("f")
    if action:
        override(bench, action)
    view = override(bench, Action.RESET)
    assert (view.state, view.override, view.opened) == ("closed", Override.NONE, 0)
    assert bench.trip() == 10_000


def test_auto_where_there_is_no_override_changes_no_state():
    bench = Bench()
    bench.trip()
    before = bench.machine
    override(bench, Action.AUTO)
    after = replace(bench.machine, by="", why="", changed_at=0)
    assert after == before


def step(bench, rng):
    """Do anything that can be done; return whether it was done by hand."""
    what = rng.randrange(10)
    if what == 0:
        override(bench, rng.choice(list(Action)))
    elif what < 4:
        bench.now += rng.choice((100, 1_000, 12_000))
    else:
        permit = bench.acquire(rng.random())
        if isinstance(permit, Permit) and rng.random() < 0.8:
            bench.record(permit, rng.choice(list(Outcome)), slow=rng.randrange(2))
    return what == 0


def test_the_states_follow_each_other_as_the_table_says_and_in_no_other_way():
    seen = set()
    for seed in range(60):
        rng = random.Random(seed)
        bench = Bench(probe_lease_seconds=0.5, failure_rate=0.5, minimum_calls=4)
        for _ in range(200):
            before = bench.machine
            by_hand = step(bench, rng)
            after = bench.machine
            if after.state is not before.state:
                assert after.generation > before.generation
                seen.add((None if by_hand else before.state, after.state))
    told = {(each.source, each.target) for each in m.TRANSITIONS}
    assert seen == told
