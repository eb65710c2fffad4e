"""Metrics that more than one kind of process exports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import choose_encoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client import CollectorRegistry

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
# What a tier gave, or would have given, and nobody was shown; the fleet's counts have it by tier.
UNUSABLE = ("interrupted", "unshowable", "unfit")
LONG_SECONDS = (*SECONDS, 300, 900, 3600, 14_400, 86_400)
# Of the times of a stream's pieces, as OpenTelemetry's conventions for generative AI have them.
CHUNK_SECONDS = tuple(0.01 * 2**doubled for doubled in range(14))
VERSIONS = frozenset({"0.0.1", "0.0.4", "1.0.0"})  # of the texts that Prometheus reads


def unusable_event(tier: str, what: str) -> str:
    """Return the name under which the store counts it. what: one of UNUSABLE."""
    return f"unusable:{tier}:{what}"


def process_metrics(registry: CollectorRegistry) -> None:
    """Export the process's CPU, memory and open files."""
    disable_created_metrics()  # type: ignore[no-untyped-call]  # a series for each series, that says when it began
    ProcessCollector(registry=registry)


def encoder_for(accept: str) -> tuple[Callable[[CollectorRegistry], bytes], str]:
    """Return what writes metrics as an Accept header asks, and the content type of that.

    A version that there is none of is passed over: the client's library would fail at it, or name
    it as its own.
    """
    ranges = (each for each in accept.split(",") if _version(each) in VERSIONS | {""})
    return choose_encoder(",".join(ranges))


def _version(media_range: str) -> str:
    parameters = (each.strip().partition("=") for each in media_range.split(";")[1:])
    return next((value for name, _, value in parameters if name == "version"), "")


def message_sizes(registry: CollectorRegistry) -> Histogram:
    """Return the sizes of the messages that a publisher sends: its group commits."""
    return Histogram(
        "fallthrough_message_jobs",
        "Jobs or units that a message to the broker carried.",
        buckets=(1, 2, 4, 8, 16, 32),
        registry=registry,
    )


def loop_deaths(registry: CollectorRegistry, loops: Iterable[str]) -> Counter:
    """Return the deaths of background loops, by the loop's name: from 0 on, so that they rise."""
    deaths = Counter(
        "fallthrough_loop_deaths",
        "Times that a background loop died, and was started again.",
        ["loop"],
        registry=registry,
    )
    for loop in loops:
        deaths.labels(loop)
    return deaths
