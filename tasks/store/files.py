"""What is kept of a file in Redis; its content lies on the storage."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from typing import TYPE_CHECKING, BinaryIO

from tasks.errors import StoreUnavailable, TooManyFiles
from tasks.records.batches import FINAL
from tasks.records.files import FileRecord, new_file_id
from tasks.records.idempotency import CLAIM_SECONDS
from tasks.storage import CHUNK, content_name, custom_ids_name, joined_name, parts_folder
from tasks.store import keyspace
from tasks.store.connection import GONE_MS
from tasks.store.fields import Fields
from tasks.store.file_counts import FileCounts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tasks.records.files import NewFile
    from tasks.records.idempotency import IdempotencyKey
    from tasks.storage import Storage
    from tasks.store.connection import Connection
    from tasks.store.durability import Durability
    from tasks.store.limits import FileLimits

COPY_SECONDS = 3600  # what copying a file may take
# After which the key of an upload that died is free again: less than who sends it again waits.
UPLOAD_CLAIM_SECONDS = 6
LATE_SECONDS = 3600  # after the end of a batch, in which a process that stood still may go on
AGAIN_SECONDS = 60  # until an expired file that is still read, or cannot be deleted, is due again
PAGE = 500  # records that one look at a list reads

log = logging.getLogger(__name__)


class FileStore:
    """The owners' files."""

    def __init__(
        self, connection: Connection, storage: Storage, durability: Durability, limits: FileLimits
    ) -> None:
        self._connection, self._durability, self._limits = connection, durability, limits
        self._counts = FileCounts(connection)
        self.storage = storage

    async def begin(
        self, owner: str, keys: Sequence[IdempotencyKey], size: int = 0
    ) -> tuple[str, bool]:
        """Choose an id and claim the keys for it; return it, and whether it is new.

        If not, an earlier upload with one of the keys has it, which may still be under way.
        size: bytes, as far as they are known. Raises TooManyFiles if no such file may be kept now;
        create() looks again, as others may be under way.
        """
        file_id = new_file_id()
        known, limit, there = await self._connection.run(
            "begin_file",
            [
                *(keyspace.FILE_EXPIRY, keyspace.files_of(owner), *keyspace.FILE_COUNTS),
                *keyspace.claims(owner, keys),
            ],
            *(file_id, owner, COPY_SECONDS * 1000, UPLOAD_CLAIM_SECONDS * 1000),
            *(size, *self._limits, *keyspace.encoded(keys)),
        )
        if limit:
            raise self._limits.exceeded(limit, int(there))
        return known.decode(), known.decode() == file_id

    async def create(
        self, new: NewFile, content: BinaryIO, keys: Sequence[IdempotencyKey] = ()
    ) -> FileRecord:
        """Keep a file that has begun; its content is read from its beginning, in a thread.

        keys: those that it has claimed. Raises OSError if the storage does not take it, and
        TooManyFiles if it may not be kept: then nothing of it is left.
        """
        try:
            size = await self._copied(new, content, keys)
            record = await self._record_new(new, size, keys)
            await self._durability.file(new.id)
        except TooManyFiles:
            with contextlib.suppress(StoreUnavailable, OSError):  # else the sweeper clears it
                await self._extend_claim(new, keys, 0)
                await self._clear(new.id)
            raise
        except BaseException:  # who sends it again begins anew; the sweeper clears the rest
            with contextlib.suppress(StoreUnavailable):
                if await self.get(new.id, new.owner) is None:  # else only the answer was lost
                    await self._extend_claim(new, keys, 0)
            raise
        return record

    async def _copied(self, new: NewFile, content: BinaryIO, keys: Sequence[IdempotencyKey]) -> int:
        copying = asyncio.create_task(asyncio.to_thread(self._copy, content, new.id))
        while not (await asyncio.wait({copying}, timeout=UPLOAD_CLAIM_SECONDS / 3))[0]:
            await self._extend_claim(new, keys, UPLOAD_CLAIM_SECONDS)
        return copying.result()

    async def _extend_claim(
        self, new: NewFile, keys: Sequence[IdempotencyKey], seconds: int
    ) -> None:
        if not keys:
            return
        with contextlib.suppress(StoreUnavailable):  # then the claim ends by itself
            await self._connection.run(
                "extend_claim",
                keyspace.claims(new.owner, keys),
                *(new.owner, new.id, seconds * 1000, *keyspace.encoded(keys)),
            )

    async def _record_new(
        self, new: NewFile, size: int, keys: Sequence[IdempotencyKey]
    ) -> FileRecord:
        now = int(self._connection.now())
        record = FileRecord(
            id=new.id,
            owner=new.owner,
            bytes=size,
            created_at=now,
            expires_at=now + new.seconds,
            filename=new.filename,
            purpose=new.purpose,
        )
        fields = {
            "created_ms": now * 1000,
            "filename": new.filename,
            "purpose": new.purpose,
        }
        limit, there = await self._connection.run(
            "keep_file",
            [
                *(keyspace.file(new.id), keyspace.files_of(new.owner), keyspace.FILE_EXPIRY),
                *keyspace.FILE_COUNTS,
                *keyspace.claims(new.owner, keys),
            ],
            *(new.id, new.owner, CLAIM_SECONDS * 1000, record.expires_at * 1000),
            *(size, *self._limits),
            *(len(keys), *keyspace.encoded(keys)),
            *(item for field in fields.items() for item in field),
        )
        if limit == b"claim":
            message = "this upload stood still, and one that was sent again has taken its place"
            raise StoreUnavailable(message)
        if limit:
            raise self._limits.exceeded(limit, int(there))
        return record

    def _copy(self, content: BinaryIO, file_id: str) -> int:
        content.seek(0)
        with self.storage.writing(content_name(file_id)) as target:
            shutil.copyfileobj(content, target, CHUNK)
        return content.tell()

    async def get(self, file_id: str, owner: str) -> FileRecord | None:
        """Return the owner's file, or None: unknown, past its time, or another's."""
        record = await self._read(file_id)
        if record is None or record.owner != owner or self._is_past(record):
            return None
        return record

    async def _read(self, file_id: str) -> FileRecord | None:
        raw = await self._connection.command("HGETALL", keyspace.file(file_id))
        return _record(Fields(raw)) if raw else None

    def _is_past(self, record: FileRecord) -> bool:
        return record.expires_at <= self._connection.now()

    async def list_files(
        self,
        owner: str,
        limit: int,
        after: str | None,
        *,
        purpose: str | None = None,
        oldest_first: bool = False,
    ) -> tuple[list[FileRecord], bool]:
        """Return up to limit of the owner's files, newest first; and whether more are."""
        records: list[FileRecord] = []
        index, more = keyspace.files_of(owner), True
        while more and len(records) <= limit:
            hashes, more = await self._connection.page(
                index, keyspace.file, PAGE, after, oldest_first=oldest_first
            )
            page = [_record(Fields(raw)) for raw in hashes]
            after = page[-1].id if page else None
            records += [
                record
                for record in page
                if purpose in {None, record.purpose} and not self._is_past(record)
            ]
        return records[:limit], len(records) > limit

    async def delete(self, record: FileRecord) -> str | None:
        """Delete a file: first what says that it is there.

        Or return the id of a batch that reads it and has not ended: then it stays.
        """
        files = keyspace.files_of(record.owner)
        reader = await self._connection.run(
            "delete_file",
            [
                *(keyspace.file(record.id), keyspace.readers(record.id)),
                *(files, keyspace.gone(files, record.id)),
                *(keyspace.FILE_EXPIRY, *keyspace.FILE_COUNTS),
            ],
            *(record.id, record.owner, GONE_MS, *sorted(FINAL)),
        )
        if reader:
            return str(reader.decode())
        await self._clear(record.id)
        return None

    async def sweep(self, limit: int = 100) -> int:
        """Delete what is past its time; return how many. And look at some of the counts."""
        now = self._connection.now() * 1000
        due = await self._connection.command(
            "ZRANGEBYSCORE", keyspace.FILE_EXPIRY, "-inf", now, "LIMIT", 0, limit
        )
        for raw in due:
            file_id = raw.decode()
            record = await self._read(file_id)
            try:
                if not record:
                    await self._clear(file_id)
                elif await self.delete(record):
                    await self._put_off(file_id)
            except OSError as error:
                log.warning("%s is not deleted: %s", file_id, type(error).__name__)
                await self._put_off(file_id)
        with contextlib.suppress(OSError):
            await asyncio.to_thread(self.storage.clear, COPY_SECONDS)
        await self._counts.look()
        return len(due)

    async def _put_off(self, file_id: str) -> None:
        # The oldest are taken first: those that stay would keep all others from their turn.
        again = (self._connection.now() + AGAIN_SECONDS) * 1000
        await self._connection.command("ZADD", keyspace.FILE_EXPIRY, "XX", again, file_id)

    async def clear_later(self, batch_id: str) -> None:
        """Have what a batch leaves cleared once more: who stood still may write late."""
        at = (self._connection.now() + LATE_SECONDS) * 1000
        await self._connection.command("ZADD", keyspace.FILE_EXPIRY, at, batch_id)

    async def _clear(self, name: str) -> None:
        """Delete a file's content, or what a batch left."""
        for each in await self._left_of(name):
            await asyncio.to_thread(self.storage.remove, each)
        await self._connection.command("ZREM", keyspace.FILE_EXPIRY, name)

    async def _left_of(self, name: str) -> list[str]:
        if not name.startswith("batch_"):
            return [content_name(name)]
        joined = [joined_name(name, kind) for kind in ("output", "error")]
        gone = [content_name(each) for each in joined if await self._read(each) is None]
        return [parts_folder(name), custom_ids_name(name), *gone]

    async def open(self, file_id: str) -> AsyncIterator[bytes]:
        """Return a file's content in chunks; raises FileNotFoundError, before the first."""
        return _chunks(await asyncio.to_thread(self.storage.open, content_name(file_id)))


async def _chunks(file: BinaryIO) -> AsyncIterator[bytes]:
    try:
        while chunk := await asyncio.to_thread(file.read, CHUNK):
            yield chunk
    finally:
        await asyncio.to_thread(file.close)


def _record(fields: Fields) -> FileRecord:
    return FileRecord(
        id=fields.text("id"),
        owner=fields.text("owner"),
        bytes=fields.number("bytes"),
        created_at=int(fields.seconds("created_ms") or 0),
        expires_at=int(fields.seconds("expires_ms") or 0),
        filename=fields.text("filename"),
        purpose=fields.text("purpose"),
    )
