"""The truth about every job: one Redis hash each, every transition one script.

records/jobs.TRANSITIONS is the table of them; lua/_keys.lua documents the keys. Every method raises
StoreUnavailable when Redis does not answer in time, and changes nothing that it does not say.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from fallback_chain import Attempt, Body
from tasks.errors import StreamLost
from tasks.group_commit import GroupCommit
from tasks.json_faults import UNREADABLE
from tasks.records.idempotency import CLAIM_SECONDS, LEFT_SECONDS
from tasks.records.jobs import (
    BegunJob,
    Dispatch,
    JobRecord,
    Options,
    Queue,
    Ref,
    Status,
    Submission,
    Swept,
)
from tasks.records.losses import ALONE, SUSPICIOUS, lost
from tasks.records.order import first_of
from tasks.records.outcomes import timed
from tasks.store import keyspace
from tasks.store.fields import Fields
from tasks.store.fleet import bucket_text
from tasks.store.limits import QueueLimits
from tasks.store.search import find

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tasks.records.batches import Unit
    from tasks.records.idempotency import IdempotencyKey
    from tasks.records.order import Order
    from tasks.records.outcomes import Finish, HandOn, Park
    from tasks.records.streams import Addition
    from tasks.settings import Settings
    from tasks.store.connection import Connection
    from tasks.store.search import Search

LARGEST_TOLD = 16_384  # bytes of an answer that its waiter is told; a larger one is read
LARGEST_LISTED = 32_768  # bytes of an answer that a list has
LARGEST_CREATE = 64  # lone jobs that one script records
LONGEST_LOOK_MS = 30_000  # until what is dispatched or parked is looked at again, at most
NULL = msgspec.Raw(b"null")
SMALL_BODY = 65_536  # bytes that every job of a slice may hold, as long as the slice runs
SWEEP_LIMIT = 1000  # jobs that one sweep moves, of each kind


class _Told(msgspec.Struct, array_like=True, kw_only=True):
    """Of the record of a job that has ended, what its waiter is told."""

    id: str
    owner: str
    status: Status
    tier_used: str | None
    attempts: Any
    answer: msgspec.Raw  # NULL: none
    error: dict[str, Any] | None
    error_status: int | None
    cache_age_seconds: float | None


_encode = msgspec.json.encode
_options = msgspec.json.Decoder(Options)
_told = msgspec.json.Decoder(_Told)
_attempts = msgspec.json.Decoder(tuple[Attempt, ...])
# The attempt of whoever lost a job, for the script that finds it: "%s" is its tier.
_LOST, _LOST_ALONE = _encode(lost("%s")), _encode(lost("%s", ALONE))


class Letter(Protocol):
    """The message of a new job, which its record may bring with it into the broker's queue."""

    queue: str  # where it lies by now; "": nowhere

    def around(self) -> tuple[str, str]:
        """Return its text, before and behind the name of the queue."""


class _Create(NamedTuple):
    job: Submission
    tier: str
    letter: Letter | None = None

    @property
    def fields(self) -> tuple[Any, ...]:
        job = self.job
        return (
            *(job.id, job.owner, job.queue.value, self.tier),
            *(int(job.deadline_seconds * 1000), job.body.content, _encode(job.options)),
            *(job.body.model, _encode(job.metadata)),
        )


class JobStore:
    """All that is ever done to a job."""

    def __init__(self, connection: Connection, settings: Settings) -> None:
        self._connection = connection
        self._creates: GroupCommit[_Create, tuple[float, str]] = GroupCommit(
            self._create_together, LARGEST_CREATE
        )
        self._lease_ms = int(settings.lease_seconds * 1000)
        self._grace_ms = int(settings.dispatch_grace_seconds * 1000)
        self._ttl_ms = settings.result_ttl_seconds * 1000
        self._kept_bytes = settings.kept_request_bytes
        self._stream_ttl_ms = settings.stream_ttl_seconds * 1000
        self._sweep_ms = int(settings.sweep_seconds * 1000)
        self._limits = QueueLimits(
            what="jobs",
            most=settings.max_queued_jobs,
            of_owner=settings.key_queued_jobs,
            most_bytes=settings.max_queued_bytes,
            bytes_of_owner=settings.key_queued_bytes,
        )

    # Transitions

    async def create(
        self,
        jobs: Sequence[Submission],
        order: Order,
        keys: Sequence[IdempotencyKey] = (),
        letter: Letter | None = None,
    ) -> tuple[float, list[str] | None, str]:
        """Record new jobs as dispatched to the first tier that may answer them, attempt 0.

        Returns the time (epoch s), the ids that an earlier create with one of the keys made: then
        nothing was recorded now; and the queue where they are to be published. Raises KeyReused if
        that one made them from something else, TooManyQueued if more would be unfinished than may
        be: nothing was recorded then either.

        letter: of one job without keys, to lie in its queue in the same step, where the queues lie
        here; if others are recorded with it, it does not.
        """
        creates = [_Create(job, first_of(job.options.tiers, order), letter) for job in jobs]
        if not keys and len(creates) == 1:
            created, where = await self._creates.submit(creates[0])
            return created, None, where
        now, earlier, [(limit, queue)] = await self._create(creates, keys, together=True)
        if limit:
            raise self._limits.exceeded(limit)
        return now, earlier.decode().split() if earlier else None, queue.decode()

    async def _create_together(self, creates: list[_Create]) -> list[tuple[float, str] | Exception]:
        letter = creates[0].letter if len(creates) == 1 else None
        around = letter.around() if letter else ("", "")
        now, _, rows = await self._create(creates, (), together=False, around=around)
        if letter and not rows[0][0]:
            letter.queue = rows[0][1].decode()
        return [
            self._limits.exceeded(limit) if limit else (now, queue.decode())
            for limit, queue in rows
        ]

    async def _create(
        self,
        creates: Sequence[_Create],
        keys: Sequence[IdempotencyKey],
        *,
        together: bool,
        around: tuple[str, str] = ("", ""),
    ) -> tuple[float, bytes, list[tuple[bytes, bytes]]]:
        owners = {each.job.owner for each in creates}
        queues = Queue(creates[0].job.queue), Queue(creates[0].job.queue).begun
        now, earlier, limits, queues = await self._connection.run(
            "create_jobs",
            [
                *keyspace.jobs(each.job.id for each in creates),
                *(keyspace.jobs_of(owner) for owner in owners),
                *(keyspace.queued(owner) for owner in owners),
                *keyspace.claims(creates[0].job.owner, keys),
                *(keyspace.OWNERS, *keyspace.INDEXES),
            ],
            *(self._grace_ms, self._ttl_ms, CLAIM_SECONDS * 1000),
            *(self._limits.most, self._limits.of_owner),
            *(self._limits.most_bytes, self._limits.bytes_of_owner, int(together)),
            *(self._kept_bytes, *around, len(keys), *keyspace.encoded(keys)),
            *(item for create in creates for item in create.fields),
            beside=queues if around[0] else (),
        )
        return int(now) / 1000, earlier, list(zip(limits, queues, strict=True))

    async def discard(
        self, owner: str, ids: Sequence[str], keys: Sequence[IdempotencyKey] = ()
    ) -> int:
        """Take back jobs that no message was published for; return how many had begun."""
        stayed = await self._connection.run(
            "discard_jobs",
            [
                *keyspace.jobs(ids),
                *(keyspace.jobs_of(owner), keyspace.queued(owner)),
                *keyspace.claims(owner, keys),
                *keyspace.INDEXES,
            ],
            *(owner, len(keys), *keyspace.encoded(keys)),
            *ids,
        )
        return int(stayed)

    async def begin(self, lease_owner: str, tier: str, refs: Sequence[Ref]) -> list[BegunJob]:
        """Lease those of the jobs that are still to be answered at tier, at this attempt.

        A body of more than SMALL_BODY bytes stays in the store, until with_body() brings it.
        """
        answers = await self._connection.run(
            "begin_jobs",
            [*keyspace.jobs(ref.id for ref in refs), *keyspace.INDEXES],
            *(lease_owner, self._lease_ms, tier, SMALL_BODY),
            *(item for ref in refs for item in ref),
        )
        now = time.monotonic()
        return [
            _begun(ref, answer, lease_owner, tier, now)
            for ref, answer in zip(refs, answers, strict=True)
            if answer
        ]

    async def with_body(self, job: BegunJob) -> BegunJob | None:
        """Return a job with its body; None if it has ended meanwhile."""
        content = await self._connection.command("HGET", keyspace.job(job.id), "body")
        return None if content is None else msgspec.structs.replace(job, body=Body(content))

    async def renew(self, leases: Iterable[tuple[str, str]]) -> list[str]:
        """Renew (id, lease owner) leases; return the ids that are no longer the asker's."""
        held = list(leases)
        taken = await self._connection.run(
            "renew_leases",
            [*keyspace.jobs(name for name, _ in held), keyspace.LEASES],
            self._lease_ms,
            *(item for lease in held for item in lease),
        )
        return [name.decode() for name in taken]

    async def note_alone(self, job: BegunJob | Unit) -> bool:
        """Note that a job or unit is at work alone now; False if it is not ours any more."""
        noted = await self._connection.run(
            "note_alone", [keyspace.job(job.id)], job.id, job.lease_owner, job.attempt
        )
        return bool(noted)

    async def hand_on(
        self, jobs: Sequence[BegunJob], to_tier: str, token: str, outcomes: Sequence[HandOn]
    ) -> list[Ref]:
        """Send jobs of one lease and tier to the next tier; return those that were still ours.

        As with every move, the same token may be sent again when the answer was lost.
        """
        rows = [(o.attempts, o.failures) for o in outcomes]
        return await self._move(jobs, to_tier, token, rows)

    async def hand_back(self, job: BegunJob, token: str) -> list[Ref]:
        """Send a job to its own tier again, as it was begun; return it if it was still ours."""
        return await self._move([job], job.tier, token, [(job.attempts, job.failures)])

    async def park(self, job: BegunJob, to_tier: str, token: str, outcome: Park) -> None:
        """Have a job wait, and then go to a tier again."""
        rows = [(outcome.attempts, outcome.failures)]
        await self._move([job], to_tier, token, rows, due_ms=int(outcome.due_seconds * 1000))

    async def _move(
        self,
        jobs: Sequence[BegunJob],
        to_tier: str,
        token: str,
        rows: Sequence[tuple[tuple[Attempt, ...], int]],
        *,
        due_ms: int = -1,
    ) -> list[Ref]:
        args: list[Any] = []
        for job, (attempts, failures) in zip(jobs, rows, strict=True):
            dated = timed(attempts, len(job.attempts), self._connection.now())
            args += (job.id, job.attempt, _encode(dated), failures)
        first = jobs[0]
        answers = await self._connection.run(
            "move_jobs",
            [*keyspace.jobs(job.id for job in jobs), *keyspace.INDEXES],
            *(first.lease_owner, first.tier, to_tier, self._grace_ms, due_ms, token),
            *args,
        )
        return [Ref(j.id, int(a)) for j, a in zip(jobs, answers, strict=True) if int(a) >= 0]

    async def finish(self, job: BegunJob, finish: Finish, last: Addition | None = None) -> bool:
        """End a job; False if it had ended, or moved on, before: the first finish wins.

        last: what ends the log of its stream. Raises StreamLost if the log has lost what came
        before that: then the job is not ended.
        """
        dated = self._dated(job, finish)
        won = await self._connection.run(
            "finish_job",
            [keyspace.job(job.id), keyspace.stream(job.id), *keyspace.INDEXES],
            *(job.id, job.tier, job.attempt, finish.status.value, finish.tier_used),
            *_ending(last),
            *(self._stream_ttl_ms, bucket_text(finish.milliseconds)),
            *_for_the_waiter(job, dated),
            *_result(dated),
        )
        if int(won) < 0:
            message = f"job {job.id}: the store lost a part of its stream"
            raise StreamLost(message)
        return bool(won)

    def _dated(self, job: BegunJob, finish: Finish) -> Finish:
        attempts = timed(finish.attempts, len(job.attempts), self._connection.now())
        return msgspec.structs.replace(finish, attempts=attempts)

    async def cancel(self, job_id: str, owner: str, *, unless_told: bool = False) -> bool:
        """Cancel a job if it is unfinished; False if this owner has no such job.

        unless_told: only if nobody who was told of it by a key still waits for it.
        """
        known = await self._connection.run(
            "cancel_job",
            [keyspace.job(job_id), *keyspace.INDEXES],
            *(job_id, owner, int(unless_told)),
        )
        return bool(known)

    async def leave(self, job_id: str, owner: str, keys: Sequence[IdempotencyKey]) -> bool:
        """Say that a caller who waited for a job is gone; return whether nobody else waits.

        keys: by which he may ask for it again.
        """
        alone = await self._connection.run(
            "leave_job",
            [keyspace.job(job_id), *keyspace.claims(owner, keys)],
            *(job_id, owner, LEFT_SECONDS * 1000, *keyspace.encoded(keys)),
        )
        return bool(alone)

    async def forget(self, owner: str, ids: Sequence[str], keys: Sequence[IdempotencyKey]) -> None:
        """Free the keys of jobs whose caller was told of them."""
        await self._connection.run(
            "extend_claim",
            keyspace.claims(owner, keys),
            *(owner, " ".join(ids), 0, *keyspace.encoded(keys)),
        )

    async def recall(self, tier: str, most: int) -> list[Dispatch]:
        """Let what is parked until a tier is well go there; return what must be published."""
        rows = await self._connection.run("recall", keyspace.INDEXES, tier, most, self._grace_ms)
        return [Dispatch(i.decode(), int(a), t.decode(), q.decode()) for i, a, t, q in rows]

    async def sweep(self, empty: Mapping[str, bool]) -> list[Swept] | None:
        """Find what was lost; None if another sweeper was at it just now.

        empty: for each queue, whether the broker holds none of its messages. Returns what must be
        published again.
        """
        swept = await self._connection.run(
            "sweep",
            [keyspace.SWEEPER, *keyspace.INDEXES],
            *(self._sweep_ms, self._grace_ms, LONGEST_LOOK_MS, self._lease_ms, SWEEP_LIMIT),
            *(SUSPICIOUS, _LOST, _LOST_ALONE),
            *(item for queue, none in empty.items() for item in (queue, int(none))),
        )
        if swept is None:
            return None
        return [
            Swept(Dispatch(i.decode(), int(a), t.decode(), q.decode()), reason.decode())
            for i, a, t, q, reason in swept
        ]

    # Reading

    async def place(self, record: JobRecord) -> int | None:
        """Return how many jobs stand before one in its queue, about; None: it does not wait."""
        index = keyspace.dispatched(record.queue)
        rank = await self._connection.command("ZRANK", index, record.id)
        return None if rank is None else int(rank)

    async def get(self, job_id: str, owner: str) -> JobRecord | None:
        """Return the owner's job, or None: unknown, expired from the store, or another's."""
        raw = await self._connection.command("HGETALL", keyspace.job(job_id))
        record = _record(Fields(raw)) if raw else None
        return record if record and record.owner == owner else None

    def told(self, content: bytes) -> JobRecord | None:
        """Return what a waiter was told of a job that has ended; None if it says nothing to us.

        That is of its record what an answer to its caller is made of.
        """
        try:
            told = _told.decode(content)
        except UNREADABLE:  # a worker of another release
            return None
        return JobRecord(
            id=told.id,
            owner=told.owner,
            status=told.status,
            queue="",
            tier="",
            attempt=0,
            created_at=0.0,
            deadline_at=0.0,
            started_at=None,
            finished_at=None,
            model=None,
            tier_used=told.tier_used,
            attempts=told.attempts,
            answer=None if told.answer == NULL else told.answer,
            error=told.error,
            error_status=told.error_status,
            cache_age_seconds=told.cache_age_seconds,
            metadata={},
        )

    async def look(self, job_id: str, owner: str) -> JobRecord | None:
        """Return the owner's job as get() does, but for its answer, which may be large."""
        values = await self._connection.command("HMGET", keyspace.job(job_id), *_SMALL_FIELDS)
        record = _record(Fields(_there(_SMALL_FIELDS, values)))
        return record if record.id and record.owner == owner else None

    async def list_jobs(
        self, owner: str, limit: int, after: str | None
    ) -> tuple[list[JobRecord], bool]:
        """Return up to limit of the owner's jobs, newest first, after that id; and if more are.

        As those of search_jobs() they have no request, and no answer above LARGEST_LISTED.
        """
        index = keyspace.jobs_of(owner)
        page, more = await self._connection.page(
            index, keyspace.job, limit, after, read=self._listed
        )
        return [_record(Fields(raw)) for raw in page], more

    async def search_jobs(
        self, owner: str, search: Search, limit: int, after: str | None
    ) -> tuple[list[JobRecord], str | None]:
        """Return those of the owner's jobs that fit, as find() does."""
        index, kind = keyspace.jobs_of(owner), keyspace.job("")
        records, following = await find(
            self._connection, index, kind, search, limit, after, self._listed
        )
        return [_record(Fields(raw)) for raw in records], following

    async def _listed(self, keys: Sequence[str]) -> list[dict[bytes, bytes]]:
        """Read records for a list: a hundred whole ones could be gigabytes."""
        sizes = await self._connection.commands(("HSTRLEN", key, "answer") for key in keys)
        fields = [
            (*_SMALL_FIELDS, "answer") if 0 < size <= LARGEST_LISTED else _SMALL_FIELDS
            for size in sizes
        ]
        found = await self._connection.commands(
            ("HMGET", key, *names) for key, names in zip(keys, fields, strict=True)
        )
        return [_there(names, values) for names, values in zip(fields, found, strict=True)]


def _begun(ref: Ref, answer: Sequence[Any], lease_owner: str, tier: str, now: float) -> BegunJob:
    size, *answer = answer
    body, owner, queue, left_ms, options, attempts, failures, waited, age, streamed = answer
    came_by, decoded = Queue(queue.decode()), _options.decode(options)
    return BegunJob(
        id=ref.id,
        attempt=ref.attempt,
        lease_owner=lease_owner,
        tier=tier,
        body=Body(body),
        left_bytes=int(size) - len(body),
        owner=owner.decode(),
        queue=came_by.kind,
        first=came_by.is_begun,
        deadline=now + int(left_ms) / 1000,
        options=decoded,
        endpoint=decoded.endpoint,
        streamed=streamed == b"1",
        attempts=_attempts.decode(attempts),
        failures=int(failures),
        waited=max(int(waited), 0) / 1000,
        created=now - int(age) / 1000,
    )


def _ending(last: Addition | None) -> tuple[int, int, bytes]:
    """Return what ends the log of a job's stream, as the script takes it."""
    return (last.before, last.entry.upto, last.entry.encoded()) if last else (0, 0, b"")


def _result(finish: Finish) -> list[Any]:
    """Return the fields that a job's end leaves in its record, each with its value."""
    fields: list[Any] = ["attempts", _encode(finish.attempts)]
    if finish.tier_used:
        fields += ("tier_used", finish.tier_used)
    if finish.answer is not None:
        fields += ("answer", finish.answer)
    if finish.model:
        fields += ("answer_model", finish.model)
    if finish.cache_age_seconds is not None:
        fields += ("cache_age_seconds", finish.cache_age_seconds)
    if finish.error is not None:
        fields += ("error", _encode(finish.error), "error_status", finish.error_status or 503)
    return fields


def _for_the_waiter(job: BegunJob, finish: Finish) -> tuple[str, bytes]:
    """Return the channel of who waits for a job's end, and what he is told; "": nobody does."""
    waiter, answer = job.options.waiter, finish.answer
    if not waiter or len(answer or b"") > LARGEST_TOLD:
        return "", b""
    told = _Told(
        id=job.id,
        owner=job.owner,
        status=finish.status,
        tier_used=finish.tier_used or None,
        attempts=finish.attempts,
        answer=NULL if answer is None else msgspec.Raw(answer),
        error=finish.error,
        error_status=(finish.error_status or 503) if finish.error else None,
        cache_age_seconds=finish.cache_age_seconds,
    )
    return keyspace.answers(waiter), _encode(told)


def _there(names: Sequence[str], values: Sequence[bytes | None]) -> dict[bytes, bytes]:
    """Return the fields that a record has, of those that were asked for."""
    pairs = zip(names, values, strict=True)
    return {name.encode(): value for name, value in pairs if value is not None}


# Of a record, what its owner sees; all but the request and the answer.
_SMALL_FIELDS = (
    *("id", "owner", "status", "queue", "tier", "attempt", "created_ms", "deadline_ms"),
    *("started_ms", "finished_ms", "answer_model", "model", "tier_used", "attempts"),
    *("error", "error_status", "cache_age_seconds", "metadata", "streamed", "first_word_ms"),
)


def _record(fields: Fields) -> JobRecord:
    return JobRecord(
        id=fields.text("id"),
        owner=fields.text("owner"),
        status=Status(fields.text("status") or "queued"),
        queue=fields.text("queue"),
        tier=fields.text("tier"),
        attempt=fields.number("attempt"),
        created_at=fields.seconds("created_ms") or 0.0,
        deadline_at=fields.seconds("deadline_ms") or 0.0,
        started_at=fields.seconds("started_ms"),
        finished_at=fields.seconds("finished_ms"),
        model=fields.text("answer_model") or fields.text("model") or None,
        tier_used=fields.text("tier_used") or None,
        attempts=fields.json("attempts", []),
        answer=fields.raw("answer"),
        error=fields.json("error"),
        error_status=fields.number("error_status") or None,
        cache_age_seconds=fields.real("cache_age_seconds"),
        metadata=fields.json("metadata", {}),
        streamed=fields.number("streamed") == 1,
        first_token_at=fields.seconds("first_word_ms"),
        request=fields.raw("body"),
    )
