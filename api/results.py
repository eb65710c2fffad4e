"""The finished lines of a batch, a page at a time, while it runs and after."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from api.errors import ApiError, bad
from tasks.storage import CHUNK, content_name, joined_name, part_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tasks.records.batches import BatchRecord, Part
    from tasks.storage import Storage

PAGE_BYTES = 8 * CHUNK  # a page ends with the line that reaches this
PAGE_LINES = 1000
KINDS = ("output", "error")


def no_cursor(text: str) -> ApiError:
    """Return the 400 to a cursor that is none."""
    return bad(f"after: {text!r} is not a cursor that `next` gave", "after")


class Results:
    """The finished lines of a batch; a place is a part's number and a byte of it.

    A part's bytes are those of its output lines, then those of its error lines: in files of its
    own while the batch runs, then in the batch's. Read by need, a chunk at a time; synchronous.
    kinds: of lines; those of the others are not there.
    """

    def __init__(
        self,
        storage: Storage,
        record: BatchRecord,
        parts: Sequence[Part],
        kinds: tuple[str, ...] = KINDS,
    ) -> None:
        self._storage, self._record = storage, record
        self._bytes = {kind: [part.bytes_of(kind) for part in parts] for kind in KINDS}
        self._parts, self._kinds = parts, kinds

    def all(self) -> Iterator[bytes]:
        """Yield every line, in the order of the pages."""
        place = (0, 0)
        while place[0] < len(self._parts):
            lines, place = self.page(*place, PAGE_LINES)
            yield from lines

    def page(self, part: int, offset: int, limit: int) -> tuple[list[bytes], tuple[int, int]]:
        """Return lines from a place on, up to a limit of lines and of bytes, and the next place."""
        lines: list[bytes] = []
        room = PAGE_BYTES
        if offset and part >= len(self._parts):
            raise no_cursor(f"{part}.{offset}")
        while part < len(self._parts) and len(lines) < limit and room > 0:
            for line in self._lines(part, offset):
                lines.append(line)
                offset += len(line) + 1
                room -= len(line) + 1
                if len(lines) == limit or room <= 0:
                    break
            if offset >= self._size(part):
                part, offset = part + 1, 0
        return lines, (part, offset)

    def _lines(self, part: int, offset: int) -> list[bytes]:
        """Return some lines from there on, at least one unless the part has none."""
        if offset >= self._size(part):
            if offset:
                raise no_cursor(f"{part}.{offset}")
            return []
        kind, start = self._place(part, offset)
        end = self._bytes[kind][part]
        before = min(start, 1)  # the end of the line before: a cursor lies between lines
        length = 0
        while length < end - start:
            length = min(2 * length or CHUNK, end - start)
            content = self._read(part, kind, start - before, before + length)
            if before and content[:1] != b"\n":
                raise no_cursor(f"{part}.{offset}")
            lines = content[before:].split(b"\n")[:-1]
            if lines:
                return lines
        raise self._gone(kind)

    def _size(self, part: int) -> int:
        return sum(self._bytes[kind][part] for kind in self._kinds)

    def _place(self, part: int, offset: int) -> tuple[str, int]:
        """Return the kind of the line at a byte of a part, and its byte among those."""
        kinds = iter(self._kinds)
        kind = next(kinds)
        while offset >= self._bytes[kind][part]:
            offset -= self._bytes[kind][part]
            kind = next(kinds)
        return kind, offset

    def _read(self, part: int, kind: str, start: int, length: int) -> bytes:
        if self._file(kind) is None:
            name = part_name(self._record.id, str(self._parts[part][0]), kind)
            with contextlib.suppress(FileNotFoundError):  # joined since the record was read
                return self._storage.read(name, start, length)
        offset = sum(self._bytes[kind][:part])
        name = content_name(self._file(kind) or joined_name(self._record.id, kind))
        try:
            return self._storage.read(name, offset + start, length)
        except FileNotFoundError:
            raise self._gone(kind) from None

    def _file(self, kind: str) -> str | None:
        return self._record.output_file_id if kind == "output" else self._record.error_file_id

    def _gone(self, kind: str) -> ApiError:
        name = self._file(kind) or joined_name(self._record.id, kind)
        message = f"{name}, the {kind} file of this batch, was deleted, and the results with it"
        return ApiError(404, message, code="file_not_found")
