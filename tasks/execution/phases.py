"""What happens to a whole batch: validate it, write a slice's part, join the parts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, ParamSpec

import msgspec

from tasks.errors import StoreUnavailable
from tasks.jsonl.input import Findings, LineError, custom_id_of, encode_errors, examine
from tasks.jsonl.output import unanswered_line
from tasks.records.batches import (
    FINAL,
    OUTPUT,
    JoinedFile,
    Part,
    PhaseUnit,
    SliceRange,
    SliceUnit,
    Unit,
    unanswered,
)
from tasks.records.jobs import Dispatch, Queue, new_token
from tasks.records.losses import MOST_LOSSES, broke_off, is_poison, is_suspect
from tasks.records.order import first_of
from tasks.records.outcomes import WORKER_LOST
from tasks.storage import (
    CHUNK,
    content_name,
    custom_ids_name,
    joined_name,
    part_name,
    partial_stem,
    parts_folder,
)
from tasks.whole import whole

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

    from tasks.execution.context import Context
    from tasks.records.jobs import Ref
    from tasks.storage import Storage

CLEAR_SECONDS = 5.0  # from the end of a batch until its parts go
AGAIN_SECONDS = 2.0  # until a phase that broke off runs again
# That a phase waits for a job that is called alone, whose slot and model may take far longer.
PATIENCE_SECONDS = 5.0
INPUT_GONE = "the input file is not there any more"
GIVEN_UP = {  # phase -> as the user knows it
    "validate": "the validation of the input file",
    "part": "the writing of finished lines, from this one on,",
    "join": "the joining of the finished lines (GET …/results has those that were written)",
}

P = ParamSpec("P")
log = logging.getLogger(__name__)


class _GoneError(Exception):
    """Results that were there are there no more: whoever was faster has cleared them."""


class _Piece(NamedTuple):
    """A part as it lies on the storage, under this stem."""

    stem: str
    part: Part


class _Told(NamedTuple):
    """How many lines a slice has, and what those are told that have no result."""

    lines: int
    unanswered: dict[int, bytes]


class _PartWriter:
    """The files of a part while its results come; one that gets none does not appear."""

    def __init__(self, storage: Storage, batch_id: str, stem: str) -> None:
        self._storage, self._batch_id, self._stem = storage, batch_id, stem
        self._open = contextlib.ExitStack()
        self._files: dict[str, BinaryIO] = {}
        self.bytes = {"output": 0, "error": 0}

    def write(self, results: Iterable[bytes]) -> None:
        """Add results, each as the store keeps it."""
        for stored in results:
            kind = "output" if stored[:1] == OUTPUT else "error"
            if kind not in self._files:
                name = part_name(self._batch_id, self._stem, kind)
                self._files[kind] = self._open.enter_context(self._storage.writing(name))
            self._files[kind].write(stored[1:] + b"\n")
            self.bytes[kind] += len(stored)

    def end(self, error: BaseException | None = None) -> None:
        """Have the files appear; where their writing broke off, nothing of them."""
        self._open.__exit__(type(error) if error else None, error, None)


@contextlib.asynccontextmanager
async def _ending(writer: _PartWriter) -> AsyncIterator[_PartWriter]:
    """End what is written, in a thread."""
    try:
        yield writer
    except BaseException as error:
        with contextlib.suppress(OSError):  # what is left over is cleared by its age
            await asyncio.shield(asyncio.to_thread(writer.end, error))
        raise
    await asyncio.to_thread(writer.end)


class PhaseRunner:
    """Runs phases on the event loop, their reading and writing in threads."""

    def __init__(self, context: Context, slice_lines: int) -> None:
        self._context = context
        self._batches, self._storage = context.store.batches, context.store.files.storage
        self._slice_lines = slice_lines

    async def run_phase(self, tier: str, ref: Ref, lease_owner: str) -> None:
        """Run one phase of a batch."""
        context = self._context
        unit = await context.retrying(self._batches.begin, lease_owner, tier, ref)
        if unit is None:
            return
        if context.drain.started:  # it would be cut off by nobody, and end with the process
            await self.hand_back(unit)
            return
        work = asyncio.create_task(self.run(unit))
        context.leases.hold(unit.id, lease_owner, work)
        context.drain.watch([work])
        try:
            await work
        except asyncio.CancelledError:
            if context.drain.cut_off:
                await self.hand_back(unit)
            # Else dropped: its batch was cancelled, or it is another worker's now.
        finally:
            context.drain.forget([work])
            context.leases.release(unit.id, lease_owner)

    async def run(self, unit: Unit) -> None:
        """Run a phase whose lease is held; one that its workers die of is given up."""
        context, stopping = self._context, self._context.drain.started
        try:
            if is_poison([each for each in unit.attempts if each.tier == unit.tier]):
                await self._give_up(unit)
                return
            suspect = is_suspect(unit.attempts)
            async with context.alone() if suspect else context.phases.together(PATIENCE_SECONDS):
                if context.drain.started and not stopping:  # meanwhile
                    await self.hand_back(unit)
                elif not suspect or await context.retrying(context.store.jobs.note_alone, unit):
                    await self._run(unit)
        except OSError as error:
            await self.put_off(unit, error)
        except StoreUnavailable as error:
            # At the end of the drain: the lease ends, and the phase runs again elsewhere.
            log.warning("%s of %s broke off: %s", unit.tier, unit.batch, error)
        except Exception:
            log.exception("%s of %s broke off", unit.tier, unit.batch)
            attempts = (*unit.attempts, broke_off(unit.tier))
            await self._run_again(replace(unit, attempts=attempts), AGAIN_SECONDS)

    async def hand_back(self, unit: Unit) -> None:
        """Hand back what was not begun, or cut off, to whoever comes next at its tier."""
        await whole(self._hand_back(unit))

    async def _hand_back(self, unit: Unit) -> None:
        attempt = await self._context.retrying(self._batches.hand_back, unit, new_token())
        if attempt is not None:
            kind = Queue.BATCH if isinstance(unit, SliceUnit) else Queue.PHASES
            again = Dispatch(unit.id, attempt, unit.tier, kind.begun.value)
            await self._context.publisher.dispatch([again])

    async def _send_on(
        self,
        step: Callable[P, Awaitable[Sequence[Dispatch]]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """Do a step of the store's that ends a unit, and send what it gives out."""

        async def step_and_send() -> None:
            dispatches = await self._context.retrying(step, *args, **kwargs)
            await self._context.publisher.dispatch(dispatches)

        await whole(step_and_send())

    async def put_off(self, unit: Unit, error: OSError) -> None:
        """Have a unit run again later, as storage that is away comes back: that is no loss."""
        log.warning("%s of %s broke off: %s", unit.tier, unit.batch, type(error).__name__)
        await self._run_again(unit, AGAIN_SECONDS)

    async def _run_again(self, unit: Unit, due_seconds: float) -> None:
        await self._context.retrying(self._batches.put_off, unit, new_token(), due_seconds)

    async def _give_up(self, unit: Unit) -> None:
        """End the batch: what was answered stays readable."""
        why = f"{MOST_LOSSES} times its worker was lost, or it broke off"
        message = f"{GIVEN_UP[unit.tier]} was given up: {why}"
        line = unit.range.first_line if isinstance(unit, SliceUnit) else None
        errors = encode_errors([LineError(WORKER_LOST, message, line)])
        log.error("%s of %s is given up", unit.tier, unit.batch)
        await self._send_on(self._batches.give_up, unit, errors)

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
        first_tier = first_of(unit.options.tiers, context.publisher.order)
        log.info("%s: %d lines, %d errors", unit.batch, findings.total, findings.error_count)
        await self._send_on(self._batches.start, unit, findings, first_tier)

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
        await self._send_on(self._batches.end_without_input, unit, errors)

    async def write_part(self, unit: SliceUnit) -> None:
        """Make a complete slice durable, and send the next one."""
        try:
            part = await self._write(unit, unit.slice, str(unit.slice), _Told(unit.range.lines, {}))
        except _GoneError:  # another has written it meanwhile
            if await self._context.retrying(self._batches.drop, unit):
                await self._run_again(unit, AGAIN_SECONDS)
            return
        await self._send_on(self._batches.complete_slice, unit, part)

    async def _write(self, unit: Unit, number: int, stem: str, told: _Told) -> Part:
        """Write the results of a slice, a portion at a time; again is harmless.

        Raises _GoneError if they are not there any more.
        """
        line = 0
        async with _ending(_PartWriter(self._storage, unit.batch, stem)) as writer:
            while line < told.lines:
                read = self._batches.results
                found, after = await self._context.retrying(
                    read, unit.batch, number, told.lines, line
                )
                known = {**told.unanswered, **found}
                if any(i not in known for i in range(line, after)):
                    raise _GoneError
                portion = [known[i] for i in range(line, after)]
                await asyncio.to_thread(writer.write, portion)
                line = after
        return Part(number, writer.bytes["output"], writer.bytes["error"])

    async def _join(self, unit: PhaseUnit) -> None:
        retrying = self._context.retrying
        if unit.status not in FINAL:
            if await self._complete(unit):
                # A store that loses its last second joins again, and needs the parts for it.
                await retrying(self._batches.put_off, unit, new_token(), CLEAR_SECONDS)
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
                try:
                    part, without = await self._end_slice(unit, number, where, before)
                except _GoneError:  # another has joined it meanwhile
                    return False
                further.append(part)
                pieces.append(_Piece(partial_stem(number), part))
                missing += without
            before += where.lines
        if await retrying(self._context.store.jobs.renew, [(unit.id, unit.lease_owner)]):
            return False  # we were paused: it may have ended since, and its results be gone
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
        answered = await self._context.retrying(self._batches.answered, unit.batch, number)
        missing = [i for i in range(where.lines) if i not in answered]
        told = _Told(where.lines, {})
        if missing:
            custom_ids = await asyncio.to_thread(self._custom_ids, unit, where, before)
            for i in missing:
                line = unanswered_line(unit.batch, number, i, custom_ids[i], unit.ending)
                told.unanswered[i] = unanswered(i, line).stored
        part = await self._write(unit, number, partial_stem(number), told)
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
