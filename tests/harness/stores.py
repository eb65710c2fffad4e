"""The store on a real server, with a clock that a test can turn forward."""

from __future__ import annotations

import atexit
import functools
import io
import shutil
import tempfile
import time
from typing import TYPE_CHECKING, Any

from harness.spying import SpyingConnection
from tasks.records.files import NewFile
from tasks.settings import Settings
from tasks.storage import Storage
from tasks.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable


class Clock:
    """Stands still until it is told to go on; starts now."""

    def __init__(self) -> None:
        self.ms = time.time_ns() // 1_000_000

    def __call__(self) -> int:
        return self.ms

    def advance(self, seconds: float) -> None:
        self.ms += int(seconds * 1000)


@functools.cache
def _folder() -> str:
    """Make a folder for what the stores of this process keep; it goes with the process."""
    folder = tempfile.mkdtemp(prefix="fallthrough-test-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def store_on(
    url: str, clock_ms: Callable[[], int] | None = None, files_url: str = "", **settings: Any
) -> Store:
    """Return a store that says so when a script touches what it did not declare.

    Opens no connection yet. Without a clock: the server's.
    """
    connection = SpyingConnection(url, clock_ms=clock_ms)
    storage = Storage(files_url or tempfile.mkdtemp(dir=_folder()))
    return Store.over(connection, Settings(redis_url=url, **settings), storage)


async def kept_file(store: Store, owner: str = "ann", seconds: int = 24 * 3600) -> str:
    """Keep a file of an owner, for so long; return its id."""
    file_id, _ = await store.files.begin(owner, [])
    new = NewFile(file_id, owner, "a.jsonl", "batch", seconds)
    await store.files.create(new, io.BytesIO(b"{}"))
    return file_id
