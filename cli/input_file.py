"""A file of prompts as the input file of a batch."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from cli.prompts import BOM, InputError, read

if TYPE_CHECKING:
    from pathlib import Path

    from cli.prompts import Prompt

CHAT = "/v1/chat/completions"
ENDPOINTS = (CHAT, "/v1/completions")


class InputFile(NamedTuple):
    """A file in OpenAI's batch format, and the endpoint that its lines name."""

    path: Path
    endpoint: str


def input_file(source: Path, folder: Path) -> InputFile:
    """Return source if it is in OpenAI's batch format, else one made from it in folder.

    Raises InputError.
    """
    if source.suffix not in {".jsonl", ".txt"}:
        message = f"{source}: must be a .jsonl or a .txt file"
        raise InputError(message)
    number, first = _first_line(source)
    if source.suffix == ".jsonl" and isinstance(first, dict) and "body" in first:
        # The server names what is wrong in the other lines.
        return InputFile(source, _endpoint(first, f"{source}, line {number}"))
    path = folder / f"{source.stem}.jsonl"
    with path.open("w", encoding="utf-8") as file:
        file.writelines(_batch_line(prompt) for prompt in read(str(source)))
    return InputFile(path, CHAT)


def _first_line(source: Path) -> tuple[int, Any]:
    """Return the number and the value of the first line that is not blank; None: it is no JSON."""
    try:
        with source.open("rb") as file:
            lines = ((number, line.strip()) for number, line in enumerate(file, 1))
            number, text = next(((number, line) for number, line in lines if line), (0, b""))
    except OSError as error:
        message = f"cannot read {source}: {error.strerror}"
        raise InputError(message) from None
    try:
        return number, json.loads(text.decode().removeprefix(BOM))
    except (ValueError, RecursionError):
        return number, None


def _endpoint(line: dict[str, Any], where: str) -> str:
    endpoint: str = line.get("url", CHAT)
    if endpoint not in ENDPOINTS:
        message = f"{where}: url must be one of {', '.join(ENDPOINTS)}"
        raise InputError(message)
    return endpoint


def _batch_line(prompt: Prompt) -> str:
    body = dict(prompt.request)
    if "prompt" in body:
        body["messages"] = [{"role": "user", "content": body.pop("prompt")}]
    line = {"custom_id": prompt.label, "method": "POST", "url": CHAT, "body": body}
    return json.dumps(line, ensure_ascii=False) + "\n"
