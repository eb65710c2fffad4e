"""The one sanctioned global: breakers by name, as the application asks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuit_breaker.breaker import CircuitBreaker
from circuit_breaker.fork_lock import ForkLock

if TYPE_CHECKING:
    from circuit_breaker.config import CircuitBreakerConfig
    from circuit_breaker.stores import Store

_lock = ForkLock()
_breakers: dict[str, CircuitBreaker] = {}
_default_store: Store | None = None


def configure_default_store(store: Store | None) -> None:
    """Set where breakers that are asked for from now on keep their state; None: in memory."""
    global _default_store  # noqa: PLW0603 - the registry is the sanctioned global
    with _lock:
        _default_store = store


def get_circuit_breaker(name: str, config: CircuitBreakerConfig | None = None) -> CircuitBreaker:
    """Return the breaker of that name; made with this config if it is the first to ask.

    Raises ValueError if it exists with another config.
    """
    with _lock:
        breaker = _breakers.get(name)
        if breaker is None:
            breaker = _breakers[name] = CircuitBreaker(name, config, _default_store)
        elif config is not None and config != breaker.config:
            message = f"circuit breaker {name!r} exists with another configuration"
            raise ValueError(message)
        return breaker


def forget_circuit_breakers() -> None:
    """Empty the registry; for tests."""
    global _default_store  # noqa: PLW0603 - the registry is the sanctioned global
    with _lock:
        _breakers.clear()
        _default_store = None
