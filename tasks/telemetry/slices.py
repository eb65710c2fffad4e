"""What a task did with its slice, for who watches Celery's events: Flower.

A slice that a tier could not answer ends its task as well as one that it could: both are SUCCESS to
Celery. So each task counts what its jobs came to, and its last event names the worst of it:
task-handed_on is the state HANDED_ON.
"""

from __future__ import annotations

from collections import Counter
from contextvars import ContextVar
from typing import TYPE_CHECKING

from tasks.records.jobs import Status
from tasks.records.outcomes import Finish, HandBack, HandOn, HandUp, Park

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fallback_chain import Attempt
    from tasks.records.outcomes import Outcome

ANSWERED, REFUSED, WAITING = "answered", "refused", "waiting"
HANDED_ON, HANDED_UP, HANDED_BACK, PARKED = "handed_on", "handed_up", "handed_back", "parked"
DEGRADED, FAILED, EXPIRED = "degraded", "failed", "expired"
# The last event of a task is that of the first of these that some of its jobs came to.
EVENTS = {
    **dict.fromkeys((FAILED, EXPIRED, DEGRADED), "task-unanswered"),
    **{end: f"task-{end}" for end in (PARKED, HANDED_ON, WAITING, HANDED_UP, HANDED_BACK)},
}
SUCCEEDED = "task-succeeded"
MOST_REASONS = 3  # that are told


class SliceReport:
    """Counts what jobs, or lines, came to. It holds tiers' verdicts, and nothing of a prompt."""

    def __init__(self) -> None:
        self._ends: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()

    def note(self, outcome: Outcome) -> None:
        """Count what one job came to."""
        end = _end_of(outcome)
        self._ends[end] += 1
        attempts = () if isinstance(outcome, HandBack | HandUp) else outcome.attempts
        if end != ANSWERED and attempts:
            self._add_reason(attempts[-1])

    def note_waiting(self, lines: int, attempts: Iterable[Attempt] = ()) -> None:
        """Note lines that wait in this worker, and hold no thread.

        attempts: the last of each that waits for its tier; what waits for its turn has none.
        """
        self._ends[WAITING] += lines
        for attempt in attempts:
            self._add_reason(attempt)

    def _add_reason(self, attempt: Attempt) -> None:
        self._reasons[f"{attempt.verdict.value} {attempt.detail}".rstrip()] += 1

    @property
    def event(self) -> str:
        """The type of the task's last event."""
        return next((event for end, event in EVENTS.items() if end in self._ends), SUCCEEDED)

    @property
    def text(self) -> str:
        """What happened, as "answered 30, handed on 2 (failure HTTP 500)"; "": nothing did."""
        ends = ", ".join(f"{end.replace('_', ' ')} {n}" for end, n in self._ends.most_common())
        reasons = [reason for reason, _ in self._reasons.most_common(MOST_REASONS)]
        return f"{ends} ({'; '.join(reasons)})" if reasons else ends


def _end_of(outcome: Outcome) -> str:
    if not isinstance(outcome, Finish):
        return _LEFT[type(outcome)]
    if outcome.status is Status.SUCCEEDED:
        return DEGRADED if outcome.tier_used == "degraded" else ANSWERED
    if outcome.status is Status.EXPIRED:
        return EXPIRED
    return REFUSED if outcome.tier_used else FAILED


_LEFT = {HandOn: HANDED_ON, HandUp: HANDED_UP, Park: PARKED, HandBack: HANDED_BACK}
_current: ContextVar[SliceReport | None] = ContextVar("slice_report", default=None)


def report_to(report: SliceReport) -> None:
    """Have what this context works on counted there."""
    _current.set(report)


def current_report() -> SliceReport:
    """Return where this context counts; where nobody listens, one that nobody reads."""
    return _current.get() or SliceReport()
