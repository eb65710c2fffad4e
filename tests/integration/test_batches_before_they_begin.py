"""Batches that end, and files that go, before a worker has looked at them."""

from __future__ import annotations

import openai
import pytest
from harness.batches import check_every_line_once, ended, jsonl, line, start, upload
from harness.waiting import wait_until

from tasks.store.keyspace import PREFIX


@pytest.fixture
def sdk(fleet):
    api = fleet.api().start()  # alone: a test starts the worker when it is time
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def test_a_batch_cancelled_before_it_is_validated_names_every_line(fleet, sdk, gpu):
    batch = start(sdk, [line(f"c{n}", str(n)) for n in range(300)])
    bad = start(sdk, ["no line"])
    for each in (batch, bad):
        assert sdk.batches.cancel(each.id).status == "cancelling"
        assert sdk.batches.cancel(each.id).status == "cancelling"
    fleet.worker().start()
    done = ended(sdk, batch.id)
    assert (done.status, done.request_counts.total) == ("cancelled", 300)
    _, errors = check_every_line_once(sdk, done, [f"c{n}" for n in range(300)])
    assert {each["error"]["code"] for each in errors} == {"batch_cancelled"}
    assert sdk.batches.cancel(batch.id).status == "cancelled"
    failed = ended(sdk, bad.id)
    assert (failed.status, failed.errors.data[0].line) == ("failed", 1)
    assert not gpu.calls


def test_a_batch_expired_before_it_is_validated_names_every_line(fleet, sdk, gpu):
    batch = start(sdk, [line(f"c{n}", str(n)) for n in range(300)], completion_window="1s")
    fleet.worker("interactive").start()  # it sweeps, and validates nothing
    wait_until(lambda: sdk.batches.retrieve(batch.id).status == "finalizing")
    fleet.worker("batch").start()
    done = ended(sdk, batch.id)
    assert (done.status, done.request_counts.total) == ("expired", 300)
    _, errors = check_every_line_once(sdk, done, [f"c{n}" for n in range(300)])
    assert {each["error"]["code"] for each in errors} == {"batch_expired"}
    assert not gpu.calls


def test_expired_files_that_are_in_use_keep_no_others_from_being_deleted(
    fleet, sdk, gpu, valkey, tmp_path
):
    gpu.mode = "hang"
    with valkey.client() as client:
        client.sadd(f"{PREFIX}file:file-used:batches", "batch_x")
        client.hset(f"{PREFIX}batch:batch_x", "status", "in_progress")
        for number in range(100):  # as many as a sweep takes
            name = f"file-used{number}"
            client.sadd(f"{PREFIX}file:{name}:batches", "batch_x")
            client.hset(f"{PREFIX}file:{name}", mapping={"id": name, "owner": "default"})
            client.zadd(f"{PREFIX}file_expiry", {name: 1})
        file = upload(sdk, jsonl([line("a", "x")]))
        client.zadd(f"{PREFIX}file_expiry", {file: 2})
        fleet.worker("interactive").start()
        wait_until(lambda: not (tmp_path / "files" / "content" / file).exists())
        assert client.exists(f"{PREFIX}file:file-used7")
