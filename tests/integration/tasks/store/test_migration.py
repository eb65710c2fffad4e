"""An upgrade: what the release before left goes on under this one; they never run side by side."""

from __future__ import annotations

import asyncio
import threading
import time

import httpx
import openai
import pytest
import redis
from harness import layout1
from harness.batches import check_every_line_once, ended
from harness.waiting import wait_until

from tasks.errors import StoreUnfit
from tasks.store import keyspace, migration
from tasks.store.connection import Connection
from tasks.store.migration import LAYOUT, OLD_PREFIX, take_over


@pytest.fixture
async def connection(valkey):
    connection = Connection(valkey.url)
    yield connection
    await connection.close()


@pytest.fixture
def left(valkey, tmp_path):
    with valkey.client() as client:
        layout1.leave(client, tmp_path / "files")
        yield client


def old_keys(client):
    keys = [key.decode() for key in client.scan_iter(f"{OLD_PREFIX}*")]
    own = (migration.ANSWERS, *migration.FENCE)
    return [key for key in keys if not key.startswith(own)]


def test_everything_that_the_release_before_left_goes_on(left, fleet, gpu):
    api, _ = fleet.api().start(), fleet.worker().start()
    ids = layout1.IDS
    with httpx.Client(base_url=api.url, timeout=60) as http:

        def job(name, wait=0):
            return http.get(f"/v1/jobs/{ids[name]}?wait={wait}").json()

        assert job("done")["status"] == "succeeded"
        for name in ("running", "queued", "keyed", "parked"):
            assert job(name, wait=40)["status"] == "succeeded", name
        assert [a["verdict"] for a in job("running")["attempts"]] == ["lost", "answered"]
        again = http.post(
            "/v1/jobs", json={"prompt": "keyed"}, headers={"Idempotency-Key": "upgrade"}
        )
        assert again.json()["id"] == ids["keyed"]
        listed = http.get("/v1/jobs?limit=100").json()["data"]
        assert len(listed) == len({each["id"] for each in listed}) == 5
    sdk = openai.OpenAI(base_url=f"{api.url}/v1", api_key="none")
    for name, lines in {"complete": 3, "half": 6, "unvalidated": 2}.items():
        batch = ended(sdk, ids[name])
        assert batch.status == "completed"
        check_every_line_once(sdk, batch, [f"line-{n}" for n in range(lines)])
    assert len(sdk.files.list().data) == 6
    assert old_keys(left) == []
    prompts = [call.prompt for call in gpu.calls]
    assert len(prompts) == len(set(prompts)), "nothing that was answered before is asked again"


@pytest.mark.parametrize("module", ["api", "workers"])
def test_a_process_does_not_start_while_an_older_worker_lives(left, fleet, module):
    stop = threading.Event()

    def beat():
        while not stop.wait(0.1):
            left.zadd(f"{OLD_PREFIX}workers", {"batch-7": (time.time() + 7) * 1000})

    beating = threading.Thread(target=beat)
    beating.start()
    process = {"api": fleet.api, "workers": fleet.worker}[module]().start(ready=False)
    try:
        assert process.wait() == 2
    finally:
        stop.set()
        beating.join()
    assert "processes of an older release still work on this store (worker batch-7 lives)" in (
        process.log
    )
    assert len(old_keys(left)) > 30, "nothing was moved"


def test_a_process_does_not_start_while_an_older_api_listens(left, fleet):
    with left.pubsub() as subscription:
        subscription.subscribe(f"{OLD_PREFIX}finished")
        wait_until(subscription.get_message)
        api = fleet.api().start(ready=False)
        assert api.wait() == 2
    assert "an API or a worker listens" in api.log
    assert len(old_keys(left)) > 30


async def test_the_heartbeat_of_an_older_worker_that_died_is_waited_out(connection, left):
    left.zadd(f"{OLD_PREFIX}workers", {"batch-7": (time.time() + 1.5) * 1000})
    began = time.monotonic()
    await take_over(connection)
    assert time.monotonic() - began > 1
    assert old_keys(left) == []


async def test_what_another_died_over_is_taken_over_from_where_it_stands(
    connection, left, monkeypatch
):
    every = len(old_keys(left))
    behind_the_fence = sum(left.exists(key) for key in migration.FENCE)
    monkeypatch.setattr(migration, "CHUNK", 5)
    monkeypatch.setattr(migration, "LEASE_MS", 300)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migration, "renew", dies)
        with pytest.raises(SystemError):
            await take_over(connection)
    assert 0 < len(old_keys(left)) < every
    await take_over(connection)
    assert old_keys(left) == []
    moved = list(left.scan_iter(f"{keyspace.PREFIX}*"))
    # And the layout's number; what is behind the fence now was not counted among the old ones.
    assert len(moved) == every + behind_the_fence + 1
    assert left.get(keyspace.PREFIX + keyspace.LAYOUT) == b"2"


async def dies(*_):
    raise SystemError


async def test_any_number_take_over_at_once_and_each_key_is_moved_once(valkey, left):
    every = {key.removeprefix(OLD_PREFIX): left.dump(key) for key in old_keys(left)}
    connections = [Connection(valkey.url) for _ in range(5)]
    await asyncio.gather(*(take_over(each) for each in connections))
    await asyncio.gather(*(each.close() for each in connections))
    assert old_keys(left) == []
    assert all(left.dump(keyspace.PREFIX + name) == value for name, value in every.items())


OLD_CREATE = """
redis.call('HSET', 'ft:job:' .. ARGV[1], 'status', 'queued')
redis.call('ZADD', 'ft:dispatched:interactive', 1, ARGV[1])
redis.call('ZADD', 'ft:deadlines', 1, ARGV[1])
return 1
"""


async def test_an_older_process_that_is_started_later_accepts_nothing(connection, valkey):
    """Its create fails where it would index the job; so its client is told, and nothing is lost."""
    with valkey.client() as client:
        assert client.eval(OLD_CREATE, 0, "job_1") == 1
        client.flushall()
        await take_over(connection)
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            client.eval(OLD_CREATE, 0, "job_1")


@pytest.mark.parametrize("module", ["api", "workers"])
def test_no_process_starts_beside_an_older_one_that_was_started_later(valkey, fleet, module):
    api = fleet.api().start()
    with valkey.client() as client, client.pubsub() as subscription:
        subscription.subscribe(f"{OLD_PREFIX}finished")
        wait_until(subscription.get_message)
        process = {"api": fleet.api, "workers": fleet.worker}[module]().start(ready=False)
        assert process.wait() == 2
        assert "an API or a worker listens" in process.log
    assert api.process.poll() is None


async def test_a_heartbeat_of_a_clock_that_was_ahead_is_waited_for_in_vain(
    connection, left, monkeypatch
):
    monkeypatch.setattr(migration, "RENEWAL_SECONDS", 0.5)
    left.zadd(f"{OLD_PREFIX}workers", {"batch-7": (time.time() + 3600) * 1000})
    await take_over(connection)
    assert old_keys(left) == []


async def test_a_store_that_is_full_can_be_taken_over(connection, left):
    left.config_set("maxmemory", 1)
    try:
        await take_over(connection)
    finally:
        left.config_set("maxmemory", 0)
    assert old_keys(left) == []


async def test_keys_that_are_there_twice_are_nobodys_to_choose(connection, left):
    left.hset(f"{keyspace.PREFIX}stats", "gpu:succeeded", 7)
    with pytest.raises(StoreUnfit, match=r"1 keys are there twice.*ft:stats"):
        await take_over(connection)
    assert not left.exists(keyspace.PREFIX + keyspace.LAYOUT)
    left.delete(f"{keyspace.PREFIX}stats")
    await take_over(connection)
    assert left.hget(f"{keyspace.PREFIX}stats", "gpu:succeeded") == b"6"


async def test_a_user_that_may_not_write_the_new_keys_is_told_so(valkey, left):
    left.execute_command("ACL", "SETUSER", "old", "on", ">secret", "~ft:*", "+@all", "&*")
    url = valkey.url.replace("//", "//old:secret@")
    connection = Connection(url)
    try:
        with pytest.raises(StoreUnfit, match="the store refuses us"):
            await take_over(connection)
    finally:
        await connection.close()
        left.execute_command("ACL", "DELUSER", "old")


async def test_a_store_of_a_newer_release_is_refused(connection):
    await connection.command("SET", keyspace.LAYOUT, LAYOUT + 1)
    with pytest.raises(StoreUnfit, match="layout 3, of a newer release; this one knows 2"):
        await take_over(connection)
