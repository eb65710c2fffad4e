"""What a breaker tells those who listen: frozen data, for logs and metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from circuit_breaker.machine import CircuitState

if TYPE_CHECKING:
    from circuit_breaker.machine import Outcome, Override


@dataclass(frozen=True, slots=True)
class StateChanged:
    """The breaker was seen here in another state than before."""

    name: str
    before: CircuitState
    after: CircuitState

    @property
    def opened_again(self) -> bool:
        """Whether a probe has failed."""
        return (self.before, self.after) == (CircuitState.HALF_OPEN, CircuitState.OPEN)


@dataclass(frozen=True, slots=True)
class Held:
    """Calls are kept away for a while. reason: "saturated" or "misconfigured"."""

    name: str
    reason: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Overridden:
    """Somebody has opened or disabled the breaker by hand, or ended that. override: now."""

    name: str
    override: Override
    by: str
    why: str


@dataclass(frozen=True, slots=True)
class CallRecorded:
    """A call was reported."""

    name: str
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class CallRejected:
    """A call was refused. reason: as in Refusal."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class LateResult:
    """A call's result came after the state that let it through: dropped."""

    name: str


@dataclass(frozen=True, slots=True)
class StoreUnavailable:
    """The shared state is out of reach: this process decides alone for now."""

    name: str


Event = (
    StateChanged | Held | Overridden | CallRecorded | CallRejected | LateResult | StoreUnavailable
)
