"""How many files, and bytes of them, are kept, and may be: counted once, and given back once."""

from __future__ import annotations

import asyncio
import io

import pytest
from harness.stores import kept_file, store_on

from tasks.errors import TooManyFiles
from tasks.records.files import NewFile, new_file_id
from tasks.records.idempotency import IdempotencyKey
from tasks.settings import Settings
from tasks.storage import Storage, content_name
from tasks.store import file_counts, keyspace, open_store
from tasks.store.file_counts import FileCounts

HOUR = 3600


@pytest.fixture
async def store(store_url, clock):
    """A store that keeps five files and 100 bytes of them, of one owner three and 60."""
    limits = {"max_files": 5, "key_files": 3, "max_stored_bytes": 100, "key_stored_bytes": 60}
    store = store_on(store_url, clock, **limits)
    yield store
    await store.close()


@pytest.fixture
async def unlimited(store_url, clock):
    none = dict.fromkeys(("max_files", "key_files", "max_stored_bytes", "key_stored_bytes"), 0)
    store = store_on(store_url, clock, **none)
    yield store
    await store.close()


def key():
    return IdempotencyKey(new_file_id(), "d" * 32, lookup=True)


async def keep(store, size, owner="ann", keys=()):
    """Upload a file of so many bytes; return its record."""
    file_id, is_new = await store.files.begin(owner, keys, size)
    assert is_new
    new = NewFile(file_id, owner, "a.jsonl", "batch", HOUR)
    return await store.files.create(new, io.BytesIO(b"x" * size), keys)


async def counts(store):
    """Return how many files are counted, and the bytes: each owner's, and all under ""."""
    sums = await store.connection.command("HGETALL", keyspace.STORED_BYTES)
    files = await store.connection.command("HLEN", keyspace.COUNTED_FILES)
    return files, {owner.decode(): int(number) for owner, number in sums.items()}


async def test_a_file_counts_until_it_is_deleted_however_often(unlimited):
    record = await keep(unlimited, 20)
    await keep(unlimited, 30)
    await keep(unlimited, 15, "bob")
    assert await counts(unlimited) == (3, {"": 65, "ann": 50, "bob": 15})
    await asyncio.gather(*(unlimited.files.delete(record) for _ in range(3)))
    assert await counts(unlimited) == (2, {"": 45, "ann": 30, "bob": 15})


async def test_what_expires_is_given_back_once_however_many_sweep(unlimited, clock):
    await keep(unlimited, 20)
    kept = await kept_file(unlimited)
    clock.advance(HOUR)
    await asyncio.gather(*(unlimited.files.sweep() for _ in range(3)))
    assert await counts(unlimited) == (1, {"": 2, "ann": 2})
    await unlimited.files.delete(await unlimited.files.get(kept, "ann"))
    for name in keyspace.FILE_COUNTS:
        assert not await unlimited.connection.command("EXISTS", name)


async def test_so_many_files_may_be_kept_and_each_that_goes_makes_room(store):
    first = await keep(store, 1)
    for _ in range(2):
        await keep(store, 1)
    with pytest.raises(TooManyFiles, match="owner may keep 3 files, and has 3: delete files, or"):
        await store.files.begin("ann", [], 1)
    for _ in range(2):
        await keep(store, 1, "bob")
    with pytest.raises(TooManyFiles, match="service keeps 5 files at most, and has 5"):
        await store.files.begin("bob", [], 1)
    await store.files.delete(first)
    await keep(store, 1, "bob")


async def test_so_many_bytes_may_be_kept_and_each_file_that_goes_makes_room(store):
    first = await keep(store, 40)
    with pytest.raises(TooManyFiles, match="owner may keep 60 bytes of files, and has 40"):
        await store.files.begin("ann", [], 21)
    await keep(store, 20)
    with pytest.raises(TooManyFiles, match="service keeps 100 bytes of files at most, and has 60"):
        await store.files.begin("bob", [], 41)
    await keep(store, 40, "bob")
    await store.files.delete(first)
    await keep(store, 20, "bob")


async def test_a_limit_of_0_is_none(unlimited):
    for _ in range(3):
        await keep(unlimited, 100)


async def test_who_is_refused_as_it_begins_has_not_used_its_key(store):
    keys = [key()]
    records = [await keep(store, 1) for _ in range(3)]
    with pytest.raises(TooManyFiles):
        await store.files.begin("ann", keys, 1)
    await store.files.delete(records[0])
    await keep(store, 1, keys=keys)


async def test_who_was_taken_is_told_so_again_when_nobody_else_is(store):
    keys = [key()]
    record = await keep(store, 60, keys=keys)
    assert await store.files.begin("ann", keys, 60) == (record.id, False)
    assert await counts(store) == (1, {"": 60, "ann": 60})


@pytest.mark.parametrize(
    ("limits", "taken"),
    [
        ({"max_files": 5}, 5),
        ({"key_files": 4}, 4),
        ({"max_stored_bytes": 65}, 6),
        ({"key_stored_bytes": 70}, 7),
    ],
)
async def test_however_many_are_uploaded_at_once_no_more_are_kept(store_url, clock, limits, taken):
    stores = [store_on(store_url, clock, **limits) for _ in range(2)]
    ids = [(await stores[n % 2].files.begin("ann", [], 10))[0] for n in range(50)]
    creates = [
        stores[n % 2].files.create(
            NewFile(file_id, "ann", "a.jsonl", "batch", HOUR), io.BytesIO(b"x" * 10)
        )
        for n, file_id in enumerate(ids)
    ]
    answers = await asyncio.gather(*creates, return_exceptions=True)
    kept = {answer.id for answer in answers if not isinstance(answer, TooManyFiles)}
    assert len(kept) == taken
    assert await counts(stores[0]) == (taken, {"": 10 * taken, "ann": 10 * taken})
    expiring = await stores[0].connection.command("ZRANGE", keyspace.FILE_EXPIRY, 0, -1)
    assert {name.decode() for name in expiring} == kept
    for store in stores:
        await store.close()


async def test_what_is_refused_at_its_end_is_cleared_and_its_key_is_free(store):
    keys = [key()]
    file_id, _ = await store.files.begin("ann", keys, 40)
    other = await keep(store, 40)
    with pytest.raises(TooManyFiles, match="may keep 60 bytes of files, and has 40"):
        await store.files.create(
            NewFile(file_id, "ann", "a.jsonl", "batch", HOUR), io.BytesIO(b"x" * 40), keys
        )
    with pytest.raises(FileNotFoundError):
        store.files.storage.open(content_name(file_id))
    assert await store.files.get(file_id, "ann") is None
    await store.files.delete(other)
    await keep(store, 40, keys=keys)


# Beside processes of an older release, which count nothing


async def kept_by_an_older_release(store, size, owner="ann"):
    file_id, command = new_file_id(), store.connection.command
    await command(
        *("HSET", keyspace.file(file_id), "id", file_id, "owner", owner, "bytes", size),
        *("expires_ms", 10**14, "created_ms", 1, "filename", "a.jsonl", "purpose", "batch"),
    )
    await command("ZADD", keyspace.files_of(owner), 1, file_id)
    await command("ZADD", keyspace.FILE_EXPIRY, 10**14, file_id)
    return file_id


async def deleted_by_an_older_release(store, record):
    command = store.connection.command
    await command("DEL", keyspace.file(record.id))
    await command("ZREM", keyspace.files_of(record.owner), record.id)
    await command("ZREM", keyspace.FILE_EXPIRY, record.id)


async def test_what_an_older_release_left_is_counted_when_a_process_starts(
    unlimited, valkey, tmp_path
):
    store = store_on(valkey.url)
    for n in range(300):
        await kept_by_an_older_release(store, 10, "ann" if n % 3 else "bob")
    await store.files.clear_later("batch_1")
    opened = await open_store(Settings(redis_url=valkey.url), Storage(str(tmp_path)))
    assert await counts(opened) == (300, {"": 3000, "ann": 2000, "bob": 1000})
    await kept_by_an_older_release(store, 10)
    again = await open_store(Settings(redis_url=valkey.url), Storage(str(tmp_path)))
    assert (await counts(again))[0] == 300, "the start looks through all but once"
    for each in (opened, again, store):
        await each.close()


async def test_what_an_older_release_keeps_or_deletes_meanwhile_is_found_by_the_sweeps(
    unlimited, monkeypatch
):
    monkeypatch.setattr(file_counts, "LOOK", 20)
    records = [await keep(unlimited, 10) for _ in range(200)]
    await keep(unlimited, 15, "bob")
    for record in records[:100]:
        await deleted_by_an_older_release(unlimited, record)
    for _ in range(150):
        await kept_by_an_older_release(unlimited, 1)
    sweeps = 0
    while await counts(unlimited) != (251, {"": 1165, "ann": 1150, "bob": 15}):
        await unlimited.files.sweep()
        sweeps += 1
        assert sweeps < 60
    for _ in range(30):
        await unlimited.files.sweep()
    assert await counts(unlimited) == (251, {"": 1165, "ann": 1150, "bob": 15})


async def test_a_file_that_was_never_counted_takes_nothing_away(unlimited):
    await keep(unlimited, 20)
    record = await unlimited.files.get(await kept_by_an_older_release(unlimited, 15), "ann")
    await unlimited.files.delete(record)
    assert await counts(unlimited) == (1, {"": 20, "ann": 20})


async def test_a_round_comes_to_its_end_and_begins_again(unlimited):
    rounds = FileCounts(unlimited.connection)
    for size in (10, 20):
        await kept_by_an_older_release(unlimited, size)
        await rounds.look()
    assert await counts(unlimited) == (2, {"": 30, "ann": 30})
