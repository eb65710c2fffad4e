"""What a worker counts of its own work, for Prometheus. docs/metrics.md is the catalogue."""

from __future__ import annotations

import time
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, TypeVar

from celery.signals import task_rejected, task_unknown
from celery.worker import state as celery_state
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from circuit_breaker import Outcome
from circuit_breaker.events import (
    CallRecorded,
    CallRejected,
    Held,
    LateResult,
    StateChanged,
    StoreUnavailable,
)
from fallback_chain import (
    CONTEXT,
    INTERRUPTED,
    LACKING,
    LACKS,
    MISFIT,
    NO_SUCH_MODEL,
    UNSHOWABLE,
    Verdict,
    breaker_name,
)
from tasks.records.troubles import TierReport
from tasks.telemetry.metrics import (
    CHUNK_SECONDS,
    LONG_SECONDS,
    SECONDS,
    UNUSABLE,
    loop_deaths,
    message_sizes,
    process_metrics,
    unusable_event,
)
from tasks.telemetry.observer import Observer

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from fallback_chain import Pace, Tokens
    from tasks.records.batches import LineResult
    from tasks.recovery.leases import Leases
    from tasks.tiers.slots import Slots
    from workers.pause import Pause
    from workers.pulse import Pulse

LOOPS = (
    *("leases", "cancellations", "breakers", "sweeper", "health port", "pause", "counts", "tiers"),
    *("recaller", "room below"),
)
SWEPT = ("lease", "unbegun", "parked", "expired")
HELD = ("saturated", "misconfigured")
# Of a verdict, where they say more than it: what the answer, or the request, was like.
TOLD = {
    Verdict.FAILURE: (INTERRUPTED, UNSHOWABLE),
    Verdict.UNFIT: (LACKING, CONTEXT, NO_SUCH_MODEL, LACKS, MISFIT),
}
DETAILS = [detail for details in TOLD.values() for detail in details]
NOT_CALLED = frozenset({Verdict.REJECTED, Verdict.NO_PERMIT})

M = TypeVar("M", bound=MetricWrapperBase)


class WorkerMetrics(Observer):
    """Metrics of this process; the fleet's are the API's."""

    def __init__(self, tiers: Collection[str]) -> None:
        """tiers: the names of the model tiers."""
        self._tiers = tiers
        self.registry = registry = CollectorRegistry()
        process_metrics(registry)
        counter, histogram = partial(Counter, registry=registry), partial(_histogram, registry)
        ended = ["tier", "status"]
        self._jobs = _Children(counter("fallthrough_worker_jobs", "Jobs that ended here.", ended))
        self._lines = _Children(
            counter("fallthrough_worker_batch_lines", "Lines of batches that ended here.", ended)
        )
        self._tokens = _Children(
            counter("fallthrough_worker_tokens", "Tokens that the tiers counted.", ["tier", "kind"])
        )
        self._tries = _Children(
            counter(
                "fallthrough_worker_tries",
                "Times that a job came to a tier.",
                ["tier", "verdict", "detail"],
            )
        )
        for tier, (verdict, details) in product(tiers, TOLD.items()):
            for detail in details:  # from 0 on, so that the first one is a rise
                _ = self._tries[tier, verdict.value, detail]
        for tier in tiers:
            _ = self._tries[tier, Verdict.MISCONFIGURED.value, ""]
        self._try_seconds = _Children(
            histogram("fallthrough_worker_try_seconds", "Time of a try at a tier.", SECONDS)
        )
        self._wait_seconds = _Children(
            histogram(
                "fallthrough_worker_queue_wait_seconds",
                "Time from the dispatch of a job, or of a batch's unit, to a tier until its begin.",
                LONG_SECONDS,
            )
        )
        self._job_seconds = _Children(
            histogram(
                "fallthrough_worker_job_seconds",
                "Time from a job's creation to its end; lines of batches are not in it.",
                LONG_SECONDS,
            )
        )
        for tier in (*tiers, "cache", "degraded"):  # so that a panel shows every tier
            for metric in (self._jobs, self._lines):
                _ = metric[tier, "succeeded"]
        self._streams = _StreamMetrics(registry, tiers)
        self._message_jobs = message_sizes(registry)
        self._loop_deaths = loop_deaths(registry, LOOPS)
        self._sweeps = counter("fallthrough_worker_sweeps", "Sweeps done here.")
        self._swept = _Children(
            counter(
                "fallthrough_worker_swept",
                "Jobs and units that a sweep here dispatched again; reason lease: it ran out.",
                ["reason"],
            )
        )
        for reason in SWEPT:
            _ = self._swept[reason,]
        dropped = counter(
            "fallthrough_worker_messages_dropped", "Entries of the broker that were no task."
        )
        self._dropped = lambda **_: dropped.inc()  # Celery keeps no reference
        for signal in (task_rejected, task_unknown):
            signal.connect(self._dropped)
        self._breakers = _BreakerMetrics(registry)
        self._untold: dict[str, int] = {}
        self._reports: dict[str, TierReport] = {}

    def loop_died(self, name: str) -> None:
        """Count the death of a background loop."""
        self._loop_deaths.labels(name).inc()

    def watch(
        self, leases: Leases, slots: Mapping[str, Iterable[Slots]], pulse: Pulse, pause: Pause
    ) -> None:
        """Export what these hold, as it is when it is asked for. slots: by tier."""
        gauge = partial(Gauge, registry=self.registry)
        gauge("fallthrough_worker_in_hand", "Jobs and units whose lease is held.").set_function(
            lambda: len(leases)
        )
        calls = gauge("fallthrough_worker_calls", "Calls to a tier in flight.", ["tier"])
        for tier, kinds in slots.items():
            calls.labels(tier).set_function(partial(_taken, kinds))
        gauge(
            "fallthrough_worker_messages_prefetched", "Messages fetched and not begun."
        ).set_function(
            lambda: len(celery_state.reserved_requests) - len(celery_state.active_requests)
        )
        gauge(
            "fallthrough_worker_consumer_silent_seconds", "Time since the consumer showed life."
        ).set_function(lambda: time.monotonic() - pulse.last_beat)
        gauge(
            "fallthrough_worker_broker_up", "1: it consumes; 0: its broker does not let it in."
        ).set_function(lambda: pulse.connected)
        gauge("fallthrough_worker_paused", "1: leaves batches, as no tier serves.").set_function(
            lambda: pause.paused
        )
        gauge("fallthrough_worker_draining", "1: it was told to stop.").set_function(
            lambda: pulse.draining
        )

    def begun(self, tier: str, waited: float) -> None:
        """Note how long it waited."""
        self._wait_seconds[tier,].observe(waited)

    def tried(
        self, tier: str, verdict: Verdict, took: float, detail: str = "", endpoint: int = 0
    ) -> None:
        """Count a try, and note how long it took if it came to a call."""
        known = next((each for each in DETAILS if each in detail), "") if detail else ""
        self._tries[tier, verdict.value, known].inc()
        unusable = verdict.value if verdict is Verdict.UNFIT else known
        if unusable in UNUSABLE:
            event = unusable_event(tier, unusable)
            self._untold[event] = self._untold.get(event, 0) + 1
        if tier in self._tiers:
            name = breaker_name(tier, endpoint)
            self._reports.setdefault(name, TierReport()).add(verdict, detail)
        if verdict not in NOT_CALLED:
            self._try_seconds[tier,].observe(took)

    def stream_begun(self, tier: str) -> None:
        """Count a stream that is under way."""
        self._streams.begun(tier)

    def stream_ended(self, tier: str, pace: Pace | None) -> None:
        """Count it no more, and note how fast it came."""
        self._streams.ended(tier, pace)

    def stream_cut(self, tier: str) -> None:
        """Count one that broke off."""
        self._streams.cut(tier)

    def take_untold(self) -> dict[str, int]:
        """Return what the fleet's counts lack, event → times, and forget it."""
        untold, self._untold = self._untold, {}
        return untold

    def take_reports(self) -> dict[str, TierReport]:
        """Return what tries showed of their servers, by breaker, since this was asked last."""
        reports, self._reports = self._reports, {}
        return reports

    def finished(self, tier: str, status: str, age: float, tokens: Tokens) -> None:
        """Count a job that ended."""
        self._jobs[tier, status].inc()
        self._job_seconds[tier,].observe(age)
        self._count_tokens(tier, tokens.prompt, tokens.answer)

    def lines_finished(self, results: Iterable[LineResult]) -> None:
        """Count lines that ended."""
        counts: dict[str, list[int]] = {}
        for result in results:
            count = counts.setdefault(result.counted_as, [0, 0, 0])
            count[0] += 1
            count[1] += result.tokens.prompt
            count[2] += result.tokens.answer
        for name, (lines, prompt, answer) in counts.items():
            tier, status = name.split(":")
            self._lines[tier, status].inc(lines)
            self._count_tokens(tier, prompt, answer)

    def _count_tokens(self, tier: str, prompt: int, answer: int) -> None:
        if prompt or answer:
            self._tokens[tier, "prompt"].inc(prompt)
            self._tokens[tier, "completion"].inc(answer)

    def published(self, jobs: int) -> None:
        """Note the size of a message."""
        self._message_jobs.observe(jobs)

    def swept(self, reasons: Iterable[str]) -> None:
        """Count a sweep, and what it found."""
        self._sweeps.inc()
        for reason in reasons:
            self._swept[reason,].inc()

    def know_breakers(self, names: Iterable[str]) -> None:
        """Tell of these breakers from now on, from 0."""
        self._breakers.know(names)

    def breaker_event(self, event: object) -> None:
        """Count what a breaker says."""
        self._breakers.hear(event)


class _StreamMetrics:
    """Answers that come in pieces; names and buckets follow OpenTelemetry's conventions."""

    def __init__(self, registry: CollectorRegistry, tiers: Iterable[str]) -> None:
        histogram = partial(_histogram, registry)
        self._in_flight = _Children(
            Gauge(
                "fallthrough_worker_streams_in_flight",
                "Answers that a tier is asked for, and that come in pieces.",
                ["tier"],
                registry=registry,
            )
        )
        self._cut = _Children(
            Counter(
                "fallthrough_worker_streams_cut",
                "Streams that broke off after their reader had got some of them.",
                ["tier"],
                registry=registry,
            )
        )
        for tier in tiers:
            _ = self._in_flight[tier,], self._cut[tier,]
        self._first = _Children(
            histogram(
                "fallthrough_worker_time_to_first_chunk_seconds",
                "Time from the call of a tier to the first word of its stream.",
                CHUNK_SECONDS,
            )
        )
        self._next = _Children(
            histogram(
                "fallthrough_worker_time_per_output_chunk_seconds",
                "Time between two pieces of a tier's stream that say something.",
                CHUNK_SECONDS,
            )
        )

    def begun(self, tier: str) -> None:
        self._in_flight[tier,].inc()

    def cut(self, tier: str) -> None:
        self._cut[tier,].inc()

    def ended(self, tier: str, pace: Pace | None) -> None:
        self._in_flight[tier,].dec()
        if pace is None:
            return
        self._first[tier,].observe(pace.first)
        note = self._next[tier,].observe
        for pause in pace.pauses:
            note(pause)


class _BreakerMetrics:
    """What the breakers of this process did; their state is the fleet's, and the API's to tell."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(what: str, about: str, *labels: str) -> _Children[Counter]:
            name = f"circuit_breaker_{what}"
            return _Children(Counter(name, about, ["name", *labels], registry=registry))

        self._requests = counter("requests", "Calls that a breaker let through.")
        self._failures = counter("failures", "Calls that failed.")
        self._rejections = counter("rejections", "Calls that a breaker refused.")
        self._transitions = counter("transitions", "Changes of state seen here.", "to")
        self._holds = counter("holds", "Times that a tier was held.", "reason")
        self._late = counter("late_results", "Results of calls that an older state let through.")
        self._alone = counter("store_errors", "Outages of the shared state, seen here.")

    def know(self, names: Iterable[str]) -> None:
        # From 0 on, so that a rate sees the first failure, and a share of none is 0.
        for name in names:
            for metric in (self._requests, self._failures, self._rejections):
                _ = metric[name,]
            for reason in HELD:
                _ = self._holds[name, reason]

    def hear(self, event: object) -> None:
        match event:
            case CallRecorded(name, outcome):
                self._requests[name,].inc()
                if outcome is Outcome.FAILURE:
                    self._failures[name,].inc()
            case CallRejected(name, _):
                self._rejections[name,].inc()
            case StateChanged(name, _, after):
                self._transitions[name, after.value].inc()
            case Held(name, reason, _):
                self._holds[name, reason].inc()
            case LateResult(name):
                self._late[name,].inc()
            case StoreUnavailable(name):
                self._alone[name,].inc()


def _taken(slots: Iterable[Slots]) -> int:
    return sum(kind.taken for kind in slots)


class _Children(dict[tuple[str, ...], M]):
    """A metric's children by their labels: looked up once, as a busy worker counts thousands."""

    def __init__(self, metric: M) -> None:
        super().__init__()
        self._metric = metric

    def __missing__(self, labels: tuple[str, ...]) -> M:
        child: M = self._metric.labels(*labels)
        self[labels] = child
        return child


def _histogram(
    registry: CollectorRegistry, name: str, about: str, buckets: tuple[float, ...]
) -> Any:
    return Histogram(name, about, ["tier"], buckets=buckets, registry=registry)
