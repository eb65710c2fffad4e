"""The state machine: everything that affects what a breaker does next lives here. Pure.

Time is an argument, in milliseconds. The Redis scripts in lua/ mirror these functions; a test
holds both to the same answers step by step.

    CLOSED ──failure_threshold failures in a row──▶ OPEN
    OPEN ──first acquire after open_until──▶ HALF_OPEN
    HALF_OPEN ──success_threshold probes succeed──▶ CLOSED
    HALF_OPEN ──a probe fails, or three leases run out──▶ OPEN
    any ──reset──▶ CLOSED

Every change of state raises the generation: what a call of an earlier one reports is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from circuit_breaker.config import CircuitBreakerConfig

LOST_PROBES = 3  # leases that may run out in a half-open round before it counts as failed


class CircuitState(StrEnum):
    """What a breaker does with calls: lets them through, refuses them, probes."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Outcome(Enum):
    """What a call says about the server's health."""

    SUCCESS = "success"
    FAILURE = "failure"
    SATURATED = "saturated"  # busy: held for a while, no failure
    MISCONFIGURED = "misconfigured"  # refuses us as such: held, no failure
    IGNORED = "ignored"  # the request's own fault, or cancelled


@dataclass(frozen=True, slots=True)
class Rules:
    """The configuration as the machine reads it; times in ms."""

    failure_threshold: int
    success_threshold: int
    permits: int
    open_ms: int
    lease_ms: int
    saturation_hold_ms: int

    @classmethod
    def of(cls, config: CircuitBreakerConfig) -> Rules:
        """Translate a configuration."""
        return cls(
            config.failure_threshold,
            config.success_threshold,
            config.half_open_permits,
            int(config.recovery_timeout_seconds * 1000),
            int(config.lease_seconds * 1000),
            int(config.saturation_hold_seconds * 1000),
        )


@dataclass(frozen=True, slots=True)
class Machine:
    """A breaker's whole state; times are ms on whatever clock the caller passes."""

    epoch: str
    state: CircuitState = CircuitState.CLOSED
    generation: int = 0
    failures: int = 0
    successes: int = 0
    lost: int = 0
    open_until: int = 0
    hold_until: int = 0
    hold_reason: str = ""
    probes: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to make one call; goes back with record(). probe: it decides a half-open round."""

    token: str
    generation: int
    epoch: str
    probe: bool


@dataclass(frozen=True, slots=True)
class Refusal:
    """No call now. reason: "open", "half_open" (others probe) or "held"."""

    state: CircuitState
    retry_after_seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class BreakerView:
    """What can be told of a breaker. hold_reason: "", "saturated" or "misconfigured"."""

    state: CircuitState
    generation: int
    epoch: str
    consecutive_failures: int
    half_open_successes: int
    retry_after_seconds: float
    held: bool
    hold_reason: str


def acquire(
    machine: Machine, token: str, now: int, rules: Rules
) -> tuple[Machine, Permit | Refusal]:
    """Ask for a permit; returns the next state and the answer."""
    if machine.hold_until > now:
        return machine, Refusal(machine.state, (machine.hold_until - now) / 1000, "held")
    if machine.state is CircuitState.CLOSED:
        return machine, Permit(token, machine.generation, machine.epoch, probe=False)
    if machine.state is CircuitState.OPEN:
        if now < machine.open_until:
            return machine, Refusal(machine.state, (machine.open_until - now) / 1000, "open")
        machine = _enter(machine, CircuitState.HALF_OPEN)
    return _probe(machine, token, now, rules)


def _probe(
    machine: Machine, token: str, now: int, rules: Rules
) -> tuple[Machine, Permit | Refusal]:
    alive = tuple(p for p in machine.probes if p[1] > now)
    lost = machine.lost + len(machine.probes) - len(alive)
    if lost >= LOST_PROBES:  # hanging is as bad as failing
        machine = _trip(machine, now, rules)
        return machine, Refusal(machine.state, rules.open_ms / 1000, "open")
    machine = replace(machine, probes=alive, lost=lost)
    if len(alive) >= rules.permits:
        wait = (min(end for _, end in alive) - now) / 1000
        return machine, Refusal(machine.state, wait, "half_open")
    machine = replace(machine, probes=(*alive, (token, now + rules.lease_ms)))
    return machine, Permit(token, machine.generation, machine.epoch, probe=True)


def record(  # noqa: PLR0913, PLR0917 - a permit's report is these five, and the rules
    machine: Machine, permit: Permit, outcome: Outcome, hold_ms: int, now: int, rules: Rules
) -> tuple[Machine, bool]:
    """Take in what a call came to; returns the next state, and False for a late result."""
    stale = (permit.epoch, permit.generation) != (machine.epoch, machine.generation)
    if stale or machine.state is CircuitState.OPEN:
        return machine, False
    if machine.state is CircuitState.HALF_OPEN:
        lease = dict(machine.probes).get(permit.token)
        if lease is None or lease <= now:
            return machine, False
        probes = tuple(p for p in machine.probes if p[0] != permit.token)
        return _judge_probe(replace(machine, probes=probes), outcome, hold_ms, now, rules), True
    if outcome is Outcome.FAILURE:
        machine = replace(machine, failures=machine.failures + 1)
        if machine.failures >= rules.failure_threshold:
            machine = _trip(machine, now, rules)
        return machine, True
    if outcome is Outcome.SUCCESS:
        return (replace(machine, failures=0) if machine.failures else machine), True
    return _hold(machine, outcome, hold_ms, now, rules), True


def _judge_probe(
    machine: Machine, outcome: Outcome, hold_ms: int, now: int, rules: Rules
) -> Machine:
    if outcome is Outcome.FAILURE:
        return _trip(machine, now, rules)
    if outcome is Outcome.SUCCESS:
        machine = replace(machine, successes=machine.successes + 1)
        if machine.successes >= rules.success_threshold:
            return _enter(machine, CircuitState.CLOSED)
        return machine
    return _hold(machine, outcome, hold_ms, now, rules)


def _hold(machine: Machine, outcome: Outcome, hold_ms: int, now: int, rules: Rules) -> Machine:
    if outcome is Outcome.IGNORED:
        return machine
    least = rules.saturation_hold_ms if outcome is Outcome.SATURATED else rules.open_ms
    until = max(machine.hold_until, now + max(hold_ms, least))
    return replace(machine, hold_until=until, hold_reason=outcome.value)


def _enter(machine: Machine, state: CircuitState) -> Machine:
    return replace(
        machine,
        state=state,
        generation=machine.generation + 1,
        failures=0,
        successes=0,
        lost=0,
        probes=(),
    )


def _trip(machine: Machine, now: int, rules: Rules) -> Machine:
    return replace(_enter(machine, CircuitState.OPEN), open_until=now + rules.open_ms)


def reset(machine: Machine) -> Machine:
    """Close it at once; what still runs is of an earlier generation."""
    closed = _enter(machine, CircuitState.CLOSED)
    return replace(closed, open_until=0, hold_until=0, hold_reason="")


def view(machine: Machine, now: int) -> BreakerView:
    """Describe a state at a moment."""
    held = machine.hold_until > now
    opened = machine.open_until if machine.state is CircuitState.OPEN else 0
    wait = max(machine.hold_until, opened, now) - now
    return BreakerView(
        state=machine.state,
        generation=machine.generation,
        epoch=machine.epoch,
        consecutive_failures=machine.failures,
        half_open_successes=machine.successes,
        retry_after_seconds=wait / 1000,
        held=held,
        hold_reason=machine.hold_reason if held else "",
    )
