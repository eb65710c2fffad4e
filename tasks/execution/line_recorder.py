"""Answers of a unit's lines, recorded a few together."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from tasks.group_commit import GroupCommit, Linger
from tasks.store.batches import PORTION_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tasks.execution.context import Context
    from tasks.records.batches import LineResult, SliceUnit

# How long a line that is answered waits for others to be recorded with it, or for how many.
GATHER = Linger(seconds=0.05, enough=128)


class LineRecorder:
    """The results of one unit."""

    def __init__(self, context: Context, unit: SliceUnit) -> None:
        self.complete = False  # the slice is, and its part is ours to write
        self._context, self._unit = context, unit
        self._commits: GroupCommit[LineResult, None] = GroupCommit(
            self._record_all, sys.maxsize, GATHER
        )

    def add(self, result: LineResult) -> None:
        """Have a result recorded soon."""
        self._commits.post(result)

    async def flush(self) -> None:
        """Record what was added; raise what went wrong with any of it."""
        await self._commits.flush()

    def cancel(self) -> None:
        """Record nothing more."""
        self._commits.cancel()

    async def record(self, results: list[LineResult]) -> None:
        """Record results now. Without any: take over the part of a slice that is complete."""
        context = self._context
        new, complete = await context.retrying(
            context.store.batches.record_lines, self._unit, results
        )
        if new < 0:
            return  # the batch has ended; its cancellation drops us in a moment
        self.complete = self.complete or complete
        self._unit.results.update(result.line for result in results)
        context.observer.lines_finished(results)

    async def _record_all(self, results: list[LineResult]) -> list[None]:
        for portion in portions(results):
            await self.record(portion)
        return [None] * len(results)


def portions(results: Iterable[LineResult]) -> Iterator[list[LineResult]]:
    """Yield results in portions that the store takes at once: of many bytes there are few."""
    portion: list[LineResult] = []
    room = PORTION_BYTES
    for result in results:
        room -= len(result.content)
        if portion and room < 0:
            yield portion
            portion, room = [], PORTION_BYTES - len(result.content)
        portion.append(result)
    if portion:
        yield portion
