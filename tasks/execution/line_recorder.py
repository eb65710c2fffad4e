"""Answers of a unit's lines, recorded a few together."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from tasks.group_commit import GroupCommit, Linger

if TYPE_CHECKING:
    from tasks.execution.context import Context
    from tasks.records.batches import LineResult, SliceUnit

# How long a line that is answered waits for others to be recorded with it, or for how many.
GATHER = Linger(seconds=0.02, enough=64)


class LineRecorder:
    """The results of one unit."""

    def __init__(self, context: Context, unit: SliceUnit) -> None:
        self.complete = False  # the slice is, and its part is ours to write
        self.alone = True  # every result that we recorded was the first of its line
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
        self.alone = self.alone and new == len(results)
        self.complete = self.complete or complete
        for result in results:
            self._unit.results[result.line] = result.stored
        context.observer.lines_finished(results)

    async def _record_all(self, results: list[LineResult]) -> list[None]:
        await self.record(results)
        return [None] * len(results)
