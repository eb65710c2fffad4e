"""The stub model server's streams are what they are said to be, to the stock SDK and to httpx."""

from __future__ import annotations

import json
import time

import httpx
import openai
import pytest
from harness.upstream_streams import BAD, GOOD, HUGE, UNICODE
from harness.waiting import wait_until

PROMPT = f"Hello, {UNICODE}"
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
READABLE = set(GOOD) - {"dataless"}  # the SDK stumbles over an event without data


@pytest.fixture
def client(gpu):
    with openai.OpenAI(base_url=f"{gpu.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def asked(client, prompt=PROMPT, **fields):
    said = [{"role": "user", "content": prompt}]
    return client.chat.completions.create(model="m", messages=said, stream=True, **fields)


def texts(chunks, n=1):
    """Return each choice's (text, reason)."""
    found = [["", None] for _ in range(n)]
    for chunk in chunks:
        for choice in chunk.choices:
            found[choice.index][0] += choice.delta.content or ""
            found[choice.index][1] = choice.finish_reason or found[choice.index][1]
    return [tuple(each) for each in found]


def raw(gpu, **fields):
    """Return the whole body of a stream of httpx, and how it ended."""
    body = {"messages": [{"role": "user", "content": "a b c"}], "stream": True, **fields}
    got, ended = b"", "whole"
    try:
        with httpx.stream("POST", f"{gpu.url}/v1/chat/completions", json=body, timeout=1) as reply:
            for piece in reply.iter_raw():
                got += piece
    except httpx.HTTPError as error:
        ended = type(error).__name__
    return got.decode(), ended


@pytest.mark.parametrize("mode", ["ok", *sorted(READABLE)])
def test_the_sdk_reads_every_good_stream(gpu, client, mode):
    gpu.mode = mode
    found = texts(asked(client))
    said = f"gpu-model: {PROMPT}"
    if mode == "huge-chunk":
        said = said.replace(":", f":{HUGE}", 1)
    assert found == [(said, "stop")]


def test_a_stream_is_one_of_vllm(gpu, client):
    first, *words, last, usage = list(asked(client, stream_options={"include_usage": True}))
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    assert [word.choices[0].delta.content for word in words][:2] == ["gpu-model:", " Hello,"]
    assert {chunk.object for chunk in (first, *words, last)} == {"chat.completion.chunk"}
    assert {chunk.id for chunk in (first, *words, last)} == {"chatcmpl-stub"}
    assert last.choices[0].finish_reason == "stop"
    assert (usage.choices, usage.usage.total_tokens) == ([], 3)
    head, body = raw(gpu)[0], raw(gpu, stream_options={"include_usage": True})[0]
    assert ("usage" in head, "usage" in body) == (False, True)
    assert body.endswith("}\n\ndata: [DONE]\n\n")


@pytest.mark.parametrize("mode", ["ok", "bytes", "crlf"])
def test_choices_come_in_turn_each_with_its_logprobs(gpu, client, mode):
    gpu.mode = mode
    chunks = list(asked(client, n=3, logprobs=True))
    assert texts(chunks, 3) == [(f"gpu-model: {PROMPT}", "stop")] * 3
    assert [chunk.choices[0].index for chunk in chunks[3:9]] == [0, 1, 2, 0, 1, 2]
    tokens = [t for c in chunks for x in c.choices if x.logprobs for t in x.logprobs.content]
    assert "".join(token.token for token in tokens if token) == "".join(
        c.choices[0].delta.content or "" for c in chunks
    )


def test_a_legacy_completion_is_streamed_in_its_own_form(gpu, client):
    chunks = list(client.completions.create(model="m", prompt="a b", logprobs=1, stream=True))
    assert {chunk.object for chunk in chunks} == {"text_completion"}
    assert [chunk.choices[0].text for chunk in chunks] == ["gpu-model:", " a", " b", ""]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, None, "stop"]
    assert chunks[1].choices[0].logprobs.tokens == [" a"]


def test_a_tool_is_called_by_its_name_and_then_in_pieces(gpu, client):
    gpu.mode = "tools"
    deltas = [c.choices[0].delta.tool_calls for c in asked(client, tools=[TOOL])]
    calls = [call for delta in deltas for call in delta or ()]
    assert (calls[0].id, calls[0].function.name) == ("call_0", "weather")
    assert len(calls) > 3
    assert json.loads("".join(c.function.arguments for c in calls)) == {"city": PROMPT}
    said = [{"role": "user", "content": "a"}]
    plain = client.chat.completions.create(model="m", messages=said, tools=[TOOL]).choices[0]
    assert plain.finish_reason == "tool_calls"
    assert json.loads(plain.message.tool_calls[0].function.arguments) == {"city": "a"}


@pytest.mark.parametrize("mode", ["error-event", "error-first", "error-named"])
def test_an_error_event_is_raised_by_the_sdk(gpu, client, mode):
    gpu.mode = mode
    with pytest.raises(openai.APIError, match="EngineCore died"):
        texts(asked(client))


ENDS = {
    "cut": ("gpu-model:", "RemoteProtocolError"),
    "cut@0": ("assistant", "RemoteProtocolError"),
    "cut@2": (" a", "RemoteProtocolError"),
    "cut-ended": ("gpu-model:", "whole"),
    "cut-done": ("data: [DONE]", "whole"),
    "cut-reset": ("gpu-model:", "ReadError"),
    "stall": ("gpu-model:", "ReadTimeout"),
    "stall@0": ("assistant", "ReadTimeout"),
    "stall-silent": ("", "ReadTimeout"),
    "garbage-event": ("[DONE]", "whole"),
    "no-json-event": ("[DONE]", "whole"),
    "error-event": ("[DONE]", "whole"),
    "error-first": ("[DONE]", "whole"),
    "error-text": ("[DONE]", "whole"),
    "error-named": ('"code": 500}}', "whole"),
    "reason-abort": ("[DONE]", "whole"),
    "reason-error": ("[DONE]", "whole"),
    "reason-null": ("[DONE]", "whole"),
    "reason-missing": ("[DONE]", "whole"),
    "done-at-once": ("data: [DONE]", "whole"),
    "ended-at-once": ("", "whole"),
    "only-role": ("[DONE]", "whole"),
    "unfinished": ("[DONE]", "whole"),
}


@pytest.mark.parametrize("mode", sorted({*ENDS, *BAD}))
def test_a_bad_stream_ends_as_it_says_and_never_with_a_reason_to_stop(gpu, mode):
    gpu.mode = mode
    text, ended = raw(gpu)
    last, how = ENDS[mode]
    assert ended == how
    assert last in text[-400:]
    if not text or "@" in mode:
        return
    stops = text.count('"finish_reason": "stop"')
    assert stops == (1 if mode in {"garbage-event", "no-json-event"} else 0)


def test_of_three_choices_the_last_is_left_unfinished(gpu, client):
    gpu.mode = "unfinished"
    whole = "gpu-model: a b"
    assert texts(asked(client, "a b", n=3), 3) == [(whole, "stop"), (whole, "stop"), (whole, None)]


def test_a_refusal_is_no_stream_and_an_aborted_answer_is(gpu, client):
    gpu.mode = "500"
    with pytest.raises(openai.InternalServerError):
        asked(client)
    gpu.mode = "abort"
    assert texts(asked(client)) == [("Hal", "abort")]
    gpu.mode = "thinking"
    chunks = list(asked(client))
    assert "".join(c.choices[0].delta.model_extra.get("reasoning_content", "") for c in chunks)
    assert chunks[-1].choices[0].finish_reason == "length"


def test_a_stream_that_was_asked_for_may_be_answered_plainly(gpu):
    gpu.mode = "plain-json"
    assert json.loads(raw(gpu)[0])["choices"][0]["message"]["content"] == "gpu-model: a b c"


def test_words_are_paced_and_who_goes_is_noted(gpu, client):
    gpu.words, gpu.pace = 50, 0.05
    began = time.monotonic()
    stream = asked(client, "a b")
    words = [next(stream).choices[0].delta.content for _ in range(4)]
    assert words == ["", "a-b.0", " a-b.1", " a-b.2"]
    assert time.monotonic() - began >= 0.1
    stream.close()
    wait_until(lambda: gpu.left, 5, "it notes that its caller went")
    assert gpu.running == 0
    gpu.pace = 0.0
    assert texts(asked(client, "x"))[0][0].split() == [f"x.{n}" for n in range(50)]


def test_the_sdk_stumbles_over_an_event_that_has_an_id_and_no_data(gpu, client):
    gpu.mode = "dataless"
    with pytest.raises(json.JSONDecodeError):
        texts(asked(client))
    text, ended = raw(gpu)
    assert (text.count('"gpu-model:"'), ended) == (1, "whole")
