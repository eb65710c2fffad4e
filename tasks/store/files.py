"""Files: what they are in Redis, what is in them on any storage that fsspec knows.

A local folder by default, s3://… by setting. fsspec blocks: its calls run in threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from typing import TYPE_CHECKING, Any, BinaryIO

from tasks.errors import StoreUnavailable
from tasks.records.batches import FINAL
from tasks.records.files import FileRecord, NewFile, new_file_id
from tasks.storage import CHUNK, Storage, content_name
from tasks.store.connection import translated
from tasks.store.jobs import ONCE_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from tasks.store.jobs import JobStore

COPY_SECONDS = 3600  # what copying a file may take
CLAIM_SECONDS = 60  # after which the key of an upload that died is free again
AGAIN_SECONDS = 60  # until an expired file that is still read, or cannot be deleted, is due again
PAGE = 500  # records that one look at a list reads

log = logging.getLogger(__name__)


class FileStore:
    """The owner's files; shares a JobStore's connection and event loop."""

    def __init__(self, jobs: JobStore, storage: Storage) -> None:
        self._jobs = jobs
        self._prefix = jobs.prefix
        self.storage = storage

    async def begin(self, owner: str, once: Sequence[str]) -> tuple[str, bool]:
        """Choose an id and claim the `once` keys for it; return it, and whether it is new.

        If not, an earlier upload with one of the keys has it, which may still be under way.
        """
        file_id, copy_ms, claim_ms = new_file_id(), COPY_SECONDS * 1000, CLAIM_SECONDS * 1000
        made = await self._jobs.run("create_file", file_id, owner, copy_ms, claim_ms, *once)
        return made.decode(), made.decode() == file_id

    async def create(self, new: NewFile, content: BinaryIO) -> FileRecord:
        """Keep a file that has begun; its content is read from its beginning, in a thread."""
        try:
            size = await self._copied(new, content)
            record = await self._record_new(new, size)
        except BaseException:  # who sends it again begins anew; the sweeper clears the rest
            with contextlib.suppress(StoreUnavailable):
                if await self.get(new.id, new.owner) is None:  # else only the answer was lost
                    await self._hold(new, 0)
            raise
        await self._hold(new, ONCE_SECONDS)
        return record

    async def _copied(self, new: NewFile, content: BinaryIO) -> int:
        copying = asyncio.create_task(asyncio.to_thread(self._copy, content, new.id))
        while not (await asyncio.wait({copying}, timeout=CLAIM_SECONDS / 3))[0]:
            await self._hold(new, CLAIM_SECONDS)
        try:
            return copying.result()
        except OSError as error:
            message = f"the storage did not take the file: {error}"
            raise StoreUnavailable(message) from error

    async def _hold(self, new: NewFile, seconds: int) -> None:
        if new.once:
            with contextlib.suppress(StoreUnavailable):  # then the claim ends by itself
                await self._jobs.run("hold_once", new.owner, new.id, seconds * 1000, *new.once)

    async def _record_new(self, new: NewFile, size: int) -> FileRecord:
        now = int(time.time())
        record = FileRecord(
            *(new.id, new.owner, size, now, now + new.seconds, new.filename, new.purpose)
        )
        fields: dict[str, Any] = {
            "id": new.id,
            "owner": new.owner,
            "bytes": size,
            "created_ms": now * 1000,
            "filename": new.filename,
            "purpose": new.purpose,
            "expires_ms": record.expires_at * 1000,
        }
        async with translated():
            pipeline = self._jobs.redis.pipeline(transaction=True)
            pipeline.hset(f"{self._prefix}file:{new.id}", mapping=fields)
            pipeline.zadd(f"{self._prefix}files:{new.owner}", {new.id: time.time() * 1000})
            pipeline.zadd(f"{self._prefix}file_expiry", {new.id: record.expires_at * 1000})
            await pipeline.execute()
        return record

    def _copy(self, content: BinaryIO, file_id: str) -> int:
        content.seek(0)
        with self.storage.writing(content_name(file_id)) as target:
            shutil.copyfileobj(content, target, CHUNK)
        return content.tell()

    async def get(self, file_id: str, owner: str) -> FileRecord | None:
        """Return the owner's file, or None: unknown, past its time, or another's."""
        async with translated():
            fields = await self._jobs.redis.hgetall(f"{self._prefix}file:{file_id}")
        record = _record(fields) if fields else None
        if record is None or record.owner != owner or record.expires_at <= time.time():
            return None
        return record

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
        more = True
        while more and len(records) <= limit:
            found, more = await self._jobs.page(
                f"files:{owner}", "file:", PAGE, after, oldest_first=oldest_first
            )
            read = [_record(fields) for fields in found]
            after = read[-1].id if read else None
            records += [
                record
                for record in read
                if purpose in {None, record.purpose} and record.expires_at > time.time()
            ]
        return records[:limit], len(records) > limit

    async def in_use(self, file_id: str) -> str | None:
        """Return the id of an unfinished batch that reads a file."""
        async with translated():
            for raw in await self._jobs.redis.smembers(f"{self._prefix}file:{file_id}:batches"):
                status = await self._jobs.redis.hget(
                    f"{self._prefix}batch:{raw.decode()}", "status"
                )
                if status and status.decode() not in FINAL:
                    return str(raw.decode())
        return None

    async def delete(self, record: FileRecord) -> None:
        """Delete a file: first what says that it is there."""
        async with translated():
            pipeline = self._jobs.redis.pipeline(transaction=True)
            pipeline.delete(f"{self._prefix}file:{record.id}")
            pipeline.delete(f"{self._prefix}file:{record.id}:batches")
            pipeline.zrem(f"{self._prefix}files:{record.owner}", record.id)
            # Its content is deleted by whoever finds it expired, if this process does not get to.
            pipeline.zadd(f"{self._prefix}file_expiry", {record.id: 0})
            await pipeline.execute()
        await self._clear(record.id)

    async def sweep(self, limit: int = 100) -> int:
        """Delete what is past its time; return how many."""
        async with translated():
            due = await self._jobs.redis.zrangebyscore(
                f"{self._prefix}file_expiry", "-inf", time.time() * 1000, start=0, num=limit
            )
        for raw in due:
            file_id = raw.decode()
            async with translated():
                fields = await self._jobs.redis.hgetall(f"{self._prefix}file:{file_id}")
            if fields and await self.in_use(file_id):
                await self._put_off(file_id)
                continue
            try:
                if fields:
                    await self.delete(_record(fields))
                else:
                    await self._clear(file_id)
            except OSError as error:
                log.warning("%s is not deleted: %s", file_id, type(error).__name__)
                await self._put_off(file_id)
        with contextlib.suppress(OSError):
            await asyncio.to_thread(self.storage.clear, COPY_SECONDS)
        return len(due)

    async def _put_off(self, file_id: str) -> None:
        # The oldest are taken first: those that stay would keep all others from their turn.
        async with translated():
            again = (time.time() + AGAIN_SECONDS) * 1000
            await self._jobs.redis.zadd(f"{self._prefix}file_expiry", {file_id: again}, xx=True)

    async def _clear(self, file_id: str) -> None:
        await asyncio.to_thread(self.storage.remove, content_name(file_id))
        async with translated():
            await self._jobs.redis.zrem(f"{self._prefix}file_expiry", file_id)

    async def open(self, file_id: str) -> AsyncIterator[bytes]:
        """Return a file's content in chunks; raises FileNotFoundError, before the first."""
        return _chunks(await asyncio.to_thread(self.storage.open, content_name(file_id)))


async def _chunks(file: BinaryIO) -> AsyncIterator[bytes]:
    try:
        while chunk := await asyncio.to_thread(file.read, CHUNK):
            yield chunk
    finally:
        await asyncio.to_thread(file.close)


def _record(fields: Mapping[bytes, bytes]) -> FileRecord:
    return FileRecord(
        id=fields[b"id"].decode(),
        owner=fields[b"owner"].decode(),
        bytes=int(fields[b"bytes"]),
        created_at=int(fields[b"created_ms"]) // 1000,
        expires_at=int(fields[b"expires_ms"]) // 1000,
        filename=fields[b"filename"].decode(),
        purpose=fields[b"purpose"].decode(),
    )
