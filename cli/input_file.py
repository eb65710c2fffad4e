"""A file of prompts as the input files of batches: one, or as many as its lines need."""

from __future__ import annotations

import contextlib
import json
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cli.json_body import NoJsonError, decoded
from cli.prompts import (
    BOM,
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    InputError,
    prompts_of,
    unique_labels,
)
from cli.rows import STDIN, content_of, is_file, kind_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cli.prompts import Prompt, Shape

ENDPOINTS = (CHAT, COMPLETIONS, EMBEDDINGS)
MOST_LINES = 50_000  # of a batch
MOST_BYTES = 200 * 1024 * 1024  # of a batch's file


class InputFile(NamedTuple):
    """A file in OpenAI's batch format.

    places: of each of its lines, in what it was made from; (): it is what the user sent.
    """

    path: Path
    endpoint: str
    places: Sequence[str] = ()

    def place(self, line: int) -> str:
        """Return where one of its lines stands in what the user sent."""
        return self.places[line - 1] if self.places else f"{self.path}, line {line}"


def input_files(source: str, folder: Path, shape: Shape) -> list[InputFile]:
    """Return source if it is a batch's file as it is, else files made from it in folder.

    Raises InputError.
    """
    if not is_file(source):
        message = f"cannot read {source}: No such file or directory"
        raise InputError(message)
    if shape.is_plain and _may_be_sent(source):
        number, first = _first_line(source)
        fits = Path(source).stat().st_size <= MOST_BYTES and _count(source) <= MOST_LINES
        if isinstance(first, dict) and "body" in first and fits:
            # The server names what is wrong in the other lines.
            endpoint = _endpoint(first.get("url", CHAT), f"{source}, line {number}")
            return [InputFile(Path(source), endpoint)]
    prompts = unique_labels(prompts_of(source, shape))
    endpoint = _endpoint(prompts[0].url or CHAT, prompts[0].where)
    _check_alike(prompts, endpoint)
    if endpoint == EMBEDDINGS and not shape.is_plain:
        message = f"{source}: lines of {endpoint} go as they are, without options such as --model"
        raise InputError(message)
    if endpoint != CHAT and shape.system:
        message = f"--system: lines of {endpoint} have no messages"
        raise InputError(message)
    name = "prompts" if source == STDIN else Path(source).stem
    return list(_written(prompts, folder / name, endpoint))


def _may_be_sent(source: str) -> bool:
    """Whether a source may be a batch's file as it is; a pipe is none: it can be read once."""
    if source == STDIN or kind_of(source) not in {".jsonl", ".ndjson"}:
        return False
    try:
        return stat.S_ISREG(Path(source).stat().st_mode)
    except (OSError, ValueError):  # who opens it says what is wrong
        return True


def _count(source: str) -> int:
    with content_of(source) as content:
        return sum(not line.isspace() for line in content)


def _first_line(source: str) -> tuple[int, Any]:
    """Return the number and the value of the first line that is not blank; None: it is no JSON."""
    with content_of(source) as content:
        lines = ((number, line.strip()) for number, line in enumerate(content, 1))
        number, text = next(((number, line) for number, line in lines if line), (0, b""))
    try:
        return number, decoded(text.decode().removeprefix(BOM))
    except (NoJsonError, UnicodeDecodeError):
        return number, None


def _check_alike(prompts: Sequence[Prompt], endpoint: str) -> None:
    """Raise InputError for the first prompt that is for another endpoint."""
    for prompt in prompts:
        url = prompt.url or CHAT
        if url != endpoint:
            first = prompts[0].where.rpartition(", ")[2]
            message = f"{prompt.where}: its url is {url}, that of {first} is {endpoint}"
            raise InputError(message)


def _endpoint(url: Any, where: str) -> str:
    if url not in ENDPOINTS:
        message = f"{where}: url must be one of {', '.join(ENDPOINTS)}"
        raise InputError(message)
    endpoint: str = url
    return endpoint


def _written(prompts: Sequence[Prompt], path: Path, endpoint: str) -> Iterator[InputFile]:
    """Write as many files as it takes, each as full as a batch may be; yield them."""
    left = iter(prompts)
    prompt = next(left, None)
    number = 0
    while prompt is not None:
        number += 1
        part = path.with_name(f"{path.name}-{number}.jsonl")
        places: list[str] = []
        size = 0
        with _told(path.parent), part.open("wb") as file:
            while prompt is not None and len(places) < MOST_LINES:
                line = _batch_line(prompt, endpoint)
                if places and size + len(line) > MOST_BYTES:
                    break
                size += file.write(line)
                places.append(prompt.where)
                prompt = next(left, None)
        yield InputFile(part, endpoint, places)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a folder for files that are sent, and remove it; raises InputError."""
    with contextlib.ExitStack() as leave:
        with _told():
            made = leave.enter_context(tempfile.TemporaryDirectory(prefix="fallthrough-"))
        yield Path(made)


@contextlib.contextmanager
def _told(folder: Path | None = None) -> Iterator[None]:
    """Raise InputError where the files that are sent cannot be written."""
    try:
        yield
    except OSError as error:
        where = f" in {folder}" if folder else ""
        message = (
            f"the prompts cannot be written to a temporary file{where}: {error.strerror}; "
            "TMPDIR names another folder"
        )
        raise InputError(message) from None


def _batch_line(prompt: Prompt, endpoint: str) -> bytes:
    body = dict(prompt.request)
    if "prompt" in body and endpoint == CHAT:
        body["messages"] = [{"role": "user", "content": body.pop("prompt")}]
    line = {"custom_id": prompt.label, "method": "POST", "url": endpoint, "body": body}
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"
