"""What the store keeps of files, and when their content goes, on a real Valkey."""

from __future__ import annotations

import io
from unittest.mock import AsyncMock

import msgspec
import pytest
from harness.stores import store_on

from api.files import UNDER_WAY_SECONDS
from tasks.errors import NoSuchCursor, NoSuchInput, StoreUnavailable
from tasks.records.batches import FINAL, BatchOptions, BatchStatus, Endpoint, NewBatch
from tasks.records.files import NewFile, new_file_id
from tasks.records.idempotency import CLAIM_SECONDS, IdempotencyKey
from tasks.storage import content_name, custom_ids_name, joined_name, part_name
from tasks.store import keyspace
from tasks.store.files import (
    AGAIN_SECONDS,
    COPY_SECONDS,
    LATE_SECONDS,
    UPLOAD_CLAIM_SECONDS,
    FileStore,
)

HOUR = 3600
KEYS = [IdempotencyKey("name", "d" * 32, lookup=True)]


@pytest.fixture
async def store(store_url, clock, tmp_path):
    store = store_on(store_url, clock, files_url=str(tmp_path))
    yield store
    await store.close()


@pytest.fixture
def files(store):
    return store.files


@pytest.fixture
def upload(files):
    """Keep a file of ann's."""

    async def upload(content=b"{}", purpose="batch", seconds=HOUR, owner="ann"):
        new = NewFile(new_file_id(), owner, "a.jsonl", purpose, seconds)
        return await files.create(new, io.BytesIO(content))

    return upload


async def content(files, file_id):
    return b"".join([chunk async for chunk in await files.open(file_id)])


async def test_a_file_is_described_and_can_be_read(files, upload, clock):
    assert isinstance(files, FileStore)
    record = await upload(b"some lines")
    assert await files.get(record.id, "ann") == record
    assert (record.bytes, record.filename, record.purpose) == (10, "a.jsonl", "batch")
    assert (record.created_at, record.expires_at) == (clock.ms // 1000, clock.ms // 1000 + HOUR)
    assert await content(files, record.id) == b"some lines"
    assert await files.get(record.id, "bob") is None


async def test_a_file_that_is_deleted_is_gone_with_its_content(files, upload):
    record = await upload()
    await files.delete(record)
    assert await files.get(record.id, "ann") is None
    assert await files.list_files("ann", 10, None) == ([], False)
    with pytest.raises(FileNotFoundError):
        await files.open(record.id)


async def test_the_content_of_a_deleted_file_that_its_storage_kept_goes_with_the_next_sweep(
    files, upload, monkeypatch
):
    record = await upload()
    with monkeypatch.context() as patch:
        patch.setattr(files, "_clear", AsyncMock(side_effect=OSError("away")))
        with pytest.raises(OSError, match="away"):
            await files.delete(record)
    assert await content(files, record.id) == b"{}"
    assert await files.sweep() == 1
    with pytest.raises(FileNotFoundError):
        await files.open(record.id)


async def test_past_its_time_a_file_is_gone_and_the_sweep_takes_its_content(files, upload, clock):
    record = await upload()
    assert await files.sweep() == 0
    clock.advance(HOUR)
    assert await files.get(record.id, "ann") is None
    assert await files.list_files("ann", 10, None) == ([], False)
    assert await content(files, record.id) == b"{}"
    assert await files.sweep() == 1
    with pytest.raises(FileNotFoundError):
        await files.open(record.id)
    assert await files.sweep() == 0


async def test_a_file_that_an_unfinished_batch_reads_outlives_its_time(store, files, upload, clock):
    record = await upload()
    command = store.connection.command
    await command("SADD", keyspace.readers(record.id), "batch_1")
    await command("HSET", keyspace.batch("batch_1"), "status", "in_progress")
    assert await files.delete(record) == "batch_1"
    clock.advance(HOUR)
    assert await files.sweep() == 1
    assert await content(files, record.id) == b"{}"
    assert await files.sweep() == 0, "it is put off: others must have their turn"
    await command("HSET", keyspace.batch("batch_1"), "status", "completed")
    clock.advance(AGAIN_SECONDS)
    assert await files.sweep() == 1
    with pytest.raises(FileNotFoundError):
        await files.open(record.id)


@pytest.mark.parametrize("status", [*BatchStatus, None])
async def test_a_file_goes_once_no_batch_that_reads_it_is_unfinished(store, files, upload, status):
    """Looked at as it goes: a batch may be accepted in the moment between a look and that."""
    record = await upload()
    batch = NewBatch("batch_1", "ann", Endpoint.CHAT, record.id, "24h", {}, BatchOptions())
    await store.batches.create(batch, [])
    command, key = store.connection.command, keyspace.batch("batch_1")
    await (command("HSET", key, "status", status) if status else command("DEL", key))
    stays = status not in {None, *FINAL}
    assert await files.delete(record) == ("batch_1" if stays else None)
    assert (await files.get(record.id, "ann") is not None) == stays
    if stays:
        assert await content(files, record.id) == b"{}"


@pytest.mark.parametrize("why", ["deleted", "expired", "another's", "unknown"])
async def test_a_batch_reads_only_what_its_owner_has(why, store, files, upload, clock):
    record = await upload()
    file_id = "file-unknown" if why == "unknown" else record.id
    if why == "deleted":
        await files.delete(record)
    if why == "expired":
        clock.advance(HOUR)
    owner = "bob" if why == "another's" else "ann"
    batch = NewBatch("batch_1", owner, Endpoint.CHAT, file_id, "24h", {}, BatchOptions())
    with pytest.raises(NoSuchInput):
        await store.batches.create(batch, [])
    assert not await store.connection.command("EXISTS", keyspace.readers(file_id))
    assert not await store.connection.command("EXISTS", keyspace.batch("batch_1"))


async def test_a_create_that_is_sent_again_finds_its_batch_though_its_input_is_gone(
    store, files, upload
):
    record = await upload()
    batch = NewBatch("batch_1", "ann", Endpoint.CHAT, record.id, "24h", {}, BatchOptions())
    assert (await store.batches.create(batch, KEYS))[0] == "batch_1"
    await store.connection.command("HSET", keyspace.batch("batch_1"), "status", "completed")
    await files.delete(record)
    again = msgspec.structs.replace(batch, id="batch_2")
    assert await store.batches.create(again, KEYS) == ("batch_1", [])


async def test_what_a_worker_that_stood_still_writes_after_a_batchs_end_is_cleared(
    files, upload, clock
):
    output, error = (joined_name("batch_1", kind) for kind in ("output", "error"))
    new = NewFile(output, "ann", "out.jsonl", "batch_output", 2 * LATE_SECONDS)
    await files.create(new, io.BytesIO(b"{}"))
    await files.clear_later("batch_1")
    late = [part_name("batch_1", "0", "output"), custom_ids_name("batch_1"), content_name(error)]
    others = [part_name("batch_2", "0", "output"), custom_ids_name("batch_2")]
    for name in late + others:
        files.storage.write(name, b"{}")
    assert await files.sweep() == 0
    clock.advance(LATE_SECONDS)
    assert await files.sweep() == 1
    for name in late:
        with pytest.raises(FileNotFoundError):
            files.storage.open(name)
    for name in others:
        files.storage.open(name).close()
    assert await content(files, output) == b"{}", "its record is there"
    assert await files.sweep() == 0


async def test_content_that_cannot_be_deleted_is_tried_again_later(
    files, upload, clock, monkeypatch, caplog
):
    record = await upload()
    clock.advance(HOUR)

    def away(_):
        raise ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr(files.storage, "remove", away)
        assert await files.sweep() == 1
    assert f"{record.id} is not deleted: ConnectionError" in caplog.text
    assert await files.sweep() == 0
    clock.advance(AGAIN_SECONDS)
    assert await files.sweep() == 1


async def test_an_upload_that_died_leaves_nothing_behind_for_ever(files, clock):
    file_id, _ = await files.begin("ann", [])
    files._copy(io.BytesIO(b"half"), file_id)
    assert await files.sweep() == 0
    clock.advance(COPY_SECONDS)
    assert await files.sweep() == 1
    with pytest.raises(FileNotFoundError):
        await files.open(file_id)


async def test_a_list_shows_a_purpose_in_either_order_and_page_by_page(files, upload, clock):
    ids = []
    for number in range(5):
        clock.advance(1)
        ids.append((await upload(purpose="other" if number == 2 else "batch")).id)
    del ids[2]

    async def listed(limit, after, **options):
        records, more = await files.list_files("ann", limit, after, purpose="batch", **options)
        return [record.id for record in records], more

    assert await listed(10, None) == (ids[::-1], False)
    assert await listed(3, None) == (ids[:0:-1], True)
    assert await listed(3, ids[1]) == (ids[:1], False)
    assert await listed(2, None, oldest_first=True) == (ids[:2], True)
    with pytest.raises(NoSuchCursor):
        await listed(2, "file-unknown")


@pytest.mark.parametrize("oldest_first", [False, True])
@pytest.mark.parametrize("step", [0, 1], ids=["of one moment", "one a second"])
async def test_a_list_goes_on_after_what_was_deleted(files, upload, clock, oldest_first, step):
    ids = []
    for _ in range(7):
        clock.advance(step)
        ids.append((await upload()).id)
    others, seen, after = await upload(owner="bob"), [], None
    while True:
        page, more = await files.list_files("ann", 3, after, oldest_first=oldest_first)
        for record in page:
            await files.delete(record)
            seen.append(record.id)
            after = record.id
        if not more:
            break
    ids = ids if step else sorted(ids)
    assert seen == (ids if oldest_first else ids[::-1])
    with pytest.raises(NoSuchCursor):
        await files.list_files("ann", 3, others.id)
    with pytest.raises(NoSuchCursor):
        await files.list_files("bob", 3, after)


async def test_a_list_looks_past_pages_of_what_it_does_not_show(files, upload, clock, monkeypatch):
    monkeypatch.setattr("tasks.store.files.PAGE", 2)
    shown = await upload()
    for _ in range(5):
        clock.advance(1)
        await upload(purpose="other")
    records, more = await files.list_files("ann", 1, None, purpose="batch")
    assert ([record.id for record in records], more) == ([shown.id], False)


async def begin_and_create(files, content):
    file_id, is_new = await files.begin("ann", KEYS)
    assert is_new
    return await files.create(NewFile(file_id, "ann", "a", "batch", HOUR), content, KEYS)


async def test_an_upload_that_is_sent_again_finds_the_first_one(files):
    record = await begin_and_create(files, io.BytesIO(b"{}"))
    assert await files.begin("ann", KEYS) == (record.id, False)


async def test_an_upload_that_was_deleted_is_made_again(files):
    record = await begin_and_create(files, io.BytesIO(b"{}"))
    await files.delete(record)
    again = await begin_and_create(files, io.BytesIO(b"{}"))
    assert await files.get(again.id, "ann") == again


async def test_an_upload_that_the_storage_did_not_take_frees_its_key(files, monkeypatch):
    def full(_):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(files.storage, "writing", full)
        with pytest.raises(OSError, match="no space left"):
            await begin_and_create(files, io.BytesIO(b"{}"))
    await begin_and_create(files, io.BytesIO(b"{}"))


async def test_an_upload_of_which_only_the_answer_was_lost_keeps_its_key(files, monkeypatch):
    run = files._connection.run

    async def lose_the_answer(script, *arguments):
        answer = await run(script, *arguments)
        if script == "keep_file":
            raise StoreUnavailable("away")
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(files._connection, "run", lose_the_answer)
        with pytest.raises(StoreUnavailable):
            await begin_and_create(files, io.BytesIO(b"{}"))
    _, is_new = await files.begin("ann", KEYS)
    assert not is_new


async def test_the_key_of_an_upload_that_died_is_free_before_a_repeated_one_gives_up(files):
    await files.begin("ann", KEYS)
    [claim] = keyspace.claims("ann", KEYS)
    assert 0 < await files._connection.command("PTTL", claim) < UNDER_WAY_SECONDS * 1000


async def test_a_file_is_recorded_with_its_key_in_one_step(files, monkeypatch):
    """Who dies after that has left both: a repeated upload finds the file, however late."""

    async def nothing(*_):
        """As if the process were killed before its next word to the store."""

    monkeypatch.setattr(files, "_extend_claim", nothing)
    await begin_and_create(files, io.BytesIO(b"{}"))
    [claim] = keyspace.claims("ann", KEYS)
    left = await files._connection.command("PTTL", claim)
    assert UPLOAD_CLAIM_SECONDS * 1000 < left <= CLAIM_SECONDS * 1000


async def test_an_upload_that_stood_still_does_not_make_a_second_file(files):
    slow, _ = await files.begin("ann", KEYS)
    [claim] = keyspace.claims("ann", KEYS)
    await files._connection.command("DEL", claim)  # it lapsed
    record = await begin_and_create(files, io.BytesIO(b"{}"))
    with pytest.raises(StoreUnavailable, match="stood still"):
        await files.create(NewFile(slow, "ann", "a", "batch", HOUR), io.BytesIO(b"{}"), KEYS)
    assert [each.id for each in (await files.list_files("ann", 10, None))[0]] == [record.id]
    assert await files.begin("ann", KEYS) == (record.id, False)


async def test_an_upload_whose_claim_lapsed_takes_its_key_again(files):
    mine, _ = await files.begin("ann", KEYS)
    [claim] = keyspace.claims("ann", KEYS)
    await files._connection.command("DEL", claim)
    await files.create(NewFile(mine, "ann", "a", "batch", HOUR), io.BytesIO(b"{}"), KEYS)
    assert await files.begin("ann", KEYS) == (mine, False)


async def test_an_upload_that_only_notes_its_key_leaves_it_to_who_has_it(files):
    noted = [KEYS[0].noted()]
    first, _ = await files.begin("ann", noted)
    second, new = await files.begin("ann", noted)
    assert new
    for file_id in (first, second):
        await files.create(NewFile(file_id, "ann", "a", "batch", HOUR), io.BytesIO(b"{}"), noted)
    assert await files.begin("ann", KEYS) == (second, False)
