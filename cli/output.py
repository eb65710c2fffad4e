"""Where results go: to a file, which is whole or not there, or to what takes them as they come."""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import re
import shutil
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from cli.terminal import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed import ReadableBuffer

STDOUT = 1
# A file that is open already: to open it again would be to lose the place that others have in it.
_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/([0-9]{1,9})")
MOST_LINKS = 40  # that one path leads through, as Linux has it
# A mount of its own, or one in a folder where only their owners rename files.
KEEPS_ITS_NAME = frozenset({errno.EBUSY, errno.EPERM, errno.EACCES})


class OutputError(Exception):
    """Results could not be written; the message says how to get them."""


@contextlib.contextmanager
def writing(output: Path | None, how_to_get: str) -> Iterator[BinaryIO]:
    """Yield what takes results; None: standard output. Raises OutputError.

    A file takes its name when all is written, so that what was there before stays until then; only
    one that cannot be replaced is written in its place. What is no file, and what is open already,
    is neither emptied nor renamed. A terminal shows control characters, and obeys none.
    """
    try:
        with _opened(output) as target:
            yield target
    except BrokenPipeError:
        if output is None:  # whoever reads it has enough
            raise
        raise _cannot_write(output, os.strerror(errno.EPIPE), how_to_get) from None
    except OSError as error:
        raise _cannot_write(output, error.strerror, how_to_get) from None


def check(output: Path) -> None:
    """Raise OSError if results cannot be written there. Nothing is changed."""
    descriptor = _descriptor(output)
    if descriptor is not None:
        os.write(descriptor, b"")
    elif _is_special(output):  # whoever reads a pipe would take its opening for the results
        if not os.access(output, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    else:
        whole = _resolved(output)
        place = _place(whole)
        if place != whole:
            place.unlink()


def _cannot_write(output: Path | None, why: str | None, how_to_get: str) -> OutputError:
    return OutputError(
        f"cannot write the results to {output or 'standard output'}: {why}; {how_to_get}"
    )


@contextlib.contextmanager
def _opened(output: Path | None) -> Iterator[BinaryIO]:
    descriptor = STDOUT if output is None else _descriptor(output)
    if descriptor is not None:
        sys.stdout.flush()  # what was said before comes first
        with open(descriptor, "wb", closefd=False) as stream, _shown_on(stream) as target:
            yield target
    elif output is not None and _is_special(output):
        with output.open("wb") as stream, _shown_on(stream) as target:
            yield target
    elif output is not None:
        with _replacing(_resolved(output)) as target:
            yield target


def _descriptor(output: Path) -> int | None:
    """Return the number of the open file that a path leads to, as /dev/stdout does; or None."""
    path = str(output.absolute())
    for _ in range(MOST_LINKS):
        if found := _DESCRIPTOR.fullmatch(path):
            return int(found[1])
        try:
            path = os.path.normpath(Path(path).parent / Path(path).readlink())
        except OSError:  # no link
            return None
    return None


def _is_special(output: Path) -> bool:
    """Whether it is a device or a pipe, which is opened by the name that the user gave it."""
    return output.exists() and not output.is_file()


def _resolved(output: Path) -> Path:
    """Return what a link leads to; raises OSError."""
    try:
        return output.resolve()
    except RuntimeError:  # of Python before 3.13, for a link that leads to itself
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None


@contextlib.contextmanager
def _replacing(whole: Path) -> Iterator[BinaryIO]:
    place = _place(whole)
    if place == whole:
        with _emptied(whole) as target:
            yield target
        return
    try:
        with place.open("wb") as target:
            yield target
        _rename(place, whole)
    finally:
        place.unlink(missing_ok=True)


def _place(whole: Path) -> Path:
    """Make a file beside another that can take its name; return the other itself if none can.

    Raises OSError if neither can be written.
    """
    old = whole.stat() if whole.exists() else None
    if old:
        os.close(os.open(whole, os.O_WRONLY))
    beside = whole.with_name(f".{whole.name[:50]}.{os.getpid()}")
    try:
        beside.open("wb").close()
        if old:
            _make_like(beside, old)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        if not old:
            raise
        return whole
    return beside


def _make_like(made: Path, old: os.stat_result) -> None:
    """Give a file the owner and the mode of the one that it replaces; raises OSError."""
    new = made.stat()
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        os.chown(made, old.st_uid, old.st_gid)
    made.chmod(stat.S_IMODE(old.st_mode))


def _rename(place: Path, whole: Path) -> None:
    try:
        place.replace(whole)
    except OSError as error:
        if error.errno not in KEEPS_ITS_NAME or not whole.exists():
            raise
        with place.open("rb") as results, _emptied(whole) as target:
            shutil.copyfileobj(results, target)


def _emptied(whole: Path) -> BinaryIO:
    """Open a file that is there: another user's in /tmp may not be opened as if to make it."""
    return os.fdopen(os.open(whole, os.O_WRONLY | os.O_TRUNC), "wb")


@contextlib.contextmanager
def _shown_on(stream: BinaryIO) -> Iterator[BinaryIO]:
    """Yield an open file, or what shows control characters where it is a terminal."""
    if not stream.isatty():
        yield stream
        return
    with io.BufferedWriter(_Shown(stream)) as target:
        yield target


class _Shown(io.RawIOBase):
    """Writes to a terminal what people read, whatever the bytes are."""

    def __init__(self, terminal: BinaryIO) -> None:
        self._terminal = terminal
        letters = codecs.getincrementaldecoder("utf-8")(errors="replace")
        # Both halves of a line's end are seen at once.
        self._decoder = io.IncrementalNewlineDecoder(letters, translate=False)

    def writable(self) -> bool:
        return True

    def write(self, content: ReadableBuffer, /) -> int:
        pieces = bytes(content)
        self._say(self._decoder.decode(pieces))
        return len(pieces)

    def close(self) -> None:
        if not self.closed:
            self._say(self._decoder.decode(b"", final=True))
        super().close()

    def _say(self, text: str) -> None:
        self._terminal.write(shown(text).encode(sys.stdout.encoding, "replace"))


def free_name(wanted: Path) -> Path:
    """Return a name that no file has yet: the wanted one, or one with a number."""
    number, name = 1, wanted
    while name.exists():
        number += 1
        name = wanted.with_name(f"{wanted.stem}-{number}{wanted.suffix}")
    return name
