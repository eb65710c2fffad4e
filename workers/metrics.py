"""What a worker counts of its own work, for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge

from circuit_breaker import Outcome
from circuit_breaker.events import CallRecorded, CallRejected, StateChanged

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.answering import Finish
    from tasks.jobs import BegunJob


class WorkerMetrics:
    """Counters of this process; the fleet's totals are the API's."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._jobs = Counter(
            "fallthrough_worker_jobs", "Jobs ended here", ["tier", "status"], registry=self.registry
        )
        self.in_hand = Gauge(
            "fallthrough_worker_jobs_in_hand", "Jobs being answered", registry=self.registry
        )
        self._calls = self._breaker_counter("requests", "Calls that a breaker let through")
        self._failures = self._breaker_counter("failures", "Calls that failed")
        self._rejections = self._breaker_counter("rejections", "Calls that a breaker refused")
        # Looked up once: a busy worker counts thousands a second.
        self._call: dict[str, Counter] = {}
        self._state = Gauge(
            "circuit_breaker_state",
            "0 closed, 1 half-open, 2 open",
            ["name"],
            registry=self.registry,
        )

    def _breaker_counter(self, what: str, about: str) -> Counter:
        return Counter(f"circuit_breaker_{what}", about, ["name"], registry=self.registry)

    def finished(self, job: BegunJob, done: Finish) -> None:
        """Count a job that ended."""
        tier = str(done.fields.get("tier_used", job.tier))
        self._jobs.labels(tier, done.status.value).inc()

    def lines_finished(self, counted_as: Mapping[str, int]) -> None:
        """Count lines of a batch that ended, by "tier:status"."""
        for name, number in counted_as.items():
            self._jobs.labels(*name.split(":")).inc(number)

    def breaker_event(self, event: object) -> None:
        """Count what a breaker says."""
        if isinstance(event, CallRecorded):
            if event.name not in self._call:
                self._call[event.name] = self._calls.labels(event.name)
            self._call[event.name].inc()
            if event.outcome is Outcome.FAILURE:
                self._failures.labels(event.name).inc()
        elif isinstance(event, CallRejected):
            self._rejections.labels(event.name).inc()
        elif isinstance(event, StateChanged):
            levels = {"closed": 0, "half_open": 1, "open": 2}
            self._state.labels(event.name).set(levels[event.after.value])
