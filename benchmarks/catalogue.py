"""What is measured, and its budgets."""

from __future__ import annotations

from functools import partial

from benchmarks import (
    batch,
    breaker,
    curve,
    fairness,
    floods,
    growth,
    interference,
    lone_requests,
    peers,
    recovery,
    size,
    streams,
    takeover,
)
from benchmarks.budgets import Absolute, Multiple, Scaled, Speed, at_least, at_most, near
from benchmarks.runner import Benchmark

# Where the upstream takes 200 ms, it sets the pace: calls at once / 0.2 s.
OF_640 = "0.97 of 640 lines/s, 128 calls of 200 ms"
OF_1280 = "0.9 of 1280 lines/s, 256 calls of 200 ms"
OF_TWO_WORKERS = "1.7 of one worker's 320 lines/s, 64 calls of 200 ms"
MEMORY = "megabytes"
SERVED = "seconds; whoever else floods it, a server serves"
SECONDS = "seconds; a crowd does not set it"
LEASES = "seconds; leases and sweeps set it"
CAPACITY = "lines; its calls at once set it"
TIMERS = "seconds; the breaker's timers and the ramp set it"
AS_IT_COMES = "milliseconds; nobody waits for others' words"
WAIT = "milliseconds; slots that are free set it"
FULL = "0.9 of all lines/s by slots that are not reserved"
FLAT = "megabytes; flat: up to 200 bytes a line"

BENCHMARKS = {
    "batch-0ms": Benchmark(
        partial(batch.measure, 20_000, 0.0, 64),
        (
            at_least("share", Absolute(0.5)),
            at_most("cpu_ms", Multiple(2, "bare_cpu_ms")),
            at_most("round_trips", Absolute(0.2)),
        ),
    ),
    "batch-0ms-2-workers": Benchmark(
        partial(batch.measure, 20_000, 0.0, 32, workers=2),
        (
            at_least("share", Absolute(0.65)),
            at_most("cpu_ms", Multiple(2, "bare_cpu_ms")),
        ),
    ),
    "batch-128": Benchmark(
        partial(batch.measure, 20_000, 0.2, 128),
        (at_least("rate", Absolute(0.97 * 640, OF_640)),),
    ),
    "batch-256": Benchmark(
        partial(batch.measure, 20_000, 0.2, 256),
        (at_least("rate", Absolute(0.9 * 1280, OF_1280)),),
    ),
    "batch-5000": Benchmark(
        partial(batch.measure, 5_000, 0.0, 64),
        (*near(0.15, "rate", "batch-0ms"), *near(0.15, "rate", "batch-50000")),
    ),
    "batch-50000": Benchmark(
        partial(batch.measure, 50_000, 0.0, 64),
        (*near(0.15, "rate", "batch-0ms"), *near(0.15, "rate", "batch-5000")),
    ),
    "batch-2-workers": Benchmark(
        partial(batch.measure, 20_000, 0.2, 64, workers=2),
        (at_least("rate", Absolute(1.7 * 320, OF_TWO_WORKERS)),),
    ),
    "growth": Benchmark(
        growth.measure,
        tuple(at_least(f"linear_{workers}", Absolute(0.9)) for workers in growth.WORKERS[1:]),
    ),
    "lone-jobs": Benchmark(
        lone_requests.lone_jobs,
        (
            at_least("submit_rate", Scaled(1500, Speed.RATE)),
            at_least("submit_share", Absolute(0.35)),
            at_least("chat64_rate", Scaled(600, Speed.RATE)),
            at_most("chat64_p99_ms", Scaled(250, Speed.TIME)),
        ),
    ),
    "end-to-end": Benchmark(
        lone_requests.end_to_end, (at_least("jobs_rate", Scaled(600, Speed.RATE)),)
    ),
    "sync-chat": Benchmark(
        lone_requests.sync_chat,
        (
            at_most("added_p50_ms", Scaled(8, Speed.TIME)),
            at_most("added_p99_ms", Scaled(20, Speed.TIME)),
        ),
    ),
    "curve": Benchmark(
        curve.measure,
        (
            at_most("p50_ms_64", Scaled(93, Speed.TIME)),
            at_most("p99_ms_64", Scaled(240, Speed.TIME)),
            at_most("cpu_ms_64", Scaled(1.6, Speed.TIME)),
            at_most("falls", Absolute(0.15)),
        ),
    ),
    "streams": Benchmark(
        streams.measure,
        (
            at_most("first_p50_ms", Absolute(10, AS_IT_COMES)),
            at_most("first_p99_ms", Absolute(30, AS_IT_COMES)),
            at_least("share", Absolute(0.97)),
        ),
    ),
    "peers": Benchmark(
        peers.measure,
        (
            at_least("fallthrough_lines_rate", Multiple(1, "bullmq_jobs_rate")),
            at_least("fallthrough_jobs_rate", Multiple(1, "celery_chain_jobs_rate")),
            at_least("fallthrough_chat64_rate", Multiple(1, "litellm_chat64_rate")),
        ),
    ),
    "upload": Benchmark(size.upload, (at_most("api_grows_mb", Absolute(64, MEMORY)),)),
    "memory": Benchmark(
        size.batch,
        (
            at_most("worker_grows_mb", Absolute(100, MEMORY)),
            at_most("store_grows_mb", Absolute(64, MEMORY)),
            at_most("worker_after_10000_mb", Absolute(8, FLAT)),
            at_most("store_after_10000_mb", Absolute(8, FLAT)),
        ),
    ),
    "takeover": Benchmark(
        takeover.measure,
        (
            at_most("median_s", Absolute(12, LEASES)),
            at_most("worst_s", Absolute(20, LEASES)),
        ),
    ),
    "floods": Benchmark(
        floods.measure,
        tuple(
            at_most(f"{flood}_{figure}", Absolute(most, reason))
            for flood in floods.FLOODS
            for figure, most, reason in (
                ("peak_mb", 512, MEMORY),
                ("after_mb", 150, MEMORY),
                ("worker_peak_mb", 512, MEMORY),
                ("worker_after_mb", 200, MEMORY),
                ("store_peak_mb", floods.MAXMEMORY_MB, MEMORY),
                ("second_s", 1, SERVED),
            )
        ),
    ),
    "crowd-of-batches": Benchmark(
        fairness.of_batches,
        tuple(
            at_most(figure, Absolute(5, SECONDS))
            for figure in ("just_created_s", "running_s", "ends_s")
        ),
    ),
    "crowd-of-jobs": Benchmark(
        fairness.of_owners,
        tuple(at_most(figure, Absolute(5, SECONDS)) for figure in ("single_s", "list_s", "chat_s")),
    ),
    **{
        name: Benchmark(
            partial(recovery.measure, cpu_seconds),
            (
                at_most("probe_late_s", Absolute(2, TIMERS)),
                at_most("full_rate_s", Absolute(10, TIMERS)),
                at_most("cpu_lines", Absolute(recovery.most_lines(cpu_seconds), CAPACITY)),
            ),
        )
        for name, cpu_seconds in (("recovery", 0.5), ("recovery-slow-cpu", 5.0))
    },
    "breaker": Benchmark(
        breaker.measure,
        (
            at_most("open_us", Absolute(20, "microseconds; no network")),
            at_most("open_commands", Absolute(0)),
            at_most("memory_us", Multiple(1, "memory_pybreaker_us")),
            at_most("memory_us", Multiple(1, "memory_purgatory_us")),
            at_most("memory_async_us", Multiple(1, "memory_async_purgatory_us")),
            at_most("store_commands", Absolute(1)),
            at_most("store_commands", Multiple(1, "store_pybreaker_commands")),
            at_most("store_commands", Multiple(1, "store_purgatory_commands")),
            at_least("store_rate", Multiple(1, "store_pybreaker_rate")),
            at_least("store_rate", Multiple(1, "store_purgatory_rate")),
        ),
    ),
    **{
        name: Benchmark(
            partial(interference.measure, workers, settings),
            (
                at_most("added_p95_ms", Absolute(20, WAIT)),
                at_most("x", Absolute(1.3)),
                at_least("lines_rate", Absolute(0.9 * interference.lines_rate(reserved), FULL)),
            ),
        )
        for name, workers, settings, reserved in (
            ("interference", 1, interference.of_each_worker(1), 4),
            ("interference-2-workers", 2, interference.of_each_worker(2), 8),
            ("interference-limit", 2, interference.OF_THE_FLEET, 4),
        )
    },
    "fairness": Benchmark(fairness.measure, (at_most("x", Absolute(2)),)),
}
