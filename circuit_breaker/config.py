"""What a breaker can be told. The configuration lives with the caller, not in the store."""

from __future__ import annotations

from dataclasses import dataclass

LEASE_MARGIN_SECONDS = 1.0


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
    ignored_exceptions: tuple[type[BaseException], ...] = ()
    """Exceptions that say nothing about the server's health."""

    def __post_init__(self) -> None:
        """Check every value."""
        for name in ("failure_threshold", "success_threshold", "half_open_permits"):
            if getattr(self, name) < 1:
                message = f"{name} must be at least 1, not {getattr(self, name)}"
                raise ValueError(message)
        for name in ("timeout_seconds", "recovery_timeout_seconds", "lease_seconds"):
            if getattr(self, name) <= 0:
                message = f"{name} must be above 0, not {getattr(self, name)}"
                raise ValueError(message)
        if self.saturation_hold_seconds < 0:
            message = f"saturation_hold_seconds must not be below 0: {self.saturation_hold_seconds}"
            raise ValueError(message)

    @property
    def lease_seconds(self) -> float:
        """How long a probe's place is kept for it."""
        if self.probe_lease_seconds is not None:
            return self.probe_lease_seconds
        return self.timeout_seconds + LEASE_MARGIN_SECONDS
