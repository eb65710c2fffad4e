"""For operators: health, breakers, metrics."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

import msgspec
from prometheus_client import CollectorRegistry
from starlette.responses import Response

from api.body import body_of
from api.errors import json_response, not_found
from api.metrics import FleetMetrics, FleetView, StoreAway, stream_counts, unusable_counts
from api.paging import decimal
from api.routing import JSON, Description, Route, object_of
from api.schemas import BreakerChange, check, parse_json
from api.services import Services, caller_of, services_of
from circuit_breaker import Action, CircuitState, Override
from fallback_chain import Need, breaker_name
from tasks.errors import StoreUnavailable
from tasks.records.order import order_of
from tasks.records.troubles import troubles_of, unanswered_of
from tasks.store.fleet import percentile
from tasks.telemetry.metrics import encoder_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    from api.routing import Endpoint
    from circuit_breaker import BreakerView
    from tasks.records.troubles import SeenTrouble, TierHealth
    from tasks.store.fleet import Gauges

TEXT = ("text/plain", "application/openmetrics-text", "text/*")  # what Prometheus asks for

log = logging.getLogger(__name__)


async def health(_: Request) -> Response:
    """GET /health: alive as long as it answers."""
    return json_response({"status": "ok"})


async def ready(request: Request) -> Response:
    """GET /health/ready: whether a request would be accepted now."""
    services = services_of(request)
    reasons = list(await services.readiness.reasons())
    if services.draining:
        reasons.append("draining")
    return json_response({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)


async def breakers(request: Request) -> Response:
    """GET /circuit-breakers: the state that the fleet shares."""
    services = services_of(request)
    views, tries = await asyncio.gather(_views(services), _known_tries(services))
    objects = {name: _breaker_object(services, name, view) for name, view in views.items()}
    for name, known in tries.items():
        objects[name].update(known)
    return json_response({"circuit_breakers": objects})


def _changes(action: Action) -> Endpoint:
    async def change(request: Request) -> Response:
        """POST /circuit-breakers/{name}/{action}: for the whole fleet; a body may say why."""
        services, name = services_of(request), request.path_params["name"]
        breaker = services.breakers.get(name)
        if breaker is None:
            raise not_found("circuit breaker", name)
        async with body_of(request) as content:
            asked = check(parse_json(content), BreakerChange) if content else BreakerChange()
        by = caller_of(request)
        view = await breaker.achange(action, by, asked.why)
        log.warning("breaker %s: %s by %s: %s", name, action, by, asked.why or "no reason given")
        return json_response({"name": name, **_breaker_object(services, name, view)})

    return change


async def _troubles(services: Services) -> dict[str, list[SeenTrouble]]:
    """Return what keeps each model server from answering, besides its breaker, by its name."""
    healths, now = await _healths(services)
    return troubles_of(healths, now, services.settings.silent_tier_seconds)


async def _healths(services: Services) -> tuple[dict[str, TierHealth], float]:
    """Return what the fleet knows of each model server, by its breaker's name, and the time."""
    store = services.store.tiers
    return await asyncio.gather(store.healths(_servers(services)), store.now())


async def _known_tries(services: Services) -> dict[str, dict[str, Any]]:
    """Return what tries showed of each model server, as JSON; null while the store is away."""
    try:
        healths, now = await _healths(services)
    except StoreUnavailable:
        return {name: {"troubles": None, "unanswered": None} for name in _servers(services)}
    troubles = troubles_of(healths, now, services.settings.silent_tier_seconds)
    return {
        name: {
            "troubles": msgspec.to_builtins(troubles[name]),
            "unanswered": msgspec.to_builtins(unanswered_of(health)),
        }
        for name, health in healths.items()
    }


def _configured(services: Services) -> set[str]:
    """Return the breakers of tiers that are set up."""
    return {*_servers(services), "redis_cache"}


def _embed(services: Services) -> set[str]:
    """Return the breakers of the model servers that take embeddings alone."""
    configs = (tier.config for tier in services.tiers.values())
    only = [config for config in configs if config.accepts == frozenset({Need.EMBEDDINGS})]
    return {each.breaker_name for config in only for each in config.endpoints}


def _servers(services: Services) -> list[str]:
    """Return the breakers of the model servers that are set up."""
    tiers = services.tiers.values()
    return [each.breaker_name for tier in tiers for each in tier.config.endpoints]


async def _views(services: Services) -> dict[str, BreakerView]:
    views = await asyncio.gather(*(breaker.view() for breaker in services.breakers.values()))
    return dict(zip(services.breakers, views, strict=True))


def _breaker_object(services: Services, name: str, view: BreakerView) -> dict[str, Any]:
    breaker = services.breakers[name]
    return {
        "state": view.state,
        "tier": _tier_of(services, name),
        "configured": name in _configured(services),
        "consecutive_failures": view.consecutive_failures,
        "half_open_successes": view.half_open_successes,
        "retry_after_seconds": view.retry_after_seconds,
        "held": view.held,
        "hold_reason": view.hold_reason or None,
        "share": breaker.share_of(view),
        "opened_in_a_row": view.opened,
        "probes": view.probes,
        "window": {
            "seconds": breaker.config.window_seconds,
            "calls": view.calls,
            "failures": view.failed_calls,
            "slow": view.slow_calls,
        },
        "override": view.override or None,
        "changed": _by_hand(view),
        "generation": view.generation,
        "failure_threshold": breaker.config.failure_threshold,
        "recovery_timeout_seconds": breaker.config.recovery_timeout_seconds,
        "success_threshold": breaker.config.success_threshold,
    }


def _tier_of(services: Services, name: str) -> str:
    """Return the tier that a breaker is of."""
    tiers = order_of(services.settings.model_tiers)
    first = name.partition(":")[0]
    return next(tier for tier in tiers if breaker_name(tier, 1) == first)


def _by_hand(view: BreakerView) -> dict[str, Any] | None:
    """Return who did the last thing by hand, why, and when (epoch s)."""
    if view.changed_seconds is None:
        return None
    at = round(time.time() - view.changed_seconds, 3)
    return {"by": view.by or None, "why": view.why or None, "at": at}


async def metrics(request: Request) -> Response:
    """GET /metrics: Prometheus text for those who ask for text, else JSON; of the fleet."""
    services = services_of(request)
    accept = request.headers.get("accept", "*/*")
    if wants_text(accept):
        fleet = CollectorRegistry()
        try:
            view, tiers = await _fleet(services), services.settings.model_tiers
            fleet.register(FleetMetrics(view, _configured(services), _embed(services), tiers))
        except StoreUnavailable:  # what this process knows by itself is told all the same
            fleet.register(StoreAway())
        encoder, content_type = encoder_for(accept)
        own = encoder(services.metrics.told)
        return Response(_join(encoder(fleet), own), media_type=content_type)
    view = await _fleet(services)
    counted = services.store.fleet
    latencies, first_words = await asyncio.gather(counted.latencies(), counted.first_words())
    summary = _summary(view.counts, latencies, view.gauges, view.views)
    rest = {
        "p50_first_token_ms": percentile(first_words, 0.50),
        "p95_first_token_ms": percentile(first_words, 0.95),
        "streams": stream_counts(view.events),
        "unusable": unusable_counts(view.events, services.settings.model_tiers),
        "troubles": msgspec.to_builtins(view.troubles),
        "flower_url": services.settings.flower_url or None,
    }
    return json_response({"metrics": {**summary, **rest}})


async def _fleet(services: Services) -> FleetView:
    fleet = services.store.fleet
    counts, events, gauges, views, troubles = await asyncio.gather(
        fleet.counts(), fleet.event_counts(), fleet.gauges(), _views(services), _troubles(services)
    )
    return FleetView(counts, events, gauges, views, troubles)


def _join(*texts: bytes) -> bytes:
    ending = b"# EOF\n"  # of OpenMetrics
    end = ending if texts[-1].endswith(ending) else b""
    return b"".join(text.removesuffix(ending) for text in texts) + end


def wants_text(accept: str) -> bool:
    """Whether an Accept header asks for Prometheus' text, rather than JSON; curl's */* does not."""
    wanted = dict(_range(part) for part in accept.split(","))
    text = max(wanted.get(kind, 0.0) for kind in TEXT)
    return text > wanted.get("application/json", 0.0)


def _range(part: str) -> tuple[str, float]:
    """Return a media range of an Accept header and its weight, 1 if none can be read."""
    kind, *options = (each.strip().lower() for each in part.split(";"))
    weights = [each.removeprefix("q=") for each in options if each.startswith("q=")]
    weight = decimal(weights[0]) if weights else None
    return kind, 1.0 if weight is None else weight


def _summary(
    counts: Mapping[str, Mapping[str, int]],
    latencies: Mapping[int, int],
    gauges: Gauges,
    views: Mapping[str, BreakerView],
) -> dict[str, Any]:
    by_status: dict[str, int] = {}
    for statuses in counts.values():
        for status, number in statuses.items():
            by_status[status] = by_status.get(status, 0) + number
    return {
        "p50_latency_ms": percentile(latencies, 0.50),
        "p95_latency_ms": percentile(latencies, 0.95),
        "p99_latency_ms": percentile(latencies, 0.99),
        "jobs": {tier: statuses for tier, statuses in counts.items() if tier != "-"},
        "by_status": by_status,
        "total": sum(by_status.values()),
        **{f"queued_{queue}": number for queue, number in gauges.waiting.items()},
        # What a fleet is scaled by: work that waits, and work that a worker would take along.
        **{f"load_{queue}": n + gauges.running[queue] for queue, n in gauges.waiting.items()},
        "oldest_seconds": gauges.oldest,
        "unfinished": {"jobs": gauges.jobs._asdict(), "lines": gauges.lines._asdict()},
        "running": sum(gauges.running.values()),
        "streams_in_flight": gauges.streams,
        "parked": gauges.parked,
        "workers": gauges.workers,
        "circuit_breakers": {name: view.state for name, view in views.items()},
    }


def routes() -> list[Route]:
    """Return the routes."""
    override = {"enum": [None, *(each.value for each in Override if each)]}
    breaker = object_of(
        state={"enum": list(CircuitState)},
        tier={"type": "string"},
        configured={"type": "boolean"},
        override=override,
    )
    named = {"type": "object", "additionalProperties": breaker}
    views = Description("The breakers that the fleet shares", object_of(circuit_breakers=named))
    summaries = {
        Action.OPEN: "Keep every call away, until told otherwise",
        Action.DISABLE: "Let every call through and count none, until told otherwise",
        Action.AUTO: "End that; what was open is probed",
        Action.RESET: "Close a breaker for the whole fleet",
    }
    changes = [
        Route(
            "POST",
            f"/circuit-breakers/{{name}}/{action}",
            _changes(action),
            Description(summary, breaker, body=BreakerChange, body_required=False),
        )
        for action, summary in summaries.items()
    ]
    reasons = {"type": "array", "items": {"type": "string"}}
    readiness = object_of(ready={"type": "boolean"}, reasons=reasons)
    readily = Description("Ready for requests", readiness, errors={"503": readiness})
    counting = Description(
        "Counts and latencies of the fleet",
        object_of(metrics={"type": "object"}),
        answer_types=(JSON, "text/plain", "application/openmetrics-text"),
    )
    return [
        Route("GET", "/health", health, Description("Alive", object_of(status={"const": "ok"}))),
        Route("GET", "/health/ready", ready, readily),
        Route("GET", "/circuit-breakers", breakers, views),
        *changes,
        Route("GET", "/metrics", metrics, counting),
    ]
