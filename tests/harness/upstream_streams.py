"""The stub model server's answers as streams: as vLLM sends them, and gone wrong on cue."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import socket
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

UNICODE = "é 日本語 👩‍👩‍👧‍👦 🏳️‍🌈 n\u0303 \u2028 end"
HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
)
ERROR = {"message": "EngineCore died", "type": "InternalServerError", "param": None, "code": 500}
LINGER_NOT = struct.pack("ii", 1, 0)


class Event(NamedTuple):
    """What is sent. kind: role, word, finish, usage, done or other; raw: data is sent as it is.

    Without data: stall (nothing more comes), cut (closed without the chunked ending), reset (the
    same by RST) and end (the chunked ending, now).
    """

    kind: str
    data: Any = b""


Events = list[Event]
DONE = Event("done", b"[DONE]")


def pieces(text: str) -> list[str]:
    """Split a text into words with the space before them; put together they are the text."""
    return re.findall(r"\s*\S+|\s+$", text)


def events_of(answer: Any, *, usage: bool) -> Events:
    """Return a whole answer as the events of a stream; usage: with a chunk that holds it."""
    if not isinstance(answer, dict) or "choices" not in answer:
        return [Event("other", answer), DONE]
    head = {key: value for key, value in answer.items() if key not in {"choices", "usage"}}
    if "text_completion" not in str(head.get("object")):
        head = {"id": "chatcmpl-stub", "created": 1, **head, "object": "chat.completion.chunk"}
    events = []
    for turn in itertools.zip_longest(*(_choice(n, c) for n, c in enumerate(answer["choices"]))):
        events += [Event(e.kind, {**head, "choices": [e.data]}) for e in turn if e]
    if usage:
        events.append(Event("usage", {**head, "choices": [], "usage": answer.get("usage")}))
    return [*events, DONE]


def _choice(number: int, whole: dict[str, Any]) -> Iterator[Event]:
    """Yield one choice's chunks: its role, its words, its end."""
    choice = {"index": number, "logprobs": None, **whole}
    message, reason = choice.pop("message", None), choice.pop("finish_reason", None)
    text, logprobs = choice.pop("text", None), choice.pop("logprobs")
    if isinstance(message, dict):
        yield Event("role", _with(choice, {"role": message.get("role"), "content": ""}))
        for delta, told in _deltas(message, logprobs):
            yield Event("word", {**_with(choice, delta), "logprobs": told})
        yield Event("finish", {**_with(choice, {}), "finish_reason": reason})
        return
    for at, word in enumerate(pieces(text or "")):
        told = {key: each[at : at + 1] for key, each in logprobs.items()} if logprobs else None
        yield Event("word", {**choice, "text": word, "logprobs": told, "finish_reason": None})
    yield Event("finish", {**choice, "text": "", "logprobs": None, "finish_reason": reason})


def _with(choice: dict[str, Any], delta: dict[str, Any]) -> dict[str, Any]:
    return {**choice, "delta": delta, "finish_reason": None}


def _deltas(message: dict[str, Any], logprobs: Any) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield (delta, logprobs) of what a message says."""
    for key in ("reasoning_content", "reasoning", "refusal", "content"):
        said = message.get(key)
        if not isinstance(said, str):
            if said is not None:
                yield {key: said}, None
            continue
        for at, word in enumerate(pieces(said)):
            told = {"content": logprobs["content"][at : at + 1]} if logprobs else None
            yield {key: word}, told if key == "content" else None
    for index, call in enumerate(message.get("tool_calls") or ()):
        function = call["function"]
        begun = {**call, "index": index, "function": {**function, "arguments": ""}}
        yield {"tool_calls": [begun]}, None
        for part in re.findall(r".{1,7}", function["arguments"], re.DOTALL):
            yield {"tool_calls": [{"index": index, "function": {"arguments": part}}]}, None


def text_of(data: Any) -> bytes:
    """Return what stands behind `data: `: UTF-8, as vLLM writes it."""
    if isinstance(data, bytes):
        return data
    return json.dumps(data, ensure_ascii=False).encode(errors="backslashreplace")


def framed(event: Event) -> bytes:
    """Return the event's bytes, as most servers send them."""
    return event.data if event.kind == "raw" else b"data: " + text_of(event.data) + b"\n\n"


# --- odd streams ---------------------------------------------------------------------------


class Odd(NamedTuple):
    """How a stream is changed; n: after how many words.

    size: bytes of a chunk of HTTP; None: an event is one; 0: all events are one.
    """

    change: Callable[[Events, int], Events] = lambda events, n: events
    frame: Callable[[Event], bytes] = framed
    size: int | None = None


def _split(events: Events, n: int) -> tuple[Events, Events]:
    """Return what comes before the end of the n-th word, and the rest."""
    words = [at for at, event in enumerate(events) if event.kind == "word"]
    others = (at for at, event in enumerate(events) if event.kind != "role")
    at = words[min(n, len(words)) - 1] + 1 if n and words else next(others)
    return events[:at], events[at:]


def _until(*last: Event) -> Odd:
    return Odd(lambda events, n: [*_split(events, n)[0], *last])


def _between(*more: Event) -> Odd:
    def change(events: Events, n: int) -> Events:
        before, after = _split(events, n)
        return [*before, *more, *after]

    return Odd(change)


def _around(*more: Event) -> Odd:
    return Odd(lambda events, n: [each for event in events for each in (*more, event)])


def _only(*kinds: str) -> Odd:
    return Odd(lambda events, n: [event for event in events if event.kind in kinds])


def _each(change: Callable[[int, Event], Any], kinds: str = "role word finish usage") -> Odd:
    """Change the chunks of those kinds."""
    return Odd(
        lambda events, n: [
            Event(each.kind, change(number, each)) if each.kind in kinds.split() else each
            for number, each in enumerate(events)
        ]
    )


def _said(event: Event, **fields: Any) -> Any:
    """Return the chunk with these fields in each of its choices."""
    choices = [{**choice, **fields} for choice in event.data["choices"]]
    return {**event.data, "choices": choices}


def _without_reason(event: Event) -> Any:
    choices = [{k: v for k, v in c.items() if k != "finish_reason"} for c in event.data["choices"]]
    return {**event.data, "choices": choices}


def _last_unfinished(events: Events, n: int) -> Events:
    last = [event for event in events if event.kind == "finish"][-1]
    return [event for event in events if event is not last]


def _huge(events: Events, n: int) -> Events:
    before, after = _split(events, n)
    word = json.loads(text_of(next(e.data for e in events if e.kind == "word")))
    choice = word["choices"][0]
    choice.update({"text": HUGE} if "text" in choice else {"delta": {"content": HUGE}})
    return [*before, Event("word", word), *after]


def _last_blank_left_out(events: Events, n: int) -> Events:
    return [*events[:-1], Event("raw", framed(events[-1])[:-1])]


def _crlf(event: Event) -> bytes:
    return framed(event).replace(b"\n", b"\r\n")


def _named(event: Event) -> bytes:
    return b"event: message\nid: 7\nretry: 1000\n" + framed(event)


def _many_lines(event: Event) -> bytes:
    """JSON over many lines of data."""
    if event.kind in {"raw", "done"}:
        return framed(event)
    text = json.dumps(event.data, ensure_ascii=False, indent=1).encode(errors="backslashreplace")
    return b"".join(b"data: " + line + b"\n" for line in text.split(b"\n")) + b"\n"


HUGE = " " + "x" * 2 * 1024 * 1024
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
STRANGE = {"nvext": {"worker": [1, {"x": None}]}, "kv_transfer_params": None, "x": "é"}
_EMPTY = Event("other", {"object": "chat.completion.chunk", "choices": []})

# Those that say all that was to be said, to who knows the standard. A number may follow:
# "huge-chunk@3" is after three words.
GOOD = {
    "bytes": Odd(size=1),
    "thirds": Odd(size=3),
    "at-once": Odd(size=0),
    "comments": _around(Event("raw", b": ping\n\n"), Event("raw", b"\n"), Event("raw", b":\n")),
    "crlf": Odd(frame=_crlf),
    "fields": Odd(frame=_named),
    "dataless": _around(*(Event("raw", b"%b\n\n" % x) for x in (b"id: 1", b"event: ping", b":"))),
    "many-lines": Odd(frame=_many_lines),
    "no-last-blank": Odd(_last_blank_left_out),
    "no-done": _only("role", "word", "finish", "usage", "other"),
    "done-and-a-blank": Odd(lambda events, n: [*events[:-1], Event("done", b"[DONE] ")]),
    "empty-choices": _around(_EMPTY),
    "huge-chunk": Odd(_huge),
    "usage-in-finish": _each(lambda _, event: {**event.data, "usage": USAGE}, "finish"),
    "usage-in-every": _each(lambda _, event: {**event.data, "usage": USAGE}),
    "ids-change": _each(lambda number, event: {**event.data, "id": f"chatcmpl-{number}"}),
    "unknown-fields": _each(lambda _, event: {**_said(event, **STRANGE), **STRANGE}),
}
# Those that end too early, and those that are no stream.
BAD = {
    "cut": _until(Event("cut")),
    "cut-ended": _until(Event("end")),
    "cut-done": _until(DONE),
    "cut-reset": _until(Event("reset")),
    "stall": _until(Event("stall")),
    "stall-silent": Odd(lambda events, n: [Event("stall")]),
    "garbage-event": _between(Event("other", b'{"choices": [{"delta": {"cont')),
    "no-json-event": _between(Event("other", b"<html>")),
    "error-event": _until(Event("other", {"error": ERROR}), DONE),
    "error-first": Odd(lambda events, n: [Event("other", {"error": ERROR}), DONE]),
    "error-text": _until(Event("other", {"error": "EngineCore died"}), DONE),
    "error-named": _until(Event("raw", b"event: error\n" + framed(Event("", {"error": ERROR})))),
    "reason-abort": _each(lambda _, event: _said(event, finish_reason="abort"), "finish"),
    "reason-error": _each(lambda _, event: _said(event, finish_reason="error"), "finish"),
    "reason-null": _each(lambda _, event: _said(event, finish_reason=None), "finish"),
    "reason-missing": _each(lambda _, event: _without_reason(event), "finish"),
    "done-at-once": _only("done"),
    "ended-at-once": _only(),
    "only-role": _only("role", "done"),
    "unfinished": Odd(_last_unfinished),  # the last of its choices is
}
ODD = {**GOOD, **BAD}


def odd(mode: str) -> tuple[Odd, int]:
    """Return how a mode changes a stream, and after how many words it does: after one."""
    name, _, words = mode.partition("@")
    return ODD.get(name, Odd()), int(words or 1)


async def send(writer: asyncio.StreamWriter, mode: str, events: Events, pace: float) -> bool:
    """Send a stream; pace: seconds between two words. False: the connection is at its end."""
    how, words = odd(mode)
    writer.transport.set_write_buffer_limits(0)  # so that a drain says that all is on its way
    writer.write(HEAD)
    if how.size == 0:
        events = [Event("raw", b"".join(how.frame(e) for e in how.change(events, words)))]
        how = Odd()
    spoken = False
    for event in how.change(events, words):
        await writer.drain()
        if event.kind == "stall":
            await asyncio.Event().wait()
        if event.kind in {"cut", "reset"}:
            return _cut(writer, event.kind)
        if event.kind == "end":
            break
        if pace and spoken and event.kind in {"word", "finish"}:
            await asyncio.sleep(pace)
        spoken = spoken or event.kind == "word"
        await _write(writer, how.frame(event), how.size)
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    return True


def _cut(writer: asyncio.StreamWriter, kind: str) -> bool:
    if kind == "reset":
        with contextlib.suppress(OSError):
            writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT
            )
        writer.transport.abort()
    else:
        writer.close()
    return False


async def _write(writer: asyncio.StreamWriter, content: bytes, size: int | None) -> None:
    for part in _parts(content, size):
        writer.write(b"%x\r\n%b\r\n" % (len(part), part))
        if size:
            await writer.drain()
            await asyncio.sleep(0)


def _parts(content: bytes, size: int | None) -> Iterable[bytes]:
    if not size:
        return [content]
    return (content[at : at + size] for at in range(0, len(content), size))
