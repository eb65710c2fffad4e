"""The truth about every batch and its units: every transition one script.

records/batches.TRANSITIONS is the table of them; lua/_keys.lua documents the keys. A unit is
leased, dispatched, parked and swept as a job is. Every method raises StoreUnavailable when Redis
does not answer in time.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from fallback_chain import Attempt, Endpoint, Tokens
from tasks.errors import NoSuchInput
from tasks.records.batches import (
    WINDOWS,
    BatchOptions,
    BatchRecord,
    BatchStatus,
    LineHistory,
    Part,
    PhaseUnit,
    SliceRange,
    SliceUnit,
    Unit,
    phase_unit_id,
    split_unit_id,
    window_seconds,
)
from tasks.records.files import FILE_SECONDS
from tasks.records.idempotency import CLAIM_SECONDS
from tasks.records.jobs import Dispatch, Queue
from tasks.records.pace import LinesAt, Slot
from tasks.store import keyspace
from tasks.store.fields import Fields
from tasks.store.fleet import bucket_text
from tasks.store.limits import QueueLimits
from tasks.store.search import find

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tasks.jsonl.input import Findings
    from tasks.records.batches import JoinedFile, LineResult, NewBatch
    from tasks.records.idempotency import IdempotencyKey
    from tasks.records.jobs import Ref
    from tasks.settings import Settings
    from tasks.store.connection import Connection
    from tasks.store.search import Search

_encode = msgspec.json.encode
_options = msgspec.json.Decoder(BatchOptions)
_attempts = msgspec.json.Decoder(tuple[Attempt, ...])
_history = msgspec.json.Decoder(LineHistory)
# A batch's fields for Tokens'.
TOKENS = ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")
PORTION_BYTES = 4 * 1024 * 1024  # of results that are read at once, if it is not one alone
NO_SLICE = -1  # a phase of a whole batch has none
TIMES = (
    *("created", "in_progress", "finalizing", "completed", "failed", "expired"),
    *("cancelling", "cancelled", "expires"),
)


class Recorded(NamedTuple):
    """How many results were their line's first, and whether the slice is complete now.

    new -1: the batch takes no results now, or none of this slice: its part is written.
    """

    new: int
    complete: bool


class Split(NamedTuple):
    """A unit of lines that left another one."""

    id: str
    lines: list[int]


class SliceProgress(NamedTuple):
    """What is known of the lines of a slice that has no part yet."""

    results: set[int]  # lines that have one
    histories: dict[int, LineHistory]
    moved_to: dict[int, str]


class Portion(NamedTuple):
    """Results of consecutive lines of a slice, and the line after the last that was looked for."""

    results: dict[int, bytes]
    next: int


class BatchStore:
    """All that is ever done to a batch."""

    def __init__(self, connection: Connection, settings: Settings) -> None:
        self._connection = connection
        self._lease_ms = int(settings.lease_seconds * 1000)
        self._grace_ms = int(settings.dispatch_grace_seconds * 1000)
        self._window = settings.batch_window
        self._limits = QueueLimits("batches", settings.max_batches, settings.key_batches)

    # Batches

    async def create(
        self, new: NewBatch, keys: Sequence[IdempotencyKey]
    ) -> tuple[str, list[Dispatch]]:
        """Record a batch and its validation; return its id, and what is to be published.

        If an earlier create with one of the keys made a batch, returns that one's id. Raises
        NoSuchInput if the owner does not have the file, and TooManyQueued if more would be
        unfinished than may be.
        """
        seconds = window_seconds(new.completion_window)
        assert seconds is not None  # noqa: S101 - the API has checked it
        ttl = ("output_ttl_ms", new.output_seconds * 1000) if new.output_seconds else ()
        known, limit, dispatches = await self._connection.run(
            "create_batch",
            [
                *(keyspace.batch(new.id), keyspace.units(new.id), keyspace.batches_of(new.owner)),
                *(keyspace.file(new.input_file_id), keyspace.readers(new.input_file_id)),
                *keyspace.claims(new.owner, keys),
                *(keyspace.job(phase_unit_id(new.id, "validate")), keyspace.OWNERS),
                keyspace.open_batches(new.owner),
                *keyspace.INDEXES,
            ],
            *(new.id, new.owner, self._grace_ms, seconds * 1000, CLAIM_SECONDS * 1000),
            *(self._limits.most, self._limits.of_owner),
            *(new.input_file_id, len(keys), *keyspace.encoded(keys)),
            *("endpoint", new.endpoint.value, "input_file_id", new.input_file_id),
            *("completion_window", new.completion_window, "metadata", _encode(new.metadata)),
            *("options", _encode(new.options), *ttl),
        )
        if limit == b"file":
            raise NoSuchInput
        if limit:
            raise self._limits.exceeded(limit)
        return known.decode(), _dispatches(dispatches)

    async def get(self, batch_id: str, owner: str) -> BatchRecord | None:
        """Return the owner's batch, or None."""
        raw = await self._connection.command("HGETALL", keyspace.batch(batch_id))
        record = _record(Fields(raw)) if raw else None
        return record if record and record.owner == owner else None

    async def list_batches(
        self, owner: str, limit: int, after: str | None
    ) -> tuple[list[BatchRecord], bool]:
        """Return up to limit of the owner's batches, newest first; and whether more are."""
        index = keyspace.batches_of(owner)
        page, more = await self._connection.page(index, keyspace.batch, limit, after)
        return [_record(Fields(raw)) for raw in page], more

    async def search_batches(
        self, owner: str, search: Search, limit: int, after: str | None
    ) -> tuple[list[BatchRecord], str | None]:
        """Return those of the owner's batches that fit, as find() does."""
        index, kind = keyspace.batches_of(owner), keyspace.batch("")
        records, following = await find(self._connection, index, kind, search, limit, after)
        return [_record(Fields(raw)) for raw in records], following

    async def cancel(self, batch_id: str, owner: str) -> list[Dispatch] | None:
        """Cancel a batch if it still runs; return what is to be published, None if unknown."""
        dispatches = await self._connection.run(
            "cancel_batch", self._ending(batch_id), batch_id, owner, self._grace_ms
        )
        return None if dispatches is None else _dispatches(dispatches)

    async def parts(self, batch_id: str) -> list[Part]:
        """Return the parts, in the order of their end."""
        entries = await self._connection.command("LRANGE", keyspace.parts(batch_id), 0, -1)
        return [Part.parse(entry.decode()) for entry in entries]

    async def times(self, batch_id: str) -> list[LinesAt]:
        """Return when lines got their results, in this order."""
        entries = await self._connection.command("LRANGE", keyspace.times(batch_id), 0, -1)
        return [LinesAt.parse(entry.decode()) for entry in entries]

    async def ranges(self, batch_id: str) -> list[SliceRange]:
        """Return where each slice lies in the input file."""
        entries = await self._connection.command("LRANGE", keyspace.slices(batch_id), 0, -1)
        return [SliceRange.parse(entry.decode()) for entry in entries]

    async def answered(self, batch_id: str, number: int) -> set[int]:
        """Return the lines of a slice without a part that have a result by now."""
        fields = await self._connection.command("HKEYS", keyspace.results(batch_id, number))
        return {int(name) for name in fields if name.isdigit()}

    async def results(self, batch_id: str, number: int, lines: int, first: int) -> Portion:
        """Return results of a slice without a part, from a line on: not all, if they are large.

        lines: of the slice.
        """
        after, found = await self._connection.run(
            "read_results",
            [keyspace.results(batch_id, number)],
            *(batch_id, number, lines, first, PORTION_BYTES),
        )
        pairs = zip(found[::2], found[1::2], strict=True)
        return Portion({int(line): stored for line, stored in pairs}, int(after))

    # Transitions of units, and of their batch by them

    async def begin(self, lease_owner: str, tier: str, ref: Ref) -> Unit | None:
        """Lease a unit; None if it is stale or ended."""
        answer = await self._connection.run(
            "begin_unit",
            [keyspace.job(ref.id), *keyspace.INDEXES],
            *(lease_owner, self._lease_ms, tier, ref.id, ref.attempt),
        )
        return _unit(ref, answer, lease_owner, tier) if answer else None

    async def start(self, unit: Unit, findings: Findings, first_tier: str) -> list[Dispatch]:
        """Say what validation found; return the first slices to publish."""
        window = self._window_of(unit)
        ranges = () if findings.errors else findings.ranges
        first = min(window, len(ranges))
        dispatches = await self._connection.run(
            "start_batch",
            [
                *keyspace.whole_batch(unit.batch),
                *keyspace.first_units(unit.batch, first),
                *(keyspace.job(unit.id), *keyspace.INDEXES),
            ],
            *(unit.id, unit.lease_owner, unit.batch, self._grace_ms, findings.total),
            *(findings.encoded(), findings.model or "", first_tier, window, FILE_SECONDS * 1000),
            *map(str, ranges),
        )
        return _dispatches(dispatches)

    async def end_without_input(self, unit: Unit, errors: bytes) -> list[Dispatch]:
        """End the batch, as nobody can read its input; return what is to be published."""
        dispatches = await self._connection.run(
            "end_without_input",
            [keyspace.job(unit.id), *self._ending(unit.batch)],
            *(unit.id, unit.lease_owner, unit.batch, self._grace_ms, errors),
        )
        return _dispatches(dispatches)

    async def give_up(self, unit: Unit, errors: bytes) -> list[Dispatch]:
        """End the batch of a phase that its workers die of; return what is to be published.

        In the middle of its lines, what is answered is joined. Else it fails as it stands, and its
        parts are kept as long as it is.
        """
        dispatches = await self._connection.run(
            "give_up",
            [keyspace.job(unit.id), keyspace.FILE_EXPIRY, *self._ending(unit.batch)],
            *(unit.id, unit.lease_owner, unit.batch, self._grace_ms, errors),
            FILE_SECONDS * 1000,
        )
        return _dispatches(dispatches)

    async def record_lines(self, unit: SliceUnit, results: Sequence[LineResult]) -> Recorded:
        """Record results.

        A complete slice's unit is at the tier "part" then, leased by us: we are to write it.
        """
        args: list[Any] = []
        for result in results:
            tokens = ":".join(map(str, result.tokens))
            args += (result.line, result.stored, result.counted_as, tokens, result.answered_by)
            args.append(bucket_text(result.milliseconds))
        new, complete = await self._connection.run(
            "record_lines",
            [
                *(keyspace.batch(unit.batch), keyspace.results(unit.batch, unit.slice)),
                *(keyspace.written(unit.batch), keyspace.job(unit.id)),
                *(keyspace.times(unit.batch), keyspace.LEASES, keyspace.STATS, keyspace.SENT_DOWN),
            ],
            *(unit.id, unit.lease_owner, self._lease_ms, unit.batch, unit.slice),
            unit.range.lines,
            *args,
        )
        return Recorded(int(new), bool(complete))

    async def note_line(self, unit: SliceUnit, line: int, history: LineHistory) -> bool:
        """Note what is to be known of a line if we die now; False if its unit is not ours."""
        noted = await self._connection.run(
            "note_line",
            [
                *(keyspace.job(unit.id), keyspace.results(unit.batch, unit.slice)),
                *(keyspace.batch(unit.batch), keyspace.written(unit.batch)),
            ],
            *(unit.id, unit.lease_owner, unit.batch, unit.slice, line, _encode(history)),
        )
        return bool(noted)

    async def hand_on(
        self, unit: SliceUnit, to_tier: str, token: str, histories: Mapping[int, LineHistory]
    ) -> int | None:
        """Send what is left of a unit to the next tier; return its new attempt, None if not ours.

        As with every move, the same token may be sent again when the answer was lost.
        """
        return await self._move(unit, to_tier, token, histories)

    async def hand_back(self, unit: Unit, token: str) -> int | None:
        """Send a unit to its own tier again; return its new attempt, None if it is not ours."""
        return await self._move(unit, unit.tier, token, {})

    async def park(
        self,
        unit: SliceUnit,
        to_tier: str,
        token: str,
        histories: Mapping[int, LineHistory],
        due_seconds: float,
    ) -> None:
        """Have what is left of a unit wait, and then go to a tier again."""
        await self._move(unit, to_tier, token, histories, due_ms=int(due_seconds * 1000))

    async def put_off(self, unit: Unit, token: str, due_seconds: float) -> None:
        """Have a unit wait, and then go to its own tier again; note its attempts."""
        await self._move(unit, unit.tier, token, {}, due_ms=int(due_seconds * 1000))

    async def _move(
        self,
        unit: Unit,
        to_tier: str,
        token: str,
        histories: Mapping[int, LineHistory],
        *,
        due_ms: int = -1,
    ) -> int | None:
        number = unit.slice if isinstance(unit, SliceUnit) else NO_SLICE
        answer = await self._connection.run(
            "move_unit",
            [
                *(keyspace.job(unit.id), keyspace.results(unit.batch, number)),
                *(keyspace.batch(unit.batch), keyspace.written(unit.batch)),
                *keyspace.INDEXES,
            ],
            *(unit.lease_owner, unit.tier, to_tier, self._grace_ms, due_ms, token),
            *(unit.id, unit.attempt, unit.batch, number, _encode(unit.attempts)),
            *_rows(histories),
        )
        return int(answer) if int(answer) >= 0 else None

    async def split(
        self,
        unit: SliceUnit,
        to_tier: str,
        token: str,
        histories: Mapping[int, LineHistory],
        most: int | None = None,
    ) -> Split | None:
        """Let lines leave for another tier; return their own unit, at attempt 0.

        most: how many lines that were sent down so may stand at that tier at once; then only the
        first of these leave, as many as there is room for. None: all of them. Returns None if none
        has left.
        """
        child = split_unit_id(unit.batch, unit.slice, token)
        made, lines = await self._connection.run(
            "split_unit",
            [
                *(keyspace.job(unit.id), keyspace.job(child), keyspace.units(unit.batch)),
                *(keyspace.batch(unit.batch), keyspace.written(unit.batch)),
                *(keyspace.results(unit.batch, unit.slice), *keyspace.INDEXES),
            ],
            *(unit.lease_owner, unit.id, token, to_tier, self._grace_ms, unit.batch, unit.slice),
            *(-1 if most is None else most, *_rows(histories)),
        )
        return Split(made.decode(), msgspec.json.decode(lines)) if made else None

    async def complete_slice(self, unit: SliceUnit, part: Part) -> list[Dispatch]:
        """Say that a slice's part is durable; return what is to be published."""
        dispatches = await self._connection.run(
            "complete_slice",
            [
                *keyspace.whole_batch(unit.batch),
                *(keyspace.job(unit.id), keyspace.job(phase_unit_id(unit.batch, "join"))),
                *(keyspace.results(unit.batch, unit.slice), *keyspace.INDEXES),
            ],
            *(unit.id, unit.lease_owner, unit.batch, unit.slice, self._grace_ms),
            *(part.output_bytes, part.error_bytes, self._window_of(unit)),
        )
        return _dispatches(dispatches)

    def _window_of(self, unit: Unit) -> int:
        """Return how many slices of a unit's batch are in flight, if no other batch is open."""
        return max(int(self._window * WINDOWS[unit.options.priority]), 1)

    async def complete(
        self,
        unit: PhaseUnit,
        *,
        slices: int,
        unanswered: int,
        parts: Sequence[Part],
        files: Sequence[JoinedFile],
    ) -> bool:
        """End a batch whose files are there; False: not ours. parts: of slices that had none."""
        ended = await self._connection.run(
            "complete_batch",
            [
                *(*keyspace.whole_batch(unit.batch), keyspace.job(unit.id)),
                *(keyspace.results(unit.batch, number) for number in range(slices)),
                *(keyspace.file(file.id) for file in files),
                *(keyspace.files_of(unit.owner), keyspace.FILE_EXPIRY, *keyspace.FILE_COUNTS),
            ],
            *(unit.id, unit.lease_owner, unit.batch, unanswered, FILE_SECONDS * 1000),
            *(len(parts), *map(str, parts), *(item for file in files for item in file)),
        )
        return bool(ended)

    async def drop(self, unit: Unit) -> bool:
        """Say that a unit has nothing left to do; True if it has, as the store knows: it stays."""
        lines = list(unit.own_lines) if isinstance(unit, SliceUnit) else []
        number = unit.slice if isinstance(unit, SliceUnit) else NO_SLICE
        whole = isinstance(unit, SliceUnit) and unit.lines is None
        dropped = await self._connection.run(
            "drop_unit",
            [
                *(keyspace.job(unit.id), keyspace.units(unit.batch), keyspace.batch(unit.batch)),
                *(keyspace.written(unit.batch), keyspace.results(unit.batch, number)),
                *keyspace.INDEXES,
            ],
            *(unit.id, unit.lease_owner, unit.batch, number, "" if whole else unit.id, *lines),
        )
        return int(dropped) < 0

    @staticmethod
    def _ending(batch_id: str) -> list[str]:
        """Return the keys of what ends a batch early, and has it joined."""
        join = keyspace.job(phase_unit_id(batch_id, "join"))
        return [*keyspace.whole_batch(batch_id), join, *keyspace.INDEXES]


def _rows(histories: Mapping[int, LineHistory]) -> list[Any]:
    return [item for line, history in histories.items() for item in (line, _encode(history))]


def _dispatches(rows: Sequence[Sequence[Any]]) -> list[Dispatch]:
    return [Dispatch(i.decode(), int(a), t.decode(), q.decode()) for i, a, t, q in rows]


def _unit(ref: Ref, answer: Sequence[Any], lease_owner: str, tier: str) -> Unit:
    *head, waited, queue, attempts, known = answer
    batch, number, lines, where, owner, options, endpoint, file, status, left, ending = head
    common: dict[str, Any] = {
        "id": ref.id,
        "attempt": ref.attempt,
        "tier": tier,
        "lease_owner": lease_owner,
        "batch": batch.decode(),
        "owner": owner.decode(),
        "options": _options.decode(options),
        "endpoint": Endpoint(endpoint.decode()),
        "input_file_id": file.decode(),
        "status": BatchStatus(status.decode()),
        "deadline": time.monotonic() + int(left) / 1000,
        "ending": ending.decode(),
        "waited": max(int(waited), 0) / 1000,
        "first": Queue(queue.decode()).is_begun,
        "attempts": _attempts.decode(attempts),
    }
    if not where:
        return PhaseUnit(**common)
    progress = _progress(zip(known[::2], known[1::2], strict=True))
    return SliceUnit(
        **common,
        slice=int(number),
        lines=tuple(msgspec.json.decode(lines)) if lines else None,
        range=SliceRange.parse(where.decode()),
        **progress._asdict(),
    )


def _progress(fields: Iterable[tuple[bytes, bytes]]) -> SliceProgress:
    progress = SliceProgress(set(), {}, {})
    for name, value in fields:
        if name.isdigit():
            progress.results.add(int(name))
        elif name[:1] == b"a":
            progress.histories[int(name[1:])] = _history.decode(value)
        elif name[:1] == b"u":
            progress.moved_to[int(name[1:])] = value.decode()
    return progress


def _record(fields: Fields) -> BatchRecord:
    outcomes: dict[str, dict[str, int]] = {}
    for name, number in fields.counts("by:").items():
        tier, _, status = name.partition(":")
        outcomes.setdefault(tier, {})[status] = number
    by_model: dict[str, dict[str, int]] = {}
    for name, number in fields.counts("model:").items():
        tier, _, model = name.partition(":")
        by_model.setdefault(tier, {})[model] = number
    return BatchRecord(
        id=fields.text("id"),
        owner=fields.text("owner"),
        endpoint=fields.text("endpoint"),
        input_file_id=fields.text("input_file_id"),
        completion_window=fields.text("completion_window"),
        status=BatchStatus(fields.text("status")),
        metadata=fields.json("metadata", {}),
        options=_options.decode(fields.text("options") or b"{}"),
        times={
            name: fields.number(f"{name}_ms") // 1000 for name in TIMES if fields.text(f"{name}_ms")
        },
        total=fields.number("total"),
        completed=fields.number("completed"),
        failed=fields.number("failed"),
        tokens=Tokens(*(fields.number(name) for name in TOKENS)),
        model=fields.text("model") or None,
        errors=fields.raw("errors"),
        output_file_id=fields.text("output_file_id") or None,
        error_file_id=fields.text("error_file_id") or None,
        slices=fields.number("slices"),
        done=fields.number("done"),
        outcomes=outcomes,
        by_model=by_model,
        recent=tuple(Slot.parse(text) for text in fields.texts("recent:")),
        output_seconds=fields.number("output_ttl_ms") // 1000 or None,
    )
