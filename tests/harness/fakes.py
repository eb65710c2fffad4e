"""What stands around a part under test: each fake notes what it is asked, and does little else."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

from harness.waiting import turns
from tasks.errors import StoreUnavailable
from tasks.records.jobs import Dispatch, Ref
from tasks.records.order import next_of, order_of
from tasks.records.outcomes import Park
from tasks.store.batches import Portion, Recorded, Split
from tasks.telemetry.observer import Observer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from tasks.errors import PublishError
    from tasks.records.batches import LineHistory, LineResult, Part, SliceUnit, Unit
    from tasks.records.jobs import BegunJob
    from tasks.records.outcomes import Finish, HandOn
    from tasks.storage import Storage
    from tasks.tiers.gate import Turn


class Heard(Observer):
    """Notes what it is told, without the times."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def begun(self, tier, waited):
        self.events.append(("begun", tier))

    def tried(self, tier, verdict, took, detail="", endpoint=0):
        self.events.append(("tried", tier, verdict))

    def finished(self, tier, status, age, tokens):
        self.events.append(("finished", tier, status))

    def lines_finished(self, results):
        self.events += [("line", result.line) for result in results]

    def swept(self, reasons):
        self.events.append(("swept", *reasons))


class FakePublisher:
    """A broker that takes everything, unless `refuses` is set."""

    def __init__(self, models: Sequence[str] = ("gpu", "cpu")) -> None:
        self.order = order_of(models)
        self.refuses: PublishError | None = None
        self.published: list[tuple[str, str, list[Ref]]] = []
        self.dispatched: list[Dispatch] = []
        self.dispatched_refused = 0
        self.is_empty = False

    def next_tier(self, tier: str) -> str:
        return next_of(self.order, tier)

    async def publish(self, tier: str, queue_name: str, refs: Sequence[Ref]) -> None:
        if self.refuses:
            raise self.refuses
        self.published.append((tier, queue_name, list(refs)))

    def letter(self, *_: object) -> None:
        return None

    async def publish_new(self, tier: str, queue_name: str, refs: Sequence[Ref]) -> None:
        await self.publish(tier, queue_name, refs)

    async def dispatch(self, dispatches: Iterable[Dispatch]) -> None:
        self.dispatched += dispatches

    async def dispatch_refused(self) -> None:
        self.dispatched_refused += 1

    async def empty(self, queue_names: Iterable[str]) -> dict[str, bool]:
        if self.refuses:
            raise self.refuses
        return dict.fromkeys(queue_names, self.is_empty)


class FakeGate:
    """A line of which nobody is told anything; whoever steps out of it comes back."""

    def __init__(self) -> None:
        self.out: list[Turn] = []

    def step_out(self, turns: Iterable[Turn]) -> None:
        self.out = list(turns)

    def come_back(self, turns: Iterable[Turn]) -> None:
        for turn in turns:
            self.out.remove(turn)


class FakeAnswerer:
    """Answers as `outcome` says: an outcome, an awaitable of one, or an error to raise."""

    def __init__(self, outcome: Callable[[BegunJob], Any]) -> None:
        self.outcome = outcome
        self.holds: Callable[[BegunJob], bool] = lambda _: False
        self.turns: dict[str, Turn] = {}  # by job
        self.kept_answers: dict[str, Any] = {}
        self.room: dict[str, int] = {}
        self.unanswered_between: set[str] = set()
        self.unfit_below: set[str] = set()
        self.unfit_at: dict[str, set[str]] = {}
        self.gates = {"gpu": FakeGate()}
        self.asked: list[str] = []
        self.kept: list[str] = []

    async def answer(self, job: BegunJob, sink: Any = None) -> Any:
        self.asked.append(job.id)
        outcome = self.outcome(job)
        if inspect.isawaitable(outcome):
            outcome = await outcome
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def keep(self, job: BegunJob, finish: Finish) -> None:
        self.kept.append(job.id)

    def goes_home(self, job: BegunJob, outcome: HandOn) -> bool:
        return job.id in self.unanswered_between

    def sent_home(self, job: BegunJob) -> Park:
        return Park(job.attempts, job.failures, 1.0)

    # Lines that wait for their tier: where holds says so, until a turn is told something

    def waits(self, job: BegunJob, outcome: HandOn) -> bool:
        return self.holds(job)

    async def cached(self, job: BegunJob) -> Any:
        return self.kept_answers.get(job.id)

    def line_up(self, job: BegunJob, outcome: HandOn) -> Turn:
        self.turns[job.id] = asyncio.get_running_loop().create_future()
        return self.turns[job.id]

    def parked(self, job: BegunJob) -> Park:
        return Park(job.attempts, job.failures, 3.0)

    async def room_at(self, tier: str) -> int:
        return self.room.get(tier, 0)

    def may_take(self, tier: str, job: BegunJob) -> bool:
        return job.id not in self.unfit_below | self.unfit_at.get(tier, set())

    def worth_until(self, job: BegunJob) -> float:
        return job.deadline

    def no_room(self, job: BegunJob, began: float) -> Any:
        return self.outcome(job).result()


class FakeJobs:
    """A store's jobs. away: how many of the next transitions it does not answer."""

    def __init__(self, jobs: Iterable[BegunJob] = ()) -> None:
        self.jobs = {job.id: job for job in jobs}
        self.moves: list[tuple[Any, ...]] = []
        self.lost: list[str] = []
        self.parked_at: list[str] = []
        self.wins = True
        self.away = 0

    def _moved(self, *move: Any) -> None:
        if self.away:
            self.away -= 1
            raise StoreUnavailable
        self.moves.append(move)

    async def begin(self, lease_owner: str, tier: str, refs: Sequence[Ref]) -> list[BegunJob]:
        self._moved("begin", tier)
        return [self.jobs[ref.id] for ref in refs if ref.id in self.jobs]

    async def note_alone(self, job: BegunJob | Unit) -> bool:
        self._moved("note_alone", job.id)
        return self.wins

    async def finish(self, job: BegunJob, finish: Finish, last: Any = None) -> bool:
        self._moved("finish", job.id, finish.status.value)
        return self.wins

    async def with_body(self, job: BegunJob) -> BegunJob | None:
        return self.jobs.get(job.id)

    async def hand_on(
        self, jobs: Sequence[BegunJob], to_tier: str, token: str, outcomes: Sequence[HandOn]
    ) -> list[Ref]:
        left = {job.id: outcome.failures for job, outcome in zip(jobs, outcomes, strict=True)}
        self._moved("hand_on", to_tier, left)
        return [Ref(job.id, job.attempt + 1) for job in jobs]

    async def hand_back(self, job: BegunJob, token: str) -> list[Ref]:
        self._moved("hand_back", job.id)
        return [Ref(job.id, job.attempt + 1)]

    async def park(self, job: BegunJob, to_tier: str, token: str, outcome: Park) -> None:
        self.parked_at.append(to_tier)
        self._moved("park", job.id, outcome.due_seconds)

    async def renew(self, leases: Iterable[tuple[str, str]]) -> list[str]:
        self._moved("renew", dict(leases))
        return self.lost


class FakeFiles:
    """A store's files. later: the batches that it was told to clear once more."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.later: list[str] = []

    async def clear_later(self, batch_id: str) -> None:
        self.later.append(batch_id)


class FakeBatches:
    """A store's batches, one slice of which is at work. away: as above."""

    def __init__(self, units: Iterable[Unit] = ()) -> None:
        self.units = {Ref(unit.id, unit.attempt): unit for unit in units}
        self.moves: list[tuple[Any, ...]] = []
        self.known: dict[int, bytes] = {}  # the slice's results, whoever recorded them
        self.parked_at: list[str] = []
        self.ended = False  # the batch takes no results
        self.forgot = False  # the store has lost what it had told
        self.ours = True
        self.done_parts: list[Part] = []
        self.slice_ranges: list[Any] = []
        self.away = 0

    def _moved(self, *move: Any) -> None:
        if self.away:
            self.away -= 1
            raise StoreUnavailable
        self.moves.append(move)

    async def begin(self, lease_owner: str, tier: str, ref: Ref) -> Unit | None:
        self._moved("begin", tier, ref)
        return self.units.get(ref)

    async def record_lines(self, unit: SliceUnit, results: Sequence[LineResult]) -> Recorded:
        self._moved("record", [result.line for result in results])
        if self.ended:
            return Recorded(-1, complete=False)
        fresh = {result.line: result.stored for result in results if result.line not in self.known}
        self.known |= fresh
        complete = self.ours and len(self.known) == unit.range.lines
        return Recorded(len(fresh), complete)

    async def answered(self, batch_id: str, number: int) -> set[int]:
        return set(self.known)

    async def results(self, batch_id: str, number: int, lines: int, first: int) -> Portion:
        """Return one line's: as if each were large."""
        return Portion({i: s for i, s in self.known.items() if i == first}, first + 1)

    async def note_line(self, unit: SliceUnit, line: int, history: LineHistory) -> bool:
        self._moved("note_line", line, history)
        return self.ours

    async def split(
        self,
        unit: SliceUnit,
        to_tier: str,
        token: str,
        histories: Mapping[int, LineHistory],
        most: int | None = None,
    ) -> Split | None:
        lines = list(histories)[:most]
        self._moved("split", to_tier, {line: histories[line] for line in lines})
        return Split(f"{unit.id}_{token}", lines) if self.ours and lines else None

    async def hand_on(
        self, unit: SliceUnit, to_tier: str, token: str, histories: Mapping[int, LineHistory]
    ) -> int | None:
        self._moved("hand_on", to_tier, dict(histories))
        return unit.attempt + 1 if self.ours else None

    async def hand_back(self, unit: SliceUnit, token: str) -> int | None:
        self._moved("hand_back", unit.tier)
        return unit.attempt + 1 if self.ours else None

    async def park(
        self,
        unit: SliceUnit,
        to_tier: str,
        token: str,
        histories: Mapping[int, LineHistory],
        due_seconds: float,
    ) -> None:
        self.parked_at.append(to_tier)
        self._moved("park", dict(histories), due_seconds)

    async def put_off(self, unit: Unit, token: str, due_seconds: float) -> None:
        self._moved("put_off", unit.tier, unit.attempts, due_seconds)

    async def give_up(self, unit: Unit, errors: bytes) -> list[Dispatch]:
        self._moved("give_up", unit.tier, errors)
        return [Dispatch("unit_join", 0, "join", "phases")]

    async def drop(self, unit: Unit) -> bool:
        self._moved("drop", unit.id)
        return self.forgot

    async def start(self, unit: Unit, findings: Any, first_tier: str) -> list[Dispatch]:
        self._moved("start", findings, first_tier)
        return [Dispatch("unit_next", 0, first_tier, "batch")]

    async def end_without_input(self, unit: Unit, errors: bytes) -> list[Dispatch]:
        self._moved("end_without_input", errors)
        return [Dispatch("unit_join", 0, "join", "phases")]

    async def complete_slice(self, unit: SliceUnit, part: Part) -> list[Dispatch]:
        self._moved("complete_slice", part)
        return [Dispatch("unit_next", 0, "gpu", "batch")]

    async def parts(self, batch_id: str) -> list[Part]:
        return self.done_parts

    async def ranges(self, batch_id: str) -> list[Any]:
        return self.slice_ranges

    async def complete(
        self, unit: Unit, *, slices: int, unanswered: int, parts: Any, files: Any
    ) -> bool:
        self._moved("complete", unanswered, parts, files)
        return self.ours


def meanwhile(owner: Any, step: str, happens: Callable[[], object]) -> None:
    """Have something happen when a step of this object is done, and its asker does not know yet."""
    do = getattr(owner, step)

    async def do_and_answer_late(*arguments: Any, **named: Any) -> Any:
        answer = await do(*arguments, **named)
        happens()
        await turns()
        return answer

    setattr(owner, step, do_and_answer_late)
