"""What can go wrong in a breaker.

BreakerError
├── CircuitBreakerError   the breaker refused a call
├── ChangeLostError       what an operator wanted was not stored
└── StoreError            the shared state is out of reach; never leaves this package
"""


class BreakerError(Exception):
    """Base of all errors that this package raises."""


class CircuitBreakerError(BreakerError):
    """A call was refused. retry_after: seconds until a call may be let through."""

    def __init__(self, name: str, reason: str, retry_after: float) -> None:
        super().__init__(f"circuit breaker {name!r} is {reason}; retry in {retry_after:.1f} s")
        self.name = name
        self.reason = reason
        self.retry_after = retry_after


class ChangeLostError(BreakerError):
    """The shared state is out of reach: what an operator wanted may not be stored. Try again."""

    def __init__(self, name: str) -> None:
        super().__init__(f"circuit breaker {name!r} was not changed: its store did not answer")
        self.name = name


class StoreError(BreakerError):
    """The shared state did not answer in time."""
