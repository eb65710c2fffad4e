"""What is accepted is on disk, or with a replica, where the settings ask for it."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest
from harness.stores import store_on
from harness.valkey import ValkeyServer
from harness.waiting import free_port, wait_until

from tasks.errors import StoreUnavailable, StoreUnfit
from tasks.settings import Settings
from tasks.store import keyspace, prepare_store
from tasks.store.durability import Durability


@pytest.fixture
def server(tmp_path):
    """A function that starts a Valkey of its own."""
    servers = []

    def start(appendfsync="always"):
        folder = tmp_path / str(len(servers))
        folder.mkdir()
        servers.append(ValkeyServer(folder, free_port(), appendfsync))
        servers[-1].start()
        return servers[-1]

    yield start
    for each in servers:
        each.kill()


@pytest.fixture
async def opened():
    """A function that returns the durability of a store with these settings."""
    stores = []

    def open_on(server, **settings):
        with server.client() as client:  # a record that is there
            client.hset(keyspace.PREFIX + keyspace.job("kept"), "id", "kept")
        stores.append(store_on(server.url))
        return Durability(stores[-1].connection, Settings(**settings))

    yield open_on
    for store in stores:
        await store.close()


async def test_by_default_nothing_is_waited_for(opened, valkey, monkeypatch):
    durability = opened(valkey)
    monkeypatch.setattr(durability, "_waits", None)
    await durability.job("kept")
    await durability.check()


@pytest.mark.parametrize("appendfsync", ["always", "everysec"])
async def test_what_was_written_is_on_disk(opened, server, appendfsync):
    valkey = server(appendfsync)
    durability = opened(valkey, durable="always")
    with valkey.client() as client:
        for n in range(20):
            client.set(f"k{n}", n)
            await durability.job("kept")
            assert client.info("persistence")["aof_delayed_fsync"] == 0
            # Nothing that was written then is left to be synced.
            assert client.execute_command("WAITAOF", 1, 0, 1)[0] == 1
            if appendfsync == "everysec":
                break


async def test_what_the_store_has_forgotten_is_not_safe(opened, server):
    """A create waits in turn behind another's: the server may have died, and come back, before."""
    valkey = server()
    durability = opened(valkey, durable="always")
    answers = await asyncio.gather(
        *(durability.job(name) for name in ("kept", "lost")), return_exceptions=True
    )
    assert answers[0] is None
    assert isinstance(answers[1], StoreUnavailable)


async def test_who_comes_at_once_waits_together(opened, server, monkeypatch):
    durability = opened(server(), durable="always")
    waits = []
    command = durability._command
    monkeypatch.setattr(durability, "_command", lambda: waits.append(1) or command())
    await asyncio.gather(*(durability.job("kept") for _ in range(50)))
    assert len(waits) <= 2


async def test_a_disk_that_does_not_take_it_in_time_is_an_error(opened, server, monkeypatch):
    valkey = server("everysec")
    durability = opened(valkey, durable="always")
    await durability.job("kept")
    monkeypatch.setattr("tasks.store.durability.WAIT_MS", 100)
    with valkey.client() as client:
        client.config_set("appendfsync", "no")
    with pytest.raises(StoreUnavailable, match=r"safe within 0\.1 s"):
        await durability.job("kept")


async def test_a_replica_has_it(opened, server, monkeypatch):
    monkeypatch.setattr("tasks.store.durability.WAIT_MS", 500)
    primary, replica = server(), server()
    durability = opened(primary, durable_replicas=1)
    with pytest.raises(StoreUnavailable):
        await durability.job("kept")
    with replica.client() as client, primary.client() as written:
        client.replicaof("127.0.0.1", primary.port)
        wait_until(lambda: written.info("replication")["connected_slaves"] == 1)
        wait_until(lambda: client.info("replication")["master_link_status"] == "up")
        written.set("k", 1)
        await durability.job("kept")
        assert client.get("k") == b"1"
    os.kill(replica.process.pid, signal.SIGSTOP)
    began = time.monotonic()
    try:
        with pytest.raises(StoreUnavailable):
            await durability.job("kept")
    finally:
        os.kill(replica.process.pid, signal.SIGCONT)
    assert time.monotonic() - began < 5
    await durability.job("kept")


@pytest.mark.parametrize(
    ("setting", "value", "reason"),
    [("appendonly", "no", "keeps nothing on disk"), ("appendfsync", "no", "appendfsync is no")],
)
async def test_a_store_that_cannot_is_refused(server, setting, value, reason):
    valkey = server()
    with valkey.client() as client:
        client.config_set(setting, value)
    with pytest.raises(StoreUnfit, match=reason):
        await prepare_store(Settings(redis_url=valkey.url, durable="always"))
    await prepare_store(Settings(redis_url=valkey.url))


async def test_a_store_without_the_command_is_refused(server):
    valkey = server()
    with valkey.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "-waitaof")
    with pytest.raises(StoreUnfit, match="refuses WAITAOF"):
        await prepare_store(Settings(redis_url=valkey.url, durable="always"))


async def test_one_that_syncs_each_second_is_told_to_be_slow(server, caplog):
    await prepare_store(Settings(redis_url=server("everysec").url, durable="always"))
    assert "each create waits for up to a second" in caplog.text


async def test_a_full_store_is_asked_as_ever(opened, server):
    """What is near its limit fits there; a process that starts meanwhile has work to finish."""
    valkey = server()
    durability = opened(valkey, durable="always")
    with valkey.client() as client:
        client.config_set("maxmemory", 1)
    await durability.check()
