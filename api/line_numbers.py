"""Which line of the input file a line of a slice is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.storage import content_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.records.batches import BatchRecord, SliceRange
    from tasks.storage import Storage


class LineNumbers:
    """The numbers of lines, from 1, as people count: blank ones too. Synchronous.

    A slice is read only where there may be blank lines in it.
    """

    def __init__(self, storage: Storage, record: BatchRecord, ranges: Sequence[SliceRange]) -> None:
        self._storage, self._file, self._ranges = storage, record.input_file_id, ranges
        self._known: dict[int, Sequence[int]] = {}

    def of(self, number: int, index: int) -> int | None:
        """Return the number of a line of a slice; None if that cannot be told any more."""
        if not 0 <= number < len(self._ranges):
            return None
        if number not in self._known:
            self._known[number] = self._numbers(number)
        numbers = self._known[number]
        return numbers[index] if index < len(numbers) else None

    def _numbers(self, number: int) -> Sequence[int]:
        where = self._ranges[number]
        after = number + 1
        if after < len(self._ranges):
            plain = range(where.first_line, self._ranges[after].first_line)
            if len(plain) == where.lines:
                return plain
        try:
            content = self._storage.read(content_name(self._file), where.offset, where.length)
        except FileNotFoundError:
            return ()
        lines = enumerate(content.split(b"\n"), where.first_line)
        return [line for line, text in lines if text.strip()]
