"""One breaker in memory and the same in Redis: each step is done on both, and they must agree."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from circuit_breaker import (
    CircuitBreakerConfig,
    CircuitState,
    MemoryStore,
    Outcome,
    Permit,
    RedisStore,
    Refusal,
)
from circuit_breaker.machine import Action, Change, Report, Rules

if TYPE_CHECKING:
    import redis

    from circuit_breaker.machine import BreakerView, Machine

CONFIG = CircuitBreakerConfig(
    recovery_timeout_seconds=1.0,
    half_open_permits=2,
    probe_lease_seconds=0.5,
    saturation_hold_seconds=0.2,
)
RULES = Rules.of(CONFIG)
# Each of the rules in turn, and all at once.
CONFIGS = {
    "plain": CONFIG,
    "backing off": replace(
        CONFIG, recovery_multiplier=1.7, recovery_cap_seconds=2.5, recovery_jitter=0.3
    ),
    "ramping up": replace(CONFIG, ramp_seconds=2.0, success_threshold=1),
    "by rates": replace(
        CONFIG,
        failure_threshold=6,
        failure_rate=0.5,
        slow_call_seconds=1.0,
        slow_call_rate=0.75,
        window_seconds=2.0,
        minimum_calls=5,
    ),
    "by failures alone": replace(
        CONFIG, failure_threshold=6, failure_rate=0.6, window_seconds=1.0, minimum_calls=4
    ),
    "by slowness alone": replace(
        CONFIG, failure_threshold=6, slow_call_seconds=1.0, window_seconds=1.0, minimum_calls=4
    ),
    "busy for long": replace(CONFIG, saturation_limit_seconds=0.6, failure_threshold=2),
    "all": replace(
        CONFIG,
        recovery_multiplier=2.0,
        recovery_jitter=0.1,
        ramp_seconds=1.0,
        failure_rate=0.4,
        slow_call_seconds=1.0,
        window_seconds=1.0,
        minimum_calls=4,
        saturation_limit_seconds=0.3,
    ),
}
NAMES = itertools.count()
SEEN: Counter[str] = Counter()


def told(view: BreakerView) -> BreakerView:
    """Everything but the epoch, which is random, and the count of writes."""
    return view._replace(epoch="", version=0)


class Answers(NamedTuple):
    """What the machine in memory and the scripts answered to one acquire."""

    memory: Permit | Refusal
    shared: Permit | Refusal


class BothStores:
    """One breaker in memory, and the same in Redis, where three workers share it.

    Each step is done on both, and they must agree.
    """

    def __init__(self, client: redis.Redis, rules: Rules = RULES) -> None:
        self.client = client
        self.now = 1_000_000
        self.rules = rules
        self.name = f"diff{next(NAMES)}"
        self._memory = MemoryStore(lambda: self.now)
        self._workers = [RedisStore(client, lambda: self.now) for _ in range(3)]

    def acquire(self, worker: int, draw: float = 0.5) -> Answers:
        in_memory, view = self._memory.acquire(self.name, self.rules, draw)
        shared, shared_view = self._workers[worker].acquire(self.name, self.rules, draw)
        agree(view, shared_view)
        if isinstance(in_memory, Refusal):
            assert in_memory == shared
            SEEN[in_memory.reason] += 1
        else:
            assert isinstance(shared, Permit)
            assert (in_memory.probe, in_memory.generation) == (shared.probe, shared.generation)
        return Answers(in_memory, shared)

    def record(self, worker: int, answers: Answers, report: Report, draw: float = 0.5) -> None:
        if isinstance(answers.memory, Refusal):
            return
        before = self._memory.view(self.name)[1]
        counted, view = self._memory.record(self.name, answers.memory, report, self.rules, draw)
        shared_counted, shared_view = self._workers[worker].record(
            self.name, answers.shared, report, self.rules, draw
        )
        assert counted == shared_counted
        agree(view, shared_view)
        if before.state is CircuitState.CLOSED and view.state is CircuitState.OPEN:
            in_a_row = before.consecutive_failures + 1 >= self.rules.failure_threshold
            SEEN["in a row" if in_a_row else "by a rate"] += 1
            SEEN["again" if view.opened > 1 else "first"] += 1

    def override(self, worker: int, change: Change) -> None:
        agree(
            self._memory.override(self.name, change)[1],
            self._workers[worker].override(self.name, change)[1],
        )

    @property
    def machine(self) -> Machine | None:
        return self._memory.machine(self.name)

    def ends(self) -> list[int]:
        """Return when something ends, in ms."""
        machine = self.machine
        if machine is None:
            return []
        rules, window = self.rules, machine.window
        return [
            *(machine.open_until, machine.hold_until, machine.closed_at + rules.ramp_ms),
            *(end for _, end in machine.probes),
            machine.saturated_since + rules.saturation_limit_ms,
            machine.hold_until + rules.saturation_limit_ms,
            machine.closed_at + machine.open_for,
            *(b.number * window.bucket_ms + rules.window_ms for b in window.buckets),
        ]

    @property
    def keys(self) -> list[str]:
        return [f"cb:{{{self.name}}}:{part}" for part in ("state", "probes")]

    def view(self) -> None:
        agree(self._memory.view(self.name)[1], self._workers[2].view(self.name)[1])


def agree(in_memory: BreakerView, shared: BreakerView) -> None:
    assert told(in_memory) == told(shared)
    SEEN[in_memory.state] += 1


STEPS_MS = (1, 100, 200, 499, 500, 501, 1000, 5000)


class Walk:
    """Steps by chance, any worker's at any time; permits of long ago are reported, too, and twice.

    Half of the times that pass end where something ends: a hold, an open time, a lease, a ramp.
    """

    def __init__(self, client: redis.Redis, seed: int) -> None:
        self.rng = random.Random(seed)
        self.both = BothStores(client, Rules.of(CONFIGS[self.rng.choice(sorted(CONFIGS))]))
        self.permits: list[Answers] = []

    def run(self, steps: int) -> None:
        """Do so many of them; raises AssertionError where the two disagree."""
        often = (self.ask, self.settle, self.pass_time)
        for _ in range(steps):
            rare = (self.outage, self.recovery, self.trouble, self.traffic)
            self.rng.choice((*often, *often, *often, *rare))()
            if self.rng.random() < 0.04:
                self.rng.choice((self.by_hand, self.by_hand, self.release))()
        self.both.client.delete(*self.both.keys)

    def ask(self) -> None:
        draw = self.rng.choice((0.0, self.rng.random()))
        for _ in range(self.rng.choice((1, 1, 3))):
            self.permits.append(self.both.acquire(self.rng.randrange(3), draw))

    def settle(self) -> None:
        if not self.permits:
            return
        last = self.rng.random() < 0.8
        answers = self.permits[-1] if last else self.rng.choice(self.permits)
        outcomes = (Outcome.FAILURE, Outcome.SUCCESS, Outcome.SATURATED, *Outcome)
        outcome = self.rng.choice(outcomes)
        calls = self.rng.choice((1, 1, 4)) if outcome is Outcome.SUCCESS else 1
        hold_ms, slow = self.rng.choice((0, 0, 100, 700)), self.rng.randint(0, calls)
        report = Report(outcome, hold_ms, calls, slow)
        self.both.record(self.rng.randrange(3), answers, report, self.rng.random())

    def outage(self) -> None:
        for _ in range(self.both.rules.failure_threshold):
            self.both.record(
                0, self.both.acquire(0, 0.0), Report(Outcome.FAILURE), self.rng.random()
            )

    def trouble(self) -> None:
        """Calls that ran at once, and find the server busy, or shut, one after the other."""
        asked = [self.both.acquire(0, 0.0) for _ in range(4)]
        for answers in asked:
            outcome = self.rng.choice((Outcome.SATURATED, Outcome.SATURATED, Outcome.MISCONFIGURED))
            self.both.record(1, answers, Report(outcome, self.rng.choice((0, 100))))
            self.pass_time()

    def traffic(self) -> None:
        """Calls of which some fail and some are slow, for longer than a part of a window."""
        for _ in range(self.rng.randint(2, 8)):
            outcome = self.rng.choice((Outcome.SUCCESS, Outcome.SUCCESS, Outcome.FAILURE))
            report = Report(outcome, slow=self.rng.randint(0, 1))
            self.both.record(0, self.both.acquire(0, 0.0), report, self.rng.random())
            self.both.now += self.rng.choice((1, 50, 150))

    def recovery(self) -> None:
        machine = self.both.machine
        if machine is not None:
            self.both.now = max(machine.open_until, machine.hold_until, self.both.now)
        for _ in range(self.both.rules.success_threshold):
            slow = int(self.rng.random() < 0.2)
            self.both.record(1, self.both.acquire(1, 0.0), Report(Outcome.SUCCESS, slow=slow))
        self.permits.append(self.both.acquire(2, self.rng.random()))

    def pass_time(self) -> None:
        ends = [end - self.both.now for end in self.both.ends() if end >= self.both.now]
        near = [max(end + d, 0) for end in ends for d in (-1, 0, 1)]
        self.both.now += (
            self.rng.choice(near)
            if near and self.rng.random() < 0.5
            else (self.rng.choice(STEPS_MS))
        )
        self.both.view()

    def by_hand(self) -> None:
        for _ in range(self.rng.choice((1, 2))):
            change = Change(self.rng.choice(list(Action)), self.rng.choice(("", "ann")), "why")
            self.both.override(self.rng.randrange(3), change)

    def release(self) -> None:
        """From now on the workers are of another release, which has other rules."""
        self.both.rules = Rules.of(CONFIGS[self.rng.choice(sorted(CONFIGS))])
