"""What a batch is: its record, its slices, its lines. No I/O."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

from fallback_chain import Tokens
from tasks.records.jobs import CachePolicy, ExhaustedPolicy  # noqa: TC001 - msgspec reads them

UNIT = "unit_"  # what ids of units begin with
SLICE_BYTES = 1024 * 1024  # a slice holds no more, unless one line does
WINDOWS = {"low": 0.25, "normal": 1.0, "high": 4.0}  # share of the window by priority
_WINDOW = re.compile(r"(\d{1,6})([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
LONGEST_WINDOW_SECONDS = 7 * 86_400


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


class Endpoint(StrEnum):
    """What a line may ask for."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"


class BatchOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a batch's lines are answered.

    Lines wait when no tier can serve. The cache is off: fifty thousand lines rarely repeat, and
    their answers would fill the store.
    """

    cache: CachePolicy = "off"
    on_exhausted: ExhaustedPolicy = "wait"
    priority: str = "normal"


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
    by_tier: dict[str, int]


class Tried(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of a line so far."""

    attempts: list[dict[str, Any]]
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a slice lies in the input file."""

    offset: int
    length: int
    lines: int
    first_line: int  # from 1, as people count

    @classmethod
    def parse(cls, text: str) -> Place:
        """Read what str() wrote."""
        return cls(*(int(part) for part in text.split(":")))

    def __str__(self) -> str:
        return f"{self.offset}:{self.length}:{self.lines}:{self.first_line}"


@dataclass(frozen=True, slots=True)
class Unit:
    """Lines of a slice at a tier, or a phase of a batch; its lease is ours."""

    id: str
    attempt: int
    tier: str
    lease_owner: str
    batch: str
    slice: int
    lines: tuple[int, ...] | None  # None: the whole slice's, but those that left it
    place: Place | None
    owner: str
    options: BatchOptions
    endpoint: Endpoint
    input_file_id: str
    status: BatchStatus
    deadline: float  # on this process's monotonic clock
    ending: str
    waited: float  # seconds from its dispatch until it was leased
    results: dict[int, bytes]
    tried: dict[int, Tried]
    elsewhere: dict[int, str]  # line -> the unit that it left for

    @property
    def open_lines(self) -> list[int]:
        """Return the lines that this unit is to answer."""
        assert self.place is not None  # noqa: S101 - phases have no lines
        lines = range(self.place.lines) if self.lines is None else self.lines
        home = self.lines is None
        return [
            i
            for i in lines
            if i not in self.results
            and (self.elsewhere.get(i) is None if home else self.elsewhere.get(i) == self.id)
        ]


class LineResult(msgspec.Struct, frozen=True):
    """A line that has its result. content: its line of the output or the error file."""

    line: int
    good: bool
    content: bytes
    counted_as: str  # "tier:status", for the metrics
    tokens: Tokens = Tokens()

    @property
    def stored(self) -> bytes:
        """Return what the store keeps until the part is written."""
        return (b"o" if self.good else b"e") + self.content


def new_batch_id() -> str:
    """Return an id that sorts by time of creation and cannot be guessed."""
    return f"batch_{time.time_ns() // 1_000_000:011x}{os.urandom(10).hex()}"


def window_seconds(text: str) -> int | None:
    """Return the seconds of a completion window such as "24h"; None if it is none."""
    found = _WINDOW.fullmatch(text)
    if not found:
        return None
    seconds = int(found[1]) * _UNITS[found[2]]
    return seconds if 0 < seconds <= LONGEST_WINDOW_SECONDS else None


Dispatch = tuple[str, int, str, str]  # id, attempt, tier, queue: what is to be published


PHASES = ("validate", "part", "join")  # of a batch
