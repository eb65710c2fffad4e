"""A slice's bytes of the input file, as jobs."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, NamedTuple

from fallback_chain import Urgency
from tasks.json_faults import UNREADABLE
from tasks.jsonl.input import custom_id_of, split_line
from tasks.jsonl.output import unanswered_line
from tasks.records.batches import LineResult, unanswered
from tasks.records.jobs import BegunJob, Options, Queue
from tasks.storage import content_name

if TYPE_CHECKING:
    from tasks.records.batches import SliceUnit
    from tasks.storage import Storage

MISSING_TRIES, MISSING_SECONDS = 5, 1.0  # looks for an input file, and the time between them


class LineJob(NamedTuple):
    """A line that is to be answered."""

    custom_id: str
    job: BegunJob


class Lines(NamedTuple):
    """The open lines of a unit, and the results of those that cannot be read any more."""

    jobs: dict[int, LineJob]
    unreadable: list[LineResult]


async def read_lines(storage: Storage, unit: SliceUnit) -> Lines | None:
    """Read a unit's open lines; None if the input file is gone from the storage."""
    for i in range(MISSING_TRIES):
        if i:
            await asyncio.sleep(MISSING_SECONDS)
        with contextlib.suppress(FileNotFoundError):
            return await _read(storage, unit)
    return None


async def _read(storage: Storage, unit: SliceUnit) -> Lines:
    where = unit.range
    content = await asyncio.to_thread(
        storage.read, content_name(unit.input_file_id), where.offset, where.length
    )
    texts = [text for text in content.split(b"\n") if text.strip()]
    texts += [b""] * (where.lines - len(texts))  # somebody made the file shorter
    lines = Lines({}, [])
    for index in unit.open_lines:
        text = texts[index]
        try:
            lines.jobs[index] = line_job(unit, index, text)
        except UNREADABLE:  # validation read it, so the file has changed since
            content = unanswered_line(
                unit.batch, unit.slice, index, custom_id_of(text), "unreadable"
            )
            lines.unreadable.append(unanswered(index, content))
    return lines


def line_job(unit: SliceUnit, index: int, text: bytes) -> LineJob:
    """Return a line as a job at its unit's tier; raises one of UNREADABLE."""
    custom_id, body = split_line(text)
    body.urgency = Urgency.of_batch(unit.options.priority)
    history = unit.histories.get(index)
    job = BegunJob(
        id=f"{unit.batch}-{unit.slice}-{index}",
        attempt=unit.attempt,
        lease_owner=unit.lease_owner,
        tier=unit.tier,
        body=body,
        owner=unit.owner,
        queue=Queue.BATCH,
        first=unit.first,
        deadline=unit.deadline,
        options=Options(unit.options.cache, unit.options.on_exhausted, tiers=unit.options.tiers),
        attempts=history.attempts if history else (),
        failures=history.failures if history else 0,
        endpoint=unit.endpoint.value,
    )
    return LineJob(custom_id, job)
