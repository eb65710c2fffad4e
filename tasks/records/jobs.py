"""What a job is: the data that the store keeps and the tasks pass around. No I/O."""

from __future__ import annotations

import os
import time
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec

from fallback_chain import Attempt, Body, Endpoint, fit_of
from tasks.records.policies import (
    CachePolicy,
    ExhaustedPolicy,
    TierNames,
    may_answer,
    passes_over,
)
from tasks.records.transitions import Transition

MAX_DEADLINE_SECONDS = 7 * 86_400
LONGEST_MODEL = 256  # characters of a model's name: it is kept, shown, and looked for


class Status(StrEnum):
    """Where a job stands. The last four are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def final(self) -> bool:
        """Whether the job has its one result."""
        return self not in {Status.QUEUED, Status.RUNNING}


_HELD = "its tier and attempt, under this lease"
_STALE = "as begun: its tier and attempt"

# A job's states. Each transition is one script of the store's, and each script checks its guard.
TRANSITIONS = (
    Transition(None, Status.QUEUED, "create_jobs", "the store has room; its key made none before"),
    Transition(Status.QUEUED, None, "discard_jobs", "attempt 0, and nobody was told of it"),
    Transition(Status.QUEUED, Status.RUNNING, "begin_jobs", "at this tier and attempt, in time"),
    Transition(Status.RUNNING, Status.RUNNING, "begin_jobs", "the same lease owner asks again"),
    Transition(Status.QUEUED, Status.EXPIRED, "begin_jobs", "past its deadline"),
    Transition(Status.RUNNING, Status.EXPIRED, "begin_jobs", "asked again, past its deadline"),
    Transition(Status.RUNNING, Status.QUEUED, "move_jobs", f"{_HELD}: on, back, or parked"),
    Transition(Status.QUEUED, Status.QUEUED, "move_jobs", "the same token again"),
    Transition(Status.RUNNING, Status.SUCCEEDED, "finish_job", _STALE),
    Transition(Status.RUNNING, Status.FAILED, "finish_job", _STALE),
    Transition(Status.RUNNING, Status.EXPIRED, "finish_job", _STALE),
    Transition(Status.QUEUED, Status.CANCELLED, "cancel_job", "its owner asks"),
    Transition(Status.RUNNING, Status.CANCELLED, "cancel_job", "its owner asks"),
    Transition(Status.RUNNING, Status.QUEUED, "sweep", "its lease has ended"),
    Transition(Status.QUEUED, Status.QUEUED, "sweep", "parked and due, or its message was lost"),
    Transition(Status.QUEUED, Status.QUEUED, "recall", "parked, and its tier may be asked"),
    Transition(Status.QUEUED, Status.EXPIRED, "sweep", "past its deadline"),
    Transition(Status.RUNNING, Status.EXPIRED, "sweep", "past its deadline"),
)


BEGUN = ".begun"  # how the name of a queue of begun work ends


class Queue(StrEnum):
    """The broker's queues: lone requests are never behind bulk work."""

    INTERACTIVE = "interactive"
    BATCH = "batch"
    PHASES = "phases"  # of batches; batch workers consume it, in an outage too
    # Consumed first, as a queue has no head where every broker could put something: what has begun
    # once, and lost its worker, was handed back, or goes to its next tier; what lost its message;
    # and what would else stand behind the many jobs, or slices, of others (create_jobs, feed).
    INTERACTIVE_BEGUN = "interactive.begun"
    BATCH_BEGUN = "batch.begun"
    PHASES_BEGUN = "phases.begun"

    @property
    def kind(self) -> Queue:
        """The kind of work that lies in it."""
        return Queue(self.value.removesuffix(BEGUN))

    @property
    def begun(self) -> Queue:
        """Where work of its kind lies that comes first."""
        return Queue(self.kind.value + BEGUN)

    @property
    def is_begun(self) -> bool:
        """Whether what lies in it comes first."""
        return self is self.begun


KINDS = (Queue.INTERACTIVE, Queue.BATCH, Queue.PHASES)


class Ref(NamedTuple):
    """A job or unit as a message carries it: nothing else is ever in the broker."""

    id: str
    attempt: int


class Dispatch(NamedTuple):
    """A job or unit that is to be published."""

    id: str
    attempt: int
    tier: str
    queue: str


class Swept(NamedTuple):
    """A job or unit that a sweep found: reason lease, unbegun, parked or expired."""

    dispatch: Dispatch
    reason: str


class Options(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a job is to be answered, apart from the body that goes to the model.

    stream: its answer is followed as it comes. usage: who follows it wants to see what was counted.
    answer_by: seconds from its creation in which a stream is to begin; 0: its deadline. waiter: the
    process that waits for its answer, if one does; it is told it.
    """

    cache: CachePolicy = "fallback"
    on_exhausted: ExhaustedPolicy = "degraded"
    request_id: str = ""  # its caller's own, for the log
    tiers: TierNames = ()
    endpoint: str = Endpoint.CHAT.value  # where a model server is asked for it
    stream: bool = False
    usage: bool = False
    answer_by: float = 0.0
    waiter: str = ""


class Submission(msgspec.Struct, frozen=True):
    """A job to be created. body: what its endpoint takes; deadline_seconds: from now."""

    id: str
    owner: str
    queue: Queue
    body: Body
    options: Options
    deadline_seconds: float
    metadata: dict[str, str] = {}


class BegunJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job whose lease is ours: what a tier task needs to answer it."""

    id: str
    attempt: int
    lease_owner: str
    tier: str
    body: Body
    owner: str
    queue: Queue  # its kind
    deadline: float  # on this process's monotonic clock
    options: Options
    attempts: tuple[Attempt, ...]
    failures: int  # tries that failed at a tier whose breaker was closed
    first: bool = False  # it came by a queue of begun work: it goes first wherever there is a line
    endpoint: str = Endpoint.CHAT.value
    waited: float = 0.0  # seconds from its dispatch until it was leased
    created: float = 0.0  # on this process's monotonic clock
    streamed: bool = False  # a part of its answer was shown already
    left_bytes: int = 0  # of a body that is too large to be held before it is used: it is not here

    @property
    def passes_over(self) -> bool:
        """Whether its caller wants no answer of the tier where it stands."""
        return passes_over(self.options.tiers, self.tier)

    def may_ask(self, tier: str) -> bool:
        """Whether its caller takes an answer of a tier; of the cache, by its own policy as well."""
        off = tier == "cache" and self.options.cache == "off"
        return not off and may_answer(self.options.tiers, tier)


class JobRecord(msgspec.Struct, frozen=True):
    """A job as its owner sees it; times are epoch seconds."""

    id: str
    owner: str
    status: Status
    queue: str
    tier: str
    attempt: int
    created_at: float
    deadline_at: float
    started_at: float | None
    finished_at: float | None
    model: str | None
    tier_used: str | None
    attempts: list[dict[str, Any]]
    answer: msgspec.Raw | None  # the whole chat completion, as JSON
    error: dict[str, Any] | None
    error_status: int | None
    cache_age_seconds: float | None
    metadata: dict[str, str]
    streamed: bool = False  # a part of its answer was shown as it came
    first_token_at: float | None = None  # of that
    request: msgspec.Raw | None = None  # the body that goes to the model, if it is kept

    @property
    def fit(self) -> str | None:
        """How its answer fits the form that was asked for: see fit_of()."""
        last = self.attempts[-1] if self.attempts and self.answer is not None else {}
        return fit_of(last.get("verdict", ""), last.get("detail", ""))


def new_job_id() -> str:
    """Return an id that sorts by time of creation and cannot be guessed."""
    return f"job_{time.time_ns() // 1_000_000:011x}{os.urandom(11).hex()}"


def new_token() -> str:
    """Return a name that nobody else has: of a transition, of a lease, of what is held."""
    return os.urandom(8).hex()
