"""Reading a batch's input file: it finds every bad line, and where each slice lies.

The file is read once, in bounded memory; nothing here talks to Redis or the broker.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from fallback_chain import Body, Endpoint, count_of, fault_of
from tasks.json_faults import OUT_OF_RANGE, REQUIRED, UNREADABLE, fault_of_json, misfit_of
from tasks.records.batches import SLICE_BYTES, SliceRange
from tasks.records.jobs import LONGEST_MODEL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

MAX_LINES = 50_000
MAX_INPUTS = 50_000  # of a batch of embeddings, over all its lines
SLICE_INPUTS = 512  # a slice holds no more, unless one line does: their vectors lie in the store
MAX_LINE_BYTES = 4 * 1024 * 1024
MAX_ERRORS = 1000  # reported; all are counted
READ_BYTES = 1024 * 1024
BOM = codecs.BOM_UTF8


# What the body of a line must have.
NEEDED = {
    Endpoint.CHAT: "messages",
    Endpoint.COMPLETIONS: "prompt",
    Endpoint.EMBEDDINGS: "input",
}


class Line(msgspec.Struct):
    """A line of the input file."""

    custom_id: str
    method: str
    url: str
    body: dict[str, Any]


NAMES = Line.__struct_fields__
read_line = msgspec.json.Decoder(Line).decode


class _Split(msgspec.Struct):
    custom_id: str
    body: msgspec.Raw


_split = msgspec.json.Decoder(_Split)


def split_line(text: bytes) -> tuple[str, Body]:
    """Return a line's custom_id and body; raises one of UNREADABLE, as read_line does."""
    line = _split.decode(text)
    body = Body(bytes(line.body))
    _ = body.needs  # which reads it
    return line.custom_id, body


class _Addressed(msgspec.Struct):
    url: Endpoint


_addressed = msgspec.json.Decoder(_Addressed)


def url_of(head: bytes) -> Endpoint | None:
    """Return the endpoint that the first line of a file names; None: it cannot be read."""
    lines = (text for text in head.removeprefix(BOM).split(b"\n") if text.strip())
    try:
        return _addressed.decode(next(lines, b"")).url
    except UNREADABLE:
        return None


class _Named(msgspec.Struct):
    custom_id: str | None = None


_named = msgspec.json.Decoder(_Named)


def custom_id_of(text: bytes) -> str | None:
    """Return the custom_id of a line, whatever else is wrong with it; None: it cannot be read."""
    try:
        return _named.decode(text).custom_id
    except UNREADABLE:
        return None


class LineError(msgspec.Struct):
    """What is wrong with a line, as OpenAI tells it."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


@dataclass(slots=True)
class Findings:
    """What a file holds. ranges is of use only if there are no errors.

    inputs: texts to be embedded.
    """

    total: int = 0
    inputs: int = 0
    model: str | None = None
    ranges: list[SliceRange] = field(default_factory=list)
    errors: list[LineError] = field(default_factory=list)
    error_count: int = 0

    def add(
        self, code: str, message: str, line: int | None = None, param: str | None = None
    ) -> None:
        """Note an error; the first thousand are told."""
        self.error_count += 1
        if len(self.errors) < MAX_ERRORS:
            self.errors.append(LineError(code, message, line, param))

    def encoded(self) -> bytes:
        """Return the errors as OpenAI's list; empty without errors."""
        if not self.errors:
            return b""
        reported = list(self.errors)
        more = self.error_count - len(reported)
        if more:
            message = f"{more} more errors are not listed; there are {self.error_count} in all"
            reported.append(LineError("too_many_errors", message))
        return encode_errors(reported)


def encode_errors(errors: list[LineError]) -> bytes:
    """Return errors as OpenAI's list."""
    return msgspec.json.encode({"object": "list", "data": errors})


def examine(
    file: BinaryIO, endpoint: Endpoint, slice_lines: int, names: BinaryIO | None = None
) -> Findings:
    """Read a whole input file. names: gets the custom_ids, one a line, as JSON."""
    findings = Findings()
    seen: set[int] = set()
    slices = _Slices(findings, slice_lines)
    lines = _lines(file)
    for number, offset, length, text in lines:
        if findings.total >= MAX_LINES:
            findings.total += 1 + sum(1 for _ in lines)
            message = f"a batch holds at most {MAX_LINES} lines; this file has {findings.total}"
            findings.add("too_many_tasks", message, number)
            break
        findings.total += 1
        if text is None:
            findings.add("line_too_large", f"a line holds at most {MAX_LINE_BYTES} bytes", number)
            continue
        before = findings.inputs
        custom_id = _check(text, number, endpoint, seen, findings)
        if names is not None:
            names.write(msgspec.json.encode(custom_id) + b"\n")
        slices.add(number, offset, length, findings.inputs - before)
    slices.end()
    if findings.inputs > MAX_INPUTS:
        message = f"a batch embeds at most {MAX_INPUTS} inputs; this file has {findings.inputs}"
        findings.add("too_many_inputs", message)
    if not findings.total:
        findings.add("empty_file", "the file holds no line")
    return findings


class _Slices:
    """Groups consecutive lines."""

    def __init__(self, findings: Findings, slice_lines: int) -> None:
        self._findings, self._most = findings, slice_lines
        self._offset = self._end = self._count = self._first = self._inputs = 0

    def add(self, number: int, offset: int, length: int, inputs: int) -> None:
        full = self._count >= self._most or offset + length - self._offset > SLICE_BYTES
        if self._count and (full or self._inputs + inputs > SLICE_INPUTS):
            self.end()
        if not self._count:
            self._offset, self._first = offset, number
        self._end = offset + length
        self._count += 1
        self._inputs += inputs

    def end(self) -> None:
        if self._count:
            length = self._end - self._offset
            self._findings.ranges.append(SliceRange(self._offset, length, self._count, self._first))
            self._count = self._inputs = 0


class _RawLine(NamedTuple):
    number: int
    offset: int
    length: int
    text: bytes | None  # None: too large


def _lines(file: BinaryIO) -> Iterator[_RawLine]:
    """Yield each line that is not blank."""
    number = offset = 0
    head = file.read(len(BOM))
    rest = b"" if head == BOM else head
    offset = len(BOM) if head == BOM else 0
    skipped = 0  # bytes of a line that is too large, dropped so far
    while True:
        block = file.read(READ_BYTES)
        pieces = (rest + block).split(b"\n")
        rest = pieces.pop() if block else b""
        for piece in pieces:
            number += 1
            length = skipped + len(piece)
            if length > MAX_LINE_BYTES:
                yield _RawLine(number, offset, length, None)
            elif piece.strip():
                yield _RawLine(number, offset, length, piece)
            offset += length + 1
            skipped = 0
        if not block:
            return
        if skipped + len(rest) > MAX_LINE_BYTES:
            skipped += len(rest)
            rest = b""


def _check(
    text: bytes, number: int, endpoint: Endpoint, seen: set[int], findings: Findings
) -> str | None:
    try:
        line = read_line(text)
    except msgspec.ValidationError as error:
        _explain(error, number, findings)
        return None
    except UNREADABLE as error:
        fault = fault_of_json(text, error).removeprefix("line 1, ")  # it is a line of the file
        message = f"this line is not parseable as valid JSON: {fault}"
        findings.add("invalid_json_line", message, number)
        return None
    # 64 bits of SipHash: kept whole, the ids of a 200 MB file may be 200 MB.
    identity = hash(line.custom_id)
    if identity in seen:
        message = "the custom_id of this line was used before: each must be unique"
        findings.add("duplicate_custom_id", message, number, "custom_id")
    seen.add(identity)
    if line.method != "POST":
        findings.add("invalid_request", "method must be POST", number, "method")
    if line.url != endpoint.value:
        message = f"the url of this line must be the batch's endpoint, {endpoint.value}"
        findings.add("url_mismatch", message, number, "url")
    _check_body(line.body, number, endpoint, findings)
    return line.custom_id


def _check_body(body: dict[str, Any], number: int, endpoint: Endpoint, findings: Findings) -> None:
    needed = NEEDED[endpoint]
    value = body.get(needed)
    if value is None or value == []:
        findings.add("invalid_request", f"the body has no {needed}", number, f"body.{needed}")
    elif endpoint is Endpoint.EMBEDDINGS:
        _check_input(body, number, findings)
    elif endpoint is Endpoint.CHAT and not isinstance(value, list):
        findings.add("invalid_request", "messages must be a list", number, "body.messages")
    elif endpoint is Endpoint.COMPLETIONS and not _is_one_text(value):
        message = "prompt must be a text, or a list of one"
        findings.add("invalid_request", message, number, "body.prompt")
    model = body.get("model") or ""
    if not isinstance(model, str):
        findings.add("invalid_request", "model must be a string", number, "body.model")
    elif len(model) > LONGEST_MODEL:
        message = f"model must have at most {LONGEST_MODEL} characters"
        findings.add("invalid_request", message, number, "body.model")
    elif findings.model is None:
        findings.model = model
    elif model != findings.model:
        message = "every line of a batch must name the same model, or none"
        findings.add("model_mismatch", message, number, "body.model")
    if body.get("fallthrough") is not None:  # no model knows it, and what it says would be lost
        message = (
            "of its handling a line says nothing: metadata of its batch does (fallthrough_tiers …)"
        )
        findings.add("invalid_request", message, number, "body.fallthrough")


def _is_one_text(prompt: Any) -> bool:
    """Whether every tier can answer a prompt: the ids of tokens are another model's words."""
    [text] = prompt if isinstance(prompt, list) and len(prompt) == 1 else [prompt]
    return isinstance(text, str) and text != ""


def _check_input(body: dict[str, Any], number: int, findings: Findings) -> None:
    given = body["input"]
    if fault := fault_of(given):
        param = f"input{fault.place}"
        findings.add("invalid_request", f"{param} {fault.what}", number, f"body.{param}")
    else:
        findings.inputs += count_of(given)
    if not body.get("model"):
        message = "the body has no model: it alone may embed this"
        findings.add("invalid_request", message, number, "body.model")


def _explain(error: msgspec.ValidationError, number: int, findings: Findings) -> None:
    path, what = misfit_of(error, Line)
    if path in NAMES and what == REQUIRED:
        findings.add("missing_required_parameter", f"this line has no {path}", number, path)
    elif what == OUT_OF_RANGE:
        message = "this line is not parseable: it holds a number that is out of range"
        findings.add("invalid_json_line", message, number)
    else:
        findings.add("invalid_request", f"{path or 'the line'}: {what}", number, path or None)
