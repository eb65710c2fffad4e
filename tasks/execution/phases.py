"""What happens to a whole batch: validate it, write a slice's part, join the parts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import msgspec

from tasks.jsonl.input import Findings, LineError, custom_id_of, encode_errors, examine
from tasks.jsonl.output import split_results, unanswered_line
from tasks.records.batches import (
    FINAL,
    JoinedFile,
    Part,
    PhaseUnit,
    SliceRange,
    SliceUnit,
    Unit,
    unanswered,
)
from tasks.records.jobs import new_token
from tasks.storage import (
    CHUNK,
    content_name,
    custom_ids_name,
    joined_name,
    part_name,
    partial_stem,
    parts_folder,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.execution.context import Context
    from tasks.records.jobs import Ref
    from tasks.storage import Storage

CLEAR_SECONDS = 5.0  # from the end of a batch until its parts go
INPUT_GONE = "the input file is not there any more"

log = logging.getLogger(__name__)


class _Piece(NamedTuple):
    """A part as it lies on the storage, under this stem."""

    stem: str
    part: Part


class PhaseRunner:
    """Runs phases on the event loop, their reading and writing in threads."""

    def __init__(self, context: Context, slice_lines: int) -> None:
        self._context = context
        self._batches, self._storage = context.store.batches, context.store.files.storage
        self._slice_lines = slice_lines

    async def run_phase(self, tier: str, ref: Ref, lease_owner: str) -> None:
        """Run one phase of a batch."""
        unit = await self._context.retrying(self._batches.begin, lease_owner, tier, ref)
        if unit is None:
            return
        work = asyncio.create_task(self._run(unit))
        self._context.leases.hold(unit.id, lease_owner, work)
        try:
            await work
        except asyncio.CancelledError:
            return  # dropped: its batch was cancelled, or it is another worker's now
        except OSError as error:
            # The lease ends and the phase runs again: storage that is away comes back.
            log.warning("%s of %s broke off: %s", tier, unit.batch, type(error).__name__)
        finally:
            self._context.leases.release(unit.id, lease_owner)

    async def _run(self, unit: Unit) -> None:
        match unit:
            case SliceUnit(tier="part"):
                await self.write_part(unit)
            case PhaseUnit(tier="validate"):
                await self._validate(unit)
            case PhaseUnit(tier="join"):
                await self._join(unit)
            case _:
                await drop_late(self._context, unit)

    async def _validate(self, unit: PhaseUnit) -> None:
        context = self._context
        findings = await asyncio.to_thread(self._examine, unit)
        first_tier = context.publisher.first_tier
        dispatches = await context.retrying(self._batches.start, unit, findings, first_tier)
        log.info("%s: %d lines, %d errors", unit.batch, findings.total, findings.error_count)
        await context.publisher.dispatch(dispatches)

    def _examine(self, unit: PhaseUnit) -> Findings:
        storage, ids_name = self._storage, custom_ids_name(unit.batch)
        try:
            # The custom_ids are for whoever ends the batch when its input is gone.
            with (
                storage.open(content_name(unit.input_file_id)) as file,
                storage.writing(ids_name) as custom_ids,
            ):
                findings = examine(file, unit.endpoint, self._slice_lines, custom_ids)
        except FileNotFoundError:
            findings = Findings(error_count=1)
            findings.errors.append(LineError("file_not_found", INPUT_GONE))
        if findings.errors:  # then also what a worker left that was lost at it
            storage.remove(ids_name)
        return findings

    async def end_without_input(self, unit: Unit) -> None:
        """End the batch of a unit that cannot be read: what has no answer says so."""
        errors = encode_errors([LineError("file_not_found", INPUT_GONE)])
        dispatches = await self._context.retrying(self._batches.end_without_input, unit, errors)
        await self._context.publisher.dispatch(dispatches)

    async def write_part(self, unit: SliceUnit) -> None:
        """Make a complete slice durable, and send the next one."""
        assert unit.complete  # noqa: S101 - the store says so, or every line was recorded here
        part = await self._write(unit.batch, unit.slice, str(unit.slice), unit.results)
        dispatches = await self._context.retrying(self._batches.complete_slice, unit, part)
        await self._context.publisher.dispatch(dispatches)

    async def _write(
        self, batch_id: str, number: int, stem: str, results: dict[int, bytes]
    ) -> Part:
        """Write the results of a slice; again is harmless."""
        output, errors = split_results(results)
        for kind, content in (("output", output), ("error", errors)):
            if content:
                name = part_name(batch_id, stem, kind)
                await asyncio.to_thread(self._storage.write, name, content)
        return Part(number, len(output), len(errors))

    async def _join(self, unit: PhaseUnit) -> None:
        retrying = self._context.retrying
        if unit.status not in FINAL:
            if await self._complete(unit):
                # A store that loses its last second joins again, and needs the parts for it.
                await retrying(self._batches.park, unit, new_token(), {}, CLEAR_SECONDS)
            return
        for name in (parts_folder(unit.batch), custom_ids_name(unit.batch)):
            await asyncio.to_thread(self._storage.remove, name)
        await retrying(self._context.store.files.clear_later, unit.batch)
        await retrying(self._batches.drop, unit)

    async def _complete(self, unit: PhaseUnit) -> bool:
        """Make the batch's files from its parts, and end it; False if it is not ours any more."""
        retrying = self._context.retrying
        parts = await retrying(self._batches.parts, unit.batch)
        ranges = await retrying(self._batches.ranges, unit.batch)
        known = {part.slice for part in parts}
        pieces = [_Piece(str(part.slice), part) for part in parts]
        further, missing, before = [], 0, 0
        for number, where in enumerate(ranges):
            if number not in known:
                part, without = await self._end_slice(unit, number, where, before)
                further.append(part)
                pieces.append(_Piece(partial_stem(number), part))
                missing += without
            before += where.lines
        files = await asyncio.to_thread(_join_pieces, self._storage, unit.batch, pieces)
        ended = await retrying(
            self._batches.complete,
            unit,
            slices=len(ranges),
            unanswered=missing,
            parts=further,
            files=files,
        )
        if ended:
            log.info("%s: %s", unit.batch, unit.ending)
        return ended

    async def _end_slice(
        self, unit: PhaseUnit, number: int, where: SliceRange, before: int
    ) -> tuple[Part, int]:
        """Write the part of a slice that its batch ended before; count what has no answer.

        before: lines of the slices before it.
        """
        results = await self._context.retrying(self._batches.results, unit.batch, number)
        missing = [i for i in range(where.lines) if i not in results]
        if missing:
            custom_ids = await asyncio.to_thread(self._custom_ids, unit, where, before)
            for i in missing:
                line = unanswered_line(unit.batch, number, i, custom_ids[i], unit.ending)
                results[i] = unanswered(i, line).stored
        part = await self._write(unit.batch, number, partial_stem(number), results)
        return part, len(missing)

    def _custom_ids(self, unit: PhaseUnit, where: SliceRange, before: int) -> list[str | None]:
        name = content_name(unit.input_file_id)
        try:
            content = self._storage.read(name, where.offset, where.length)
        except FileNotFoundError:  # somebody deleted it behind our back
            custom_ids = self._noted_custom_ids(unit)[before : before + where.lines]
        else:
            custom_ids = [custom_id_of(text) for text in content.split(b"\n") if text.strip()]
        return custom_ids + [None] * (where.lines - len(custom_ids))  # somebody made it shorter

    def _noted_custom_ids(self, unit: PhaseUnit) -> list[str | None]:
        with (
            contextlib.suppress(FileNotFoundError),
            self._storage.open(custom_ids_name(unit.batch)) as file,
        ):
            return [msgspec.json.decode(text) for text in file]
        return []


async def drop_late(context: Context, unit: Unit) -> None:
    """Drop a unit whose batch has ended: what it was about is not there any more."""
    log.warning("%s comes too late: %s is %s", unit.id, unit.batch, unit.status.value)
    await context.retrying(context.store.batches.drop, unit)


def _join_pieces(storage: Storage, batch_id: str, pieces: Sequence[_Piece]) -> list[JoinedFile]:
    """Copy the pieces, in this order, into the files that have any; again is harmless."""
    sizes = {
        "output": [piece.part.output_bytes for piece in pieces],
        "error": [piece.part.error_bytes for piece in pieces],
    }
    files = []
    for kind, bytes_of in sizes.items():
        if not any(bytes_of):
            continue
        file_id = joined_name(batch_id, kind)
        with storage.writing(content_name(file_id)) as target:
            for piece, size in zip(pieces, bytes_of, strict=True):
                if size:
                    _append(storage, part_name(batch_id, piece.stem, kind), size, target)
        files.append(JoinedFile(kind, file_id, sum(bytes_of), f"{batch_id}_{kind}.jsonl"))
    return files


def _append(storage: Storage, name: str, size: int, target: BinaryIO) -> None:
    before = target.tell()
    with storage.open(name) as source:
        shutil.copyfileobj(source, target, CHUNK)
    if (copied := target.tell() - before) != size:
        message = f"{name} has {copied} bytes instead of {size}"
        raise OSError(message)
