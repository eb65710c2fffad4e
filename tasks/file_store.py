"""Files: what they are in Redis, what is in them on any storage that fsspec knows.

A local folder by default, s3://… by setting. fsspec blocks: its calls run in threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import fsspec  # type: ignore[import-untyped]
import msgspec

from tasks.batches import FINAL
from tasks.store import ONCE_SECONDS, translated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from tasks.store import JobStore

CHUNK = 1024 * 1024
COPY_SECONDS = 3600  # what copying a file may take


class FileRecord(msgspec.Struct, frozen=True):
    """A file as its owner sees it; times are epoch seconds."""

    id: str
    owner: str
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str


def new_file_id() -> str:
    """Return an id that cannot be guessed."""
    return f"file-{os.urandom(12).hex()}"


def default_folder() -> str:
    """Return where files lie when no setting says otherwise."""
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return str(Path(home) / "fallthrough" / "files")


class Storage:
    """Bytes under names; synchronous."""

    def __init__(self, url: str) -> None:
        self._fs, self._root = fsspec.core.url_to_fs(url or default_folder())
        self._fs.makedirs(self._root, exist_ok=True)

    def path(self, name: str) -> str:
        """Return the storage's own path of a name."""
        return f"{self._root}/{name}"

    def open(self, name: str, mode: str = "rb") -> BinaryIO:
        """Open a file; one that is written appears when it is closed."""
        path = self.path(name)
        if "w" in mode:
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        opened: BinaryIO = self._fs.open(path, mode, block_size=CHUNK)
        return opened

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Return a range of a file."""
        found: bytes = self._fs.cat_file(self.path(name), start=offset, end=offset + length)
        return found

    def write(self, name: str, content: bytes) -> None:
        """Write a whole file; again is harmless."""
        with self.open(name, "wb") as file:
            file.write(content)

    def size(self, name: str) -> int:
        """Return a file's bytes."""
        return int(self._fs.size(self.path(name)))

    def remove(self, name: str) -> None:
        """Delete a file or a folder; one that is not there is no error."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm(self.path(name), recursive=True)


class FileStore:
    """The owner's files; shares a JobStore's connection and event loop."""

    def __init__(self, jobs: JobStore, storage: Storage) -> None:
        self._jobs = jobs
        self._prefix = jobs.prefix
        self.storage = storage

    async def create(
        self, owner: str, filename: str, purpose: str, content: BinaryIO, seconds: int
    ) -> FileRecord:
        """Keep a file; its content is read from its beginning, in a thread."""
        file_id = new_file_id()
        expiry = f"{self._prefix}file_expiry"
        async with translated():  # who dies while he copies leaves nothing behind for ever
            await self._jobs.redis.zadd(expiry, {file_id: (time.time() + COPY_SECONDS) * 1000})
        size = await asyncio.to_thread(self._copy, content, file_id)
        now = int(time.time())
        record = FileRecord(file_id, owner, size, now, now + seconds, filename, purpose)
        fields: dict[str, Any] = {
            "id": file_id,
            "owner": owner,
            "bytes": size,
            "created_ms": now * 1000,
            "filename": filename,
            "purpose": purpose,
            "expires_ms": record.expires_at * 1000,
        }
        async with translated():
            pipeline = self._jobs.redis.pipeline(transaction=True)
            pipeline.hset(f"{self._prefix}file:{file_id}", mapping=fields)
            pipeline.zadd(f"{self._prefix}files:{owner}", {file_id: time.time() * 1000})
            pipeline.zadd(expiry, {file_id: record.expires_at * 1000})
            await pipeline.execute()
        return record

    def _copy(self, content: BinaryIO, file_id: str) -> int:
        content.seek(0)
        with self.storage.open(content_name(file_id), "wb") as target:
            shutil.copyfileobj(content, target, CHUNK)
        return content.tell()

    async def once(self, owner: str, key: str, file_id: str | None = None) -> str | None:
        """Return the id that an upload with this key made; else claim the key for file_id."""
        asks, name = key[0] == "?", f"{self._prefix}once:{owner}:{key[1:]}"
        async with translated():
            if file_id is None:
                found = await self._jobs.redis.get(name) if asks else None
            else:
                found = await self._jobs.redis.set(
                    name, file_id, nx=asks, get=True, ex=ONCE_SECONDS
                )
        return found.decode() if found and asks else None

    async def get(self, file_id: str, owner: str) -> FileRecord | None:
        """Return the owner's file, or None: unknown, past its time, or another's."""
        async with translated():
            fields = await self._jobs.redis.hgetall(f"{self._prefix}file:{file_id}")
        record = _record(fields) if fields else None
        if record is None or record.owner != owner or record.expires_at <= time.time():
            return None
        return record

    async def list_files(
        self, owner: str, limit: int, after: str | None
    ) -> tuple[list[FileRecord], bool]:
        """Return up to limit of the owner's files, newest first; and whether more are."""
        found, more = await self._jobs.page(f"files:{owner}", "file:", limit, after)
        return [_record(fields) for fields in found], more

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
                continue  # looked at again at the next sweep
            if fields:
                await self.delete(_record(fields))
            else:
                await self._clear(file_id)
        return len(due)

    async def _clear(self, file_id: str) -> None:
        await asyncio.to_thread(self.storage.remove, content_name(file_id))
        async with translated():
            await self._jobs.redis.zrem(f"{self._prefix}file_expiry", file_id)

    async def stream(self, file_id: str) -> AsyncIterator[bytes]:
        """Yield a file's content in chunks."""
        file = await asyncio.to_thread(self.storage.open, content_name(file_id))
        try:
            while chunk := await asyncio.to_thread(file.read, CHUNK):
                yield chunk
        finally:
            await asyncio.to_thread(file.close)


def content_name(file_id: str) -> str:
    """Return the name of a file's content on the storage."""
    return f"content/{file_id}"


def part_name(batch_id: str, stem: str, kind: str) -> str:
    """Return the name of a slice's part; stem: its number; kind: "output" or "error"."""
    return f"parts/{batch_id}/{stem}.{kind}.jsonl"


def parts_folder(batch_id: str) -> str:
    """Return the folder of a batch's parts."""
    return f"parts/{batch_id}"


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
