"""The tiers as the settings describe them, and the breakers that the whole fleet shares."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from circuit_breaker import AsyncRedisStore, CircuitBreaker, CircuitBreakerConfig
from circuit_breaker.events import Held, StateChanged, StoreUnavailable
from fallback_chain import CacheTier, ChatTier, PyreqwestHttp, RedisCache, TierConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from fallback_chain import Http
    from tasks.settings import Settings
    from tasks.store.jobs import JobStore

BREAKER_NAMES = {"gpu": "max_gpu", "cpu": "ollama_cpu", "cache": "redis_cache"}
CACHE_TIMEOUT_SECONDS = 1.0

log = logging.getLogger(__name__)


def tier_configs(settings: Settings) -> dict[str, TierConfig]:
    """Return the model tiers that are set up, by name, in the order in which they are tried."""
    candidates = (
        TierConfig(
            name="gpu",
            breaker_name=BREAKER_NAMES["gpu"],
            url=settings.gpu_url,
            model=settings.gpu_model or None,
            api_key=settings.gpu_api_key or None,
            timeout_seconds=settings.gpu_timeout_seconds,
            connect_timeout_seconds=settings.connect_timeout_seconds,
        ),
        TierConfig(
            name="cpu",
            breaker_name=BREAKER_NAMES["cpu"],
            url=settings.cpu_url,
            model=settings.cpu_model or None,
            api_key=settings.cpu_api_key or None,
            timeout_seconds=settings.cpu_timeout_seconds,
            connect_timeout_seconds=settings.connect_timeout_seconds,
        ),
    )
    return {config.name: config for config in candidates if config.url}


def build_breakers(
    settings: Settings, store: JobStore, on_event: Callable[[object], None] | None = None
) -> dict[str, CircuitBreaker]:
    """Return the three breakers by name, their state in the store's Redis."""
    timeouts = {
        "max_gpu": settings.gpu_timeout_seconds,
        "ollama_cpu": settings.cpu_timeout_seconds,
        "redis_cache": CACHE_TIMEOUT_SECONDS,
    }
    shared = AsyncRedisStore(store.scripts)
    return {
        name: CircuitBreaker(
            name,
            CircuitBreakerConfig(
                failure_threshold=settings.breaker_failure_threshold,
                timeout_seconds=timeout,
                recovery_timeout_seconds=settings.breaker_recovery_seconds,
                success_threshold=settings.breaker_success_threshold,
            ),
            store=shared,
            on_event=on_event or log_event,
        )
        for name, timeout in timeouts.items()
    }


def log_event(event: object) -> None:
    """Tell the operator what a breaker did; calls and rejections are counted, not told."""
    if isinstance(event, StateChanged):
        log.warning("breaker %s: %s -> %s", event.name, event.before, event.after)
    elif isinstance(event, Held):
        # A key that is refused needs a person; a busy server does not.
        level = logging.ERROR if event.reason == "misconfigured" else logging.INFO
        log.log(level, "breaker %s: held %.1f s, %s", event.name, event.seconds, event.reason)
    elif isinstance(event, StoreUnavailable):
        log.warning("breaker %s: no shared state, deciding alone", event.name)


def build_tiers(
    settings: Settings, breakers: dict[str, CircuitBreaker]
) -> tuple[dict[str, ChatTier], Http]:
    """Return the model tiers by name, and the HTTP client that they share."""
    http = PyreqwestHttp(connect_timeout_seconds=settings.connect_timeout_seconds)
    tiers = {
        name: ChatTier(config, breakers[config.breaker_name], http)
        for name, config in tier_configs(settings).items()
    }
    return tiers, http


def build_cache(
    settings: Settings, store: JobStore, breakers: dict[str, CircuitBreaker]
) -> CacheTier:
    """Return the cache of answers, in the store's Redis."""
    cache = RedisCache(store.scripts.commands, ttl_seconds=settings.cache_ttl_seconds)
    return CacheTier(cache, breakers[BREAKER_NAMES["cache"]])
