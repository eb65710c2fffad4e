"""What happens to a whole batch: validate it, write a slice's part, join the parts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from tasks.jsonl.input import Findings, LineError, custom_id_of, encode_errors, examine
from tasks.jsonl.output import split_results, unanswered_line
from tasks.records.batches import FINAL
from tasks.storage import (
    CHUNK,
    content_name,
    joined_name,
    names_name,
    part_name,
    partial_stem,
    parts_folder,
)

if TYPE_CHECKING:
    from tasks.broker.publisher import Publisher
    from tasks.records.batches import Place, Unit
    from tasks.recovery.leases import Leases
    from tasks.storage import Storage
    from tasks.store.batches import BatchStore
    from tasks.store.files import FileStore
    from tasks.store.retrying import Insist

INPUT_GONE = "the input file is not there any more"

log = logging.getLogger(__name__)


class Phases:
    """Runs phases on the event loop, their reading and writing in threads."""

    def __init__(  # noqa: PLR0913, PLR0917 - the process wires its parts here, once
        self,
        store: BatchStore,
        files: FileStore,
        publisher: Publisher,
        leases: Leases,
        insist: Insist,
        slice_lines: int,
    ) -> None:
        self._store, self._files = store, files
        self._publisher = publisher
        self._leases = leases
        self._insist = insist
        self._slice_lines = slice_lines

    async def run(self, tier: str, unit_id: str, attempt: int, lease_owner: str) -> None:
        """Run one phase of a batch."""
        unit = await self._insist(lambda: self._store.begin(lease_owner, tier, unit_id, attempt))
        if unit is None:
            return
        phase = {"validate": self._validate, "part": self.write_part, "join": self._join}[tier]
        work = asyncio.create_task(phase(unit))
        self._leases.hold(unit.id, lease_owner, work)
        try:
            await work
        except asyncio.CancelledError:
            return  # dropped: its batch was cancelled, or it is another worker's now
        except OSError as error:
            # The lease ends and the phase runs again: storage that is away comes back.
            log.warning("%s of %s broke off: %s", tier, unit.batch, type(error).__name__)
        finally:
            self._leases.release(unit.id, lease_owner)

    async def _validate(self, unit: Unit) -> None:
        found = await asyncio.to_thread(self._examine, unit)
        first = self._publisher.first_tier
        dispatches = await self._insist(
            lambda: self._store.validated(
                unit,
                total=found.total,
                places=() if found.errors else found.places,
                errors=found.encoded(),
                model=found.model or "",
                first_tier=first,
            )
        )
        log.info("%s: %d lines, %d errors", unit.batch, found.total, found.error_count)
        await self._publisher.dispatch(dispatches)

    def _examine(self, unit: Unit) -> Findings:
        storage, names = self._files.storage, names_name(unit.batch)
        try:
            # The names are for whoever ends the batch when its input is gone.
            with (
                storage.open(content_name(unit.input_file_id)) as file,
                storage.writing(names) as named,
            ):
                found = examine(file, unit.endpoint, self._slice_lines, named)
            if found.errors:
                storage.remove(names)
            return found  # noqa: TRY300 - who is not there has no names either
        except FileNotFoundError:
            found = Findings(error_count=1)
            found.errors.append(LineError("file_not_found", INPUT_GONE))
            return found

    async def input_gone(self, unit: Unit) -> None:
        """End the batch of a unit that cannot be read: what has no answer says so."""
        errors = encode_errors([LineError("file_not_found", INPUT_GONE)])
        dispatches = await self._insist(lambda: self._store.input_gone(unit, errors))
        await self._publisher.dispatch(dispatches)

    async def write_part(self, unit: Unit) -> None:
        """Make a complete slice durable, and send the next one."""
        assert unit.place and len(unit.results) == unit.place.lines  # noqa: S101, PT018 - complete
        output, errors = split_results(unit.results)
        await asyncio.to_thread(self._write, unit, output, errors)
        dispatches = await self._insist(
            lambda: self._store.part_done(unit, len(output), len(errors))
        )
        await self._publisher.dispatch(dispatches)

    def _write(self, unit: Unit, output: bytes, errors: bytes) -> None:
        for kind, content in (("output", output), ("error", errors)):
            if content:
                self._files.storage.write(part_name(unit.batch, str(unit.slice), kind), content)

    async def _join(self, unit: Unit) -> None:
        if unit.status not in FINAL:
            parts = await self._insist(lambda: self._store.parts(unit.batch, 0, -1))
            places = await self._insist(lambda: self._store.places(unit.batch))
            there = {number for number, _, _ in parts}
            more, unanswered, before = [], 0, 0
            for number, place in enumerate(places):
                if number not in there:
                    part, missing = await self._partial(unit, number, place, before)
                    more.append(part)
                    unanswered += missing
                before += place.lines
            named = [(str(part[0]), *part[1:]) for part in parts]
            named += [(partial_stem(part[0]), *part[1:]) for part in more]
            files = await asyncio.to_thread(_join_parts, self._files.storage, unit.batch, named)
            joined = await self._insist(
                lambda: self._store.joined(unit, unanswered=unanswered, parts=more, files=files)
            )
            if not joined:
                return
            log.info("%s: %s", unit.batch, unit.ending)
        for name in (parts_folder(unit.batch), names_name(unit.batch)):
            await asyncio.to_thread(self._files.storage.remove, name)
        await self._insist(lambda: self._store.drop(unit))

    async def _partial(
        self, unit: Unit, number: int, place: Place, before: int
    ) -> tuple[tuple[int, int, int], int]:
        """Write the part of a slice that its batch ended before; count what has no answer.

        before: lines of the slices before it.
        """
        results = await self._insist(lambda: self._store.results(unit.batch, number))
        missing = [i for i in range(place.lines) if i not in results]
        if missing:
            names = await asyncio.to_thread(self._custom_ids, unit, place, before)
            for i in missing:
                said = unanswered_line(unit.batch, number, i, names[i], unit.ending)
                results[i] = b"e" + said
        output, errors = split_results(results)
        for kind, part in (("output", output), ("error", errors)):
            if part:
                name = part_name(unit.batch, partial_stem(number), kind)
                await asyncio.to_thread(self._files.storage.write, name, part)
        return (number, len(output), len(errors)), len(missing)

    def _custom_ids(self, unit: Unit, place: Place, before: int) -> list[str | None]:
        storage, name = self._files.storage, content_name(unit.input_file_id)
        try:
            content = storage.read(name, place.offset, place.length)
        except FileNotFoundError:  # somebody deleted it behind our back
            names = self._noted_names(unit)[before : before + place.lines]
        else:
            names = [custom_id_of(text) for text in content.split(b"\n") if text.strip()]
        return names + [None] * (place.lines - len(names))  # somebody made it shorter

    def _noted_names(self, unit: Unit) -> list[str | None]:
        with (
            contextlib.suppress(FileNotFoundError),
            self._files.storage.open(names_name(unit.batch)) as file,
        ):
            return [msgspec.json.decode(text) for text in file]
        return []


def _join_parts(
    storage: Storage, batch: str, parts: list[tuple[str, int, int]]
) -> list[tuple[str, str, int, str]]:
    """Copy the parts, in this order, into the files that have any; again is harmless."""
    made = []
    for kind, column in (("output", 1), ("error", 2)):
        stems = [part[0] for part in parts if part[column]]
        size = sum(int(part[column]) for part in parts)
        if not size:
            continue
        file_id = joined_name(batch, kind)
        with storage.writing(content_name(file_id)) as target:
            for stem in stems:
                _append(storage, part_name(batch, stem, kind), target)
        made.append((kind, file_id, size, f"{batch}_{kind}.jsonl"))
    return made


def _append(storage: Storage, name: str, target: BinaryIO) -> None:
    with storage.open(name) as source:
        shutil.copyfileobj(source, target, CHUNK)
