"""The job store: the truth about every job, one Redis hash each, every transition one script.

The keys are documented in lua/_prelude.lua. Every method raises StoreUnavailable when Redis
does not answer in time, and changes nothing that it does not say.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import msgspec
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from tasks.errors import StoreUnavailable, StoreUnfit
from tasks.group_commit import Flights
from tasks.records.jobs import BegunJob, JobRecord, Options, Queue, Status, Submission
from tasks.store.autopipeline import Coalescer
from tasks.store.connection import PREFIX, scripts, translated
from tasks.store.fleet import Gauges

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

    from redis.asyncio import Redis

    from tasks.settings import Settings

MEMORY_CEILING = 0.8  # share of maxmemory above which no new job is admitted
ONCE_SECONDS = 15 * 60  # how long a repeated create finds what the first one made
LARGEST_CREATE = 64  # lone jobs that one script records
SWEEP_LIMIT = 1000  # jobs that one sweep moves, of each kind
GAUGE_LOOK = 2000  # records of each kind that one look at the queues reads
LATENCY_MINUTES = 15  # the window of the latency percentiles

_encode = msgspec.json.encode
_options = msgspec.json.Decoder(Options)


class JobStore:
    """All that is ever done to a job; belongs to one event loop."""

    def __init__(self, redis: Redis, settings: Settings, *, prefix: str = PREFIX) -> None:
        # redis-py types every reply as whatever any of its modes may give; ours are bytes.
        self.redis: Any = redis
        self.scripts = Coalescer(redis)
        self._creates: Flights[list[Any], float] = Flights(self._create_together, LARGEST_CREATE)
        self.prefix = prefix
        self._lua = scripts()
        self._lease_ms = int(settings.lease_seconds * 1000)
        self._grace_ms = int(settings.dispatch_grace_seconds * 1000)
        self._ttl_ms = settings.result_ttl_seconds * 1000
        self._sweep_ms = int(settings.sweep_seconds * 1000)

    async def run(self, name: str, *args: Any) -> Any:
        """Run one of lua/*.lua; what arrives while others are in flight travels together."""
        async with translated():
            return await self.scripts.run(self._lua[name], (), (self.prefix, *args))

    async def check(self) -> None:
        """Raise StoreUnfit unless this server can keep jobs: version, eviction policy."""
        try:
            async with translated():
                server: Mapping[str, Any] = await self.redis.info()
        except StoreUnavailable as error:
            if isinstance(error.__cause__, ResponseError | AuthenticationError):
                said = str(error.__cause__).partition(".")[0]
                message = f"the store refuses us: {said}"
                raise StoreUnfit(message) from error
            raise
        version = str(server.get("valkey_version") or server.get("redis_version", "0"))
        numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
        if numbers < (7, 2):
            message = f"the store is version {version}; Redis 7.2 or Valkey is needed"
            raise StoreUnfit(message)
        policy = server.get("maxmemory_policy", "noeviction")
        if int(server.get("maxmemory", 0)) and policy != "noeviction":
            message = (
                f"the store's maxmemory-policy is {policy}: it would drop jobs; set noeviction"
            )
            raise StoreUnfit(message)

    async def has_room(self) -> bool:
        """Whether new jobs may be admitted: below 80 % of maxmemory."""
        async with translated():
            memory: Mapping[str, Any] = await self.redis.info("memory")
        ceiling = int(memory.get("maxmemory", 0)) * MEMORY_CEILING
        return not ceiling or int(memory["used_memory"]) < ceiling

    # Transitions

    async def create(
        self, jobs: Sequence[Submission], first_tier: str, once: Sequence[str] = ()
    ) -> tuple[float, list[str] | None]:
        """Record new jobs as dispatched to first_tier, attempt 0.

        Returns the time (epoch s), and the ids that an earlier create with one of the `once`
        keys made: then nothing was recorded now.
        """
        fields: list[Any] = []
        for job in jobs:
            fields += (
                *(job.id, job.owner, job.queue.value, first_tier),
                *(int(job.deadline_seconds * 1000), _encode(job.body), _encode(job.options)),
                *(str(job.body.get("model") or ""), _encode(job.metadata)),
            )
        if not once and len(jobs) == 1:
            return await self._creates.join(fields), None
        now, made = await self._create(once, fields)
        return now, made.decode().split() if made else None

    async def _create_together(self, creates: list[list[Any]]) -> list[float]:
        now, _ = await self._create((), [field for fields in creates for field in fields])
        return [now] * len(creates)

    async def _create(self, once: Sequence[str], fields: Sequence[Any]) -> tuple[float, bytes]:
        head = (self._grace_ms, self._ttl_ms, ONCE_SECONDS * 1000, len(once), *once)
        now, made = await self.run("create", *head, *fields)
        return int(now) / 1000, made

    async def discard(self, owner: str, ids: Iterable[str], once: Sequence[str] = ()) -> int:
        """Take back jobs that no message was published for; return how many had begun."""
        return int(await self.run("discard", owner, len(once), *once, *ids))

    async def begin(
        self, lease_owner: str, tier: str, pairs: Sequence[tuple[str, int]]
    ) -> list[BegunJob]:
        """Lease those of the (id, attempt) pairs that are still to be answered at tier."""
        flat = [item for pair in pairs for item in pair]
        answers = await self.run("begin", lease_owner, self._lease_ms, tier, *flat)
        now = time.monotonic()
        return [
            _begun(pair, answer, lease_owner, tier, now)
            for pair, answer in zip(pairs, answers, strict=True)
            if answer
        ]

    async def renew(self, leases: Iterable[tuple[str, str]]) -> list[str]:
        """Renew (id, lease owner) leases; return the ids that are no longer the asker's."""
        flat = [item for lease in leases for item in lease]
        return [i.decode() for i in await self.run("renew", self._lease_ms, *flat)]

    async def move(  # noqa: PLR0913 - one transition, each argument part of its comparison
        self,
        jobs: Sequence[BegunJob],
        to_tier: str,
        token: str,
        *,
        attempts: Sequence[Sequence[Mapping[str, Any]]],
        failures: Sequence[int],
        due_seconds: float | None = None,
    ) -> list[tuple[str, int]]:
        """Hand jobs of one lease and tier on; return (id, new attempt) of those still ours.

        to_tier "" is each job's first. due_seconds parks them instead of dispatching. The
        same token may be sent again when the answer was lost.
        """
        due = -1 if due_seconds is None else int(due_seconds * 1000)
        head = jobs[0]
        flat: list[Any] = []
        for job, tries, failed in zip(jobs, attempts, failures, strict=True):
            flat += (job.id, job.attempt, _encode(tries), failed)
        answers = await self.run(
            "move", head.lease_owner, head.tier, to_tier, self._grace_ms, due, token, *flat
        )
        return [(j.id, int(a)) for j, a in zip(jobs, answers, strict=True) if int(a) >= 0]

    async def finish(self, job: BegunJob, status: Status, fields: Mapping[str, Any]) -> bool:
        """End a job; False if it had ended, or moved on, before: the first finish wins."""
        flat = [item for field in fields.items() for item in field]
        tier_used = str(fields.get("tier_used", ""))
        won = await self.run(
            "finish", job.id, job.tier, job.attempt, status.value, tier_used, *flat
        )
        return bool(won)

    async def cancel(self, job_id: str, owner: str) -> bool:
        """Cancel a job if it is unfinished; False if this owner has no such job."""
        return bool(await self.run("cancel", job_id, owner))

    async def sweep(
        self, who: str, empty: Mapping[str, bool]
    ) -> list[tuple[str, int, str, str, str]] | None:
        """Find what was lost; None if another sweeper is at it.

        empty: for each queue, whether the broker holds none of its messages. Returns
        (id, attempt, tier, queue, reason) of the jobs that must be published again.
        """
        flat = [item for queue, none in empty.items() for item in (queue, int(none))]
        found = await self.run("sweep", who, self._sweep_ms, self._grace_ms, SWEEP_LIMIT, *flat)
        if found is None:
            return None
        return [(i.decode(), int(a), t.decode(), q.decode(), r.decode()) for i, a, t, q, r in found]

    async def permits(self, tier: str, limit: int, action: str, tokens: Sequence[str]) -> bool:
        """Take, give back or renew leased places at a tier; for "take", whether it was given."""
        return bool(await self.run("permits", tier, limit, self._lease_ms, action, *tokens))

    async def stay(self, lease_ms: int, places: Iterable[tuple[str, str]]) -> None:
        """Say that requests, admitted as these (owner, token), still run."""
        await self.run("stay", lease_ms, *(item for place in places for item in place))

    async def leave(self, owner: str, token: str) -> None:
        """Say that a request, admitted with this token, has ended; a lost word ends by itself."""
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            await self.scripts.command("ZREM", f"{self.prefix}running:{owner}", token)

    # Reading

    async def get(self, job_id: str, owner: str) -> JobRecord | None:
        """Return the owner's job, or None: unknown, expired from the store, or another's."""
        async with translated():
            fields = await self.scripts.command("HGETALL", f"{self.prefix}job:{job_id}")
        record = _record(fields) if fields else None
        return record if record and record.owner == owner else None

    async def list_jobs(
        self, owner: str, limit: int, after: str | None
    ) -> tuple[list[JobRecord], bool]:
        """Return up to limit of the owner's jobs, newest first, after that id; and if more are."""
        found, more = await self.page(f"owner:{owner}", "job:", limit, after)
        return [_record(fields) for fields in found], more

    async def page(
        self,
        index: str,
        record: str,
        limit: int,
        after: str | None,
        *,
        oldest_first: bool = False,
    ) -> tuple[list[dict[bytes, bytes]], bool]:
        """Return up to limit hashes that a zset lists, newest first; and whether more are."""
        key = f"{self.prefix}{index}"
        rank_of = self.redis.zrank if oldest_first else self.redis.zrevrank
        range_of = self.redis.zrange if oldest_first else self.redis.zrevrange
        async with translated():
            start = 0
            if after is not None:
                rank = await rank_of(key, after)
                if rank is None:
                    return [], False
                start = int(rank) + 1
            records: list[dict[bytes, bytes]] = []
            while len(records) <= limit:
                ids = await range_of(key, start, start + limit)
                if not ids:
                    break
                found = await self._fetch(record, ids)
                gone = [i for i, fields in zip(ids, found, strict=True) if not fields]
                if gone:  # what is past its TTL leaves the index when somebody looks
                    await self.redis.zrem(key, *gone)
                start += len(ids) - len(gone)
                records += [fields for fields in found if fields]
        return records[:limit], len(records) > limit

    async def _fetch(self, record: str, ids: Sequence[bytes]) -> list[dict[bytes, bytes]]:
        pipeline = self.redis.pipeline(transaction=False)
        for name in ids:
            pipeline.hgetall(f"{self.prefix}{record}{name.decode()}")
        return list(await pipeline.execute())

    async def counts(self) -> dict[str, dict[str, int]]:
        """Return how many jobs finished since the store began: tier → status → count."""
        async with translated():
            raw = await self.redis.hgetall(f"{self.prefix}stats")
        counts: dict[str, dict[str, int]] = {}
        for field, number in raw.items():
            tier, _, status = field.decode().partition(":")
            counts.setdefault(tier, {})[status] = int(number)
        return counts

    async def latencies(self) -> dict[int, int]:
        """Return finished jobs of the last minutes by latency bucket: up to 1.1 ** b ms."""
        async with translated():
            seconds, _ = await self.redis.time()
            pipeline = self.redis.pipeline(transaction=False)
            for minute in range(LATENCY_MINUTES):
                pipeline.hgetall(f"{self.prefix}latency:{int(seconds) // 60 - minute}")
            total: dict[int, int] = {}
            for part in await pipeline.execute():
                for bucket, number in part.items():
                    total[int(bucket)] = total.get(int(bucket), 0) + int(number)
        return total

    async def here(self, worker: str, seconds: float) -> None:
        """Say that a worker is there, and will be for so long unless it says so again."""
        async with translated():
            until = (time.time() + seconds) * 1000
            await self.scripts.command("ZADD", f"{self.prefix}workers", until, worker)

    async def gauges(self) -> Gauges:
        """Return what is unfinished now, and the workers that are there."""
        queues = [queue.value for queue in Queue]
        parked, workers, *rest = (int(n) for n in await self.run("gauges", GAUGE_LOOK, *queues))
        waiting, running, oldest = (dict(zip(queues, rest[i::3], strict=True)) for i in range(3))
        ages = {queue: ms / 1000 for queue, ms in oldest.items()}
        return Gauges(parked, workers, waiting, running, ages)

    async def count(self, what: str) -> None:
        """Count something of which the fleet's total must outlive the process; may be lost."""
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            await self.scripts.command("HINCRBY", f"{self.prefix}events", what, 1)

    async def event_counts(self) -> dict[str, int]:
        """Return what was counted so."""
        async with translated():
            raw = await self.scripts.command("HGETALL", f"{self.prefix}events")
        return {name.decode(): int(number) for name, number in raw.items()}

    async def events(self, *kinds: str) -> AsyncIterator[tuple[str, str] | None]:
        """Yield (kind, job id) of "finished" and "cancelled"; None first, once subscribed.

        Ends with StoreUnavailable when the connection is lost: what happened meanwhile is
        not told, so the listener looks at its records when it comes back (the next None).
        """
        async with translated(), self.redis.pubsub() as pubsub:
            await pubsub.subscribe(*(f"{self.prefix}{kind}" for kind in kinds))
            yield None
            while True:
                message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=5)
                if message:
                    kind = message["channel"].decode().removeprefix(self.prefix)
                    yield kind, message["data"].decode()

    async def ping(self) -> None:
        """Raise StoreUnavailable unless the store answers."""
        async with translated():
            await self.redis.ping()

    async def close(self) -> None:
        """Close the connections."""
        await self.redis.aclose()


def _begun(
    pair: tuple[str, int], answer: Sequence[Any], lease_owner: str, tier: str, now: float
) -> BegunJob:
    body, owner, queue, left_ms, options, attempts, failures, first_tier, waited, age = answer
    return BegunJob(
        id=pair[0],
        attempt=pair[1],
        lease_owner=lease_owner,
        tier=tier,
        body=msgspec.json.decode(body),
        owner=owner.decode(),
        queue=Queue(queue.decode()),
        deadline=now + int(left_ms) / 1000,
        options=_options.decode(options),
        attempts=tuple(msgspec.json.decode(attempts)),
        failures=int(failures),
        first_tier=first_tier.decode(),
        waited=int(waited) / 1000,
        created=now - int(age) / 1000,
    )


def _record(fields: Mapping[bytes, bytes]) -> JobRecord:
    def text(name: str) -> str | None:
        value = fields.get(name.encode())
        return value.decode() if value else None

    def seconds(name: str) -> float | None:
        value = fields.get(name.encode())
        return int(value) / 1000 if value else None

    error = fields.get(b"error")
    answer = fields.get(b"answer")
    age, error_status = text("cache_age_seconds"), text("error_status")
    return JobRecord(
        id=text("id") or "",
        owner=text("owner") or "",
        status=Status(text("status") or "queued"),
        queue=text("queue") or "",
        tier=text("tier") or "",
        attempt=int(text("attempt") or 0),
        created_at=seconds("created_ms") or 0.0,
        deadline_at=seconds("deadline_ms") or 0.0,
        started_at=seconds("started_ms"),
        finished_at=seconds("finished_ms"),
        model=text("answer_model") or text("model"),
        tier_used=text("tier_used"),
        attempts=msgspec.json.decode(fields.get(b"attempts", b"[]")),
        answer=msgspec.Raw(answer) if answer else None,
        error=msgspec.json.decode(error) if error else None,
        error_status=int(error_status) if error_status else None,
        cache_age_seconds=float(age) if age else None,
        metadata=msgspec.json.decode(fields.get(b"metadata", b"{}")),
    )
