"""The tiers as the settings describe them, and the breakers that the whole fleet shares."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from circuit_breaker import AsyncRedisStore, CircuitBreaker, CircuitBreakerConfig
from circuit_breaker.events import Held, StateChanged, StoreUnavailable
from fallback_chain import (
    BREAKER_NAMES,
    LARGEST_REPLY,
    CacheTier,
    ChainOptions,
    ChatTier,
    PyreqwestHttp,
    RedisCache,
    model_configs,
    parse_accepts,
)
from tasks.hosts import goes_direct
from tasks.records.jobs import TIERS, Queue
from tasks.tiers.slots import FleetSlots, LocalSlots

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fallback_chain import Http, TierConfig
    from tasks.settings import Settings
    from tasks.store import Store
    from tasks.store.connection import Connection
    from tasks.tiers.slots import Slots

MODEL_TIERS = TIERS[:-1]
CACHE_TIMEOUT_SECONDS = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tiers:
    """What a worker can ask. slots: leave to call a tier, by (tier, queue)."""

    models: Mapping[str, ChatTier]
    cache: CacheTier
    slots: Mapping[tuple[str, Queue], Slots]
    http: Http

    def slots_of(self, tier: str) -> set[Slots]:
        """Return the slots of a tier, of every queue."""
        return {slots for (name, _), slots in self.slots.items() if name == tier}

    @property
    def all_slots(self) -> set[Slots]:
        """The slots of every tier."""
        return set(self.slots.values())


def tier_configs(settings: Settings) -> dict[str, TierConfig]:
    """Return the model tiers that are set up, by name, in the order in which they are tried."""
    options = ChainOptions(
        gpu_model=settings.gpu_model or None,
        gpu_api_key=settings.gpu_api_key or None,
        gpu_timeout_seconds=settings.gpu_timeout_seconds,
        cpu_model=settings.cpu_model or None,
        cpu_api_key=settings.cpu_api_key or None,
        cpu_timeout_seconds=settings.cpu_timeout_seconds,
        gpu_accepts=parse_accepts(settings.gpu_accepts),
        cpu_accepts=parse_accepts(settings.cpu_accepts),
        check_gpu=settings.check_gpu > 0,
        strict_finish=frozenset(
            tier for tier in MODEL_TIERS if settings.strict_finish in {"1", tier}
        ),
    )
    configs = model_configs(settings.gpu_url, settings.cpu_url, options)
    return {config.name: config for config in configs}


def build_breakers(
    settings: Settings, connection: Connection, on_event: Callable[[object], None]
) -> dict[str, CircuitBreaker]:
    """Return the three breakers by name, their state in the store's Redis."""
    timeouts = {
        BREAKER_NAMES["gpu"]: settings.gpu_timeout_seconds,
        BREAKER_NAMES["cpu"]: settings.cpu_timeout_seconds,
        BREAKER_NAMES["cache"]: CACHE_TIMEOUT_SECONDS,
    }
    shared = AsyncRedisStore(connection.pipeline)
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
            on_event=on_event,
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


def build_models(
    settings: Settings, connection: Connection, breakers: Mapping[str, CircuitBreaker]
) -> tuple[dict[str, ChatTier], Http]:
    """Return the model tiers by name, and the HTTP client that they share."""
    hosts = {urlsplit(url).hostname or "" for url in (settings.gpu_url, settings.cpu_url) if url}
    http = PyreqwestHttp(
        connect_timeout_seconds=settings.connect_timeout_seconds,
        largest_reply=min(LARGEST_REPLY, connection.largest_content),
        proxy=settings.proxy,
        direct=[host for host in hosts if goes_direct(host, settings.no_proxy)],
    )
    models = {
        name: ChatTier(config, breakers[config.breaker_name], http)
        for name, config in tier_configs(settings).items()
    }
    return models, http


def build_tiers(settings: Settings, store: Store, breakers: Mapping[str, CircuitBreaker]) -> Tiers:
    """Return all that a worker can ask, and the leave to ask it."""
    models, http = build_models(settings, store.connection, breakers)
    answers = RedisCache(store.connection.pipeline.commands, ttl_seconds=settings.cache_ttl_seconds)
    gpu, at_cpu = LocalSlots(settings.gpu_concurrency), settings.cpu_concurrency
    slots: dict[tuple[str, Queue], Slots] = {
        ("gpu", Queue.INTERACTIVE): gpu,
        ("gpu", Queue.BATCH): gpu.batch_lane,
        ("cpu", Queue.INTERACTIVE): FleetSlots(store.limits, "cpu", at_cpu),
        # In a GPU outage a batch would take every slot; the last is kept for lone requests.
        ("cpu", Queue.BATCH): FleetSlots(store.limits, "cpu", max(at_cpu - 1, 1)),
    }
    return Tiers(models, CacheTier(answers, breakers[BREAKER_NAMES["cache"]]), slots, http)
