"""What model servers really answer, and what it means."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fallback_chain.classify import LONGEST_RETRY_AFTER, classify, retry_after
from fallback_chain.http import Reply
from fallback_chain.trial import Verdict

ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}}],
}
VLLM_TOO_LONG = {
    "object": "error",
    "message": "This model's maximum context length is 4096 tokens. However, you requested 5000",
    "type": "BadRequestError",
    "param": None,
    "code": 400,
}
VLLM_NO_MODEL = {
    "error": {
        "message": "The model `gpt-4` does not exist.",
        "type": "NotFoundError",
        "param": None,
        "code": 404,
    }
}
LLAMA_TOO_LONG = {
    "error": {
        "code": 400,
        "message": "the request exceeds the available context size, try increasing it",
        "type": "exceed_context_size_error",
        "n_prompt_tokens": 9000,
        "n_ctx": 4096,
    }
}
LLAMA_LOADING = {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}
OLLAMA_NO_MODEL = {"error": {"message": 'model "x" not found, try pulling it first'}}
OLLAMA_BUSY = {"error": "server busy, please try again.  maximum pending requests exceeded"}
FASTAPI_INVALID = {"detail": [{"loc": ["body", "messages"], "msg": "field required"}]}


def reply(status, body, headers=None):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Reply(status, headers or {}, content)


@pytest.mark.parametrize(
    ("status", "body", "verdict"),
    [
        (200, ANSWER, Verdict.ANSWERED),
        (200, b"<html>", Verdict.FAILURE),
        (200, b"", Verdict.FAILURE),
        (200, {**ANSWER, "usage": {"prompt_tokens": None}}, Verdict.ANSWERED),
        (200, {"choices": [{"text": "legacy"}]}, Verdict.ANSWERED),
        (200, json.dumps({**ANSWER, "x": "?"}).encode().replace(b"?", b"\xff"), Verdict.FAILURE),
        (200, {"choices": []}, Verdict.FAILURE),
        (200, {"choices": [{"message": {"content": None}}]}, Verdict.FAILURE),
        (200, {"choices": [{"message": {"tool_calls": [{}]}}]}, Verdict.ANSWERED),
        (200, {"error": {"message": "CUDA out of memory"}}, Verdict.FAILURE),
        (200, b"[" * 100_000, Verdict.FAILURE),
        (400, VLLM_TOO_LONG, Verdict.UNFIT),
        (400, LLAMA_TOO_LONG, Verdict.UNFIT),
        (500, LLAMA_TOO_LONG, Verdict.UNFIT),
        (404, VLLM_NO_MODEL, Verdict.UNFIT),
        (404, OLLAMA_NO_MODEL, Verdict.UNFIT),
        (404, {"detail": "Not Found"}, Verdict.MISCONFIGURED),
        (401, {"error": "Unauthorized"}, Verdict.MISCONFIGURED),
        (403, b"", Verdict.MISCONFIGURED),
        (301, b"", Verdict.MISCONFIGURED),
        (400, {"error": {"message": "n must be 1"}}, Verdict.REFUSED),
        (422, FASTAPI_INVALID, Verdict.REFUSED),
        (408, b"", Verdict.FAILURE),
        (429, b"", Verdict.SATURATED),
        (503, OLLAMA_BUSY, Verdict.SATURATED),
        (503, LLAMA_LOADING, Verdict.FAILURE),
        (500, {"error": "boom"}, Verdict.FAILURE),
        (502, b"<html>Bad Gateway</html>", Verdict.FAILURE),
    ],
)
def test_verdicts(status, body, verdict):
    assert classify(reply(status, body), now=0).verdict is verdict


@pytest.mark.parametrize(
    ("said", "counted"),
    [(7, 7), (0, 0), (True, 0), (-1, 0), (10**30, 0), (2**31, 0), (1.5, 0), ("7", 0), (None, 0)],
)
def test_only_plain_numbers_of_tokens_are_counted(said, counted):
    usage = {"prompt_tokens": said, "completion_tokens": 2}
    assert classify(reply(200, {**ANSWER, "usage": usage}), 0).tokens == (counted, 2, 0, 0)


def test_no_such_model_is_told_apart_from_a_prompt_that_is_too_long():
    assert classify(reply(404, VLLM_NO_MODEL), 0).no_such_model
    assert not classify(reply(400, VLLM_TOO_LONG), 0).no_such_model


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"message": "n must be 1"}}, "n must be 1"),
        ({"error": "n must be 1"}, "n must be 1"),
        ({"object": "error", "message": "n must be 1"}, "n must be 1"),
        ({"detail": "n must be 1"}, "n must be 1"),
        (b"no json", "the model server answered 400"),
    ],
)
def test_the_callers_error_keeps_the_servers_words(body, message):
    assert classify(reply(400, body), 0).error["message"] == message


def test_what_operators_see_holds_no_words_of_the_server():
    meaning = classify(reply(400, {"error": {"message": "bad prompt: my secret"}}), 0)
    assert "secret" not in meaning.detail


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", None),
        ("7", 7),
        ("0.5", 0.5),
        ("-1", 0),
        ("soon", None),
        ("nan", None),
        ("inf", LONGEST_RETRY_AFTER),
        ("999999", LONGEST_RETRY_AFTER),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 40),
        ("Thu, 99 Jan 1970 00:01:40 GMT", None),
    ],
)
def test_retry_after(text, seconds):
    assert retry_after({"retry-after": text}, now=60) == seconds


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(["error", "message", "code", "type", "choices", "content", "detail"]),
            inner,
        )
    ),
)


@given(
    status=st.integers(100, 599),
    content=st.binary() | json_values.map(lambda value: json.dumps(value).encode()),
    header=st.text(),
)
def test_no_reply_makes_it_raise(status, content, header):
    classify(Reply(status, {"retry-after": header}, content), now=0)
