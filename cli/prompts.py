"""Prompts: a text, or the rows of a file, as requests."""

from __future__ import annotations

import json
import string
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cli.json_body import NoJsonError, encoded
from cli.rows import BOM, InputError, is_file, rows_of, shown_value

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cli.rows import Row

__all__ = ["BOM", "InputError", "Prompt", "Shape", "read", "unique_labels"]

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
NAMES_SHOWN = 5  # of columns


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt and how it is to be answered. label: the row's custom_id, or its number."""

    label: str
    request: dict[str, Any]
    where: str = field(default="", compare=False)  # for what is wrong with it
    named: bool = field(default=False, compare=False)  # the label is the row's own custom_id
    url: str | None = field(
        default=None, compare=False
    )  # the endpoint that a line of OpenAI's batch format names


@dataclass(frozen=True, slots=True)
class Shape:
    """How a row becomes a request.

    column: the one that is the prompt; template: a text with {columns}; "": the row has prompt,
    messages or body. defaults: fields where the row has none; system: its first message.
    """

    column: str = ""
    template: str = ""
    system: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise InputError for both at once, or a template that cannot be filled."""
        if self.column and self.template:
            message = "--column and --prompt: give one of them"
            raise InputError(message)
        if self.template and not _names_in(self.template):
            message = "--prompt: it names no column: write one in braces, as {question}"
            raise InputError(message)

    @property
    def is_plain(self) -> bool:
        """Whether rows stay as they are."""
        return not (self.column or self.template or self.system or self.defaults)

    def request(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return a request with what it does not say itself."""
        defaults = dict(self.defaults)
        if "max_completion_tokens" in body:
            defaults.pop("max_tokens", None)
        request = {**defaults, **body}
        if self.system and "prompt" in request:
            request["messages"] = [{"role": "user", "content": request.pop("prompt")}]
        messages = request.get("messages")
        if self.system and isinstance(messages, list) and not _has_system(messages):
            request["messages"] = [{"role": "system", "content": self.system}, *messages]
        return request


def _has_system(messages: list[Any]) -> bool:
    roles = [message.get("role") for message in messages if isinstance(message, dict)]
    return any(role in {"system", "developer"} for role in roles)


def _names_in(template: str) -> list[str]:
    """Return the columns that a template names; raises InputError."""
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError:
        pieces = [("", "", "", None)]
    names = [(name, spec, how) for _, name, spec, how in pieces if name is not None]
    if any(not name or spec or how for name, spec, how in names):
        message = "--prompt: write a column as {name}, and a brace that is none as {{ or }}"
        raise InputError(message)
    return [name for name, _, _ in names]


def read(source: str, shape: Shape | None = None) -> list[Prompt]:
    """Return the requests that source stands for, under labels of their own; raises InputError."""
    shape = shape or Shape()
    if is_file(source):
        prompts = unique_labels(prompts_of(source, shape))
        if other := next((prompt for prompt in prompts if prompt.url not in {None, CHAT}), None):
            message = (
                f"{other.where}: lines of {other.url} are for a batch: send the file by `batch`"
            )
            raise InputError(message)
        return prompts
    if not source.strip():
        message = "the prompt is empty"
        raise InputError(message)
    if shape.column or shape.template:
        message = f"--{'column' if shape.column else 'prompt'}: it is for a file's rows, not a text"
        raise InputError(message)
    request = shape.request({"prompt": source})
    _check_text(request, "the prompt")
    return [Prompt("1", request)]


def prompts_of(source: str, shape: Shape) -> Iterator[Prompt]:
    """Yield the requests of a file, or of standard input ("-"); raises InputError."""
    empty = True
    for row in rows_of(source, has_head=bool(shape.column or shape.template)):
        empty = False
        yield _prompt(row, shape)
    if empty:
        message = f"{'standard input' if source == '-' else source} holds no prompt"
        raise InputError(message)


def unique_labels(prompts: Iterator[Prompt]) -> list[Prompt]:
    """Return prompts of which no two have one label; raises InputError for two custom_ids alike."""
    every = list(prompts)
    taken: dict[str, str] = {}
    for prompt in every:
        if prompt.named and prompt.label in taken:
            message = (
                f"{prompt.where}: the custom_id {prompt.label!r} is that of "
                f"{taken[prompt.label].rpartition(', ')[2]} too"
            )
            raise InputError(message)
        if prompt.named:
            taken[prompt.label] = prompt.where
    return [each if each.named else _renamed(each, taken) for each in every]


def _renamed(prompt: Prompt, taken: Mapping[str, str]) -> Prompt:
    """Return a prompt under its number, or one made from it if a custom_id says the same."""
    label, again = prompt.label, 1
    while label in taken:
        again += 1
        label = f"{prompt.label}-{again}"
    if label == prompt.label:
        return prompt
    return Prompt(label, prompt.request, prompt.where, prompt.named, prompt.url)


def _prompt(row: Row, shape: Shape) -> Prompt:
    fields = {"prompt": row.value} if isinstance(row.value, str) else row.value
    if not isinstance(fields, dict):
        message = f"{row.where}: must be an object with prompt or messages"
        raise InputError(message)
    every, fields = fields, dict(fields)
    custom_id = fields.pop("custom_id", None)
    label = shown_value(custom_id) or str(row.number)
    filled = bool(shape.template or shape.column)
    url = None if filled or "body" not in fields else str(fields.get("url", CHAT))
    asked = {"prompt": _filled(shape, every, row.where)} if filled else _request(fields, row)
    if fault := _fault_of(asked, url):
        message = f"{row.where}: {fault}"
        raise InputError(message)
    request = shape.request(asked)
    _check_text(request, row.where)
    return Prompt(label, request, row.where, bool(shown_value(custom_id)), url)


def _fault_of(request: Mapping[str, Any], url: str | None) -> str:
    """Say what is wrong with what a request asks; "" if nothing is."""
    name = "prompt" if "prompt" in request else "messages"
    asked = request.get(name, True)  # of embeddings there is neither
    if asked is None or asked == [] or (isinstance(asked, str) and not asked.strip()):
        return f"its {name} {'is' if name == 'prompt' else 'are'} empty"
    if name == "prompt" and not isinstance(asked, str) and url in {None, CHAT}:
        return "its prompt must be a text"
    return ""


def _request(fields: dict[str, Any], row: Row) -> dict[str, Any]:
    if "body" in fields:  # a line of OpenAI's batch format
        url, fields = fields.get("url"), fields["body"]
        if url == EMBEDDINGS:
            return _embedding(fields, row)
    elif row.is_table:
        fields = _of_table(fields)
    if not isinstance(fields, dict) or ("prompt" in fields) == ("messages" in fields):
        message = f"{row.where}: needs either prompt or messages{_cure(fields)}"
        raise InputError(message)
    return fields


def _embedding(body: Any, row: Row) -> dict[str, Any]:
    if not isinstance(body, dict) or "input" not in body:
        message = f"{row.where}: its body needs an input"
        raise InputError(message)
    return body


def _cure(fields: Any) -> str:
    if not isinstance(fields, dict) or not fields or {"prompt", "messages"} & fields.keys():
        return ""
    # One without a name is an index, as pandas writes it: no option can name it.
    names = [json.dumps(name, ensure_ascii=False) for name in fields if name.strip()]
    if not names:
        return ""
    more = ", …" * (len(names) > NAMES_SHOWN)
    return f"; say which field is the prompt: --column {', or '.join(names[:NAMES_SHOWN])}{more}"


def _of_table(fields: dict[str, str]) -> dict[str, str]:
    """Return the prompt of a table's row: its column "prompt", or its only one."""
    name = next(iter(fields)) if len(fields) == 1 else "prompt"
    return {"prompt": fields[name]} if name in fields else fields


def _filled(shape: Shape, fields: Mapping[str, Any], where: str) -> str:
    names = [shape.column] if shape.column else _names_in(shape.template)
    missing = next((name for name in names if name not in fields), None)
    if missing is not None:
        there = ", ".join(map(str, fields)) or "none"
        option = "--column" if shape.column else "--prompt"
        message = f"{where}: there is no column {missing!r} ({option}); there are {there}"
        raise InputError(message)
    if shape.column:
        return shown_value(fields[shape.column])
    pieces = string.Formatter().parse(shape.template)
    return "".join(
        text + ("" if name is None else shown_value(fields[name])) for text, name, _, _ in pieces
    )


def _check_text(request: dict[str, Any], where: str) -> None:
    try:
        encoded(request)
    except NoJsonError as error:
        message = f"{where}: it cannot be sent: {error}"
        raise InputError(message) from None
