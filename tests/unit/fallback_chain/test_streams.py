"""Completions in pieces: read in any pieces, put together, and sent."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from typing import Any

import pytest
from harness.upstream import completion
from harness.upstream_answers import calling_tools, choices_of
from harness.upstream_streams import BAD, GOOD, UNICODE, Odd
from harness.upstream_streams import events_of as stub_events
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk

from fallback_chain.answers import read_answer
from fallback_chain.errors import BrokenStreamError, UnshowableError
from fallback_chain.streams import (
    DONE,
    MOST_CHOICES,
    Chunks,
    StreamedAnswer,
    chunks_of,
    events_of,
    joined,
)
from fallback_chain.trial import INTERRUPTED, UNSHOWABLE

# --- events --------------------------------------------------------------------------------


def events(*pieces: bytes) -> list[bytes]:
    async def come():
        for piece in pieces:
            yield piece

    async def read():
        return [event async for event in events_of(come())]

    return asyncio.run(read())


def cut(stream: bytes, at: list[int]) -> list[bytes]:
    """Return a stream in pieces, cut at those places; some are empty."""
    places = [0, *sorted(place % (len(stream) + 1) for place in at), len(stream)]
    return [stream[a:b] for a, b in itertools.pairwise(places)]


@pytest.mark.parametrize(
    ("stream", "data"),
    [
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
        (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
        (b"data: a\r\n\ndata: b\n\r\n", [b"a", b"b"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"\xef\xbb\xbfdata: a", [b"a"]),
        (b"data: \xef\xbb\xbfa\n\n", [b"\xef\xbb\xbfa"]),
        (b": ping\n\n\n\n:\n\ndata: a\n\n", [b"a"]),
        (b"event: message\nid: 7\nretry: 10\ndata: a\n\n", [b"a"]),
        (b"id: 1\n\nevent: ping\n\nretry: 1\n\ndata: a\n\n", [b"a"]),
        (b"data:a\n\ndata:  b\n\n", [b"a", b" b"]),
        (b"data: a\ndata: b\n: between\ndata: c\n\n", [b"a\nb\nc"]),
        (b"data: a\n\ndata: b", [b"a", b"b"]),
        (b"data: a\n\ndata: b\n", [b"a", b"b"]),
        (b"data: a\n\ndata: b\r", [b"a", b"b"]),
        (b"data: a\n\ndata: b\r\n", [b"a", b"b"]),
        (b"data: a\n\ndata: b\ndata: c", [b"a", b"b\nc"]),
        (b"data: a\n\n: bye", [b"a"]),
        (b"data: \xe2\x80\xa8\x0b\x0c\x1c\xc2\x85\n\n", [b"\xe2\x80\xa8\x0b\x0c\x1c\xc2\x85"]),
        ("data: 日本\n\n".encode(), ["日本".encode()]),
        (b"database: a\nxdata: a\n data: a\n\ndata: b\n\n", [b"b"]),
        (b"data:\n\ndata: \n\ndata: a\n\ndata:\ndata:\n\ndata:", [b"a"]),
        (b"data:\ndata: a\n\n", [b"\na"]),
        (b"", []),
        (b"\n\r\n\r", []),
    ],
)
def test_a_stream_is_read_whatever_the_pieces_it_comes_in(stream, data):
    assert events(stream) == data
    assert events(*(stream[at : at + 1] for at in range(len(stream)))) == data
    for at in range(len(stream) + 1):
        assert events(stream[:at], stream[at:]) == data
        assert events(stream[:at], b"", stream[at:]) == data


LINES = ["data: a", "data:b", "data: é日", "", "", ": ping", "id: 1", "event: x", "retry: 1", "x"]


@given(
    st.lists(st.tuples(st.sampled_from(LINES), st.sampled_from(["\n", "\r", "\r\n"]))),
    st.lists(st.integers(0, 400)),
    st.booleans(),
)
def test_no_cut_changes_what_is_read(lines, at, is_marked):
    stream = ("\ufeff" * is_marked + "".join(map("".join, lines))).encode()
    assert events(*cut(stream, at)) == events(stream)


@given(st.binary(), st.lists(st.integers(0, 400)))
def test_bytes_that_are_no_stream_are_read_the_same_in_any_pieces(stream, at):
    assert events(*cut(stream, at)) == events(stream)


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_a_large_event_is_read_in_the_time_that_it_takes_to_copy(size):
    large = b"data: " + b"x" * 2_000_000 + b"\n\n"
    began = time.process_time()
    [data] = events(*(large[at : at + size] for at in range(0, len(large), size)))
    assert len(data) == 2_000_000
    assert time.process_time() - began < 8


# --- answers -------------------------------------------------------------------------------


def chunk(delta: Any = None, reason: Any = None, **more: Any) -> bytes:
    """Return a chat's chunk of one choice."""
    choice = {"index": 0, "delta": delta or {}, "finish_reason": reason, **more}
    return json.dumps({"id": "x", "model": "m", "created": 1, "choices": [choice]}).encode()


def said(*chunks: bytes, legacy: bool = False) -> dict[str, Any]:
    """Return what chunks come to."""
    answer = StreamedAnswer(legacy=legacy)
    for each in chunks:
        answer.add(each)
    assert answer.is_whole
    return json.loads(answer.document())


def answer_of(text: str = "one two  three\n", **body: Any) -> dict[str, Any]:
    """Return what the stub model server would say to a body."""
    legacy = "prompt" in body
    return {
        "id": "chatcmpl-1",
        "object": "text_completion" if legacy else "chat.completion",
        "created": 7,
        "model": "m",
        "choices": choices_of(body, text),
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }


TOOLS = [
    {"function": {"name": name, "parameters": {"properties": {"city": {}, "day": {}}}}}
    for name in ("weather", "time")
]
WITH_TOOLS = {"tools": TOOLS, "messages": [{"role": "user"}]}
CALL = {
    "role": "assistant",
    "content": None,
    "function_call": {"name": "f", "arguments": '{"a":1}'},
}
REFUSED = {"role": "assistant", "content": None, "refusal": "I will not say that."}
THOUGHT = {"role": "assistant", "content": "Four.", "reasoning_content": "Two and two"}


def choice_of(message: dict[str, Any], reason: str = "stop") -> dict[str, Any]:
    return {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}


ANSWERS = {
    "text": answer_of(),
    "unicode": answer_of(UNICODE),
    "three choices": answer_of(n=3),
    "logprobs": answer_of(logprobs=True, n=2),
    "tools": calling_tools(answer_of(), WITH_TOOLS, UNICODE),
    "tools twice": calling_tools(answer_of(n=2), WITH_TOOLS, "Ulm"),
    "refusal": {**answer_of(), "choices": [choice_of(REFUSED)]},
    "thinking": {**answer_of(), "choices": [choice_of(THOUGHT)]},
    "length": {
        **answer_of(),
        "choices": [choice_of({"role": "assistant", "content": ""}, "length")],
    },
    "no usage": {**answer_of(), "usage": None},
    "legacy": answer_of(prompt="a"),
    "legacy logprobs": answer_of(prompt="a", n=2, logprobs=1),
}
WHOLE = {**ANSWERS, "function call": {**answer_of(), "choices": [choice_of(CALL, "function_call")]}}


def bare(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer without what is null: whether that is said is the server's taste."""

    def cleaned(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: cleaned(v) for k, v in value.items() if v is not None}
        return [cleaned(v) for v in value] if isinstance(value, list) else value

    return cleaned(answer)


def stub_chunks(answer: dict[str, Any], how: Odd | None = None, n: int = 1) -> list[bytes]:
    """Return the chunks in which the stub model server sends an answer."""
    sent = (how or Odd()).change(stub_events(answer, usage=bool(answer.get("usage"))), n)
    frame = (how or Odd()).frame
    read = events(b"".join(frame(event) for event in sent))
    return [data for data in read if not data.startswith(DONE)]


@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_an_answer_in_pieces_is_the_answer(name):
    whole = ANSWERS[name]
    found = said(*stub_chunks(whole), legacy=whole["object"] == "text_completion")
    assert bare(found) == bare(whole)
    assert read_answer(json.dumps(found).encode())


def test_a_function_is_called_in_pieces():
    deltas = [{"function_call": {"name": "f", "arguments": ""}}]
    deltas += [{"function_call": {"arguments": part}} for part in ('{"a"', ":1}")]
    found = said(*map(chunk, deltas), chunk(reason="function_call"))
    assert found["choices"][0]["message"] == CALL


def test_a_tool_is_found_by_its_index_even_where_its_id_is_said_each_time():
    def call(index, arguments, **more):
        function = {"name": f"f{index}", "arguments": arguments}
        return chunk({"tool_calls": [{"index": index, "id": f"c{index}", "function": function}]})

    found = said(
        call(1, "[1"), call(0, "[0"), call(1, ",1]"), call(0, "]"), chunk({}, "tool_calls")
    )
    calls = found["choices"][0]["message"]["tool_calls"]
    assert sorted((c["id"], c["function"]["name"], c["function"]["arguments"]) for c in calls) == [
        ("c0", "f0", "[0]"),
        ("c1", "f1", "[1,1]"),
    ]
    assert all("index" not in call for call in calls)


def test_calls_without_an_index_are_told_apart():
    calls = [{"id": f"c{i}", "function": {"name": "f", "arguments": str(i)}} for i in range(3)]
    answer = StreamedAnswer(legacy=False)
    sent = [answer.add(chunk({"tool_calls": each})).choices for each in (calls[:2], calls[2:])]
    indexes = [c["index"] for s in sent for c in json.loads(s)[0]["delta"]["tool_calls"]]
    assert indexes == [0, 1, 2]
    assert json.loads(answer.document())["choices"][0]["message"]["tool_calls"] == calls


def test_every_chunk_has_what_clients_read_without_looking():
    answer = StreamedAnswer(legacy=False)
    piece = answer.add(b'{"choices":[{"delta":{"content":"a"},"finish_reason":""}]}')
    [choice] = json.loads(piece.choices)
    assert choice == {
        "index": 0,
        "delta": {"role": "assistant", "content": "a"},
        "finish_reason": None,
    }
    end = json.loads(answer.add(b'{"choices":[{"finish_reason":"stop"}]}').choices)
    assert end == [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    kind = "chat.completion.chunk"
    assert answer.head == {"id": "", "object": kind, "created": 0, "model": ""}
    legacy = StreamedAnswer(legacy=True)
    end = json.loads(legacy.add(b'{"choices":[{"finish_reason":"stop"}]}').choices)
    assert end == [{"index": 0, "text": "", "finish_reason": "stop"}]


def test_text_in_parts_is_text_to_whoever_reads_it():
    parts = [{"type": "text", "text": "Hi"}, {"type": "text", "text": None}, {"text": " you"}]
    answer = StreamedAnswer(legacy=False)
    piece = answer.add(chunk({"content": parts}))
    assert piece.says
    assert json.loads(piece.choices)[0]["delta"]["content"] == "Hi you"
    answer.add(chunk({}, "stop"))
    assert json.loads(answer.document())["choices"][0]["message"]["content"] == "Hi you"


def test_the_first_chunk_of_each_choice_says_who_speaks():
    answer = StreamedAnswer(legacy=False)

    def piece(index, **delta):
        choices = [{"index": index, "delta": delta, "finish_reason": None}]
        return json.loads(answer.add(json.dumps({"choices": choices}).encode()).choices)

    roles = [piece(i, content="x")[0]["delta"].get("role") for i in (0, 0, 1, 0, 1)]
    assert roles == ["assistant", None, "assistant", None, None]
    assert piece(2, role="assistant", content="")[0]["delta"] == {
        "role": "assistant",
        "content": "",
    }


@pytest.mark.parametrize(
    ("delta", "says"),
    [
        ({"role": "assistant"}, False),
        ({"role": "assistant", "content": ""}, False),
        ({"content": None}, False),
        ({"content": []}, False),
        ({"tool_calls": []}, False),
        ({"content": " "}, True),
        ({"refusal": "No"}, True),
        ({"reasoning_content": "Hm"}, True),
        ({"reasoning": "Hm"}, True),
        ({"tool_calls": [{"index": 0, "function": {"name": "f"}}]}, True),
        ({"function_call": {"name": "f"}}, True),
    ],
)
def test_only_what_its_reader_sees_commits_an_answer(delta, says):
    assert StreamedAnswer(legacy=False).add(chunk(delta)).says is says


def test_a_legacy_chunk_says_something_if_it_has_text():
    def piece(text):
        document = {"choices": [{"index": 0, "text": text, "finish_reason": None}]}
        return StreamedAnswer(legacy=True).add(json.dumps(document).encode()).says

    assert [piece("a"), piece(""), piece(None)] == [True, False, False]


def test_an_answer_is_whole_once_each_choice_has_its_reason():
    answer = StreamedAnswer(legacy=False)
    assert not answer.is_whole
    whole = []
    for index, reason in [(0, None), (1, None), (0, "stop"), (1, "length")]:
        choice = {"index": index, "delta": {"content": "x"}, "finish_reason": reason}
        piece = answer.add(json.dumps({"choices": [choice]}).encode())
        whole.append((piece.ends, answer.is_whole))
    assert whole == [(False, False)] * 3 + [(True, True)]


@pytest.mark.parametrize("reason", ["STOP", "MAX_TOKENS", "Length"])
def test_its_reason_may_be_written_large(reason):
    answer = StreamedAnswer(legacy=False)
    answer.add(chunk({"content": "so far"}))
    assert answer.add(chunk({}, reason)).ends
    assert json.loads(answer.document())["choices"][0]["finish_reason"] == reason


def test_what_has_no_choices_shows_nothing_but_its_usage_counts():
    answer = StreamedAnswer(legacy=False)
    assert answer.add(b'{"choices":[]}') is None
    assert answer.add(b'{"object":"ping"}') is None
    assert answer.add(b'{"choices":[],"usage":{"total_tokens":3}}') is None
    assert answer.add(b'{"choices":[],"usage":null}') is None
    assert answer.usage == {"total_tokens": 3}
    assert not answer.is_whole


def test_what_all_chunks_have_is_what_the_first_says():
    answer = StreamedAnswer(legacy=False)
    long = "x" * 10_000
    first = {"id": "a", "model": "m", "created": 1, "system_fingerprint": long, "x": 1}
    answer.add(json.dumps({**first, "choices": []}).encode())
    answer.add(chunk({"content": "Hi"}))
    assert answer.head == {
        "id": "a",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
    }


@pytest.mark.parametrize(
    "first",
    [
        {"id": "", "model": "", "created": 0, "choices": [], "prompt_filter_results": []},
        {"type": "ping"},
        {"id": "a", "choices": [{"index": 0, "delta": {}}][:0]},
        {"model": None, "choices": None},
    ],
)
def test_what_the_first_event_leaves_open_the_first_words_chunk_says(first):
    answer = StreamedAnswer(legacy=False)
    answer.add(json.dumps(first).encode())
    words = {"id": "a", "model": "m", "created": 1}
    answer.add(json.dumps({**words, "choices": [{"delta": {"content": "Hi"}}]}).encode())
    later = {"id": "b", "model": "n", "created": 2, "system_fingerprint": "f"}
    answer.add(json.dumps({**later, "choices": [{"delta": {"content": "!"}}]}).encode())
    assert answer.head == {**words, "object": "chat.completion.chunk"}


NO_CHUNKS = {
    "no json": b'{"choices": [{"delta": {"cont',
    "a page": b"<html>",
    "nothing": b"",
    "a list": b"[]",
    "a text": b'"Hi"',
    "a number": b"1",
    "null": b"null",
    "done": DONE,
    "no utf-8": b'{"x": "\xff"}',
    "deep": b'{"x":' + b"[" * 900 + b"]" * 900 + b"}",
    "far too deep": b"[" * 100_000,
    "choices are an object": b'{"choices":{"0":{}}}',
    "choices are a text": b'{"choices":"x"}',
    "a choice is a text": b'{"choices":["x"]}',
    "a choice is null": b'{"choices":[null]}',
    "an index that is a text": b'{"choices":[{"index":"0","delta":{}}]}',
    "an index that is true": b'{"choices":[{"index":true,"delta":{}}]}',
    "an index below 0": b'{"choices":[{"index":-1,"delta":{}}]}',
    "an index too large": b'{"choices":[{"index":%d,"delta":{}}]}' % MOST_CHOICES,
    "a delta that is a text": b'{"choices":[{"index":0,"delta":"x"}]}',
    "a delta that is a list": b'{"choices":[{"index":0,"delta":[1]}]}',
    "content that is an object": b'{"choices":[{"index":0,"delta":{"content":{"text":"x"}}}]}',
    "content that is a number": b'{"choices":[{"index":0,"delta":{"content":5}}]}',
    "refusal that is a number": b'{"choices":[{"index":0,"delta":{"refusal":5}}]}',
    "reasoning that is true": b'{"choices":[{"index":0,"delta":{"reasoning":true}}]}',
    "calls that are a text": b'{"choices":[{"index":0,"delta":{"tool_calls":"x"}}]}',
    "a call that is a text": b'{"choices":[{"index":0,"delta":{"tool_calls":["x"]}}]}',
    "a call of no number": b'{"choices":[{"index":0,"delta":{"tool_calls":[{"index":"0"}]}}]}',
    "a function that is a text": b'{"choices":[{"index":0,"delta":{"function_call":"f"}}]}',
}
ENDED = {
    "an error": b'{"error":{"message":"died","code":500}}',
    "an error that is a text": b'{"error":"died"}',
    "an error beside choices": b'{"error":{"code":500},"choices":[{"index":0,"delta":{}}]}',
    "an error in a choice": b'{"choices":[{"index":0,"delta":{},"error":{"code":500}}]}',
    "abort": chunk({}, "abort"),
    "error": chunk({}, "error"),
    "an unknown reason": chunk({}, "because"),
    "a reason that is a number": chunk({}, 0),
    "a reason that is false": chunk({}, reason=False),
    "a reason that is an empty list": chunk({}, []),
    "a reason that is a list": chunk({}, ["stop"]),
}


@pytest.mark.parametrize("name", sorted(NO_CHUNKS))
def test_what_is_no_chunk_breaks_the_stream(name):
    with pytest.raises(BrokenStreamError) as raised:
        StreamedAnswer(legacy=False).add(NO_CHUNKS[name])
    assert str(raised.value) == UNSHOWABLE


@pytest.mark.parametrize("name", sorted(ENDED))
def test_what_says_that_it_was_interrupted_breaks_the_stream(name):
    with pytest.raises(BrokenStreamError) as raised:
        StreamedAnswer(legacy=False).add(ENDED[name])
    assert str(raised.value) == INTERRUPTED


@pytest.mark.parametrize("text", [5, True, {"text": "x"}, ["x"]])
def test_a_legacy_text_that_is_none_breaks_the_stream(text):
    document = {"choices": [{"index": 0, "text": text, "finish_reason": None}]}
    with pytest.raises(BrokenStreamError):
        StreamedAnswer(legacy=True).add(json.dumps(document).encode())


def has_words(answer):
    return any(event.kind == "word" for event in stub_events(answer, usage=False))


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        (name, mode)
        for name, answer in sorted(ANSWERS.items())
        for mode in sorted(GOOD)
        if mode != "huge-chunk" or has_words(answer)
    ],
)
def test_a_good_stream_of_the_stub_says_all(name, mode):
    whole = ANSWERS[name]
    legacy = whole["object"] == "text_completion"
    found = said(*stub_chunks(whole, GOOD[mode]), legacy=legacy)
    for ours, theirs in zip(found["choices"], whole["choices"], strict=True):
        assert ours["finish_reason"] == theirs["finish_reason"]
        if mode != "huge-chunk":
            assert bare(ours) == bare(theirs)


NEVER_WHOLE = sorted({*BAD} - {"cut", "cut-reset", "stall", "stall-silent"})  # which never end


@pytest.mark.parametrize("mode", NEVER_WHOLE)
@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.parametrize("name", ["text", "three choices", "legacy"])
def test_a_bad_stream_of_the_stub_is_never_whole(name, n, mode):
    whole = ANSWERS[name]
    answer = StreamedAnswer(legacy=whole["object"] == "text_completion")
    try:
        for data in stub_chunks(whole, BAD[mode], n):
            answer.add(data)
    except BrokenStreamError:
        return
    assert not answer.is_whole


# --- odd types -----------------------------------------------------------------------------

NAMES = st.sampled_from(
    [
        *("index", "delta", "finish_reason", "logprobs", "error", "text", "content", "role"),
        *("tool_calls", "function", "function_call", "name", "arguments", "id", "type", "said"),
        *("refusal", "reasoning", "audio", "data", "usage", "choices", "model", "x"),
    ]
)
VALUES = st.recursive(
    st.sampled_from([None, True, False, 0, 1, -1, 2.5, "", "a", "stop", 2**70]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
CHOICES = st.fixed_dictionaries(
    {"index": st.integers(0, 2) | VALUES, "delta": st.dictionaries(NAMES, VALUES)},
    optional={
        "text": VALUES,
        "finish_reason": st.sampled_from(["stop", None]) | VALUES,
        "logprobs": VALUES,
    },
)
ODD_CHUNKS = st.fixed_dictionaries(
    {"choices": st.lists(CHOICES, max_size=3) | VALUES},
    optional={"usage": VALUES, "id": VALUES, "model": VALUES, "created": VALUES},
)


@given(st.lists(ODD_CHUNKS, max_size=6), st.booleans())
def test_odd_types_break_the_stream_or_make_an_answer_that_can_be_shown(chunks, legacy):
    answer = StreamedAnswer(legacy=legacy)
    pieces = []
    try:
        pieces += [answer.add(json.dumps(each).encode()) for each in chunks]
    except BrokenStreamError:
        return
    if answer.is_whole:
        document = answer.document()
        read = read_answer(document)
        if any(piece and piece.says for piece in pieces):
            assert any(choice.says_something for choice in read.choices)
        chunks_of(document)


@given(st.dictionaries(NAMES, VALUES) | VALUES)
def test_whatever_can_be_shown_can_be_sent_in_pieces(document):
    content = json.dumps(document).encode()
    try:
        read = read_answer(content)
    except UnshowableError:
        with pytest.raises(UnshowableError):
            chunks_of(content)
        return
    chunks = chunks_of(content, usage=True)
    again = StreamedAnswer(legacy=b'"text_completion"' in chunks.head)
    for frame in chunks.frames():
        assert json.loads(frame)
        try:
            again.add(frame)
        except BrokenStreamError:
            return
    for ours, theirs in zip(read_answer(again.document()).choices, read.choices, strict=True):
        assert (ours.text or "") == (theirs.text or "")


TOKEN = {"token": "x", "logprob": -0.5, "top_logprobs": []}
LEGACY_TOKEN = {"tokens": ["x"], "token_logprobs": [-1.0], "top_logprobs": [{"index": 0}]}
ONE_WORD = {
    "text": chunk({"content": "word "}),
    "logprobs": chunk({"content": "word "}, logprobs={"content": [TOKEN]}),
    "arguments": chunk({"tool_calls": [{"index": 0, "function": {"arguments": "word "}}]}),
    "calls": chunk({"tool_calls": [{"id": "word ", "function": {}}]}),
    "legacy": chunk(text="word ", logprobs=LEGACY_TOKEN),
}


@pytest.mark.parametrize("kind", sorted(ONE_WORD))
def test_a_hundred_thousand_words_take_linear_time(kind):
    def took(number):
        answer = StreamedAnswer(legacy=kind == "legacy")
        began = time.process_time()
        for _ in range(number):
            answer.add(ONE_WORD[kind])
        assert answer.document().count(b"word ") == number
        return time.process_time() - began

    few = min(took(10_000) for _ in range(3))
    assert took(100_000) < 30 * few


def test_what_is_said_of_tokens_stays_one_entry_a_token():
    answer = StreamedAnswer(legacy=True)
    for _ in range(3):
        answer.add(ONE_WORD["legacy"])
    told = json.loads(answer.document())["choices"][0]["logprobs"]
    assert told == {name: entries * 3 for name, entries in LEGACY_TOKEN.items()}


# --- answers in pieces ---------------------------------------------------------------------


def again(chunks: Chunks, *, legacy: bool = False) -> dict[str, Any]:
    return said(*chunks.frames(), legacy=legacy)


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_a_whole_answer_in_pieces_is_that_answer_again(name):
    whole = WHOLE[name]
    chunks = chunks_of(json.dumps(whole).encode(), usage=True)
    assert bare(again(chunks, legacy=whole["object"] == "text_completion")) == bare(whole)
    assert len(chunks.choices) == 2 * len(whole["choices"])


def frames(answer: dict[str, Any], *, usage: bool = False) -> list[dict[str, Any]]:
    return [json.loads(f) for f in chunks_of(json.dumps(answer).encode(), usage=usage).frames()]


def test_a_chat_is_sent_as_one_chunk_and_its_end():
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "m"}
    first = {"index": 0, "logprobs": None, "finish_reason": None}
    assert frames(answer_of("Hi")) == [
        {**head, "choices": [{**first, "delta": {"role": "assistant", "content": "Hi"}}]},
        {**head, "choices": [{**first, "delta": {}, "finish_reason": "stop"}]},
    ]


def test_usage_is_the_last_chunks_and_null_in_all_others():
    counted = frames(answer_of("Hi"), usage=True)
    assert [each["usage"] for each in counted] == [None, None, answer_of()["usage"]]
    assert [len(each["choices"]) for each in counted] == [1, 1, 0]
    assert all("usage" not in each for each in frames(answer_of("Hi")))
    uncounted = frames({**answer_of("Hi"), "usage": None}, usage=True)
    assert [each["usage"] for each in uncounted] == [None, None]


def test_a_legacy_completion_is_sent_in_its_own_form():
    sent = frames(answer_of("Hi", prompt="a"))
    assert {each["object"] for each in sent} == {"text_completion"}
    assert [each["choices"][0]["text"] for each in sent] == ["Hi", ""]
    assert all("delta" not in each["choices"][0] for each in sent)


@pytest.mark.parametrize(
    ("answer", "texts"),
    [
        (completion([{"type": "text", "text": None}, {"text": "Hi"}]), ["Hi"]),
        ({"choices": [{"message": None, "text": "Hi", "finish_reason": "stop"}]}, ["Hi"]),
        ({"choices": [{"message": {"content": "Hi"}}]}, ["Hi"]),
        ({"choices": [{"message": {"role": None, "content": "Hi"}}]}, ["Hi"]),
        ({"choices": [{"index": None, "message": {"content": x}} for x in "ab"]}, ["a", "b"]),
        ({"choices": [{"index": "0", "message": {"content": x}} for x in "ab"]}, ["a", "b"]),
        ({"choices": [{"index": 0, "message": {"content": x}} for x in "ab"]}, ["a", "b"]),
        ({"choices": [{"message": {"content": "Hi"}, "finish_reason": 7}]}, ["Hi"]),
        ({"choices": [{"message": {"content": "Hi", "tool_calls": "x"}}]}, ["Hi"]),
        ({"object": "chat.completion", "choices": [{"text": "Hi"}]}, ["Hi"]),
    ],
)
def test_an_odd_answer_that_can_be_shown_is_a_stream_that_a_client_reads(answer, texts):
    sent = frames(answer)
    assert {each["object"] for each in sent} == {"chat.completion.chunk"}
    found = again(chunks_of(json.dumps(answer).encode()))
    assert [c["message"]["content"] for c in found["choices"]] == texts
    assert [c["message"]["role"] for c in found["choices"]] == ["assistant"] * len(texts)
    assert {c["finish_reason"] for c in found["choices"]} == {"stop"}


def test_a_completion_that_does_not_say_what_it_is_has_the_form_of_its_choices():
    assert frames({"choices": [{"text": "Hi"}]})[0]["object"] == "text_completion"
    odd = {"object": "text_completion", "choices": [{"message": {"content": "Hi"}}]}
    assert [each["choices"][0]["text"] for each in frames(odd)] == ["Hi", ""]


@pytest.mark.parametrize("answer", [b"", b"[]", b'{"choices": 1}', b'{"choices": [1]}'])
def test_what_cannot_be_shown_is_not_sent_in_pieces(answer):
    with pytest.raises(UnshowableError):
        chunks_of(answer)


def test_events_are_data_and_a_blank_line():
    assert joined([b"{}", b"[]"]) == b"data: {}\n\ndata: []\n\n"
    assert events(joined([b"{}", DONE])) == [b"{}", DONE]


# --- as the stock SDK puts them together -----------------------------------------------------


def sdk_answer(sent: list[bytes]) -> dict[str, Any]:
    state = ChatCompletionStreamState()
    for data in sent:
        parsed = ChatCompletionChunk.model_validate(json.loads(data))
        list(state.handle_chunk(parsed))
    return state.get_final_completion().model_dump(mode="json")


# It raises at an answer that was cut at its length, once that is whole.
CHATS = sorted(n for n in WHOLE if WHOLE[n]["object"] != "text_completion" and n != "length")


def comparable(answer: dict[str, Any]) -> dict[str, Any]:
    """Return what the SDK and we keep of an answer."""
    answer = bare(answer)
    for choice in answer["choices"]:
        for call in choice["message"].get("tool_calls", ()):
            call.pop("index", None)
            call["function"].pop("parsed_arguments", None)
        choice["message"].setdefault("content", "")
        for each in (choice.get("logprobs") or {}).get("content", ()):
            each.pop("bytes", None)
    return {name: answer[name] for name in ("id", "model", "created", "choices")}


@pytest.mark.parametrize("name", CHATS)
def test_the_sdk_puts_a_whole_answer_together_again(name):
    whole = WHOLE[name]
    sent = list(chunks_of(json.dumps(whole).encode(), usage=True).frames())
    found = sdk_answer(sent)
    for ours, theirs in zip(found["choices"][1:], whole["choices"][1:], strict=True):
        # It counts the logprobs of a further choice's first chunk twice (3.54): OpenAI sends none.
        ours["logprobs"] = theirs["logprobs"] if ours["logprobs"] else None
    assert comparable(found) == comparable(whole)


@pytest.mark.parametrize("name", [name for name in CHATS if name in ANSWERS])
def test_the_sdk_puts_a_stream_together_as_we_do(name):
    sent = stub_chunks(ANSWERS[name])
    assert comparable(sdk_answer(sent)) == comparable(said(*sent))


def test_an_answer_of_calls_alone_says_an_empty_text_again_as_servers_begin_their_streams():
    """Who says it again in his next request asks the cache for the same, whichever he was sent."""
    whole = calling_tools(answer_of(), WITH_TOOLS, "Ulm")
    [first, _] = frames(whole)
    assert first["choices"][0]["delta"]["content"] == ""
    assert whole["choices"][0]["message"]["content"] is None
