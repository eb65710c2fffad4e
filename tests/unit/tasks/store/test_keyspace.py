"""The names of the store's keys: no two things share one, and each says whose it is."""

from __future__ import annotations

import pytest

from tasks.records.idempotency import IdempotencyKey
from tasks.records.jobs import Queue
from tasks.store import keyspace

ASKS = IdempotencyKey("name:x", "d" * 32, lookup=True)
NAMES = [
    (keyspace.job("job_1"), "job:job_1"),
    (keyspace.jobs_of("ann"), "owner:ann"),
    (keyspace.batch("batch_1"), "batch:batch_1"),
    (keyspace.slices("batch_1"), "batch:batch_1:slices"),
    (keyspace.parts("batch_1"), "batch:batch_1:parts"),
    (keyspace.units("batch_1"), "batch:batch_1:units"),
    (keyspace.batches_of("ann"), "batches:ann"),
    (keyspace.results("batch_1", 7), "part:batch_1:7"),
    (keyspace.file("file-1"), "file:file-1"),
    (keyspace.readers("file-1"), "file:file-1:batches"),
    (keyspace.files_of("ann"), "files:ann"),
    (keyspace.latency(123), "latency:123"),
    (keyspace.first_words(123), "first_word:123"),
    (keyspace.slots("cpu"), "permits:cpu"),
    (keyspace.limit("gpu"), "limit:gpu"),
    (keyspace.requests("ann"), "running:ann"),
]


@pytest.mark.parametrize(("key", "name"), NAMES)
def test_a_key_is_named_as_the_scripts_name_it(key, name):
    assert key == name


def test_no_two_things_share_a_key():
    keys = [key for key, _ in NAMES] + list(keyspace.INDEXES) + [keyspace.SWEEPER]
    assert len(set(keys)) == len(keys)


def test_every_queue_has_an_index_of_what_was_dispatched():
    assert {f"dispatched:{queue}" for queue in Queue} == set(keyspace.DISPATCHED)
    assert set(keyspace.DISPATCHED) < set(keyspace.INDEXES)


def test_a_batch_is_touched_with_all_that_belongs_to_it():
    assert keyspace.whole_batch("batch_1") == (
        "batch:batch_1",
        "batch:batch_1:slices",
        "batch:batch_1:parts",
        "batch:batch_1:times",
        "batch:batch_1:written",
        "batch:batch_1:units",
    )


def test_the_first_units_of_a_batch_are_its_first_slices_or_the_one_that_joins_it():
    assert keyspace.jobs(["a", "b"]) == ["job:a", "job:b"]
    join = "job:unit_batch_1_join"
    assert keyspace.first_units("batch_1", 0) == [join]
    assert keyspace.first_units("batch_1", 2) == [
        "job:unit_batch_1_0",
        "job:unit_batch_1_1",
        join,
    ]


def test_an_idempotency_key_is_its_owners_and_says_whether_it_asks():
    keys = [ASKS, ASKS.noted()]
    assert keyspace.claims("ann", keys) == ["once:ann:name:x"] * 2
    assert keyspace.encoded(keys) == [f"?{'d' * 32}name:x", f"!{'d' * 32}name:x"]


def test_all_keys_lie_in_one_slot():
    assert keyspace.PREFIX.startswith("{")
    assert "}" in keyspace.PREFIX
