"""What a batch is: its record, its slices, its lines. No I/O."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from fallback_chain import Attempt, Endpoint, Tokens
from tasks.records.jobs import Status
from tasks.records.policies import (
    CachePolicy,
    ExhaustedPolicy,
    TierNames,
    passes_over,
)
from tasks.records.transitions import Transition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.records.pace import Slot

PHASES = ("validate", "part", "join")  # of a batch
SLICE_BYTES = 1024 * 1024  # a slice holds no more, unless one line does
WINDOWS = {"low": 0.25, "normal": 1.0, "high": 4.0}  # share of the window by priority
WINDOW = r"([0-9]{1,6})([smhd])"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
LONGEST_WINDOW_SECONDS = 7 * 86_400
COUNTED_MODEL = 128  # characters of a model's name by which a batch's lines are counted


class BatchStatus(StrEnum):
    """OpenAI's statuses of a batch."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


FINAL = frozenset(
    {BatchStatus.FAILED, BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLED}
)


_LEASED = "under its unit's lease"
_POISON = "its workers die of it"

# A batch's states. "ending" is what it is going to be; while its lines are not known yet, a batch
# that was cancelled, or that expired, waits for its validation, and then is joined.
TRANSITIONS = (
    Transition(None, BatchStatus.VALIDATING, "create_batch", "its key made none before"),
    Transition(
        BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS, "start_batch", f"no errors; {_LEASED}"
    ),
    Transition(BatchStatus.VALIDATING, BatchStatus.FAILED, "start_batch", f"errors; {_LEASED}"),
    Transition(BatchStatus.CANCELLING, BatchStatus.FAILED, "start_batch", f"errors; {_LEASED}"),
    Transition(BatchStatus.FINALIZING, BatchStatus.FAILED, "start_batch", f"errors; {_LEASED}"),
    Transition(BatchStatus.VALIDATING, BatchStatus.CANCELLING, "cancel_batch", "its owner asks"),
    Transition(BatchStatus.IN_PROGRESS, BatchStatus.CANCELLING, "cancel_batch", "its owner asks"),
    Transition(BatchStatus.VALIDATING, BatchStatus.FINALIZING, "sweep", "past its window"),
    Transition(BatchStatus.IN_PROGRESS, BatchStatus.FINALIZING, "sweep", "past its window"),
    Transition(
        BatchStatus.IN_PROGRESS, BatchStatus.FINALIZING, "complete_slice", f"its last; {_LEASED}"
    ),
    Transition(
        BatchStatus.IN_PROGRESS,
        BatchStatus.FINALIZING,
        "end_without_input",
        f"nobody can read its input; {_LEASED}",
    ),
    Transition(
        BatchStatus.FINALIZING, BatchStatus.COMPLETED, "complete_batch", f"ending so; {_LEASED}"
    ),
    Transition(
        BatchStatus.FINALIZING, BatchStatus.EXPIRED, "complete_batch", f"ending so; {_LEASED}"
    ),
    Transition(
        BatchStatus.FINALIZING, BatchStatus.FAILED, "complete_batch", f"ending so; {_LEASED}"
    ),
    Transition(BatchStatus.CANCELLING, BatchStatus.CANCELLED, "complete_batch", _LEASED),
    Transition(BatchStatus.VALIDATING, BatchStatus.FAILED, "give_up", f"{_POISON}; {_LEASED}"),
    Transition(BatchStatus.IN_PROGRESS, BatchStatus.FINALIZING, "give_up", f"{_POISON}; {_LEASED}"),
    Transition(BatchStatus.FINALIZING, BatchStatus.FAILED, "give_up", f"{_POISON}; {_LEASED}"),
    Transition(BatchStatus.CANCELLING, BatchStatus.FAILED, "give_up", f"{_POISON}; {_LEASED}"),
)

# A unit's states: it is a job of its batch's, and is dropped when it has nothing left to do.
_HELD = "its tier and attempt, under this lease"
UNIT_TRANSITIONS = (
    Transition(None, Status.QUEUED, "create_batch", "the validation of a new batch"),
    Transition(None, Status.QUEUED, "start_batch", "the first slices; or the joining"),
    Transition(None, Status.QUEUED, "split_unit", f"lines that leave a unit; {_LEASED}"),
    Transition(None, Status.QUEUED, "complete_slice", "the next slice; or the joining"),
    Transition(None, Status.QUEUED, "end_without_input", "the joining"),
    Transition(None, Status.QUEUED, "give_up", "the joining"),
    Transition(None, Status.QUEUED, "cancel_batch", "the joining"),
    Transition(None, Status.QUEUED, "sweep", "the joining, past the batch's window"),
    Transition(Status.QUEUED, Status.RUNNING, "begin_unit", "at this tier and attempt"),
    Transition(Status.RUNNING, Status.RUNNING, "begin_unit", "the same lease owner asks again"),
    Transition(Status.RUNNING, Status.RUNNING, "record_lines", f"to part, if complete; {_LEASED}"),
    Transition(Status.RUNNING, Status.QUEUED, "move_unit", f"{_HELD}: on, back, or parked"),
    Transition(Status.QUEUED, Status.QUEUED, "move_unit", "the same token again"),
    Transition(Status.RUNNING, Status.QUEUED, "sweep", "its lease has ended"),
    Transition(Status.QUEUED, Status.QUEUED, "sweep", "parked and due, or its message was lost"),
    Transition(Status.QUEUED, Status.QUEUED, "recall", "parked, and its tier may be asked"),
    Transition(Status.RUNNING, None, "start_batch", _LEASED),
    Transition(
        Status.RUNNING, None, "complete_slice", f"at the tier part; {_LEASED}; others of its slice"
    ),
    Transition(
        Status.RUNNING, None, "drop_unit", f"no line of its own is without a result; {_LEASED}"
    ),
    Transition(
        Status.QUEUED, None, "complete_slice", "another of its slice, whose part is written"
    ),
    Transition(Status.QUEUED, None, "cancel_batch", "its batch is cancelled"),
    Transition(Status.RUNNING, None, "cancel_batch", "its batch is cancelled"),
    Transition(Status.QUEUED, None, "end_without_input", "its batch ends"),
    Transition(Status.RUNNING, None, "end_without_input", "its batch ends"),
    Transition(Status.QUEUED, None, "give_up", "its batch ends"),
    Transition(Status.RUNNING, None, "give_up", "its batch ends; or it is the phase"),
    Transition(Status.QUEUED, None, "sweep", "past its batch's window"),
    Transition(Status.RUNNING, None, "sweep", "past its batch's window"),
)


class BatchOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a batch's lines are answered.

    Lines wait when no tier can serve. The cache is off: fifty thousand lines rarely repeat, and
    their answers would fill the store.
    """

    cache: CachePolicy = "off"
    on_exhausted: ExhaustedPolicy = "wait"
    priority: str = "normal"
    tiers: TierNames = ()


class NewBatch(msgspec.Struct, frozen=True):
    """A batch to be created."""

    id: str
    owner: str
    endpoint: Endpoint
    input_file_id: str
    completion_window: str
    metadata: dict[str, str]
    options: BatchOptions
    output_seconds: int | None = None  # how long its output and error file are kept


class BatchRecord(msgspec.Struct, frozen=True):
    """A batch as its owner sees it; times are epoch seconds."""

    id: str
    owner: str
    endpoint: str
    input_file_id: str
    completion_window: str
    status: BatchStatus
    metadata: dict[str, str]
    options: BatchOptions
    times: dict[str, int]  # "created", "in_progress", … -> epoch seconds
    total: int
    completed: int
    failed: int
    tokens: Tokens
    model: str | None
    errors: msgspec.Raw | None  # OpenAI's list of errors
    output_file_id: str | None
    error_file_id: str | None
    slices: int
    done: int
    outcomes: dict[str, dict[str, int]]  # tier ("-": none) -> "succeeded", … -> lines
    by_model: dict[str, dict[str, int]]  # tier -> model -> lines that it answered
    recent: tuple[Slot, ...] = ()  # what was answered in the last seconds it moved
    output_seconds: int | None = None  # how long its output and error file are kept

    @property
    def by_tier(self) -> dict[str, int]:
        """Lines that have a result, by the tier that they have it of."""
        return {tier: sum(statuses.values()) for tier, statuses in self.outcomes.items()}

    @property
    def answered(self) -> int:
        """Lines that a model answered, or the cache."""
        return self.completed - self.by_tier.get("degraded", 0)


class LineHistory(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of a line so far, at the tiers that could not answer it."""

    attempts: tuple[Attempt, ...]
    failures: int = 0


@dataclass(frozen=True, slots=True)
class SliceRange:
    """Where a slice lies in the input file."""

    offset: int
    length: int
    lines: int
    first_line: int  # from 1, as people count

    @classmethod
    def parse(cls, text: str) -> SliceRange:
        """Read what str() wrote."""
        return cls(*(int(part) for part in text.split(":")))

    def __str__(self) -> str:
        return f"{self.offset}:{self.length}:{self.lines}:{self.first_line}"


class Part(NamedTuple):
    """A slice's results that are durable, and how many bytes they have."""

    slice: int
    output_bytes: int
    error_bytes: int

    def bytes_of(self, kind: str) -> int:
        """Return the bytes of its lines of a kind: output or error."""
        return self.output_bytes if kind == "output" else self.error_bytes

    @classmethod
    def parse(cls, text: str) -> Part:
        """Read what str() wrote."""
        return cls(*(int(number) for number in text.split(":")))

    def __str__(self) -> str:
        return ":".join(map(str, self))


class JoinedFile(NamedTuple):
    """A file that a batch leaves behind. kind: output or error."""

    kind: str
    id: str
    bytes: int
    filename: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What is leased of a batch, and what its holder needs to know of the batch."""

    id: str
    attempt: int
    tier: str
    lease_owner: str
    batch: str
    owner: str
    options: BatchOptions
    endpoint: Endpoint
    input_file_id: str
    status: BatchStatus
    deadline: float  # on this process's monotonic clock
    ending: str
    waited: float  # seconds from its dispatch until it was leased
    first: bool = False  # it came by a queue of begun work: it goes first wherever there is a line
    attempts: tuple[Attempt, ...] = ()  # workers that were lost with it, tries that broke off


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseUnit(Unit):
    """A whole batch: its input is to be validated, or its parts are to be joined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceUnit(Unit):
    """Lines of a slice at a tier; or, at the tier "part", a complete slice to be written."""

    slice: int
    lines: tuple[int, ...] | None  # None: the whole slice's, but those that left it
    range: SliceRange
    results: set[int]  # lines that have one, as far as is known here
    histories: dict[int, LineHistory]
    moved_to: dict[int, str]  # line -> the unit that it left for

    @property
    def own_lines(self) -> Sequence[int]:
        """The lines that this unit has, or had: of a whole slice, all of them."""
        return range(self.range.lines) if self.lines is None else self.lines

    @property
    def open_lines(self) -> list[int]:
        """The lines that this unit is to answer."""
        lines = self.own_lines
        home = None if self.lines is None else self.id
        return [i for i in lines if i not in self.results and self.moved_to.get(i) == home]

    @property
    def passes_over(self) -> bool:
        """Whether its batch wants no answer of the tier where it stands."""
        return passes_over(self.options.tiers, self.tier)

    @property
    def complete(self) -> bool:
        """Whether every line of its slice has a result that is known here."""
        return len(self.results) == self.range.lines


# Before a stored line: which of its batch's files it is of. The scripts count by it.
OUTPUT, ERROR = b"o", b"e"


class LineResult(msgspec.Struct, frozen=True):
    """A line that has its result. content: its line of the output or the error file.

    model: who answered it; "" for nobody, and for an answer of ours. milliseconds: that the
    answering call took; None if there was none.
    """

    line: int
    good: bool
    content: bytes
    counted_as: str  # "tier:status", for the metrics
    tokens: Tokens = Tokens()
    model: str = ""
    milliseconds: float | None = None

    @property
    def answered_by(self) -> str:
        """The tier and the model that answered it, as they are counted: "tier:model", or ""."""
        tier = self.counted_as.partition(":")[0]
        return f"{tier}:{self.model[:COUNTED_MODEL]}" if self.model else ""

    @property
    def stored(self) -> bytes:
        """What the store keeps of it until its slice's part is written."""
        return (OUTPUT if self.good else ERROR) + self.content


def unanswered(line: int, content: bytes) -> LineResult:
    """Return the result of a line that no tier was asked for. content: of the error file."""
    return LineResult(line=line, good=False, content=content, counted_as="-:failed")


def new_batch_id() -> str:
    """Return an id that sorts by time of creation and cannot be guessed."""
    return f"batch_{time.time_ns() // 1_000_000:011x}{os.urandom(10).hex()}"


_UNIT_PREFIX = "unit_"


def is_unit(name: str) -> bool:
    """Whether an id is a unit's, not a job's."""
    return name.startswith(_UNIT_PREFIX)


def phase_unit_id(batch_id: str, phase: str) -> str:
    """Return the id of the unit that a phase of a batch is, as the scripts name it too."""
    return f"{_UNIT_PREFIX}{batch_id}_{phase}"


def slice_unit_id(batch_id: str, number: int) -> str:
    """Return the id of the unit that a whole slice is, as the scripts name it too."""
    return f"{_UNIT_PREFIX}{batch_id}_{number}"


def split_unit_id(batch_id: str, number: int, token: str) -> str:
    """Return the id of the unit of lines that left their slice, as the scripts name it too."""
    return f"{_UNIT_PREFIX}{batch_id}_{number}_{token}"


def is_unit_of(name: str, batch_id: str) -> bool:
    """Whether an id is that of a unit of this batch."""
    return name.startswith(f"{_UNIT_PREFIX}{batch_id}_")


def is_batch(name: str) -> bool:
    """Whether an id is a batch's."""
    return name.startswith("batch_")


def window_seconds(text: str) -> int | None:
    """Return the seconds of a completion window such as "24h"; None if it is none."""
    found = re.fullmatch(WINDOW, text)
    if not found:
        return None
    seconds = int(found[1]) * _UNITS[found[2]]
    return seconds if 0 < seconds <= LONGEST_WINDOW_SECONDS else None
