"""What a file of prompts holds, row by row: text, JSONL, a JSON array, a table; or stdin."""

from __future__ import annotations

import csv
import json
import os
import re
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from cli.json_body import NoJsonError, decoded
from tasks import foreign
from tasks.foreign import NUL, is_wide, what_it_is

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

BOM = "\ufeff"  # what some editors begin a file with
STDIN = "-"
DELIMITERS = ",;\t"
LARGEST_CELL = 16 * 1024 * 1024  # characters
# A single word that ends as file names do, or that leads through folders, is meant as a file.
_NAME_OF_A_FILE = re.compile(r"\S*\.[A-Za-z][A-Za-z0-9]{0,7}|(\.{1,2}|~)?/\S*")
# How to have the text of what is none.
_ADVICE = {
    foreign.ZIP: ": unpack it, or save it as CSV in UTF-8",
    foreign.OLD_OFFICE: ": save it as CSV, or text, in UTF-8",
    foreign.PDF: ": save its text as a .txt file in UTF-8",
    foreign.PARQUET: ": write it as CSV or JSONL",
    foreign.SQLITE: ": write a query's result as CSV",
}
# What is in quotes parts no cells; in the middle of one they are what they look like.
_QUOTED = re.compile(r'(?:^|(?<=[,;\t]))"(?:[^"]|"")*"?')
# Excel's own first line of a CSV file: which character parts its cells.
_SEPARATOR = re.compile(r"sep=([^\w\s\"]|\t)\s*", re.IGNORECASE)


class InputError(Exception):
    """The input cannot be used; the message names the line."""


class Row(NamedTuple):
    """A row: where it stands, as people are told; its number from 1; what it says.

    value: a line's text, a table's cells by column, or what JSON says.
    """

    where: str
    number: int
    value: Any
    is_table: bool = False


class Lines:
    """A file's lines as text. They end at a newline and nowhere else: U+2028 may be in a prompt."""

    def __init__(self, content: BinaryIO, where: str) -> None:
        self._content, self._where = content, where
        self.number = 0  # of the line that was read last

    def __iter__(self) -> Iterator[str]:
        head = b""
        for number, line in enumerate(self._content, 1):
            self.number = number
            head = head or line
            text = _decoded(line)
            if text is None:
                message = f"{self._where}, line {number}: {_fault_of(head, line)}"
                raise InputError(message)
            yield text.removeprefix(BOM) if number == 1 else text


def _decoded(line: bytes) -> str | None:
    """Return a line as text in UTF-8; None: it is none."""
    try:
        return None if is_wide(line) else line.decode()
    except UnicodeDecodeError:
        return None


def _fault_of(head: bytes, line: bytes) -> str:
    """Return what a file is that is no text in UTF-8, and what to do. head: its first line."""
    if known := what_it_is(head, line):
        return known + _ADVICE.get(known, "")
    if NUL in head + line:
        return "it is no text"
    return "it is not UTF-8; convert it first: iconv -f LATIN1 -t UTF-8"


def is_file(source: str) -> bool:
    """Whether a word of the command line names a file, there or not; else it is a prompt."""
    if source == STDIN:
        return True
    try:
        there = bool(source) and Path(source).exists()  # of nothing Path makes "."
    except (OSError, ValueError):  # too long a name, or one with a NUL
        there = False
    return there or bool(_NAME_OF_A_FILE.fullmatch(source))


def content_of(source: str) -> BinaryIO:
    """Open a file, or standard input; raises InputError. Its lines can be read once."""
    if source == STDIN:
        if sys.stdin is None:
            message = "cannot read standard input: it is closed"
            raise InputError(message)
        return sys.stdin.buffer
    path = Path(source)
    try:
        kind_of(source)
        return path.open("rb")
    except (OSError, ValueError) as error:
        message = f"cannot read {source}: {getattr(error, 'strerror', None) or error}"
        raise InputError(message) from None


def rows_of(source: str, *, has_head: bool = False) -> Iterator[Row]:
    """Yield the rows of a file, or of standard input, that are not blank; raises InputError.

    has_head: standard input is a table, unless it is JSON.
    """
    where = "standard input" if source == STDIN else source
    with content_of(source) as content:
        lines = Lines(content, where)
        try:
            yield from _rows(source, iter(lines), lines, has_head=has_head)
        except OSError as error:
            message = f"cannot read {where}: {error.strerror}"
            raise InputError(message) from None


def kind_of(source: str) -> str:
    """Return how a file's name ends; raises InputError for what cannot be read, as a folder."""
    if os.path.isdir(source):  # noqa: PTH112 - which raises nothing, whatever the name is
        message = f"{source} is a folder: name a file in it"
        raise InputError(message)
    suffix = Path(source).suffix.lower()
    if suffix not in READERS:
        known = "a .txt (one prompt a line), .jsonl, .json or .csv file"
        kind = f"a {suffix} file" if suffix else "a file whose name ends in nothing"
        message = f"{source}: {kind} cannot be read: name {known}"
        raise InputError(message)
    return suffix


def _rows(source: str, iterator: Iterator[str], lines: Lines, *, has_head: bool) -> Iterator[Row]:
    where = "standard input" if source == STDIN else source
    first = next((line for line in iterator if line.strip()), "")
    text = _chained(first, iterator)
    if source != STDIN:
        read = READERS[kind_of(source)]
    elif first.lstrip()[:1] in {"{", "["}:
        read = _jsonl if first.lstrip()[0] == "{" else _json
    else:
        read = _table if has_head else _text
    yield from read(text, lines, where)


def _chained(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _text(text: Iterable[str], lines: Lines, where: str) -> Iterator[Row]:
    for line in text:
        if line.strip():
            yield Row(f"{where}, line {lines.number}", lines.number, line.strip())


def _jsonl(text: Iterable[str], lines: Lines, where: str) -> Iterator[Row]:
    for line in text:
        if line.strip():
            place = f"{where}, line {lines.number}"
            yield Row(place, lines.number, _json_value(line.strip(), place))


def _json_value(text: str, place: str) -> Any:
    try:
        return decoded(text)
    except NoJsonError as error:
        message = f"{place}: not JSON: {error}"
        raise InputError(message) from None


def _json(text: Iterable[str], _: Lines, where: str) -> Iterator[Row]:
    whole = "".join(text)
    if not whole.strip():
        return
    if _is_of_lines(whole):
        message = f"{where}: each of its lines is a value of JSON: end its name in .jsonl"
        raise InputError(message)
    value = _json_value(whole, where)
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        message = f"{where}: must be an array of prompts, or of objects with prompt or messages"
        raise InputError(message)
    for number, each in enumerate(value, 1):
        yield Row(f"{where}, item {number}", number, each)


def _is_of_lines(whole: str) -> bool:
    """Whether a text is not JSON as a whole, and its first two lines are, as in JSONL."""
    first, _, others = whole.lstrip().partition("\n")
    second = others.lstrip().partition("\n")[0]
    if not second:
        return False
    try:
        decoded(first)
        decoded(second)
    except NoJsonError:
        return False
    return True


def _table(
    text: Iterable[str], lines: Lines, where: str, delimiters: str = DELIMITERS
) -> Iterator[Row]:
    """Yield the rows of a table whose first line names its columns, parted by one of delimiters."""
    iterator = iter(text)
    head = next(iterator, "")
    separator = _SEPARATOR.fullmatch(head)
    if separator:
        head = next(iterator, "")
    before = csv.field_size_limit(LARGEST_CELL)
    try:
        delimiter = separator[1] if separator else max(delimiters, key=_QUOTED.sub("", head).count)
        place = f"{where}, line {lines.number}"
        reader = csv.reader(_chained(head, iterator), delimiter=delimiter, strict=True)
        names = [name.strip() for name in next(reader, [])]
        _check_names(names, place)
        begins = lines.number + 1
        for cells in reader:
            if any(cell.strip() for cell in cells):
                place = f"{where}, line {begins}"
                if len(cells) != len(names):
                    message = f"{place}: it has {len(cells)} cells where the head has {len(names)}"
                    raise InputError(message)
                yield Row(place, begins, dict(zip(names, cells, strict=True)), is_table=True)
            begins = lines.number + 1
    except csv.Error as error:
        message = f"{where}, line {lines.number}: not CSV: {error}"
        raise InputError(message) from None
    finally:
        csv.field_size_limit(before)


def _check_names(names: list[str], place: str) -> None:
    # Those without a name are no option's to name; a spreadsheet leaves them behind its last one.
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        message = f"{place}: there are two columns {twice!r}: its first line names them"
        raise InputError(message)


READERS: dict[str, Callable[[Iterable[str], Lines, str], Iterator[Row]]] = {
    ".txt": _text,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _table,
    ".tsv": partial(_table, delimiters="\t"),
}


def shown_value(value: Any) -> str:
    """Return a value as it stands in a prompt: a text as it is, nothing for null, else JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
