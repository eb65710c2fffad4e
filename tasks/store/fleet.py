"""What the whole fleet has in hand, who is there, and how long jobs took."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from tasks.errors import StoreUnavailable
from tasks.records.files import FILE_SECONDS
from tasks.records.jobs import Queue
from tasks.store import keyspace
from tasks.store.connection import GONE_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tasks.settings import Settings
    from tasks.store.connection import Connection

GAUGE_LOOK = 2000  # records of each kind that one look at the queues reads
PRUNE_SECONDS, PRUNE_LOOK = 60, 500  # between two looks at an owner's lists; entries of each
MOST_OWNERS = 20  # whose lists one sweep looks at
LATENCY_MINUTES = 15  # the window of the latency percentiles


class Work(NamedTuple):
    """How many are unfinished, by what they do. parked: no tier could answer them."""

    running: int
    waiting: int
    parked: int

    @classmethod
    def of(cls, unfinished: int, running: int, parked: int) -> Work:
        """Return it with what is left as waiting. Of long indexes the others are estimates."""
        running = min(running, unfinished)
        parked = min(parked, unfinished - running)
        return cls(running, unfinished - running - parked, parked)


class Gauges(msgspec.Struct, frozen=True):
    """What the fleet has in hand. By kind of queue: a unit of a batch counts as one; seconds.

    jobs: lone ones; lines: of open batches that are validated, without an answer. streams: of
    these jobs, those whose answer is being told.
    """

    parked: int
    workers: int
    streams: int
    jobs: Work
    lines: Work
    waiting: dict[str, int]
    running: dict[str, int]
    oldest: dict[str, float]  # since its dispatch; 0: nothing waits
    limits: dict[str, float] = {}  # of calls at once, by tier; of those whose limit adapts


class FleetStore:
    """What no single process can count."""

    def __init__(self, connection: Connection, settings: Settings) -> None:
        self._connection = connection
        self._tiers = tuple(settings.model_tiers)
        self._lists = (
            *("owner:", "job:", settings.result_ttl_seconds * 1000),
            *("batches:", "batch:", FILE_SECONDS * 1000),
        )

    async def heartbeat(self, worker: str, seconds: float) -> None:
        """Say that a worker is there, and will be for so long unless it says so again."""
        until = (self._connection.now() + seconds) * 1000
        await self._connection.command("ZADD", keyspace.WORKERS, until, worker)

    async def gauges(self) -> Gauges:
        """Return what is unfinished now, and the workers that are there."""
        queues = [queue.value for queue in Queue]
        told = await self._connection.run(
            "measure_queues", [keyspace.WORKERS, *keyspace.INDEXES], GAUGE_LOOK, *queues
        )
        parked, workers, streams, *rest = map(int, told)
        jobs, lines, rest = Work.of(*rest[:3]), Work.of(*rest[3:6]), rest[6:]
        gauges = Gauges(parked, workers, streams, jobs, lines, {}, {}, {}, await self._limits())
        measured = zip(rest[::3], rest[1::3], rest[2::3], strict=True)
        for queue, (waiting, running, ms) in zip(Queue, measured, strict=True):
            kind = queue.kind.value
            gauges.waiting[kind] = gauges.waiting.get(kind, 0) + waiting
            gauges.running[kind] = gauges.running.get(kind, 0) + running
            gauges.oldest[kind] = max(gauges.oldest.get(kind, 0.0), ms / 1000)
        return gauges

    async def _limits(self) -> dict[str, float]:
        known = await self._connection.commands(
            ("HGET", keyspace.limit(tier), "limit") for tier in self._tiers
        )
        return {tier: float(limit) for tier, limit in zip(self._tiers, known, strict=True) if limit}

    async def counts(self) -> dict[str, dict[str, int]]:
        """Return how many jobs finished since the store began: tier → status → count."""
        raw = await self._connection.command("HGETALL", keyspace.STATS)
        counts: dict[str, dict[str, int]] = {}
        for field, number in raw.items():
            tier, _, status = field.decode().partition(":")
            counts.setdefault(tier, {})[status] = int(number)
        return counts

    async def latencies(self) -> dict[int, int]:
        """Return finished jobs of the last minutes by latency bucket: up to 1.1 ** b ms."""
        return await self._times(keyspace.latency)

    async def first_words(self) -> dict[int, int]:
        """Return streams by the time until their first word, as latencies()."""
        return await self._times(keyspace.first_words)

    async def _times(self, key: Callable[[int], str]) -> dict[int, int]:
        minute = int(await self._connection.server_time()) // 60
        minutes = range(minute, minute - LATENCY_MINUTES, -1)
        total: dict[int, int] = {}
        for part in await self._connection.commands(("HGETALL", key(number)) for number in minutes):
            for bucket, number in part.items():
                total[int(bucket)] = total.get(int(bucket), 0) + int(number)
        return total

    async def count(self, events: Mapping[str, int]) -> None:
        """Count things of which the fleet's total must outlive the process; may be lost."""
        with contextlib.suppress(StoreUnavailable):
            await self._connection.commands(
                ("HINCRBY", keyspace.EVENTS, event, times) for event, times in events.items()
            )

    async def prune_lists(self) -> int:
        """Take what is past its TTL out of the lists of their owners; return how much was.

        A list that its owner never looks at would grow for ever.
        """
        pruned = 0
        for _ in range(MOST_OWNERS):
            gone = await self._connection.run(
                "prune_lists",
                [keyspace.OWNERS, keyspace.QUEUED_BYTES],
                *(PRUNE_SECONDS * 1000, PRUNE_LOOK, GONE_MS, *self._lists),
            )
            if int(gone) < 0:
                break
            pruned += int(gone)
        return pruned

    async def event_counts(self) -> dict[str, int]:
        """Return what was counted so."""
        raw = await self._connection.command("HGETALL", keyspace.EVENTS)
        return {name.decode(): int(number) for name, number in raw.items()}


def bucket_of(milliseconds: float) -> int:
    """Return the bucket of a time: the first whose end, 1.1 ** b ms, is not before it."""
    return math.ceil(math.log(max(milliseconds, 1.0)) / math.log(1.1))


def bucket_text(milliseconds: float | None) -> str:
    """Return a time's bucket as the scripts take it; "" for none."""
    return "" if milliseconds is None else str(bucket_of(milliseconds))


def percentile(times: Mapping[int, int], share: float) -> float | None:
    """Return the ms that so large a share of times by bucket is under; None without any."""
    total = sum(times.values())
    rank = math.ceil(total * share)
    for bucket in sorted(times):
        rank -= times[bucket]
        if rank <= 0 < total:
            return float(round(1.1**bucket, 1))
    return None
