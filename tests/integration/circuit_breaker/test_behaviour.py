"""What other libraries' breakers promise, as tables of words, on both stores.

After resilience4j's CircuitBreakerStateMachineTest, gobreaker's tests of counts and generations,
and failsafe-go's grid of the half-open state. One thing is ours: a probe that fails opens it at
once, whatever the rate of those before it.

The words, in turn: S, F, I, B and W make a call that succeeds, fails, is ignored, finds the server
busy, or is slow; `ask` is let through and goes on running; a small letter is what the one of these
that runs longest comes to; `late` is a failure of the first of all calls, which must not count.
`refused` asks in vain, `refused:REASON` for that reason. `wait:3` lets seconds pass. `force_open`,
`disable`, `auto` and `reset` are done by hand. `closed`, `open` and `half_open` say how it is now,
`for:5` for how many seconds it refuses, `calls:5/3` how many the window has, and how many failed.
`WORD*4` is that word four times.
"""

from __future__ import annotations

import itertools

import pytest

from circuit_breaker import (
    Action,
    CircuitBreakerConfig,
    CircuitState,
    MemoryStore,
    Outcome,
    Permit,
    RedisStore,
    Refusal,
)
from circuit_breaker.machine import Change, Report, Rules

START_MS = 1_200_000  # where a part of any window begins
REPORTS = {
    "s": Report(Outcome.SUCCESS),
    "f": Report(Outcome.FAILURE),
    "i": Report(Outcome.IGNORED),
    "b": Report(Outcome.SATURATED),
    "w": Report(Outcome.SUCCESS, slow=1),
}
BY_HAND = {
    "force_open": Action.OPEN,
    "disable": Action.DISABLE,
    "auto": Action.AUTO,
    "reset": Action.RESET,
}


class Told:
    """A breaker on a store, and a clock, that are told what happens."""

    def __init__(self, store_of):
        self._now = START_MS
        self._store = store_of(lambda: self._now)
        self._first, self._running = None, []
        self._rules = None

    def run(self, text, **config):
        self._rules = Rules.of(CircuitBreakerConfig(**config))
        for word in text.split():
            name, _, times = word.partition("*")
            for _ in range(int(times or 1)):
                self._do(*name.split(":"))

    def _do(self, word, value=""):
        view = self._store.view("b")[1]
        if word in BY_HAND:
            self._store.override("b", Change(BY_HAND[word]))
        elif word in REPORTS:
            assert self._record(self._running.pop(0), word)
        elif word.lower() in REPORTS:
            assert self._record(self._ask(), word.lower())
        elif word == "ask":
            self._running.append(self._ask())
        elif word == "late":
            assert not self._record(self._first, "f")
            assert self._store.view("b")[1] == view
        elif word == "refused":
            refusal = self._store.acquire("b", self._rules)[0]
            assert isinstance(refusal, Refusal)
            assert value in {"", refusal.reason}
        elif word == "wait":
            self._now += round(float(value) * 1000)
        elif word == "for":
            assert view.retry_after_seconds == float(value)
        elif word == "calls":
            assert f"{view.calls}/{view.failed_calls}" == value
        else:
            assert view.state is CircuitState(word)

    def _ask(self):
        permit = self._store.acquire("b", self._rules)[0]
        assert isinstance(permit, Permit), permit
        self._first = self._first or permit
        return permit

    def _record(self, permit, letter):
        return self._store.record("b", permit, REPORTS[letter], self._rules)[0]


@pytest.fixture(params=["memory", "redis"])
def told(request):
    if request.param == "memory":
        yield Told(MemoryStore)
        return
    with request.getfixturevalue("valkey").client() as client:
        yield Told(lambda clock: RedisStore(client, clock))


RATES = {
    "failure_threshold": 99,
    "failure_rate": 0.5,
    "slow_call_seconds": 4.0,
    "slow_call_rate": 0.5,
    "minimum_calls": 5,
    "window_seconds": 5.0,
    "recovery_timeout_seconds": 5.0,
    "half_open_permits": 4,
    "success_threshold": 4,
}
PROBED = "F*5 wait:5"


@pytest.mark.parametrize(
    "text",
    [
        "F*5 open refused:open",
        "force_open open refused:forced_open wait:6 refused:forced_open open",
        f"{PROBED} ask*4 half_open refused:half_open*2",
        f"{PROBED} ask*4 refused*2 i ask refused",
        f"{PROBED} ask*4 refused*2 f open wait:5 ask*4 refused*2",
        "closed calls:0/0 F calls:1/1 F F calls:3/3 S closed calls:4/3 S open refused",
        "F F S S S closed calls:5/2",
        "W F W S closed W open",
        "F*5 wait:3 open refused*2 wait:3 ask half_open calls:0/0",
        f"{PROBED} S*3 half_open F open",
        f"{PROBED} F open for:5",
        f"{PROBED} W open",
        f"{PROBED} S*3 half_open S closed calls:0/0 S closed calls:1/0",
        "S F calls:2/1 reset closed calls:0/0",
        "disable closed S F*4 closed calls:0/0",
        f"{PROBED} S*3 I half_open S closed",
        f"{PROBED} I*4 half_open calls:0/0 S*3 half_open S closed",
        "F*5 open reset closed S",
        "S S calls:2/0 reset closed calls:0/0",
    ],
)
def test_as_resilience4j_has_it(told, text):
    told.run(text, **RATES)


@pytest.mark.parametrize(
    "text",
    [
        f"{PROBED} ask*3 wait:0.999 half_open ask refused:half_open wait:0.001 refused:open open",
        f"{PROBED} ask*2 wait:1 ask half_open wait:1 refused:open for:5",
        f"{PROBED} ask*2 wait:1 ask*4 refused half_open",
        f"{PROBED} ask*2 wait:0.5 s s ask*2 wait:1 ask half_open",
    ],
)
def test_a_half_open_state_that_lasts_too_long_ends(told, text):
    told.run(text, **RATES, probe_lease_seconds=1.0)


def test_each_wait_is_longer_than_the_one_before(told):
    told.run(
        f"{PROBED} F for:7.5 wait:6 refused wait:1.5 F for:11.25 wait:11.25 S*4 closed",
        **RATES,
        recovery_multiplier=1.5,
    )


@pytest.mark.parametrize(("closed", "seconds"), [("9.999", 20), ("10", 10)])
def test_one_that_stayed_closed_for_as_long_as_it_was_open_waits_as_at_first(told, closed, seconds):
    told.run(
        f"F*3 for:10 wait:10 S*2 closed wait:{closed} F*3 open for:{seconds}",
        recovery_timeout_seconds=10,
        recovery_multiplier=2.0,
    )


def test_as_gobreaker_counts_in_a_row(told):
    told.run(
        "F*5 closed S closed F closed F*5 open refused wait:59 open refused wait:1 F open "
        "refused wait:60 S closed",
        failure_threshold=6,
        recovery_timeout_seconds=60,
        success_threshold=1,
    )


@pytest.mark.parametrize(
    "text",
    [
        "B refused:held wait:0.2 B wait:0.2 B closed wait:0.2 B open",
        "B wait:0.4 S wait:0.2 B closed wait:0.2 B closed wait:0.2 B wait:0.2 B open",
        "B wait:0.8 B closed wait:0.3 B closed wait:0.2 B open",  # away for longer than the limit
        "B wait:0.4 I wait:0.2 B open",
    ],
)
def test_a_server_that_is_busy_for_long_without_a_success_between_fails(told, text):
    told.run(text, failure_threshold=1, saturation_hold_seconds=0.2, saturation_limit_seconds=0.5)


ROLLING = {
    "failure_threshold": 99,
    "failure_rate": 0.6,
    "minimum_calls": 3,
    "window_seconds": 30,
    "recovery_timeout_seconds": 90,
    "half_open_permits": 3,
    "success_threshold": 3,
}


def test_as_gobreaker_counts_in_a_window(told):
    first = " ".join(["S F"] * 5)
    filled = " ".join(f"wait:3 S F calls:{16 + 2 * n}/{7 + n}" for n in range(6))
    told.run(
        f"{first} closed calls:10/5 wait:3 S calls:11/5 wait:2 S calls:12/5 wait:2 S calls:13/5 "
        f"wait:2 F calls:14/6 {filled} "
        "wait:3 F calls:17/8 F*5 closed calls:22/13 F open wait:90 S*2 half_open ask s closed",
        **ROLLING,
    )


@pytest.mark.parametrize(
    "between",
    [
        "F*3 open",
        "F*3 wait:30 ask half_open",
        "F*3 wait:30 S S closed",
        "F*3 wait:30 F open",
        "F*3 reset closed",
        "reset closed F F",
        "force_open open",
        "force_open auto wait:0 ask half_open",
        "disable auto closed F F",
        "disable closed",
    ],
)
@pytest.mark.parametrize("config", [{}, {"failure_rate": 0.5, "minimum_calls": 9}])
def test_as_gobreaker_drops_what_is_of_an_earlier_generation(told, between, config):
    told.run(f"ask {between} late*5", **config)


@pytest.mark.parametrize("threshold", [1, 2, 3, 4])
@pytest.mark.parametrize("failure_threshold", [1, 3])
@pytest.mark.parametrize("permits", [1, 4])
def test_as_failsafes_grid_of_the_half_open_state(told, threshold, failure_threshold, permits):
    """A probe that fails opens it, so many that succeed close it; nothing else counts."""
    for word in itertools.product("SF", repeat=threshold):
        failed = "F" in word
        probes = word[: word.index("F") + 1] if failed else word
        before = " ".join(f"half_open for:0 {letter}" for letter in probes[1:])
        told.run(
            f"reset F*{failure_threshold} open wait:10 {probes[0]} {before} "
            + ("open for:10" if failed else "closed"),
            success_threshold=threshold,
            failure_threshold=failure_threshold,
            half_open_permits=permits,
            recovery_timeout_seconds=10,
        )
