"""What the API exports: the fleet as the store knows it, and this process's own requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from circuit_breaker import BreakerView, CircuitState
from tasks.records.jobs import TIERS
from tasks.telemetry.metrics import (
    SECONDS,
    UNUSABLE,
    loop_deaths,
    message_sizes,
    process_metrics,
    unusable_event,
)
from tasks.telemetry.observer import Observer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from collections.abc import Set as AbstractSet

    from prometheus_client.metrics_core import Metric

    from tasks.store.fleet import Gauges

LEVELS = {CircuitState.CLOSED: 0, CircuitState.HALF_OPEN: 1, CircuitState.OPEN: 2}
METHODS = frozenset({"GET", "POST", "DELETE", "HEAD", "PUT", "PATCH", "OPTIONS"})
LOOPS = ("finishes", "request limits")
TURNED_AWAY = (
    *("too_many_queued", "store_full", "rate_limit_exceeded", "unavailable"),
    *("too_many_bytes",),
)
UNROUTED = "(none)"  # the route of what is answered before its route is found


class ApiMetrics(Observer):
    """Metrics of this process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        process_metrics(registry)
        self._message_jobs = message_sizes(registry)
        self._loop_deaths = loop_deaths(registry, LOOPS)
        self._requests = Counter(
            "fallthrough_http_requests",
            "Requests answered.",
            ["method", "route", "status"],
            registry=registry,
        )
        self._seconds = Histogram(
            "fallthrough_http_request_seconds",
            "Time of a request, its waiting for a job too.",
            ["method", "route"],
            buckets=SECONDS,
            registry=registry,
        )
        self._turned_away = Counter(
            "fallthrough_requests_turned_away",
            "Requests that were told to come again, by the code of the error.",
            ["code"],
            registry=registry,
        )
        for code in TURNED_AWAY:  # from 0 on, so that the first one is a rise
            self._turned_away.labels(code)
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def published(self, jobs: int) -> None:
        """Note the size of a message."""
        self._message_jobs.observe(jobs)

    def loop_died(self, name: str) -> None:
        """Count the death of a background loop."""
        self._loop_deaths.labels(name).inc()

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request. route: its path's template, so that there is a fixed number of them."""
        key = (method if method in METHODS else "other", route, status)
        children = self._children.get(key)
        if children is None:
            counter = self._requests.labels(key[0], route, str(status))
            children = self._children[key] = counter, self._seconds.labels(key[0], route)
        children[0].inc()
        children[1].observe(seconds)

    def turned_away(self, code: str) -> None:
        """Count a request that was told to come again."""
        self._turned_away.labels(code).inc()

    def refused(self, method: str, status: int) -> None:
        """Count a request that is answered before its route is found."""
        self.answered(method, UNROUTED, status, 0.0)


class FleetMetrics:
    """What the store knows of the whole fleet, at one moment; a collector."""

    def __init__(
        self,
        counts: Mapping[str, Mapping[str, int]],
        events: Mapping[str, int],
        gauges: Gauges,
        views: Mapping[str, BreakerView],
        configured: AbstractSet[str],
    ) -> None:
        self._counts, self._events, self._gauges, self._views = counts, events, gauges, views
        self._configured = configured

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        gauges = self._gauges
        state = {name: LEVELS[view.state] for name, view in self._views.items()}
        yield _gauge("circuit_breaker_state", "0 closed, 1 half-open, 2 open.", "name", state)
        holds = {name: int(view.held) for name, view in self._views.items()}
        about = "1: its server is busy, or refuses our key or path; nobody asks it for a while."
        yield _gauge("circuit_breaker_held", about, "name", holds)
        configured = {name: int(name in self._configured) for name in self._views}
        yield _gauge("circuit_breaker_configured", "1: its tier is set up.", "name", configured)
        yield _store_up(1)
        jobs = CounterMetricFamily(
            "fallthrough_jobs", "Jobs and lines of batches that ended.", labels=["tier", "status"]
        )
        for tier, statuses in self._counts.items():
            for status, number in statuses.items():
                jobs.add_metric([tier, status], number)
        yield jobs
        unusable = CounterMetricFamily(
            "fallthrough_unusable",
            "Tries of which nobody was shown what the tier gave, or would have given.",
            labels=["tier", "detail"],
        )
        for tier, details in unusable_counts(self._events).items():
            for detail, number in details.items():
                unusable.add_metric([tier, detail], number)
        yield unusable
        what = "a unit of a batch, up to a slice, counts as one."
        yield _gauge(
            "fallthrough_queue_waiting", f"Jobs that wait to begin; {what}", "queue", gauges.waiting
        )
        yield _gauge(
            "fallthrough_queue_running", f"Jobs that have begun; {what}", "queue", gauges.running
        )
        yield _gauge(
            "fallthrough_queue_oldest_seconds",
            "Time since the oldest waiting job was dispatched; 0: none waits.",
            "queue",
            gauges.oldest,
        )
        yield GaugeMetricFamily(
            "fallthrough_parked", "Jobs that wait for a tier to come back.", gauges.parked
        )
        yield GaugeMetricFamily("fallthrough_workers", "Workers that are there.", gauges.workers)
        yield CounterMetricFamily(
            "fallthrough_worker_drains",
            "Warm shutdowns of workers.",
            self._events.get("drains", 0),
        )


def unusable_counts(events: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Return what the models' tiers gave and nobody was shown: tier → what → times."""
    return {
        tier: {what: events.get(unusable_event(tier, what), 0) for what in UNUSABLE}
        for tier in TIERS[:-1]
    }


class StoreAway:
    """What is told of a fleet whose store does not answer; a collector."""

    def collect(self) -> Iterator[Metric]:
        """Yield the metric."""
        yield _store_up(0)


def _store_up(value: int) -> GaugeMetricFamily:
    about = "1: the store answers; 0: it does not, and nothing is known of the fleet."
    return GaugeMetricFamily("fallthrough_store_up", about, value)


def _gauge(name: str, about: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, about, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family
