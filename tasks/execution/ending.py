"""What is to become of a unit whose calls have ended. A decision: the caller does it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.records.batches import LineHistory
from tasks.records.outcomes import LATE_SECONDS, HandOn, Outcome, Park

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.records.batches import SliceUnit


@dataclass(frozen=True, slots=True)
class WritePart:
    """Every line of the slice has its result, and its part is ours to write."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Nothing is left that this unit is to answer: others have, or write, the rest."""


@dataclass(frozen=True, slots=True)
class HandOnUnit:
    """All that is left goes to the next tier."""

    histories: Mapping[int, LineHistory]


@dataclass(frozen=True, slots=True)
class ParkUnit:
    """Something is left that no tier could answer: it waits, and what is left waits with it."""

    histories: Mapping[int, LineHistory]
    due_seconds: float


@dataclass(frozen=True, slots=True)
class HandBackUnit:
    """Some lines were not called, or cut off: they go to this tier again.

    leaving: those that the tier did not answer go to the next one by themselves.
    """

    leaving: Mapping[int, LineHistory]


Ending = WritePart | Drop | HandOnUnit | ParkUnit | HandBackUnit


def ending(
    unit: SliceUnit, left: Mapping[int, Outcome], *, complete: bool, past_deadline: bool
) -> Ending:
    """Decide what becomes of a unit. left: what each line came to that is not answered."""
    if complete:
        return WritePart()
    open_lines = unit.open_lines
    if not open_lines:
        return Drop()
    if past_deadline:  # the sweeper is about to end the batch
        return ParkUnit({}, LATE_SECONDS)
    tried = {i: o for i in open_lines if isinstance(o := left.get(i), HandOn | Park)}
    if len(tried) < len(open_lines):
        return HandBackUnit(leaving(left))
    histories = {i: history(outcome) for i, outcome in tried.items()}
    dues = [outcome.due_seconds for outcome in tried.values() if isinstance(outcome, Park)]
    return ParkUnit(histories, min(dues)) if dues else HandOnUnit(histories)


def leaving(left: Mapping[int, Outcome]) -> dict[int, LineHistory]:
    """Return the lines that go to the next tier."""
    return {i: history(outcome) for i, outcome in left.items() if isinstance(outcome, HandOn)}


def history(outcome: HandOn | Park) -> LineHistory:
    """Return what is kept of a line that was not answered."""
    return LineHistory(outcome.attempts, outcome.failures)
