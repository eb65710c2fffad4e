"""Which lines of a batch are to be asked again: those that nobody answered. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.jsonl.input import BOM, custom_id_of
from tasks.jsonl.output import answered_custom_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def unanswered_lines(
    input_lines: Iterable[bytes], output_lines: Iterable[bytes]
) -> Iterator[bytes]:
    """Yield the lines of an input file that have no answer of a model or the cache in the output.

    A line that cannot be read any more is not among them.
    """
    # As in validation, which has found each to be unique: 64 bits of each.
    ids = (answered_custom_id(text) for text in output_lines)
    answered = {hash(custom_id) for custom_id in ids if custom_id is not None}
    for number, text in enumerate(input_lines):
        line = (text.removeprefix(BOM) if number == 0 else text).rstrip(b"\r\n")
        custom_id = custom_id_of(line) if line.strip() else None
        if custom_id is not None and hash(custom_id) not in answered:
            yield line + b"\n"
