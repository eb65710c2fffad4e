"""The tiers as the settings describe them, and the breakers that the whole fleet shares."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from circuit_breaker import AsyncRedisStore, CircuitBreaker, CircuitBreakerConfig, Override
from circuit_breaker.events import Held, Overridden, StateChanged, StoreUnavailable
from fallback_chain import (
    BREAKER_NAMES,
    LARGEST_REPLY,
    CacheTier,
    HttptoolsHttp,
    RedisCache,
    TierConfig,
    breaker_name,
    breaker_names,
    build_tier,
    parse_accepts,
    read_authorities,
)
from tasks.errors import SettingsError
from tasks.hosts import goes_direct
from tasks.records.jobs import Queue
from tasks.records.order import order_of
from tasks.store.limits import Share
from tasks.tiers.slots import AdaptiveSlots, FleetSlots, Known, LocalSlots

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fallback_chain import Http, Tier
    from tasks.settings import Settings, TierSettings
    from tasks.store import Store
    from tasks.store.connection import Connection
    from tasks.store.limits import Limits
    from tasks.tiers.slots import Slots

CACHE_TIMEOUT_SECONDS = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tiers:
    """What a worker can ask. slots: leave to call a tier, by (tier, queue)."""

    models: Mapping[str, Tier]
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
    return {
        name: TierConfig(
            name=name,
            url=tier.url,
            model=tier.model or None,
            api_key=tier.api_key or None,
            timeout_seconds=tier.timeout_seconds,
            first_token_seconds=tier.first_token_seconds,
            next_token_seconds=tier.next_token_seconds,
            strict_finish=settings.strict_finish in {"1", name},
            accepts=parse_accepts(tier.accepts),
            checked=tier.check > 0,
            adapts=bool(tier.limit),
            priority=tier.priority,
        )
        for name, tier in settings.model_tiers.items()
        if tier.url
    }


def build_breakers(
    settings: Settings, connection: Connection, on_event: Callable[[object], None]
) -> dict[str, CircuitBreaker]:
    """Return the breakers by name, their state in the store's Redis: one of each server."""
    tiers = settings.model_tiers
    by_tier = {breaker_name(name, 1): tier.timeout_seconds for name, tier in tiers.items()}
    by_tier[BREAKER_NAMES["cache"]] = CACHE_TIMEOUT_SECONDS
    names = breaker_names(order_of(tiers), tier_configs(settings).values())
    timeouts = {name: by_tier[name.partition(":")[0]] for name in names}
    shared = AsyncRedisStore(connection.pipeline)
    return {
        name: CircuitBreaker(
            name, breaker_config(settings, name, timeout), store=shared, on_event=on_event
        )
        for name, timeout in timeouts.items()
    }


def breaker_config(settings: Settings, name: str, timeout_seconds: float) -> CircuitBreakerConfig:
    """Return what the settings say of a breaker."""
    return CircuitBreakerConfig(
        failure_threshold=settings.breaker_failure_threshold,
        timeout_seconds=timeout_seconds,
        recovery_timeout_seconds=settings.breaker_recovery_seconds,
        success_threshold=settings.breaker_success_threshold,
        saturation_limit_seconds=settings.breaker_saturation_seconds or None,
        failure_rate=settings.breaker_failure_rate or None,
        slow_call_seconds=settings.breaker_slow_call_seconds or None,
        slow_call_rate=settings.breaker_slow_call_rate,
        window_seconds=settings.breaker_window_seconds,
        minimum_calls=settings.breaker_minimum_calls,
        recovery_multiplier=settings.breaker_recovery_multiplier,
        recovery_cap_seconds=settings.breaker_recovery_cap_seconds,
        recovery_jitter=settings.breaker_recovery_jitter,
        # A look into the cache is no load that a server would have to grow used to.
        ramp_seconds=0.0 if name == BREAKER_NAMES["cache"] else settings.breaker_ramp_seconds,
    )


def log_event(event: object) -> None:
    """Tell the operator what a breaker did; calls and rejections are counted, not told."""
    if isinstance(event, StateChanged):
        log.warning("breaker %s: %s -> %s", event.name, event.before, event.after)
    elif isinstance(event, Held):
        # A key that is refused needs a person; a busy server does not.
        level = logging.ERROR if event.reason == "misconfigured" else logging.INFO
        log.log(level, "breaker %s: held %.1f s, %s", event.name, event.seconds, event.reason)
    elif isinstance(event, Overridden):
        what = {Override.OPEN: "opened", Override.DISABLED: "disabled"}.get(event.override)
        by, why = event.by or "nobody named", event.why or "no reason given"
        told = f"{what} by hand" if what else "no longer overridden"
        log.warning("breaker %s: %s, %s: %s", event.name, told, by, why)
    elif isinstance(event, StoreUnavailable):
        log.warning("breaker %s: no shared state, deciding alone", event.name)


def build_models(
    settings: Settings, connection: Connection, breakers: Mapping[str, CircuitBreaker]
) -> tuple[dict[str, Tier], Http]:
    """Return the model tiers by name, and the HTTP client that they share.

    Raises SettingsError for authorities that cannot be read.
    """
    http = build_http(settings, connection.largest_content)
    models = {
        name: build_tier(config, breakers, http) for name, config in tier_configs(settings).items()
    }
    return models, http


def build_http(settings: Settings, largest_content: int = LARGEST_REPLY) -> Http:
    """Return the client by which the tiers are asked. largest_content: bytes of a reply, unpacked.

    Raises SettingsError for authorities that cannot be read.
    """
    urls = [each.url for config in tier_configs(settings).values() for each in config.endpoints]
    hosts = {urlsplit(url).hostname or "" for url in urls}
    options: dict[str, Any] = {
        "connect_timeout_seconds": settings.connect_timeout_seconds,
        "largest_reply": min(LARGEST_REPLY, largest_content),
        "proxy": settings.proxy,
        "direct": [host for host in hosts if goes_direct(host, settings.no_proxy)],
        "authorities": _authorities(settings.ca_file),
    }
    match settings.http_client:
        case "aiohttp":
            from fallback_chain.aiohttp_http import AiohttpHttp  # noqa: PLC0415 - who uses it pays

            return AiohttpHttp(**options)
        case "httpx":
            from fallback_chain.httpx_http import HttpxHttp  # noqa: PLC0415 - as above

            return HttpxHttp(**options)
    return HttptoolsHttp(**options)


def _authorities(path: str) -> bytes:
    if not path:
        return b""
    try:
        return read_authorities(path)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it has no certificate in PEM"
        message = f"FALLTHROUGH_CA_FILE: it cannot be used: {why}"
        raise SettingsError(message) from None


def build_tiers(settings: Settings, store: Store, breakers: Mapping[str, CircuitBreaker]) -> Tiers:
    """Return all that a worker can ask, and the leave to ask it."""
    models, http = build_models(settings, store.connection, breakers)
    answers = RedisCache(store.connection.pipeline.commands, ttl_seconds=settings.cache_ttl_seconds)
    slots = {
        (name, queue): of_queue
        for name, tier in settings.model_tiers.items()
        for queue, of_queue in _slots(name, tier, store.limits, models).items()
    }
    return Tiers(models, CacheTier(answers, breakers[BREAKER_NAMES["cache"]]), slots, http)


def _slots(
    name: str, tier: TierSettings, limits: Limits, models: Mapping[str, Tier]
) -> dict[Queue, Slots]:
    """Return the leave to call a tier, for lone jobs and for lines of batches."""

    def ramp() -> float:
        return models[name].share

    if tier.limit:
        lowest, highest = map(int, tier.limit.split(".."))
        of_lone, of_lines = (
            Share(name, lowest, highest, left) for left in (0, max(tier.reserved, 1))
        )
        slow, known = tier.slow_seconds, Known(lowest)
        return {
            Queue.INTERACTIVE: AdaptiveSlots(limits, of_lone, slow, known=known),
            Queue.BATCH: AdaptiveSlots(limits, of_lines, slow, ramp, known),
        }
    if most := tier.fleet_concurrency:
        return {
            Queue.INTERACTIVE: FleetSlots(limits, name, most),
            Queue.BATCH: FleetSlots(limits, name, max(most - tier.reserved, 1), ramp),
        }
    here = LocalSlots(tier.concurrency, tier.reserved)
    return {Queue.INTERACTIVE: here, Queue.BATCH: here.batch_lane}
