"""The names of the store's keys. What is in each, and its TTL: lua/_keys.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.records.batches import phase_unit_id, slice_unit_id
from tasks.records.jobs import Queue

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tasks.records.idempotency import IdempotencyKey

# The hash tag keeps every key in one slot, so that the scripts run on a store in cluster mode.
PREFIX = "{ft}:"

DEADLINES, LEASES, PARKED, BEGUN, STATS = "deadlines", "leases", "parked", "begun", "stats"
EVENTS, WORKERS, FILE_EXPIRY, SWEEPER = "events", "workers", "file_expiry", "sweeper"
OPEN_BATCHES, QUEUED_BYTES, SENT_DOWN = "open_batches", "queued_bytes", "sent_down"
COUNTED_FILES, STORED_BYTES, STREAMS = "counted_files", "stored_bytes", "streams"
LAYOUT, MIGRATION, OWNERS, WRITTEN = "layout", "migration", "owners", "written"
SAMPLED = "sampled"
PROBE = "probe"  # never there: to delete it shows that the store takes writes


def dispatched(queue: str) -> str:
    """Return the key of the index of what waits in a queue."""
    return f"dispatched:{queue}"


DISPATCHED = tuple(dispatched(queue.value) for queue in Queue)
# What a transition of a job or of a unit may touch besides its record.
INDEXES = (
    *(DEADLINES, OPEN_BATCHES, QUEUED_BYTES, LEASES, PARKED, BEGUN, STATS, SENT_DOWN),
    *(EVENTS, STREAMS),
    *DISPATCHED,
)
# Where files are counted.
FILE_COUNTS = (COUNTED_FILES, STORED_BYTES)


def job(name: str) -> str:
    """Return the key of a job's record, or of a unit's."""
    return f"job:{name}"


def jobs(names: Iterable[str]) -> list[str]:
    """Return the keys of records of jobs or units."""
    return [f"job:{name}" for name in names]


def stream(name: str) -> str:
    """Return the key of the log of a job's stream, and the name of its channel."""
    return f"stream:{name}"


def answers(waiter: str) -> str:
    """Return the channel of a process that waits for answers."""
    return f"answers:{waiter}"


def jobs_of(owner: str) -> str:
    """Return the key of the list of an owner's jobs."""
    return f"owner:{owner}"


def queued(owner: str) -> str:
    """Return the key of the index of an owner's unfinished jobs."""
    return f"queued:{owner}"


def open_batches(owner: str) -> str:
    """Return the key of the index of an owner's batches that have lines to answer."""
    return f"open_batches:{owner}"


def batch(name: str) -> str:
    """Return the key of a batch's record."""
    return f"batch:{name}"


def slices(batch_id: str) -> str:
    """Return the key of the list of where a batch's slices lie."""
    return f"batch:{batch_id}:slices"


def parts(batch_id: str) -> str:
    """Return the key of the list of a batch's parts."""
    return f"batch:{batch_id}:parts"


def times(batch_id: str) -> str:
    """Return the key of the list of when a batch's lines got their results."""
    return f"batch:{batch_id}:times"


def written(batch_id: str) -> str:
    """Return the key of the bits that say which slices of a batch have a part."""
    return f"batch:{batch_id}:written"


def units(batch_id: str) -> str:
    """Return the key of the set of the units at work on a batch."""
    return f"batch:{batch_id}:units"


def whole_batch(batch_id: str) -> tuple[str, ...]:
    """Return the keys of a batch's record and of what belongs to it."""
    return (
        *(batch(batch_id), slices(batch_id), parts(batch_id)),
        *(times(batch_id), written(batch_id), units(batch_id)),
    )


def first_units(batch_id: str, number: int) -> list[str]:
    """Return the keys of the units of a batch's first slices, and of the one that joins it."""
    first = [slice_unit_id(batch_id, i) for i in range(number)]
    return jobs([*first, phase_unit_id(batch_id, "join")])


def batches_of(owner: str) -> str:
    """Return the key of the list of an owner's batches."""
    return f"batches:{owner}"


def results(batch_id: str, number: int) -> str:
    """Return the key of the results of a slice that has no part yet."""
    return f"part:{batch_id}:{number}"


def file(name: str) -> str:
    """Return the key of a file's description."""
    return f"file:{name}"


def readers(file_id: str) -> str:
    """Return the key of the set of the batches that read a file."""
    return f"file:{file_id}:batches"


def files_of(owner: str) -> str:
    """Return the key of the list of an owner's files."""
    return f"files:{owner}"


def gone(index: str, name: str) -> str:
    """Return the key of the place in a list that an id had until it left."""
    return f"gone:{index}:{name}"


def latency(minute: int) -> str:
    """Return the key of the latencies of jobs that finished in a minute since the epoch."""
    return f"latency:{minute}"


def history(minute: int) -> str:
    """Return the key of what was finished, and sampled, in a minute since the epoch."""
    return f"history:{minute}"


def first_words(minute: int) -> str:
    """Return the key of the times until a stream's first word, of a minute since the epoch."""
    return f"first_word:{minute}"


def slots(tier: str) -> str:
    """Return the key of the semaphore of calls to a tier."""
    return f"permits:{tier}"


def tier(name: str) -> str:
    """Return the key of what the fleet knows of a tier's server, by its breaker's name."""
    return f"tier:{name}"


def said(name: str, what: str) -> str:
    """Return the key that is there while nobody is to say this of a server again."""
    return f"said:{name}:{what}"


def limit(tier: str) -> str:
    """Return the key of the limit of calls at once to a tier, where it adapts."""
    return f"limit:{tier}"


def requests(owner: str) -> str:
    """Return the key of the semaphore of an owner's requests."""
    return f"running:{owner}"


def claims(owner: str, keys: Iterable[IdempotencyKey]) -> list[str]:
    """Return the keys that idempotency keys of an owner are kept under."""
    return [f"once:{owner}:{key.name}" for key in keys]


def encoded(keys: Iterable[IdempotencyKey]) -> list[str]:
    """Return idempotency keys as the scripts read them: lua/_idempotency.lua."""
    return [f"{key.kind}{key.digest}{key.name}" for key in keys]
