"""What the API exports: the fleet as the store knows it, and this process's own requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from circuit_breaker import BreakerView, CircuitState
from tasks.records.jobs import Status
from tasks.records.troubles import Trouble
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
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from prometheus_client.metrics_core import Metric

    from tasks.records.troubles import SeenTrouble
    from tasks.store.fleet import Gauges

LEVELS = {CircuitState.CLOSED: 0, CircuitState.HALF_OPEN: 1, CircuitState.OPEN: 2}
METHODS = frozenset({"GET", "POST", "DELETE", "HEAD", "PUT", "PATCH", "OPTIONS"})
LOOPS = ("finishes", "request limits", "messages", "history", "breakers")
TURNED_AWAY = (
    *("too_many_queued", "store_full", "rate_limit_exceeded", "unavailable"),
    *("too_many_bytes", "too_many_files"),
)
ANSWERING = ("cache", "degraded")  # beside the model tiers
NO_TIER = "-"
UNANSWERED = (Status.FAILED, Status.CANCELLED, Status.EXPIRED)
UNROUTED = "(none)"  # the route of what is answered before its route is found


class ApiMetrics(Observer):
    """Metrics of this process; told: where those lie that Prometheus is told, of all processes."""

    def __init__(self, told: CollectorRegistry | None = None) -> None:
        """told: None: this process is the only one."""
        registry = CollectorRegistry()
        self.told = told or registry
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
        self.streams = Gauge(
            "fallthrough_http_streams_in_flight",
            "Answers that are sent to a client as they come.",
            registry=registry,
            multiprocess_mode="sum",
        )
        self.streams.set(0)  # where the one before in this process's place had some
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


class FleetView(NamedTuple):
    """What the store counts of the whole fleet. troubles: by breaker."""

    counts: Mapping[str, Mapping[str, int]]
    events: Mapping[str, int]
    gauges: Gauges
    views: Mapping[str, BreakerView]
    troubles: Mapping[str, Sequence[SeenTrouble]]


class FleetMetrics:
    """What the store knows of the whole fleet, at one moment; a collector."""

    def __init__(
        self,
        view: FleetView,
        configured: AbstractSet[str],
        embed: AbstractSet[str],
        tiers: Iterable[str],
    ) -> None:
        """tiers: the names of the model tiers.

        configured: the breakers of what is set up; embed: of these, those that only embed.
        """
        self._tiers, self._embed = tuple(tiers), embed
        self._counts, self._events, self._gauges = view.counts, view.events, view.gauges
        self._views, self._troubles, self._configured = view.views, view.troubles, configured

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        gauges = self._gauges
        state = {name: LEVELS[view.state] for name, view in self._views.items()}
        yield _gauge("circuit_breaker_state", "0 closed, 1 half-open, 2 open.", "name", state)
        holds = {name: int(view.held) for name, view in self._views.items()}
        about = "1: its server is busy, or refuses our key or path; nobody asks it for a while."
        yield _gauge("circuit_breaker_held", about, "name", holds)
        by_hand = {name: int(view.override != "") for name, view in self._views.items()}
        about = "1: somebody has opened or disabled it by hand."
        yield _gauge("circuit_breaker_overridden", about, "name", by_hand)
        configured = {name: int(name in self._configured) for name in self._views}
        yield _gauge("circuit_breaker_configured", "1: its tier is set up.", "name", configured)
        embed = {name: int(name in self._embed) for name in self._views}
        about = "1: its tier takes embeddings alone, and answers nothing else."
        yield _gauge("circuit_breaker_embeds", about, "name", embed)
        yield _store_up(1)
        yield _trouble_levels(self._troubles)
        jobs = CounterMetricFamily(
            "fallthrough_jobs", "Jobs and lines of batches that ended.", labels=["tier", "status"]
        )
        for (tier, status), number in self._job_counts().items():
            jobs.add_metric([tier, status], number)
        yield jobs
        unusable = CounterMetricFamily(
            "fallthrough_unusable",
            "Tries of which nobody was shown what the tier gave, or would have given.",
            labels=["tier", "detail"],
        )
        for tier, details in unusable_counts(self._events, self._tiers).items():
            for detail, number in details.items():
                unusable.add_metric([tier, detail], number)
        yield unusable
        streams = CounterMetricFamily(
            "fallthrough_streams",
            "Answers that were told as they came, from their first word on, and ended.",
            labels=["status"],
        )
        for status, number in stream_counts(self._events).items():
            streams.add_metric([status], number)
        yield streams
        yield GaugeMetricFamily(
            "fallthrough_streams_in_flight",
            "Answers that are told as they come, between their first word and their end.",
            gauges.streams,
        )
        work = GaugeMetricFamily(
            "fallthrough_unfinished",
            "Jobs, and lines of open batches, that have not ended; parked: until a tier is due.",
            labels=["what", "state"],
        )
        for name, counts in (("jobs", gauges.jobs), ("lines", gauges.lines)):
            for doing, count in counts._asdict().items():
                work.add_metric([name, doing], count)
        yield work
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
        yield _gauge(
            "fallthrough_tier_limit",
            "Calls at once to a tier whose limit adapts to its server, of the whole fleet.",
            "tier",
            gauges.limits,
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

    def _job_counts(self) -> dict[tuple[str, str], int]:
        # From 0 on, so that a panel shows every tier, and a rate sees the first job.
        answering = (*self._tiers, *ANSWERING)
        numbers = {(tier, Status.SUCCEEDED.value): 0 for tier in answering}
        numbers |= {(NO_TIER, status.value): 0 for status in UNANSWERED}
        for tier, statuses in self._counts.items():
            numbers |= {(tier, status): number for status, number in statuses.items()}
        return numbers


def _trouble_levels(troubles: Mapping[str, Sequence[SeenTrouble]]) -> GaugeMetricFamily:
    about = "1: it keeps the server from answering, whatever its breaker says."
    family = GaugeMetricFamily("fallthrough_tier_trouble", about, labels=["name", "trouble"])
    for name, seen in troubles.items():
        now = {each.trouble for each in seen}
        for trouble in Trouble:
            family.add_metric([name, trouble.value], int(trouble in now))
    return family


def unusable_counts(events: Mapping[str, int], tiers: Iterable[str]) -> dict[str, dict[str, int]]:
    """Return what the model tiers gave and nobody was shown: tier → what → times."""
    return {
        tier: {what: events.get(unusable_event(tier, what), 0) for what in UNUSABLE}
        for tier in tiers
    }


def stream_counts(events: Mapping[str, int]) -> dict[str, int]:
    """Return how many streams that had begun ended so: status → number."""
    return {status.value: events.get(f"streams:{status}", 0) for status in Status if status.final}


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
