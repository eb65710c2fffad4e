"""Completions in pieces: a server's events, what they come to, and how we send them. Pure.

An answer of a stream is whole only once each of its choices has its reason to finish: `[DONE]`
proves nothing.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import msgspec

from fallback_chain.answers import BESIDE, ENDINGS, MOST_NESTING, is_deeper, read_answer, text_in
from fallback_chain.errors import BrokenStreamError
from fallback_chain.trial import INTERRUPTED, UNSHOWABLE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence

EVENT_STREAM = "text/event-stream"
DONE = b"[DONE]"
MOST_CHOICES = 128  # of one answer, as OpenAI's API has it
LONGEST_NAME = 256  # characters of an id, or of a model's name
# Texts of a delta that go on where the one before ended. All others are said once.
_GROWING = frozenset(
    {
        *("content", "refusal", "reasoning_content", "reasoning", "arguments", "input"),
        *("data", "transcript", "text"),
    }
)
_SAYING = ("content", *BESIDE)  # what commits an answer: its reader sees it, or acts on it
# What it has to be: a client stumbles over anything else.
_KINDS: Mapping[str, type] = {
    **dict.fromkeys(("text", "content", "refusal", "reasoning_content", "reasoning"), str),
    "tool_calls": list,
    "function_call": dict,
    "audio": dict,
}
# What every chunk has, and what if its server does not say; the rest only if it does.
_USUAL = {"id": "", "object": "", "created": 0, "model": ""}
_MERGED = (*_USUAL, "system_fingerprint", "service_tier")

_encode = msgspec.json.encode
K = TypeVar("K")


class Chunks(NamedTuple):
    """An answer, or a part of one, in pieces.

    head: what every chunk of it has, as JSON without its last brace. choices: of each chunk its
    list of choices, as JSON. usage: the whole chunk that has it; b"": there is none.
    """

    head: bytes
    choices: Sequence[bytes]
    usage: bytes = b""

    def frames(self) -> Iterator[bytes]:
        """Return the chunks as JSON."""
        for choices in self.choices:
            yield b'%b,"choices":%b}' % (self.head, choices)
        if self.usage:
            yield self.usage


class Sink(Protocol):
    """Who is given a stream's chunks as they come. until: when it ends, on the monotonic clock."""

    until: float
    committed: bool  # whether anything was given to it

    def write(self, tier: str, head: Mapping[str, Any], choices: Sequence[bytes]) -> None:
        """Take chunks. head: what all of them have. Never waits."""


async def events_of(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the data of each event of a text/event-stream, whatever the pieces it comes in.

    Who leaves out the blank line after its last event is understood all the same. An event without
    data is none: gateways keep a connection alive by such.
    """
    lines = _Lines()
    data: list[bytes] = []
    async for piece in pieces:
        for line in lines.of(piece):
            if line:
                if line.startswith(b"data:"):
                    data.append(line[5:].removeprefix(b" "))
            elif data:
                event = b"\n".join(data)
                data.clear()
                if event.strip():
                    yield event
    if (rest := lines.rest()).startswith(b"data:"):
        data.append(rest[5:].removeprefix(b" "))
    if (event := b"\n".join(data)).strip():
        yield event


class _Lines:
    """Cuts pieces into lines, which end in LF, CR, or both."""

    def __init__(self) -> None:
        self._left: list[bytes] = []
        self._began = False

    def of(self, piece: bytes) -> Iterator[bytes]:
        """Return the lines that a piece completes."""
        if b"\n" not in piece and b"\r" not in piece:
            self._left.append(piece)
            return
        piece = b"".join((*self._left, piece))
        self._left.clear()
        lines = self._unmarked(piece).splitlines(keepends=True)
        # A CR at the end may be the half of a CRLF.
        if not lines[-1].endswith(b"\n"):
            self._left.append(lines.pop())
        for line in lines:
            yield line.rstrip(b"\r\n")

    def rest(self) -> bytes:
        """Return what comes after the last line."""
        return self._unmarked(b"".join(self._left)).rstrip(b"\r\n")

    def _unmarked(self, piece: bytes) -> bytes:
        """Return a piece without the mark that the first one may begin with."""
        began, self._began = self._began, True
        return piece if began else piece.removeprefix(BOM_UTF8)


class Piece(NamedTuple):
    """A chunk that any client can read. choices: JSON; says: it shows its reader something."""

    choices: bytes
    says: bool
    ends: bool  # every choice that was begun has its reason to finish


class StreamedAnswer:
    """A (chat) completion, as its chunks come."""

    def __init__(self, *, legacy: bool) -> None:
        """legacy: of /v1/completions, not of /v1/chat/completions."""
        self._legacy = legacy
        self.head: dict[str, Any] = {}
        self._usage: dict[str, Any] | None = None
        self._choices: dict[int, dict[str, Any]] = {}

    def add(self, data: bytes) -> Piece | None:
        """Take an event; return what its reader is to see of it: None if nothing.

        Raises BrokenStreamError for what is no chunk, or says that the answer was broken off.
        """
        chunk = _chunk_of(data)
        if chunk.get("error"):
            raise BrokenStreamError(INTERRUPTED, data)
        usage = chunk.get("usage")
        self._usage = usage if isinstance(usage, dict) else self._usage
        if not self._choices:  # some begin with events that are no part of it, or say less
            said = {name: value for name, value in self.head.items() if value}
            self.head = {**_head_in(chunk, legacy=self._legacy), **said}
        listed = chunk.get("choices")
        if not listed:
            return None
        if not isinstance(listed, list):
            raise BrokenStreamError(UNSHOWABLE)
        says = False
        for number, choice in enumerate(listed):
            says |= self._add_choice(number, choice)
        return Piece(_encode(listed), says, self._all_ended())

    @property
    def is_whole(self) -> bool:
        """Whether each choice, of at least one, has its reason to finish."""
        return bool(self._choices) and self._all_ended()

    def _all_ended(self) -> bool:
        return all(choice["finish_reason"] for choice in self._choices.values())

    def document(self) -> bytes:
        """Return what the answer would be that did not come in pieces."""
        name = "text_completion" if self._legacy else "chat.completion"
        choices = [_whole(choice) for _, choice in sorted(self._choices.items())]
        usage = {"usage": self._usage} if self._usage is not None else {}
        return _encode({**self.head, "object": name, "choices": choices, **usage})

    @property
    def usage(self) -> dict[str, Any] | None:
        """What the server counted, if it did."""
        return self._usage

    def _add_choice(self, number: int, choice: Any) -> bool:
        """Add a piece of a choice, and make it readable; return whether its reader sees any of it.

        number: its index if it does not say one.
        """
        if not isinstance(choice, dict):
            raise BrokenStreamError(UNSHOWABLE)
        index = choice.get("index")
        index = number if index is None else index
        if type(index) is not int or index not in range(MOST_CHOICES):
            raise BrokenStreamError(UNSHOWABLE)
        reason = choice.get("finish_reason")
        reason = None if reason == "" else reason  # not 0, nor a list
        if choice.get("error") or not (reason is None or _is_ending(reason)):
            raise BrokenStreamError(INTERRUPTED)
        said = {"text": choice.get("text")} if self._legacy else choice.get("delta")
        delta = _readable({} if said is None else said)
        known = self._choices.get(index)
        if known is None:
            known = self._choices[index] = {"index": index, "said": {}, "logprobs": None}
            if not self._legacy:
                delta["role"] = delta.get("role") or "assistant"
        _number_calls(delta, known["said"])
        _merge(known["said"], delta)
        _add_logprobs(known, choice.get("logprobs"))
        known["finish_reason"] = reason or known.get("finish_reason")
        shown = {"text": delta["text"] or ""} if self._legacy else {"delta": delta}
        choice.update(shown, index=index, finish_reason=reason)
        return any(delta.get(name) for name in (("text",) if self._legacy else _SAYING))


def _is_ending(reason: Any) -> bool:
    return isinstance(reason, str) and reason.lower() in ENDINGS  # some servers write it large


def _head_in(document: Mapping[str, Any], *, legacy: bool) -> dict[str, Any]:
    """Return what all chunks of an answer have, as it, or the first of them, says."""
    head = {name: document[name] for name in _MERGED if _is_small(document.get(name))}
    return {**_USUAL, **head, "object": "text_completion" if legacy else "chat.completion.chunk"}


def _readable(delta: Any) -> dict[str, Any]:
    """Return a delta with its text in one piece; raises BrokenStreamError if it is none."""
    if not isinstance(delta, dict):
        raise BrokenStreamError(UNSHOWABLE)
    readable: dict[str, Any] = delta
    if isinstance(delta.get("content"), list):
        readable["content"] = text_in(delta["content"])
    if not all(isinstance(delta.get(name), kind | None) for name, kind in _KINDS.items()):
        raise BrokenStreamError(UNSHOWABLE)
    return readable


def _number_calls(delta: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    """Give an index to calls of tools that have none: each is a call of its own, and whole."""
    following = len(before.get("tool_calls") or ())
    for number, call in enumerate(delta.get("tool_calls") or (), following):
        if not isinstance(call, dict):
            raise BrokenStreamError(UNSHOWABLE)
        if call.get("index") is None:
            call["index"] = number
        if type(call["index"]) is not int:
            raise BrokenStreamError(UNSHOWABLE)


def _add_logprobs(choice: dict[str, Any], more: Any) -> None:
    """Add what is said of a piece's tokens: lists, each of which goes on."""
    if more is None:
        return
    if not isinstance(more, dict):
        raise BrokenStreamError(UNSHOWABLE)
    known = choice["logprobs"] = choice["logprobs"] or {}
    for name, value in more.items():
        if isinstance(value, list):
            known[name] = _like(known.get(name), list)
            known[name] += value
        else:
            known.setdefault(name, value)


def _chunk_of(data: bytes) -> dict[str, Any]:
    try:
        chunk: Any = msgspec.json.decode(data)
    except (ValueError, RecursionError) as error:
        raise BrokenStreamError(UNSHOWABLE) from error
    brackets = data.count(b"{") + data.count(b"[")
    if not isinstance(chunk, dict) or (
        brackets > MOST_NESTING and is_deeper(chunk, MOST_NESTING // 2)
    ):
        raise BrokenStreamError(UNSHOWABLE)
    return chunk


def _is_small(value: Any) -> bool:
    return type(value) is int or (isinstance(value, str) and len(value) <= LONGEST_NAME)


class _Text(list[str]):
    """A text in its pieces: of a hundred thousand, each is copied once."""


def _merge(into: dict[str, Any], delta: Mapping[str, Any]) -> None:
    """Add a delta to what came before it; raises BrokenStreamError where the two do not fit."""
    for name, value in delta.items():
        known = into.get(name)
        if value is None:
            into.setdefault(name, None)
        elif isinstance(value, str) and name in _GROWING:
            into[name] = text = _like(known, _Text)
            text.append(value)
        elif isinstance(value, dict):
            into[name] = known = _like(known, dict)
            _merge(known, value)
        elif isinstance(value, list):
            into[name] = entries = _like(known, _Entries)
            for each in value:
                entries.add(each)
        elif known in (None, ""):
            into[name] = value


def _like(known: Any, kind: type[K]) -> K:
    """Return what came before, or what is nothing yet; it must be of the same kind."""
    if known is None:
        return kind()
    if not isinstance(known, kind):
        raise BrokenStreamError(UNSHOWABLE)
    return known


class _Entries(list[Any]):
    """A list in its pieces: an entry that has an index goes on with each of that index."""

    def __init__(self) -> None:
        super().__init__()
        self._numbered: dict[int, dict[str, Any]] = {}

    def add(self, entry: Any) -> None:
        """Add an entry, or a piece of one."""
        index = entry.get("index") if isinstance(entry, dict) else None
        if type(index) is not int:
            self.append(entry)
            return
        if index not in self._numbered:
            self._numbered[index] = {}
            self.append(self._numbered[index])
        _merge(self._numbered[index], entry)


def _whole(choice: Mapping[str, Any]) -> dict[str, Any]:
    """Return a choice as it would be that did not come in pieces."""
    said = _joined(choice["said"])
    rest = {"logprobs": choice["logprobs"], "finish_reason": choice["finish_reason"]}
    if "text" in said:
        return {"index": choice["index"], "text": said["text"] or "", **rest}
    for call in said.get("tool_calls") or ():  # which are numbered in pieces alone
        del call["index"]
    # Servers begin with an empty text whatever follows.
    text = said.get("content")
    if not text and any(said.get(name) for name in BESIDE):
        text = None
    return {"index": choice["index"], "message": {**said, "content": text}, **rest}


def _joined(value: Any) -> Any:
    """Return what came in pieces with its texts in one."""
    if isinstance(value, _Text):
        return "".join(value)
    if isinstance(value, list):
        return [_joined(each) for each in value]
    if isinstance(value, dict):
        return {name: _joined(each) for name, each in value.items()}
    return value


def chunks_of(answer: bytes, *, usage: bool = False) -> Chunks:
    """Return a whole answer in pieces: of each choice one with all that it says, and its end.

    usage: whether its reader wants to see what was counted. Raises UnshowableError.
    """
    read = read_answer(answer)
    listed = read.document.get("choices") or ()
    legacy = _is_legacy(read.document.get("object"), listed)
    head = _head_in(read.document, legacy=legacy)
    pieces: list[bytes] = []
    for index, choice, told in zip(_indexes(listed), listed, read.choices, strict=True):
        beside = {"index": index, "logprobs": choice.get("logprobs"), "finish_reason": None}
        ending = {**beside, "logprobs": None, "finish_reason": told.finish_reason or "stop"}
        says: dict[str, Any] = {"text": told.text or ""}
        ends: dict[str, Any] = {"text": ""}
        if not legacy:
            says = {"delta": _delta_of(choice.get("message") or {}, told.text)}
            ends = {"delta": {}}
        pieces += (_encode([{**beside, **says}]), _encode([{**ending, **ends}]))
    counted = read.usage if usage else None
    return Chunks(head_of(head, usage=usage), pieces, usage_chunk(head, counted))


def _is_legacy(name: Any, choices: Sequence[dict[str, Any]]) -> bool:
    if name in {"text_completion", "chat.completion"}:
        return bool(name == "text_completion")
    return bool(choices) and not any("message" in choice for choice in choices)


def _indexes(choices: Sequence[dict[str, Any]]) -> Sequence[int]:
    """Return the choices' indexes: those that they have, if these can be told apart."""
    places = range(len(choices))
    named = [choice.get("index") for choice in choices]
    told = [index for index in named if type(index) is int and index in range(MOST_CHOICES)]
    return told if len(set(told)) == len(choices) else places


def _delta_of(message: Mapping[str, Any], text: str | None) -> dict[str, Any]:
    """Return a message as one delta, without what is not of its kind."""
    delta: dict[str, Any] = {
        name: value
        for name, value in message.items()
        if isinstance(value, _KINDS.get(name, object))
    }
    calls = [call for call in delta.pop("tool_calls", ()) if isinstance(call, dict)]
    if calls:
        delta["tool_calls"] = [{**call, "index": at} for at, call in enumerate(calls)]
    # As servers begin: who says it again asks with the same words as after the stream itself.
    content = "" if text is None else text
    return {**delta, "role": message.get("role") or "assistant", "content": content}


def head_of(head: Mapping[str, Any], *, usage: bool) -> bytes:
    """Return what every chunk has as JSON, without its last brace; usage: its reader asked."""
    return _encode({**head, "usage": None} if usage else head)[:-1]


def usage_chunk(head: Mapping[str, Any], usage: Any) -> bytes:
    """Return the chunk that says what was counted; b"" if nothing was."""
    if not isinstance(usage, dict):
        return b""
    return _encode({**head, "choices": [], "usage": usage})


def joined(parts: Iterable[bytes]) -> bytes:
    """Return events as they are sent: each chunk of data, and its blank line."""
    return b"".join(b"data: %b\n\n" % part for part in parts)
