"""Batches and their units in Redis; every transition one script. See lua/_prelude.lua."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import msgspec

from fallback_chain import Tokens
from tasks.records.batches import (
    WINDOWS,
    BatchOptions,
    BatchRecord,
    BatchStatus,
    Dispatch,
    Endpoint,
    Place,
    Tried,
    Unit,
    window_seconds,
)
from tasks.records.files import FILE_SECONDS
from tasks.store.connection import translated
from tasks.store.jobs import ONCE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tasks.records.batches import LineResult, NewBatch
    from tasks.settings import Settings
    from tasks.store.jobs import JobStore


_encode = msgspec.json.encode
_options = msgspec.json.Decoder(BatchOptions)
_tried = msgspec.json.Decoder(Tried)
# A batch's fields for Tokens'.
TOKENS = ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")
TIMES = (
    *("created", "in_progress", "finalizing", "completed", "failed", "expired"),
    *("cancelling", "cancelled", "expires"),
)


class BatchStore:
    """All that is ever done to a batch; shares a JobStore's connection and event loop."""

    def __init__(self, jobs: JobStore, settings: Settings) -> None:
        self._jobs = jobs
        self._prefix = jobs.prefix
        self._lease_ms = int(settings.lease_seconds * 1000)
        self._grace_ms = int(settings.dispatch_grace_seconds * 1000)
        self._window = settings.batch_window

    # Batches

    async def create(self, new: NewBatch, once: Sequence[str]) -> str:
        """Record a batch and its validation, dispatched; return its id.

        If an earlier create with one of the `once` keys made a batch, returns that one's.
        """
        seconds = window_seconds(new.completion_window)
        assert seconds is not None  # noqa: S101 - the API has checked it
        kept = ("output_ttl_ms", new.output_seconds * 1000) if new.output_seconds else ()
        made = await self._jobs.run(
            "create_batch",
            *(new.id, new.owner, self._grace_ms, seconds * 1000, ONCE_SECONDS * 1000),
            *(len(once), *once),
            *("endpoint", new.endpoint.value, "input_file_id", new.input_file_id),
            *("completion_window", new.completion_window, "metadata", _encode(new.metadata)),
            *("options", _encode(new.options), *kept),
        )
        return str(made.decode())

    async def get(self, batch_id: str, owner: str) -> BatchRecord | None:
        """Return the owner's batch, or None."""
        async with translated():
            fields = await self._jobs.scripts.command("HGETALL", f"{self._prefix}batch:{batch_id}")
        record = _record(fields) if fields else None
        return record if record and record.owner == owner else None

    async def list_batches(
        self, owner: str, limit: int, after: str | None
    ) -> tuple[list[BatchRecord], bool]:
        """Return up to limit of the owner's batches, newest first; and whether more are."""
        found, more = await self._jobs.page(f"batches:{owner}", "batch:", limit, after)
        return [_record(fields) for fields in found], more

    async def cancel(self, batch_id: str, owner: str) -> list[Dispatch] | None:
        """Cancel a batch if it still runs; return what is to be published, None if unknown."""
        found = await self._jobs.run("close_batch", batch_id, owner, self._grace_ms)
        return None if found is None else _dispatches(found)

    async def parts(self, batch_id: str, first: int, last: int) -> list[tuple[int, int, int]]:
        """Return (slice, output bytes, error bytes) of the parts, in the order of their end."""
        key = f"{self._prefix}batch:{batch_id}:parts"
        async with translated():
            found = await self._jobs.redis.lrange(key, first, last)
        return [_part(entry.decode()) for entry in found]

    async def places(self, batch_id: str) -> list[Place]:
        """Return where each slice lies in the input file."""
        key = f"{self._prefix}batch:{batch_id}:slices"
        async with translated():
            found = await self._jobs.redis.lrange(key, 0, -1)
        return [Place.parse(entry.decode()) for entry in found]

    async def results(self, batch_id: str, number: int) -> dict[int, bytes]:
        """Return what a slice without a part has got so far."""
        key = f"{self._prefix}part:{batch_id}:{number}"
        async with translated():
            fields = await self._jobs.redis.hgetall(key)
        return _results(fields.items())[0]

    # Units

    async def begin(self, lease_owner: str, tier: str, unit_id: str, attempt: int) -> Unit | None:
        """Lease a unit; None if it is stale or ended."""
        found = await self._jobs.run(
            "begin_unit", lease_owner, self._lease_ms, tier, unit_id, attempt
        )
        if not found:
            return None
        *head, waited, raw = found
        batch, number, lines, place, owner, options, endpoint, file, status, left, ending = head
        results, tried, elsewhere = _results(zip(raw[::2], raw[1::2], strict=True))
        return Unit(
            id=unit_id,
            attempt=attempt,
            tier=tier,
            lease_owner=lease_owner,
            batch=batch.decode(),
            slice=int(number),
            lines=tuple(msgspec.json.decode(lines)) if lines else None,
            place=Place.parse(place.decode()) if place else None,
            owner=owner.decode(),
            options=_options.decode(options),
            endpoint=Endpoint(endpoint.decode()),
            input_file_id=file.decode(),
            status=BatchStatus(status.decode()),
            deadline=time.monotonic() + int(left) / 1000,
            ending=ending.decode(),
            waited=int(waited) / 1000,
            results=results,
            tried=tried,
            elsewhere=elsewhere,
        )

    async def validated(  # noqa: PLR0913 - one transition, with all that it notes
        self,
        unit: Unit,
        *,
        total: int,
        places: Iterable[Place],
        errors: bytes,
        model: str,
        first_tier: str,
    ) -> list[Dispatch]:
        """Say what validation found; return the first slices to publish."""
        window = max(int(self._window * WINDOWS[unit.options.priority]), 1)
        return _dispatches(
            await self._jobs.run(
                "validated",
                *(unit.id, unit.lease_owner, unit.batch, self._grace_ms, total, errors, model),
                *(first_tier, window, FILE_SECONDS * 1000),
                *(str(place) for place in places),
            )
        )

    async def input_gone(self, unit: Unit, errors: bytes) -> list[Dispatch]:
        """End the batch, as nobody can read its input; return what is to be published."""
        return _dispatches(
            await self._jobs.run(
                "input_gone", unit.id, unit.lease_owner, unit.batch, self._grace_ms, errors
            )
        )

    async def lines_done(self, unit: Unit, done: Sequence[LineResult]) -> tuple[int, bool]:
        """Record results; return how many were their line's first, and if the slice is complete.

        -1: the batch takes no results now.

        A complete slice's unit is at the tier "part" then, leased by us: we are to write it.
        """
        assert unit.place is not None  # noqa: S101 - phases have no lines
        flat: list[Any] = []
        for r in done:
            tokens = ":".join(map(str, r.tokens))
            flat += (r.line, r.stored, r.counted_as, tokens)
        new, complete = await self._jobs.run(
            "lines_done",
            *(unit.id, unit.lease_owner, self._lease_ms, unit.batch, unit.slice),
            *(unit.place.lines, *flat),
        )
        return int(new), bool(complete)

    async def move(
        self,
        unit: Unit,
        to_tier: str,
        token: str,
        tried: Mapping[int, Tried],
        due_seconds: float | None = None,
    ) -> int | None:
        """Hand what is left of a unit on, or park it; return its new attempt, None if not ours.

        to_tier "" is its first. The same token may be sent again when the answer was lost.
        """
        due = -1 if due_seconds is None else int(due_seconds * 1000)
        answer = await self._jobs.run(
            "move_unit",
            *(unit.lease_owner, unit.tier, to_tier, self._grace_ms, due, token),
            *(unit.id, unit.attempt, unit.batch, unit.slice, *_flat(tried)),
        )
        return int(answer) if int(answer) >= 0 else None

    async def split(
        self, unit: Unit, to_tier: str, token: str, tried: Mapping[int, Tried]
    ) -> str | None:
        """Let lines leave for the next tier; return the id of their own unit, at attempt 0."""
        answer = await self._jobs.run(
            "split_unit",
            *(unit.lease_owner, unit.id, token, to_tier, self._grace_ms, unit.batch, unit.slice),
            *(_encode(list(tried)), *_flat(tried)),
        )
        return answer.decode() or None

    async def part_done(self, unit: Unit, output_bytes: int, error_bytes: int) -> list[Dispatch]:
        """Say that a slice's part is durable; return what is to be published."""
        return _dispatches(
            await self._jobs.run(
                "part_done",
                *(unit.id, unit.lease_owner, unit.batch, unit.slice, self._grace_ms),
                *(output_bytes, error_bytes),
            )
        )

    async def joined(
        self,
        unit: Unit,
        *,
        unanswered: int,
        parts: Sequence[tuple[int, int, int]],
        files: Sequence[tuple[str, str, int, str]],
    ) -> bool:
        """End a batch. files: (output or error, id, bytes, filename). False if not ours."""
        flat = [item for file in files for item in file]
        answer = await self._jobs.run(
            "joined",
            *(unit.id, unit.lease_owner, unit.batch, unanswered, FILE_SECONDS * 1000),
            *(len(parts), *(":".join(map(str, part)) for part in parts), *flat),
        )
        return bool(answer)

    async def drop(self, unit: Unit) -> None:
        """Say that a unit has nothing left to do."""
        await self._jobs.run("drop_unit", unit.id, unit.lease_owner, unit.batch)


def new_token() -> str:
    """Return a token that marks one transition."""
    return os.urandom(8).hex()


def _flat(tried: Mapping[int, Tried]) -> list[Any]:
    return [item for line, told in tried.items() for item in (line, _encode(told))]


def _dispatches(found: Sequence[Sequence[Any]]) -> list[Dispatch]:
    return [(i.decode(), int(a), t.decode(), q.decode()) for i, a, t, q in found]


def _part(text: str) -> tuple[int, int, int]:
    number, output, error = text.split(":")
    return int(number), int(output), int(error)


def _results(
    fields: Iterable[tuple[bytes, bytes]],
) -> tuple[dict[int, bytes], dict[int, Tried], dict[int, str]]:
    results: dict[int, bytes] = {}
    tried: dict[int, Tried] = {}
    elsewhere: dict[int, str] = {}
    for name, value in fields:
        if name.isdigit():
            results[int(name)] = value
        elif name[:1] == b"a":
            tried[int(name[1:])] = _tried.decode(value)
        elif name[:1] == b"u":
            elsewhere[int(name[1:])] = value.decode()
    return results, tried, elsewhere


def _record(fields: Mapping[bytes, bytes]) -> BatchRecord:
    def text(name: str) -> str:
        return fields.get(name.encode(), b"").decode()

    def number(name: str) -> int:
        return int(text(name) or 0)

    errors = fields.get(b"errors")
    by_tier: dict[str, int] = {}
    for name, value in fields.items():
        if name.startswith(b"by:"):
            tier = name.decode().split(":")[1]
            by_tier[tier] = by_tier.get(tier, 0) + int(value)
    return BatchRecord(
        id=text("id"),
        owner=text("owner"),
        endpoint=text("endpoint"),
        input_file_id=text("input_file_id"),
        completion_window=text("completion_window"),
        status=BatchStatus(text("status")),
        metadata=msgspec.json.decode(fields.get(b"metadata", b"{}")),
        options=_options.decode(fields.get(b"options", b"{}")),
        times={name: number(f"{name}_ms") // 1000 for name in TIMES if text(f"{name}_ms")},
        total=number("total"),
        completed=number("completed"),
        failed=number("failed"),
        tokens=Tokens(*(number(name) for name in TOKENS)),
        model=text("model") or None,
        errors=msgspec.Raw(errors) if errors else None,
        output_file_id=text("output_file_id") or None,
        error_file_id=text("error_file_id") or None,
        slices=number("slices"),
        done=number("done"),
        by_tier=by_tier,
    )
