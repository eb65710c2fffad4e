"""Records as the store hands them out; a test names only what it is about."""

from __future__ import annotations

import time
from typing import Any

from fallback_chain import Body
from tasks.records.batches import BatchOptions, BatchStatus, Endpoint, SliceRange, SliceUnit
from tasks.records.jobs import BegunJob, Options, Queue

ORDER = ("gpu", "cpu", "cache")


def begun_job(**fields: Any) -> BegunJob:
    usual = {
        "id": "job_1",
        "attempt": 0,
        "lease_owner": "me",
        "tier": "gpu",
        "body": {"messages": [{"role": "user", "content": "Hello"}]},
        "owner": "ann",
        "queue": Queue.INTERACTIVE,
        "deadline": time.monotonic() + 60,
        "created": time.monotonic(),
        "options": Options(),
        "attempts": (),
        "failures": 0,
    }
    fields = {**usual, **fields}
    return BegunJob(**fields | {"body": Body.of(fields["body"])})


def slice_unit(**fields: Any) -> SliceUnit:
    usual = {
        "id": "unit_batch_1_0",
        "attempt": 0,
        "tier": "gpu",
        "lease_owner": "me",
        "batch": "batch_1",
        "owner": "ann",
        "options": BatchOptions(),
        "endpoint": Endpoint.CHAT,
        "input_file_id": "file-1",
        "status": BatchStatus.IN_PROGRESS,
        "deadline": time.monotonic() + 60,
        "ending": "",
        "waited": 0.0,
        "slice": 0,
        "lines": None,
        "range": SliceRange(0, 1, 1, 1),
        "results": set(),
        "histories": {},
        "moved_to": {},
    }
    return SliceUnit(**{**usual, **fields})
