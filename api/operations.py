"""For operators: health, breakers, metrics."""

from __future__ import annotations

import asyncio
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

from prometheus_client import CollectorRegistry
from starlette.responses import HTMLResponse, Response

from api.errors import json_response, not_found
from api.metrics import FleetMetrics, StoreAway, unusable_counts
from api.routing import JSON, Description, Route, Undescribed, object_of
from api.services import Services, services_of
from circuit_breaker import CircuitState
from tasks.errors import StoreUnavailable
from tasks.store.fleet import percentile
from tasks.telemetry.metrics import encoder_for

if TYPE_CHECKING:
    from starlette.requests import Request

    from circuit_breaker import BreakerView
    from tasks.store.fleet import Gauges

CONTENT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


async def status_page(_: Request) -> Response:
    """GET /: the status page, for people; it asks the routes below."""
    return HTMLResponse(_page(), headers={"Content-Security-Policy": CONTENT_POLICY})


@cache
def _page() -> str:
    return (files("api") / "static" / "status.html").read_text(encoding="utf-8")


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
    views = await _views(services)
    objects = {name: _breaker_object(services, name, view) for name, view in views.items()}
    return json_response({"circuit_breakers": objects})


async def reset(request: Request) -> Response:
    """POST /circuit-breakers/{name}/reset: close it, for the whole fleet."""
    services = services_of(request)
    name = request.path_params["name"]
    breaker = services.breakers.get(name)
    if breaker is None:
        raise not_found("circuit breaker", name)
    return json_response({"name": name, **_breaker_object(services, name, await breaker.areset())})


def _configured(services: Services) -> set[str]:
    """Return the breakers of tiers that are set up."""
    return {tier.config.breaker_name for tier in services.tiers.values()} | {"redis_cache"}


async def _views(services: Services) -> dict[str, BreakerView]:
    views = await asyncio.gather(*(breaker.view() for breaker in services.breakers.values()))
    return dict(zip(services.breakers, views, strict=True))


def _breaker_object(services: Services, name: str, view: BreakerView) -> dict[str, Any]:
    breaker = services.breakers[name]
    return {
        "state": view.state,
        "configured": name in _configured(services),
        "consecutive_failures": view.consecutive_failures,
        "half_open_successes": view.half_open_successes,
        "retry_after_seconds": view.retry_after_seconds,
        "held": view.held,
        "hold_reason": view.hold_reason or None,
        "generation": view.generation,
        "failure_threshold": breaker.config.failure_threshold,
        "recovery_timeout_seconds": breaker.config.recovery_timeout_seconds,
        "success_threshold": breaker.config.success_threshold,
    }


async def metrics(request: Request) -> Response:
    """GET /metrics: Prometheus text for those who ask for text, else JSON; of the fleet."""
    services = services_of(request)
    accept = request.headers.get("accept", "*/*")
    if wants_text(accept):
        fleet = CollectorRegistry()
        try:
            view = await _fleet(services)
            configured = _configured(services)
            fleet.register(
                FleetMetrics(view.counts, view.events, view.gauges, view.views, configured)
            )
        except StoreUnavailable:  # what this process knows by itself is told all the same
            fleet.register(StoreAway())
        encoder, content_type = encoder_for(accept)
        own = services.metrics.registry
        return Response(_join(encoder(fleet), encoder(own)), media_type=content_type)
    counts, events, gauges, views = await _fleet(services)
    summary = _summary(counts, await services.store.fleet.latencies(), gauges, views)
    rest = {"unusable": unusable_counts(events), "flower_url": services.settings.flower_url or None}
    return json_response({"metrics": {**summary, **rest}})


class FleetView(NamedTuple):
    """What the store counts of the whole fleet."""

    counts: dict[str, dict[str, int]]
    events: dict[str, int]
    gauges: Gauges
    views: dict[str, BreakerView]


async def _fleet(services: Services) -> FleetView:
    fleet = services.store.fleet
    counts, events, gauges, views = await asyncio.gather(
        fleet.counts(), fleet.event_counts(), fleet.gauges(), _views(services)
    )
    return FleetView(counts=counts, events=events, gauges=gauges, views=views)


def _join(*texts: bytes) -> bytes:
    ending = b"# EOF\n"  # of OpenMetrics
    end = ending if texts[-1].endswith(ending) else b""
    return b"".join(text.removesuffix(ending) for text in texts) + end


def wants_text(accept: str) -> bool:
    """Whether an Accept header asks for Prometheus' text; curl's */* does not."""
    ranges = [part.split(";")[0].strip().lower() for part in accept.split(",")]
    return any(r in {"text/plain", "application/openmetrics-text", "text/*"} for r in ranges)


def _summary(
    counts: dict[str, dict[str, int]],
    latencies: dict[int, int],
    gauges: Gauges,
    views: dict[str, BreakerView],
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
        "running": sum(gauges.running.values()),
        "parked": gauges.parked,
        "workers": gauges.workers,
        "circuit_breakers": {name: view.state for name, view in views.items()},
    }


def routes() -> list[Route]:
    """Return the routes."""
    breaker = object_of(state={"enum": list(CircuitState)}, configured={"type": "boolean"})
    named = {"type": "object", "additionalProperties": breaker}
    views = Description("The breakers that the fleet shares", object_of(circuit_breakers=named))
    closing = Description("Close a breaker for the whole fleet", breaker)
    reasons = {"type": "array", "items": {"type": "string"}}
    readiness = object_of(ready={"type": "boolean"}, reasons=reasons)
    readily = Description("Ready for requests", readiness, errors={"503": readiness})
    counting = Description(
        "Counts and latencies of the fleet",
        object_of(metrics={"type": "object"}),
        answer_types=(JSON, "text/plain", "application/openmetrics-text"),
    )
    return [
        Route("GET", "/", status_page, Undescribed.PAGE),
        Route("GET", "/health", health, Description("Alive", object_of(status={"const": "ok"}))),
        Route("GET", "/health/ready", ready, readily),
        Route("GET", "/circuit-breakers", breakers, views),
        Route("POST", "/circuit-breakers/{name}/reset", reset, closing),
        Route("GET", "/metrics", metrics, counting),
    ]
