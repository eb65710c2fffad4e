"""What the API exports: the fleet as the store knows it, and this process's own requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from circuit_breaker import BreakerView, CircuitState
from tasks.metrics import SECONDS, message_sizes, process_metrics
from tasks.observer import Observer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.metrics_core import Metric

    from tasks.store import Gauges

LEVELS = {CircuitState.CLOSED: 0, CircuitState.HALF_OPEN: 1, CircuitState.OPEN: 2}
METHODS = frozenset({"GET", "POST", "DELETE", "HEAD", "PUT", "PATCH", "OPTIONS"})
UNROUTED = "(none)"  # the route of what is answered before a route is found


class ApiMetrics(Observer):
    """Metrics of this process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        process_metrics(registry)
        self._message_jobs = message_sizes(registry)
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
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def published(self, jobs: int) -> None:
        """Note the size of a message."""
        self._message_jobs.observe(jobs)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request. route: its path's template, so that there is a fixed number of them."""
        asked = (method if method in METHODS else "other", route, status)
        found = self._children.get(asked)
        if found is None:
            counted = self._requests.labels(asked[0], route, str(status))
            found = self._children[asked] = counted, self._seconds.labels(asked[0], route)
        found[0].inc()
        found[1].observe(seconds)


class FleetMetrics:
    """What the store knows of the whole fleet, at one moment; a collector."""

    def __init__(
        self,
        counts: Mapping[str, Mapping[str, int]],
        events: Mapping[str, int],
        gauges: Gauges,
        views: Mapping[str, BreakerView],
    ) -> None:
        self._counts, self._events, self._gauges, self._views = counts, events, gauges, views

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        gauges = self._gauges
        state = {name: LEVELS[view.state] for name, view in self._views.items()}
        yield _gauge("circuit_breaker_state", "0 closed, 1 half-open, 2 open.", "name", state)
        jobs = CounterMetricFamily(
            "fallthrough_jobs", "Jobs and lines of batches that ended.", labels=["tier", "status"]
        )
        for tier, statuses in self._counts.items():
            for status, number in statuses.items():
                jobs.add_metric([tier, status], number)
        yield jobs
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


def _gauge(name: str, about: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, about, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family
