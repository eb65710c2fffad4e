"""What jobs, batches and files are called; what is final; how a create is known again."""

from __future__ import annotations

import re
import time

import pytest

from tasks.records.batches import new_batch_id
from tasks.records.files import new_file_id
from tasks.records.idempotency import IdempotencyKey
from tasks.records.jobs import Status, new_job_id, new_token


@pytest.mark.parametrize(
    ("new_id", "form"),
    [
        (new_job_id, r"job_[0-9a-f]{33}"),
        (new_batch_id, r"batch_[0-9a-f]{31}"),
        (new_file_id, r"file-[0-9a-f]{24}"),
        (new_token, r"[0-9a-f]{16}"),
    ],
)
def test_an_id_has_its_form_and_nobody_else_has_it(new_id, form):
    ids = {new_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(re.fullmatch(form, each) for each in ids)


@pytest.mark.parametrize("new_id", [new_job_id, new_batch_id])
def test_ids_sort_by_the_time_of_their_creation(new_id, monkeypatch):
    ids = []
    for ms in (1_700_000_000_000, 1_700_000_000_001, 4_000_000_000_000):
        monkeypatch.setattr(time, "time_ns", lambda ms=ms: ms * 1_000_000)
        ids.append(new_id())
    assert ids == sorted(ids)


@pytest.mark.parametrize("status", Status)
def test_four_statuses_are_final(status):
    assert status.final is (status.value in {"succeeded", "failed", "cancelled", "expired"})


def test_a_key_may_be_left_behind_without_asking_what_it_made():
    key = IdempotencyKey("name", "0" * 32, lookup=True)
    assert key.noted() == IdempotencyKey("name", "0" * 32, lookup=False)
