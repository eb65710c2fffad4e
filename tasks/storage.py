"""Bytes under names, in a local folder or an object store; and the names of a batch's files.

fsspec blocks: its calls run in threads.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self, cast

import fsspec  # type: ignore[import-untyped]
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]

from tasks.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator


CHUNK = 1024 * 1024


WRITE_BLOCK = 8 * CHUNK  # S3 takes no part below 5 MiB; its client keeps one in memory


UNFINISHED = "unfinished"  # the local folder of what is being written


def default_folder() -> str:
    """Return where files lie when no setting says otherwise."""
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return str(Path(home) / "fallthrough" / "files")


class Storage:
    """Bytes under names, in a local folder or an object store; synchronous.

    Raises SettingsError while it is made of a URL that cannot be used.
    """

    def __init__(self, url: str) -> None:
        _forget_proxies()
        with _as_settings_error():
            # Others write there too: what a listing said before is no longer so.
            self._fs, self._root = fsspec.core.url_to_fs(
                url or default_folder(), use_listings_cache=False
            )
            # An object store has no folders: to make one would be to ask for a bucket.
            self._folders = isinstance(self._fs, LocalFileSystem)
            if self._folders:
                self._fs.makedirs(self._root, exist_ok=True)

    def path(self, name: str) -> str:
        """Return the storage's own path of a name."""
        return f"{self._root}/{name}"

    def open(self, name: str, mode: str = "rb") -> BinaryIO:
        """Open a file; one that is written appears when it is closed."""
        path, writing = self.path(name), "w" in mode
        if writing and self._folders:
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        with _as_os_error():
            opened: Any = self._fs.open(path, mode, block_size=WRITE_BLOCK if writing else CHUNK)
        return cast("BinaryIO", opened if self._folders else _Remote(opened))

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Return a range of a file."""
        with _as_os_error():
            content: bytes = self._fs.cat_file(self.path(name), start=offset, end=offset + length)
        return content

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """Write a file that appears when it is whole: others may be reading the one before it."""
        if not self._folders:
            yield from self._sending(name)
            return
        fresh = f"{UNFINISHED}/{os.urandom(8).hex()}"
        try:
            with self.open(fresh, "wb") as file:
                yield file
                file.flush()
                # The record that tells of it must not outlive it when the machine dies.
                os.fsync(file.fileno())
            folder = self.path(name).rpartition("/")[0]
            self._fs.makedirs(folder, exist_ok=True)
            Path(self.path(fresh)).replace(self.path(name))
            _sync_folder(folder)
        except BaseException:
            self.remove(fresh)
            raise

    def _sending(self, name: str) -> Iterator[BinaryIO]:
        # It appears when it is closed, and so does half of it: what breaks off is never closed.
        file: Any = self.open(name, "wb")
        try:
            yield file
            file.close()
        except BaseException:
            file.discard()
            file.sent.closed = True
            raise

    def write(self, name: str, content: bytes) -> None:
        """Write a whole file; again is harmless."""
        with self.writing(name) as file:
            file.write(content)

    def clear(self, seconds: float) -> None:
        """Delete what a process that died left unfinished so long ago."""
        if not self._folders:
            return
        for path in Path(self.path(UNFINISHED)).glob("*"):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < time.time() - seconds:
                    path.unlink()

    def size(self, name: str) -> int:
        """Return a file's bytes."""
        return int(self._fs.size(self.path(name)))

    def remove(self, name: str) -> None:
        """Delete a file or a folder; one that is not there is no error."""
        with _as_os_error(), contextlib.suppress(FileNotFoundError):
            self._fs.rm(self.path(name), recursive=True)


def _forget_proxies() -> None:
    # S3's client would take HTTP_PROXY and the like; FSSPEC_S3 may name a proxy for it.
    options = fsspec.config.conf.setdefault("s3", {}).setdefault("config_kwargs", {})
    options.setdefault("proxies", {})


def _sync_folder(path: str) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def _as_settings_error() -> Iterator[None]:
    """Say what keeps a folder or URL from being used, but not the URL: it may hold a password."""
    try:
        yield
    except OSError as error:
        fault = f"the folder cannot be made: {error.strerror or 'its storage refuses it'}"
    except RecursionError:
        fault = "the folder cannot be made: it lies too deep"
    except ImportError as error:
        fault = f"a package is missing: {_package(error)}"
    except (TypeError, ValueError):
        fault = "it is no folder, and no URL that fsspec knows"
    else:
        return
    message = f"FALLTHROUGH_FILES_URL: {fault}"
    raise SettingsError(message)


def _package(error: ImportError) -> str:
    """Return what must be installed; fsspec raises from what could not be imported."""
    cause = error.__cause__ if isinstance(error.__cause__, ImportError) else error
    name = (cause.name or "").partition(".")[0]
    if name in {"s3fs", "aiobotocore", "botocore"}:
        return "pip install '.[s3]' in Fallthrough's folder"
    return f"install the one that has the Python module {name}"


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
    """Turn what an object store's own client raises into what a local folder would."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        raise OSError(message) from error


class _Remote:
    """A file of an object store: whatever is done to it raises what a local one would."""

    def __init__(self, sent: Any) -> None:
        self.sent = sent

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.sent, name)
        return _as_os_error()(found) if callable(found) else found

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def content_name(file_id: str) -> str:
    """Return the name of a file's content on the storage."""
    return f"content/{file_id}"


def part_name(batch_id: str, stem: str, kind: str) -> str:
    """Return the name of a slice's part; stem: its number; kind: "output" or "error"."""
    return f"parts/{batch_id}/{stem}.{kind}.jsonl"


def custom_ids_name(batch_id: str) -> str:
    """Return the name of the custom_ids of a batch that is not at its end."""
    return f"names/{batch_id}.jsonl"


def parts_folder(batch_id: str) -> str:
    """Return the folder of a batch's parts."""
    return f"parts/{batch_id}"


def partial_stem(number: int) -> str:
    """Return the stem of the part of a slice that its batch ended before."""
    # Not the name of the slice's own part: who was just dropped may still be writing that.
    return f"{number}-ended"


def joined_name(batch: str, kind: str) -> str:
    """Return the id of a batch's output or error file."""
    return f"file-{batch.removeprefix('batch_')}-{kind}"
