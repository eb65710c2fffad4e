"""A store is opened once it is fit, and of this release's layout."""

from __future__ import annotations

import pytest
from harness.waiting import free_port
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tasks.errors import StoreUnavailable, StoreUnfit
from tasks.settings import Settings
from tasks.storage import Storage
from tasks.store import keyspace, open_store, prepare_store
from tasks.store.migration import LAYOUT


@pytest.fixture(params=["open", "check"])
def prepare(request, tmp_path):
    """Do what an API or a worker, or `fallthrough up`, does first."""

    async def prepare(url):
        settings = Settings(redis_url=url)
        if request.param == "check":
            return await prepare_store(settings)
        store = await open_store(settings, Storage(str(tmp_path)))
        return await store.close()

    return prepare


async def test_a_new_store_is_marked_as_of_this_layout(valkey, prepare):
    for _ in range(2):
        await prepare(valkey.url)
    with valkey.client() as client:
        assert int(client.get(keyspace.PREFIX + keyspace.LAYOUT)) == LAYOUT


async def test_a_store_that_would_drop_jobs_is_not_opened(valkey, prepare):
    with valkey.client() as client:
        client.config_set("maxmemory", "100mb")
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            with pytest.raises(StoreUnfit, match="maxmemory-policy is allkeys-lru"):
                await prepare(valkey.url)
        finally:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", "0")


async def test_a_store_that_does_not_answer_is_not_opened(prepare):
    with pytest.raises(StoreUnavailable):
        await prepare(f"redis://127.0.0.1:{free_port()}/0")


@pytest.mark.parametrize("lost", [RedisConnectionError("reset"), RedisTimeoutError("late")])
async def test_a_store_that_is_lost_at_any_request_of_opening_it_is_away(
    valkey, prepare, monkeypatch, lost
):
    await prepare(valkey.url)  # else the lock of who was lost as it took over is waited for
    send = Redis.execute_command
    left = 0

    async def execute_command(self, *args, **options):
        nonlocal left
        left -= 1
        if left < 0:
            raise lost
        return await send(self, *args, **options)

    monkeypatch.setattr(Redis, "execute_command", execute_command)
    for answered in range(20):
        left = answered
        try:
            await prepare(valkey.url)
        except StoreUnavailable:
            continue
        break
    assert 3 <= answered < 19, "it was lost at each, and opened in the end"


async def test_the_five_parts_share_what_they_are_opened_with(valkey, tmp_path):
    storage = Storage(str(tmp_path))
    store = await open_store(Settings(redis_url=valkey.url), storage)
    try:
        assert store.files.storage is storage
        parts = (store.jobs, store.batches, store.files, store.limits, store.fleet)
        assert {part._connection for part in parts} == {store.connection}
    finally:
        await store.close()
