"""What a job is: the data that the store keeps and the tasks pass around. No I/O."""

from __future__ import annotations

import os
import time
from enum import StrEnum
from typing import Any, Literal

import msgspec

MAX_DEADLINE_SECONDS = 7 * 86_400

CachePolicy = Literal["fallback", "first", "off"]
ExhaustedPolicy = Literal["degraded", "wait", "fail"]


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


class Queue(StrEnum):
    """The broker's queues: lone requests are never behind bulk work."""

    INTERACTIVE = "interactive"
    BATCH = "batch"
    PHASES = "phases"  # of batches; batch workers consume it, in an outage too


class Options(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a job is to be answered, apart from the body that goes to the model."""

    cache: CachePolicy = "fallback"
    on_exhausted: ExhaustedPolicy = "degraded"


class Submission(msgspec.Struct, frozen=True):
    """A job to be created. body: a chat-completions body; deadline_seconds: from now."""

    id: str
    owner: str
    queue: Queue
    body: dict[str, Any]
    options: Options
    deadline_seconds: float
    metadata: dict[str, str] = {}


class BegunJob(msgspec.Struct, frozen=True):
    """A job whose lease is ours: what a tier task needs to answer it."""

    id: str
    attempt: int
    lease_owner: str
    tier: str
    body: dict[str, Any]
    owner: str
    queue: Queue
    deadline: float  # on this process's monotonic clock
    options: Options
    attempts: tuple[dict[str, Any], ...]
    failures: int  # tries that failed at a tier whose breaker was closed
    first_tier: str
    endpoint: str = "/v1/chat/completions"
    waited: float = 0.0  # seconds from its dispatch until it was leased
    created: float = 0.0  # on this process's monotonic clock


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


def new_job_id() -> str:
    """Return an id that sorts by time of creation and cannot be guessed."""
    return f"job_{time.time_ns() // 1_000_000:011x}{os.urandom(11).hex()}"


TIERS = ("gpu", "cpu", "cache")  # the order in which a job falls through


Pairs = list[tuple[str, int]]  # (id of a job or unit, attempt): all that a message ever carries
