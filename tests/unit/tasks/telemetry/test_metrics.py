"""What more than one kind of process exports, and who hears of what happens."""

from __future__ import annotations

import inspect

import pytest
from prometheus_client import CollectorRegistry

from api.metrics import ApiMetrics
from fallback_chain import Pace, Verdict
from tasks.telemetry.metrics import (
    CHUNK_SECONDS,
    LONG_SECONDS,
    SECONDS,
    message_sizes,
    process_metrics,
)
from tasks.telemetry.observer import Observer
from workers.metrics import WorkerMetrics


def _registry(metrics):
    return metrics.told if isinstance(metrics, ApiMetrics) else metrics.registry


@pytest.fixture
def registry():
    return CollectorRegistry()


def test_a_process_tells_what_it_uses(registry):
    process_metrics(registry)
    assert registry.get_sample_value("process_cpu_seconds_total") > 0
    assert registry.get_sample_value("process_resident_memory_bytes") > 0


def test_the_sizes_of_messages_are_counted_up_to_a_whole_slice(registry):
    sizes = message_sizes(registry)
    for size in (1, 3, 32):
        sizes.observe(size)
    name = "fallthrough_message_jobs"
    buckets = {
        bound: registry.get_sample_value(f"{name}_bucket", {"le": bound})
        for bound in ("1.0", "4.0", "16.0", "32.0", "+Inf")
    }
    assert buckets == {"1.0": 1, "4.0": 2, "16.0": 2, "32.0": 3, "+Inf": 3}


def worker_metrics():
    return WorkerMetrics(("gpu", "cpu"))


@pytest.mark.parametrize(("metrics", "loop"), [(ApiMetrics, "finishes"), (worker_metrics, "pause")])
def test_a_loop_that_never_died_is_at_0_so_that_its_first_death_is_a_rise(metrics, loop):
    known = _registry(metrics()).get_sample_value("fallthrough_loop_deaths_total", {"loop": loop})
    assert known == 0


@pytest.mark.parametrize("metrics", [ApiMetrics, worker_metrics])
def test_the_deaths_of_loops_are_counted_by_their_names(metrics):
    counted = metrics()
    for name in ("sweeper", "leases", "sweeper"):
        counted.loop_died(name)
    deaths = "fallthrough_loop_deaths_total"
    assert _registry(counted).get_sample_value(deaths, {"loop": "sweeper"}) == 2
    assert _registry(counted).get_sample_value(deaths, {"loop": "leases"}) == 1


def test_buckets_rise_and_the_long_ones_go_on_from_the_short():
    assert sorted(LONG_SECONDS) == list(LONG_SECONDS)
    assert LONG_SECONDS[: len(SECONDS)] == SECONDS


METHODS = [name for name, _ in inspect.getmembers(Observer, inspect.isfunction)]


@pytest.mark.parametrize("name", METHODS)
def test_where_nobody_listens_nothing_is_heard(name):
    hear = getattr(Observer(), name)
    arguments = [None] * len(inspect.signature(hear).parameters)
    assert hear(*arguments) is None


@pytest.mark.parametrize(
    ("verdict", "detail", "told"),
    [
        (Verdict.FAILURE, "interrupted", "interrupted"),
        (Verdict.FAILURE, "unshowable", "unshowable"),
        (Verdict.FAILURE, "HTTP 500", ""),
        (Verdict.UNFIT, "HTTP 400 not supported", "not supported"),
        (Verdict.UNFIT, "lacks tools, n", "lacks"),
        (Verdict.UNFIT, "misfit schema", "misfit"),
        (Verdict.ANSWERED, "misfit json", "misfit"),
        (Verdict.ANSWERED, "", ""),
    ],
)
def test_tries_are_counted_by_what_their_replies_were_like(verdict, detail, told):
    metrics = worker_metrics()
    metrics.tried("gpu", verdict, 0.1, detail)
    labels = {"tier": "gpu", "verdict": verdict.value, "detail": told}
    value = _registry(metrics).get_sample_value
    assert value("fallthrough_worker_tries_total", labels) == 1


@pytest.mark.parametrize(
    ("verdict", "detail", "event"),
    [
        (Verdict.FAILURE, "interrupted", "unusable:gpu:interrupted"),
        (Verdict.FAILURE, "unshowable", "unusable:gpu:unshowable"),
        (Verdict.UNFIT, "misfit schema", "unusable:gpu:unfit"),
        (Verdict.UNFIT, "", "unusable:gpu:unfit"),
        (Verdict.FAILURE, "HTTP 500", None),
        (Verdict.ANSWERED, "misfit json", None),
    ],
)
def test_what_nobody_was_shown_is_told_to_the_fleet_once(verdict, detail, event):
    metrics = worker_metrics()
    for _ in range(2):
        metrics.tried("gpu", verdict, 0.1, detail)
    assert metrics.take_untold() == ({event: 2} if event else {})
    assert metrics.take_untold() == {}


def test_the_buckets_of_a_streams_pieces_are_those_of_the_conventions():
    assert CHUNK_SECONDS[:3] == (0.01, 0.02, 0.04)
    assert CHUNK_SECONDS[-1] == 81.92


def test_a_stream_is_in_flight_until_it_ends_and_its_pieces_are_timed():
    metrics = worker_metrics()
    name = "fallthrough_worker"

    def value(what, **labels):
        return _registry(metrics).get_sample_value(f"{name}_{what}", {"tier": "gpu", **labels})

    assert (value("streams_in_flight"), value("streams_cut_total")) == (0, 0)
    for _ in range(3):
        metrics.stream_begun("gpu")
    assert value("streams_in_flight") == 3
    metrics.stream_ended("gpu", Pace(0.3, [0.015, 0.015, 5.0]))
    metrics.stream_ended("gpu", None)
    metrics.stream_cut("gpu")
    assert (value("streams_in_flight"), value("streams_cut_total")) == (1, 1)
    first, between = "time_to_first_chunk_seconds", "time_per_output_chunk_seconds"
    assert [value(f"{first}_{what}") for what in ("count", "sum")] == [1, 0.3]
    assert value(f"{first}_bucket", le="0.16") == 0
    assert value(f"{first}_bucket", le="0.32") == 1
    assert value(f"{between}_bucket", le="0.02") == 2
    assert value(f"{between}_count") == 3
