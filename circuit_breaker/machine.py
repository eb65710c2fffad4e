"""The state machine: everything that affects what a breaker does next lives here. Pure.

Time and chance are arguments: a Moment has the clock in ms, the rules, and a number that the caller
drew. The Redis scripts in lua/ mirror these functions; a test holds both to the same answers step
by step. TRANSITIONS says which state follows which, and why.

A breaker that closes after an outage admits a growing share of calls for a while (it ramps up). One
that opens again soon after it closed stays open for longer (it backs off). Beside its state it can
be held (calls are kept away, as the server is busy or refuses us), and an operator can override it.

Every change of state raises the generation: what a call of an earlier one reports is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from circuit_breaker.config import CircuitBreakerConfig

LOST_PROBES = 3  # leases that may run out in a half-open round before it counts as failed
BUCKETS = 10  # parts of a window: the oldest goes when a new one begins
LEAST_SHARE = 0.1  # of calls, right after closing
RAMP_WAIT_MS = 250  # after which a call that was refused while ramping up may come again
FORCED_WAIT_MS = 5_000  # the same of a breaker that was opened by hand
MOST_OPENED = 64  # times in a row that are told apart
MIDDLE = 0.5  # a draw that neither lengthens nor shortens


class CircuitState(StrEnum):
    """What a breaker does with calls: lets them through, refuses them, probes."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Transition(NamedTuple):
    """A way from one state to another. source: None is any."""

    source: CircuitState | None
    target: CircuitState
    reason: str


TRANSITIONS = (
    Transition(CircuitState.CLOSED, CircuitState.OPEN, "failure_threshold failures in a row"),
    Transition(CircuitState.CLOSED, CircuitState.OPEN, "failure_rate of the window's calls failed"),
    Transition(CircuitState.CLOSED, CircuitState.OPEN, "slow_call_rate of them were slow"),
    Transition(CircuitState.OPEN, CircuitState.HALF_OPEN, "the first call after the open time"),
    Transition(CircuitState.HALF_OPEN, CircuitState.CLOSED, "success_threshold probes succeeded"),
    Transition(CircuitState.HALF_OPEN, CircuitState.OPEN, "a probe failed or was slow"),
    Transition(CircuitState.HALF_OPEN, CircuitState.OPEN, "three probes were lost"),
    Transition(None, CircuitState.OPEN, "force_open"),
    Transition(None, CircuitState.CLOSED, "reset or disable"),
)


class Outcome(Enum):
    """What a call says about the server's health."""

    SUCCESS = "success"
    FAILURE = "failure"
    SATURATED = "saturated"  # busy: held for a while, no failure unless it goes on
    MISCONFIGURED = "misconfigured"  # refuses us as such: held, no failure
    IGNORED = "ignored"  # the request's own fault, or cancelled


class Override(StrEnum):
    """What an operator has set for the whole fleet."""

    NONE = ""
    OPEN = "open"  # refuses every call, until told otherwise
    DISABLED = "disabled"  # admits every call, and counts none


class Action(StrEnum):
    """What an operator can do."""

    OPEN = "open"
    DISABLE = "disable"
    AUTO = "auto"  # ends an override; what was open is probed
    RESET = "reset"  # closes at once, whatever was


@dataclass(frozen=True, slots=True)
class Change:
    """An operator's action, whose it is, and why."""

    action: Action
    by: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Rules:
    """The configuration as the machine reads it; times in ms, rates as shares; 0: not used.

    packed: all of them in this order, as the scripts read them (lua/_rules.lua).
    """

    failure_threshold: int
    success_threshold: int
    permits: int
    open_ms: int
    open_multiplier: float
    open_cap_ms: int
    open_jitter: float
    lease_ms: int
    saturation_hold_ms: int
    saturation_limit_ms: int
    window_ms: int
    minimum_calls: int
    failure_rate: float
    slow_rate: float
    ramp_ms: int
    packed: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        """Pack them once."""
        values = (getattr(self, each.name) for each in fields(self) if each.init)
        object.__setattr__(self, "packed", ",".join(map(repr, values)))

    @classmethod
    def of(cls, config: CircuitBreakerConfig) -> Rules:
        """Translate a configuration."""
        open_ms = int(config.recovery_timeout_seconds * 1000)
        return cls(
            failure_threshold=config.failure_threshold,
            success_threshold=config.success_threshold,
            permits=config.half_open_permits,
            open_ms=open_ms,
            open_multiplier=float(config.recovery_multiplier),
            open_cap_ms=max(int(config.recovery_cap_seconds * 1000), open_ms),
            open_jitter=float(config.recovery_jitter),
            lease_ms=int(config.lease_seconds * 1000),
            saturation_hold_ms=int(config.saturation_hold_seconds * 1000),
            saturation_limit_ms=int((config.saturation_limit_seconds or 0) * 1000),
            window_ms=int(config.window_seconds * 1000),
            minimum_calls=config.minimum_calls,
            failure_rate=float(config.failure_rate or 0),
            slow_rate=float(config.slow_call_rate) if config.slow_call_seconds else 0.0,
            ramp_ms=int(config.ramp_seconds * 1000),
        )

    @property
    def longest_open_ms(self) -> int:
        """The longest that a breaker stays open before a probe."""
        return int(self.open_cap_ms * (1 + self.open_jitter))


class Moment(NamedTuple):
    """When a step is done, and by which rules. draw: from 0 to 1, by chance, of the caller's."""

    now: int
    rules: Rules
    draw: float = MIDDLE


class Report(NamedTuple):
    """What a call came to. calls: so many successes at once; slow: how many of them were slow.

    hold_ms: how long the server asked to be left alone.
    """

    outcome: Outcome
    hold_ms: int = 0
    calls: int = 1
    slow: int = 0


class Bucket(NamedTuple):
    """What was counted in one part of the window. number: its start in bucket lengths."""

    number: int
    calls: int
    failures: int
    slow: int


class Window(NamedTuple):
    """The calls of late, at most BUCKETS buckets; bucket_ms: the length of each."""

    bucket_ms: int = 0
    buckets: tuple[Bucket, ...] = ()

    def fresh(self, now: int) -> tuple[Bucket, ...]:
        """Return the buckets that still count."""
        if not self.buckets:
            return ()
        oldest = now // self.bucket_ms - BUCKETS
        return tuple(bucket for bucket in self.buckets if bucket.number > oldest)

    def sums(self, now: int) -> tuple[int, int, int]:
        """Return how many calls, failures and slow calls there were."""
        calls = failures = slow = 0
        for bucket in self.fresh(now):
            calls, failures = calls + bucket.calls, failures + bucket.failures
            slow += bucket.slow
        return calls, failures, slow


NO_WINDOW = Window()


@dataclass(frozen=True, slots=True)
class Machine:
    """A breaker's whole state; times are ms on whatever clock the caller passes, 0: never.

    opened: how many times it opened without staying closed between. open_for: how long it was open,
    or is, the last time. closed_at: when it closed after an outage. saturated_since: when the
    server began to be busy without a success between. by, why, changed_at: the last thing that an
    operator did.
    """

    epoch: str
    state: CircuitState = CircuitState.CLOSED
    generation: int = 0
    version: int = 0
    failures: int = 0
    successes: int = 0
    lost: int = 0
    open_until: int = 0
    hold_until: int = 0
    hold_reason: str = ""
    probes: tuple[tuple[str, int], ...] = ()
    opened: int = 0
    open_for: int = 0
    closed_at: int = 0
    saturated_since: int = 0
    window: Window = NO_WINDOW
    override: Override = Override.NONE
    by: str = ""
    why: str = ""
    changed_at: int = 0


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to make one call; goes back with record(). probe: it decides a half-open round."""

    token: str
    generation: int
    epoch: str
    probe: bool


@dataclass(frozen=True, slots=True)
class Refusal:
    """No call now.

    reason: "open", "half_open" (others probe), "held", "ramping" (it has just closed: a share of
    calls is let through) or "forced_open" (by hand).
    """

    state: CircuitState
    retry_after_seconds: float
    reason: str


class BreakerView(NamedTuple):
    """What can be told of a breaker.

    version: of one epoch's views the newer one has the higher; it rises with every write.
    retry_after_seconds: until a call may go through; 0: now. hold_reason: "", "saturated" or
    "misconfigured". opened: times in a row that it opened. closed_seconds: since it closed after
    an outage; None if it did not. calls, failed_calls, slow_calls: of the window, where one is
    kept. probes: in flight; lease_seconds: until the first of them counts as lost. by, why,
    changed_seconds: who did the last thing by hand, why, and how long ago; None: nobody.
    """

    state: CircuitState
    generation: int
    epoch: str
    version: int
    consecutive_failures: int
    half_open_successes: int
    retry_after_seconds: float
    held: bool
    hold_reason: str
    opened: int = 0
    closed_seconds: float | None = None
    calls: int = 0
    failed_calls: int = 0
    slow_calls: int = 0
    probes: int = 0
    lease_seconds: float = 0.0
    override: Override = Override.NONE
    by: str = ""
    why: str = ""
    changed_seconds: float | None = None


def acquire(machine: Machine, token: str, moment: Moment) -> tuple[Machine, Permit | Refusal]:
    """Ask for a permit; returns the next state and the answer."""
    refusal = _refusal(machine, moment)
    if refusal:
        return machine, refusal
    if machine.state is CircuitState.CLOSED:  # as it is while an override disables it
        return machine, Permit(token, machine.generation, machine.epoch, probe=False)
    if machine.state is CircuitState.OPEN:
        machine = _enter(machine, CircuitState.HALF_OPEN)
    return _probe(machine, token, moment)


def _refusal(machine: Machine, moment: Moment) -> Refusal | None:
    """Return what refuses a call before anybody probes; None: nothing does."""
    now, rules, draw = moment
    state = machine.state
    if machine.override is Override.OPEN:
        return Refusal(state, FORCED_WAIT_MS / 1000, "forced_open")
    if machine.hold_until > now:
        return Refusal(state, (machine.hold_until - now) / 1000, "held")
    if state is CircuitState.OPEN and now < machine.open_until:
        return Refusal(state, (machine.open_until - now) / 1000, "open")
    closed_ms = now - machine.closed_at if machine.closed_at else None
    if state is CircuitState.CLOSED and draw >= share_of_calls(closed_ms, rules.ramp_ms):
        return Refusal(state, RAMP_WAIT_MS / 1000, "ramping")
    return None


def share_of_calls(closed_ms: float | None, ramp_ms: int) -> float:
    """Return the share of calls that a closed breaker admits, so long after it closed."""
    if closed_ms is None or closed_ms >= ramp_ms:
        return 1.0
    return LEAST_SHARE + (1 - LEAST_SHARE) * closed_ms / ramp_ms


def _probe(machine: Machine, token: str, moment: Moment) -> tuple[Machine, Permit | Refusal]:
    now, rules, _ = moment
    alive = tuple(p for p in machine.probes if p[1] > now)
    lost = machine.lost + len(machine.probes) - len(alive)
    if lost >= LOST_PROBES:  # hanging is as bad as failing
        machine = _trip(machine, moment)
        return machine, Refusal(machine.state, machine.open_for / 1000, "open")
    machine = replace(machine, probes=alive, lost=lost)
    if len(alive) >= rules.permits:
        wait = (min(end for _, end in alive) - now) / 1000
        return machine, Refusal(machine.state, wait, "half_open")
    machine = replace(machine, probes=(*alive, (token, now + rules.lease_ms)))
    return machine, Permit(token, machine.generation, machine.epoch, probe=True)


def is_calm(machine: Machine, moment: Moment) -> bool:
    """Whether it admits every call, and a success changes nothing, for as long as it is as it is.

    Where rates are kept every call changes something.
    """
    now, rules, _ = moment
    counts = machine.failures or machine.saturated_since or rules.failure_rate or rules.slow_rate
    ramped = not machine.closed_at or now - machine.closed_at >= rules.ramp_ms
    is_free = machine.hold_until <= now and not machine.override
    return machine.state is CircuitState.CLOSED and not counts and ramped and is_free


def record(
    machine: Machine, permit: Permit, report: Report, moment: Moment
) -> tuple[Machine, bool]:
    """Take in what a call came to; returns the next state, and False for a late result."""
    stale = (permit.epoch, permit.generation) != (machine.epoch, machine.generation)
    if stale or machine.state is CircuitState.OPEN:
        return machine, False
    if machine.override is Override.DISABLED:
        return machine, True
    if machine.state is CircuitState.HALF_OPEN:
        lease = dict(machine.probes).get(permit.token)
        if lease is None or lease <= moment.now:
            return machine, False
        probes = tuple(p for p in machine.probes if p[0] != permit.token)
        machine = replace(machine, probes=probes)
    if report.outcome is Outcome.SATURATED or report.outcome is Outcome.MISCONFIGURED:
        machine = _hold(machine, report, moment)
        if not _is_persistent(machine, report, moment):
            return machine, True
        report = report._replace(outcome=Outcome.FAILURE)
    if report.outcome is not Outcome.IGNORED:
        judge = _judge_probe if machine.state is CircuitState.HALF_OPEN else _count
        machine = judge(machine, report, moment)
    return machine, True


def _hold(machine: Machine, report: Report, moment: Moment) -> Machine:
    now, rules, _ = moment
    saturated = report.outcome is Outcome.SATURATED
    since = machine.saturated_since
    if saturated and (not since or now - machine.hold_until > rules.saturation_limit_ms):
        since = now
    least = rules.saturation_hold_ms if saturated else rules.open_ms
    until = max(machine.hold_until, now + max(report.hold_ms, least))
    return replace(
        machine,
        hold_until=until,
        hold_reason=report.outcome.value,
        saturated_since=since if saturated else machine.saturated_since,
    )


def _is_persistent(machine: Machine, report: Report, moment: Moment) -> bool:
    """Whether a server is busy for so long that it counts as failing."""
    limit = moment.rules.saturation_limit_ms
    busy = report.outcome is Outcome.SATURATED and limit
    return bool(busy) and moment.now - machine.saturated_since >= limit


def _judge_probe(machine: Machine, report: Report, moment: Moment) -> Machine:
    if report.outcome is Outcome.FAILURE or (report.slow and moment.rules.slow_rate):
        return _trip(machine, moment)
    machine = replace(machine, successes=machine.successes + 1, saturated_since=0)
    if machine.successes < moment.rules.success_threshold:
        return machine
    return replace(_enter(machine, CircuitState.CLOSED), closed_at=moment.now)


def _count(machine: Machine, report: Report, moment: Moment) -> Machine:
    rules = moment.rules
    if rules.failure_rate or rules.slow_rate:
        machine = replace(machine, window=_counted(machine.window, report, moment))
    if report.outcome is Outcome.FAILURE:
        machine = replace(machine, failures=machine.failures + 1)
    elif machine.failures or machine.saturated_since:
        machine = replace(machine, failures=0, saturated_since=0)
    return _trip(machine, moment) if _is_bad(machine, moment) else machine


def _counted(window: Window, report: Report, moment: Moment) -> Window:
    bucket_ms = moment.rules.window_ms // BUCKETS
    number = moment.now // bucket_ms
    kept = window.fresh(moment.now) if window.bucket_ms == bucket_ms else ()
    last = kept[-1] if kept and kept[-1].number == number else Bucket(number, 0, 0, 0)
    failures = report.calls if report.outcome is Outcome.FAILURE else 0
    last = Bucket(
        number, last.calls + report.calls, last.failures + failures, last.slow + report.slow
    )
    return Window(bucket_ms, (*(bucket for bucket in kept if bucket.number != number), last))


def _is_bad(machine: Machine, moment: Moment) -> bool:
    rules = moment.rules
    if machine.failures >= rules.failure_threshold:
        return True
    calls, failures, slow = machine.window.sums(moment.now)
    if calls < rules.minimum_calls:
        return False
    failing = rules.failure_rate > 0 and failures >= rules.failure_rate * calls
    return failing or (rules.slow_rate > 0 and slow >= rules.slow_rate * calls)


def _enter(machine: Machine, state: CircuitState) -> Machine:
    return replace(
        machine,
        state=state,
        generation=machine.generation + 1,
        failures=0,
        successes=0,
        lost=0,
        probes=(),
        window=NO_WINDOW,
    )


def _trip(machine: Machine, moment: Moment) -> Machine:
    now, rules, draw = moment
    again = machine.state is CircuitState.HALF_OPEN or now - machine.closed_at < machine.open_for
    opened = min(machine.opened + 1, MOST_OPENED) if again else 1
    length = min(rules.open_ms * rules.open_multiplier ** (opened - 1), rules.open_cap_ms)
    open_for = int(length * (1 + rules.open_jitter * (2 * draw - 1)))
    return replace(
        _enter(machine, CircuitState.OPEN),
        open_until=now + open_for,
        open_for=open_for,
        opened=opened,
    )


def override(machine: Machine, change: Change, now: int) -> Machine:
    """Do what an operator wants; what still runs is of an earlier generation."""
    action = change.action
    if action is Action.OPEN:
        machine = replace(_enter(machine, CircuitState.OPEN), open_until=now)
    elif action is not Action.AUTO:
        machine = _cleared(machine)
    elif machine.override is Override.OPEN:  # a probe is due at once
        machine = replace(_enter(machine, CircuitState.OPEN), open_until=now)
    elif machine.override is Override.DISABLED:
        machine = _cleared(machine)
    held = {Action.OPEN: Override.OPEN, Action.DISABLE: Override.DISABLED}
    return replace(
        machine,
        override=held.get(action, Override.NONE),
        by=change.by,
        why=change.why,
        changed_at=now,
    )


def _cleared(machine: Machine) -> Machine:
    return replace(
        _enter(machine, CircuitState.CLOSED),
        open_until=0,
        hold_until=0,
        hold_reason="",
        opened=0,
        open_for=0,
        closed_at=0,
        saturated_since=0,
    )


def view(machine: Machine, now: int) -> BreakerView:
    """Describe a state at a moment."""
    forced = machine.override is Override.OPEN
    held = machine.hold_until > now and not machine.override
    opened = machine.open_until if machine.state is CircuitState.OPEN else 0
    wait = FORCED_WAIT_MS if forced else max(machine.hold_until, opened, now) - now
    calls, failed, slow = machine.window.sums(now)
    leases = [end for _, end in machine.probes if end > now]
    return BreakerView(
        state=machine.state,
        generation=machine.generation,
        epoch=machine.epoch,
        version=machine.version,
        consecutive_failures=machine.failures,
        half_open_successes=machine.successes,
        retry_after_seconds=wait / 1000,
        held=held,
        hold_reason=machine.hold_reason if held else "",
        opened=machine.opened,
        closed_seconds=(now - machine.closed_at) / 1000 if machine.closed_at else None,
        calls=calls,
        failed_calls=failed,
        slow_calls=slow,
        probes=len(leases),
        lease_seconds=(min(leases) - now) / 1000 if leases else 0.0,
        override=machine.override,
        by=machine.by,
        why=machine.why,
        changed_seconds=(now - machine.changed_at) / 1000 if machine.changed_at else None,
    )
