"""Reading prompts: a text, a .jsonl or .txt file, or standard input."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.json_body import NoJsonError, decoded

BOM = "\ufeff"  # what some editors begin a file with


class InputError(Exception):
    """The input cannot be used; the message names the line."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt and how it is to be answered. label: the line's custom_id, or its number."""

    label: str
    request: dict[str, Any]


def read(source: str) -> list[Prompt]:
    """Return the requests that source stands for; raises InputError."""
    path = Path(source)
    if source == "-" or path.suffix in {".jsonl", ".txt"}:
        where = "standard input" if source == "-" else source
        try:
            content = sys.stdin.buffer.read() if source == "-" else path.read_bytes()
            text = content.decode()
        except (OSError, UnicodeDecodeError) as error:
            message = f"cannot read {where}: {error}"
            raise InputError(message) from None
        return _parse(text, where)
    if not source.strip():
        message = "the prompt is empty"
        raise InputError(message)
    return [Prompt("1", {"prompt": source})]


def _parse(text: str, where: str) -> list[Prompt]:
    # Not splitlines(): that splits at U+2028, too, which may stand in the midst of a prompt.
    numbered = enumerate(text.removeprefix(BOM).split("\n"), 1)
    lines = [(n, line.strip()) for n, line in numbered if line.strip()]
    if not lines:
        message = f"{where} holds no prompt"
        raise InputError(message)
    as_json = where.endswith(".jsonl") or (where == "standard input" and lines[0][1][0] == "{")
    if not as_json:
        return [Prompt(str(n), {"prompt": line}) for n, line in lines]
    return [_line(line, f"{where}, line {n}", str(n)) for n, line in lines]


def _line(line: str, where: str, number: str) -> Prompt:
    try:
        value = decoded(line)
    except NoJsonError as error:
        message = f"{where}: not JSON: {error}"
        raise InputError(message) from None
    if not isinstance(value, dict):
        message = f"{where}: must be an object with prompt or messages"
        raise InputError(message)
    label = str(value.pop("custom_id", number))
    if "body" in value:  # a line of OpenAI's batch format
        value = value["body"]
    if not isinstance(value, dict) or ("prompt" in value) == ("messages" in value):
        message = f"{where}: needs either prompt or messages"
        raise InputError(message)
    return Prompt(label, value)
