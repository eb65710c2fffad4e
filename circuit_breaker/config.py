"""What a breaker can be told. The configuration lives with the caller, not in the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

LEASE_MARGIN_SECONDS = 1.0
MOST_MULTIPLIED = 1000.0


@dataclass(frozen=True, slots=True)
class CircuitBreakerConfig:
    """When to open, how long for, and when to close. Raises ValueError for senseless values."""

    failure_threshold: int = 3
    """Failures in a row that open the breaker."""
    timeout_seconds: float = 5.0
    """Limit of one call made through call() or call_sync()."""
    recovery_timeout_seconds: float = 30.0
    """How long it stays open before a probe is let through."""
    success_threshold: int = 2
    """Probes that must succeed to close it."""
    half_open_permits: int = 1
    """Probes that may run at once, in the whole fleet."""
    probe_lease_seconds: float | None = None
    """After this time a probe counts as lost; default: the timeout and a second."""
    saturation_hold_seconds: float = 1.0
    """Least time that calls are kept away from a server that says it is busy."""
    saturation_limit_seconds: float | None = None
    """A server that is busy for so long, without a success between, counts as failing; None: no."""
    ignored_exceptions: tuple[type[BaseException], ...] = ()
    """Exceptions that say nothing about the server's health."""
    is_failure: Callable[[Any], bool] | None = None
    """Says of a result, or of an exception, whether it is a failure; default: every exception is.

    An exception that is none is a success: the server answered. A call over its time limit fails
    in any case.
    """
    failure_rate: float | None = None
    """Share of the window's calls that must fail to open it, from 0 to 1; None: only those in a row
    count."""
    slow_call_seconds: float | None = None
    """A call that takes so long is slow; None: none is. A slow probe is a failed one."""
    slow_call_rate: float = 0.5
    """Share of the window's calls that must be slow to open it."""
    window_seconds: float = 30.0
    """How far back the rates look."""
    minimum_calls: int = 20
    """Calls in the window below which the rates say nothing."""
    recovery_multiplier: float = 1.0
    """By how much longer it stays open each time that it opens again."""
    recovery_cap_seconds: float = 300.0
    """The longest that the multiplier makes of it; recovery_timeout_seconds, if that is more."""
    recovery_jitter: float = 0.0
    """Share by which each open time is longer or shorter by chance, from 0 to 1."""
    ramp_seconds: float = 0.0
    """How long it takes after an outage until every call is admitted again; 0: at once."""

    def __post_init__(self) -> None:
        """Check every value."""
        at_least_1 = ("failure_threshold", "success_threshold", "half_open_permits")
        above_0 = ("timeout_seconds", "recovery_timeout_seconds", "lease_seconds")
        not_below_0 = ("saturation_hold_seconds", "recovery_cap_seconds", "ramp_seconds")
        shares = ("slow_call_rate", "recovery_jitter")
        self._check((*at_least_1, "minimum_calls"), "at least 1", 1)
        for name in above_0:
            self._require(name, "above 0", getattr(self, name) > 0)
        self._check(("window_seconds",), "at least 0.01", 0.01)
        self._check(not_below_0, "at least 0", 0)
        for name in ("saturation_limit_seconds", "slow_call_seconds"):
            value = getattr(self, name)
            self._require(name, "above 0, or None", value is None or value > 0)
        for name in shares:
            self._require(name, "from 0 to 1", 0 <= getattr(self, name) <= 1)
        multiplier = self.recovery_multiplier
        self._require("recovery_multiplier", "from 1 to 1000", 1 <= multiplier <= MOST_MULTIPLIED)
        rate = self.failure_rate
        self._require("failure_rate", "above 0 and up to 1, or None", rate is None or 0 < rate <= 1)

    def _check(self, names: tuple[str, ...], bound: str, least: float) -> None:
        for name in names:
            self._require(name, bound, getattr(self, name) >= least)

    def _require(self, name: str, bound: str, holds: bool) -> None:  # noqa: FBT001 - a check
        if not holds:
            message = f"{name} must be {bound}, not {getattr(self, name)}"
            raise ValueError(message)

    @property
    def lease_seconds(self) -> float:
        """How long a probe's place is kept for it."""
        if self.probe_lease_seconds is not None:
            return self.probe_lease_seconds
        return self.timeout_seconds + LEASE_MARGIN_SECONDS
