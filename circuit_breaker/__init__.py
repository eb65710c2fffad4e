"""A circuit breaker for one process or a whole fleet.

>>> breaker = get_circuit_breaker("my_service", CircuitBreakerConfig(failure_threshold=3))
>>> result = await breaker.call(call_service)
"""

from circuit_breaker.breaker import CircuitBreaker
from circuit_breaker.changes import follow_changes
from circuit_breaker.config import CircuitBreakerConfig
from circuit_breaker.errors import BreakerError, ChangeLostError, CircuitBreakerError
from circuit_breaker.machine import (
    Action,
    BreakerView,
    CircuitState,
    Outcome,
    Override,
    Permit,
    Refusal,
)
from circuit_breaker.registry import (
    configure_default_store,
    forget_circuit_breakers,
    get_circuit_breaker,
)
from circuit_breaker.stores import CHANNEL, AsyncRedisStore, MemoryStore, OneByOne, RedisStore

__all__ = [
    "CHANNEL",
    "Action",
    "AsyncRedisStore",
    "BreakerError",
    "BreakerView",
    "ChangeLostError",
    "CircuitBreaker",
    "CircuitBreakerConfig",
    "CircuitBreakerError",
    "CircuitState",
    "MemoryStore",
    "OneByOne",
    "Outcome",
    "Override",
    "Permit",
    "RedisStore",
    "Refusal",
    "configure_default_store",
    "follow_changes",
    "forget_circuit_breakers",
    "get_circuit_breaker",
]
