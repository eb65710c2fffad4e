"""What model servers really answer, and what it means."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fallback_chain.answers import ENDINGS
from fallback_chain.answers import INTERRUPTED as BROKEN_OFF
from fallback_chain.classify import KEPT_OF_ERROR, classify, retry_after
from fallback_chain.http import Reply
from fallback_chain.trial import Verdict

ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "m",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    ],
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
        (200, {"choices": [{"text": "legacy", "finish_reason": "stop"}]}, Verdict.ANSWERED),
        (200, json.dumps({**ANSWER, "x": "?"}).encode().replace(b"?", b"\xff"), Verdict.FAILURE),
        (200, {"choices": []}, Verdict.FAILURE),
        (200, {"error": {"message": "CUDA out of memory"}}, Verdict.FAILURE),
        (200, b"[" * 100_000, Verdict.FAILURE),
        (400, VLLM_TOO_LONG, Verdict.UNFIT),
        (400, LLAMA_TOO_LONG, Verdict.UNFIT),
        (500, LLAMA_TOO_LONG, Verdict.UNFIT),
        (404, VLLM_NO_MODEL, Verdict.UNFIT),
        (404, OLLAMA_NO_MODEL, Verdict.UNFIT),
        (404, {"detail": "Not Found"}, Verdict.MISCONFIGURED),
        (404, {"error": "path '/v1/chat/completions' not found"}, Verdict.MISCONFIGURED),
        (401, {"error": "Unauthorized"}, Verdict.MISCONFIGURED),
        (403, b"", Verdict.MISCONFIGURED),
        (301, b"", Verdict.MISCONFIGURED),
        (400, {"error": {"message": "n must be 1"}}, Verdict.REFUSED),
        *((status, b"", Verdict.REFUSED) for status in (413, 414, 415, 416, 431, 451)),
        *((status, b"", Verdict.FAILURE) for status in (400, 422)),
        (400, b"<html><h1>400 Bad Request</h1></html>", Verdict.FAILURE),
        (400, {}, Verdict.FAILURE),
        (400, {"error": {}}, Verdict.FAILURE),
        (400, b"[" * 100_000, Verdict.FAILURE),
        (400, b"\xff", Verdict.FAILURE),
        (400, b' {"error": {"message": "xxx', Verdict.REFUSED),
        (400, {"error": {"type": "invalid_request_error"}}, Verdict.REFUSED),
        (422, {"error": {"code": "bad_n"}}, Verdict.REFUSED),
        (400, {"error": "Bad Request"}, Verdict.REFUSED),
        *((status, b"", Verdict.FAILURE) for status in (100, 201, 204, 408, 409, 418, 423, 424)),
        *((status, b"", Verdict.FAILURE) for status in (425, 499, 500, 501, 502, 503, 504, 599)),
        *((status, b"", Verdict.MISCONFIGURED) for status in (302, 401, 402, 403, 404, 405, 406)),
        *((status, b"", Verdict.MISCONFIGURED) for status in (407, 410, 421, 426)),
        (422, FASTAPI_INVALID, Verdict.REFUSED),
        (400, {"error": "EngineDeadError: see stack trace"}, Verdict.FAILURE),
        (400, b"Background loop has errored already.", Verdict.FAILURE),
        (400, b"<h1>400</h1>The plain HTTP request was sent to HTTPS port", Verdict.MISCONFIGURED),
        (400, {"detail": {"error": {"message": "EngineDeadError"}}}, Verdict.FAILURE),
        (400, {"error": {"error": "m does not support tools"}}, Verdict.UNFIT),
        (400, {"error": {"message": {"msg": "maximum context length"}}}, Verdict.UNFIT),
        (400, {"error": {"message": "qwen does not support tools"}}, Verdict.UNFIT),
        (400, {"error": "Only one completion choice is allowed"}, Verdict.UNFIT),
        (400, {"message": '"auto" tool choice requires --enable-auto-tool-choice'}, Verdict.UNFIT),
        (400, {"message": "m is not a multimodal model"}, Verdict.UNFIT),
        (500, {"error": {"message": "tools param requires --jinja flag"}}, Verdict.UNFIT),
        (501, {"error": "logprobs are not implemented"}, Verdict.UNFIT),
        (503, {"error": "streaming is not supported"}, Verdict.FAILURE),
        (400, {"error": {"message": "x", "code": "content_policy_violation"}}, Verdict.REFUSED),
        (403, {"error": {"message": "input was flagged by moderation"}}, Verdict.REFUSED),
        (429, b"", Verdict.SATURATED),
        (529, {"error": {"type": "overloaded_error"}}, Verdict.SATURATED),
        (429, {"error": {"code": "insufficient_quota"}}, Verdict.MISCONFIGURED),
        (429, {"error": {"message": "maximum context length"}}, Verdict.SATURATED),
        (503, OLLAMA_BUSY, Verdict.SATURATED),
        (503, LLAMA_LOADING, Verdict.FAILURE),
        (503, b"upstream connect error or reset. reset reason: overflow", Verdict.SATURATED),
        (503, b"upstream connect error or reset. reset reason: connection", Verdict.FAILURE),
        (503, b"no healthy upstream", Verdict.FAILURE),
        (500, {"error": "boom"}, Verdict.FAILURE),
        (502, b"<html>Bad Gateway</html>", Verdict.FAILURE),
    ],
)
def test_verdicts(status, body, verdict):
    assert classify(reply(status, body), now=0).verdict is verdict


@pytest.mark.parametrize(
    ("status", "body", "verdict", "detail"),
    [
        (404, {"detail": "Not Found"}, Verdict.UNFIT, "HTTP 404 not supported"),
        (405, b"", Verdict.UNFIT, "HTTP 405 not supported"),
        (501, b"", Verdict.UNFIT, "HTTP 501 not supported"),
        (404, VLLM_NO_MODEL, Verdict.UNFIT, "HTTP 404 no such model"),
        (401, b"", Verdict.MISCONFIGURED, "HTTP 401"),
        (500, b"", Verdict.FAILURE, "HTTP 500"),
    ],
)
def test_a_server_without_the_path_lacks_it_and_is_well(status, body, verdict, detail):
    """Chats go on: one who asks for something else could else have its tier held."""
    meaning = classify(reply(status, body), now=0, endpoint="/v1/completions")
    assert (meaning.verdict, meaning.detail) == (verdict, detail)
    if verdict is Verdict.UNFIT:
        assert meaning.error["message"]


WORDLESS = {
    Verdict.REFUSED: {413, 414, 415, 416, 431, 451},
    Verdict.SATURATED: {429, 529},
    Verdict.MISCONFIGURED: {
        *range(300, 400),
        *(401, 402, 403, 404, 405, 406, 407, 410, 421, 426),
    },
}


def of_status(status, *, is_error=False):
    """What a status means that comes without a word, or as an error of which nothing is known."""
    if is_error and status in {400, 422}:
        return Verdict.REFUSED
    known = (verdict for verdict, statuses in WORDLESS.items() if status in statuses)
    return next(known, Verdict.FAILURE)


def test_each_status_means_something_by_itself():
    found = {status: classify(reply(status, b""), 0) for status in range(100, 600) if status != 200}
    assert {status: meaning.verdict for status, meaning in found.items()} == {
        status: of_status(status) for status in found
    }
    assert {meaning.detail for meaning in found.values()} == {f"HTTP {status}" for status in found}


# At these statuses these words of servers mean this; each line has one of the table's words.
SAID = [
    (
        {429, 529},
        Verdict.MISCONFIGURED,
        "",
        """insufficient_quota
        You exceeded your current quota.
        Insufficient credit on it
        You are out of credit""",
    ),
    (
        {400, 429},
        Verdict.MISCONFIGURED,
        "over budget",
        """Budget has been exceeded! Current cost: 14.2, Max budget: 10.0
        budget_exceeded
        ExceededBudget: User=default over budget.
        Max budget limit reached.
        Your credit balance is too low to access the API.""",
    ),
    (
        {400, 429},
        Verdict.UNFIT,
        "over budget",
        "ExceededBudget: End User=ann over budget. Spend=0.2, Budget=0.1",
    ),
    (
        {503},
        Verdict.SATURATED,
        "",
        """server busy
        overloaded_error
        the queue is full
        no capacity left
        Too many requests
        rate limit reached
        maximum pending reached
        upstream connect error or disconnect/reset before headers. reset reason: overflow""",
    ),
    (
        {400, 404, 422},
        Verdict.UNFIT,
        "no such model",
        """model_not_found
        Model not found
        model "x" not found, try pulling it first
        model 'qwen3:4b' not found
        Model org/x not found or vLLM engine is sleeping.
        The model `x` was not found
        unknown model x
        there is no such model
        Invalid model name
        model is not loaded
        The model `x` does not exist.
        The model 'x' does not exist.""",
    ),
    (
        {*range(400, 500)} - {429},
        Verdict.UNFIT,
        "context too long",
        """longer than the context size
        past the context window
        longer than max_model_len
        the input exceeds max length
        Input string is larger than tokenizer's max length (9000 > 4096).
        prompt is too long: 210000 tokens > 200000 maximum
        The sum of prompt length (9000), query length (0) should not exceed max_num_tokens (8192)
        `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 9000 `inputs` tokens and 9
        `inputs` must have less than 4096 tokens. Given: 9000""",
    ),
    (
        {*range(400, 500), 500} - {429},
        Verdict.UNFIT,
        "context too long",
        """context_length_exceeded
        exceed_context_size_error
        past the maximum context
        longer than its context length""",
    ),
    (
        {400, 403, 422, 451},  # the last whatever it says
        Verdict.REFUSED,
        "",
        """content_policy_violation
        against the content policy
        content_filter
        stopped by moderation
        it was flagged""",
    ),
    (
        {400},
        Verdict.MISCONFIGURED,
        "",
        """The plain HTTP request was sent to HTTPS port
        Client sent an HTTP request to an HTTPS server.
        Invalid host header
        No required SSL certificate was sent
        The SSL certificate error""",
    ),
    (
        {400, 422},
        Verdict.FAILURE,
        "",
        """The engine is dead
        EngineDeadError
        EngineCore has met an issue
        engine process failed
        Background loop has errored""",
    ),
    (
        {400, 404, 415, 422, 500, 501},
        Verdict.UNFIT,
        "not supported",
        """x does not support tools
        x doesn't support tools
        unsupported: logprobs
        n is not implemented
        tools are not enabled
        Only one completion choice is allowed
        only one choice may be asked for
        it requires --enable-auto-tool-choice
        tools param requires jinja
        x is not a multimodal model
        it has no mmproj
        there is no tool call parser
        x is not a chat model
        x has no chat template""",
    ),
]


@pytest.mark.parametrize(
    ("statuses", "said", "verdict", "detail"),
    [(codes, text.strip(), *means) for codes, *means, said in SAID for text in said.splitlines()],
)
def test_words_tell_what_some_statuses_mean(statuses, said, verdict, detail):
    for status in set(range(100, 600)) - {200}:
        meaning = classify(reply(status, {"error": {"message": said}}), 0)
        if status in statuses:
            expected = (verdict, f"HTTP {status} {detail}".rstrip())
        else:
            expected = (of_status(status, is_error=True), f"HTTP {status}")
        assert (meaning.verdict, meaning.detail) == expected, status
        assert meaning.no_such_model is (meaning.detail == f"HTTP {status} no such model")
        told = meaning.verdict in {Verdict.REFUSED, Verdict.UNFIT}
        assert (meaning.error is not None) is told


@pytest.mark.parametrize("status", [400, 422])
def test_of_two_meanings_one_counts(status):
    def meaning(said):
        return classify(reply(status, {"error": said}), 0)

    assert meaning("flagged: this is not supported").verdict is Verdict.REFUSED
    assert meaning("the engine is dead: unsupported").verdict is Verdict.FAILURE
    assert meaning("invalid model: its context length is 0").no_such_model


@pytest.mark.parametrize(
    ("error", "verdict", "detail"),
    [
        ({"message": "maximum context length is 9", "code": 400}, "unfit", "HTTP 400 context"),
        ({"message": "flagged", "code": 403}, "refused", "HTTP 403"),
        ({"message": "slow down", "code": "429"}, "saturated", "HTTP 429"),
        ({"message": "no key", "code": 401}, "misconfigured", "HTTP 401"),
        ({"message": "died", "code": 502}, "failure", "HTTP 502"),
        ({"message": "n: too large", "http_status_code": 422}, "refused", "HTTP 422"),
        ({"message": "no", "code": "tool_use_failed", "status_code": 400}, "refused", "HTTP 400"),
        ({"message": "wait", "type": "overloaded"}, "saturated", "HTTP 503"),
        ({"message": "long", "code": "context_length_exceeded"}, "unfit", "HTTP 400 context"),
        ({"message": "who knows", "code": "boom"}, "failure", "interrupted"),
        ({"message": "who knows", "code": 200}, "failure", "interrupted"),
        ({"message": "who knows", "code": True}, "failure", "interrupted"),
    ],
)
def test_an_error_with_a_200_means_what_it_says(error, verdict, detail):
    meaning = classify(reply(200, {"error": error}), 0)
    assert meaning.verdict == verdict
    assert meaning.detail.startswith(detail)
    beside = {**ANSWER, "error": error}
    assert classify(reply(200, beside), 0).verdict is Verdict.FAILURE


def test_so_does_one_that_is_a_text_with_its_kind_beside_it():
    said = {"error": "Input validation error: n too large", "error_type": "validation"}
    assert classify(reply(200, said), 0).verdict is Verdict.REFUSED
    assert classify(reply(200, {"error": "Request failed"}), 0).verdict is Verdict.FAILURE


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: operation not supported",
        "CUDA error: the provided PTX was compiled with an unsupported toolchain.",
        "\"addmm_impl_cpu_\" not implemented for 'Half'",
        "RuntimeError: this build is not supported",
    ],
)
def test_what_a_broken_server_does_not_support_is_not_the_requests_fault(said):
    for status in (500, 501):
        meaning = classify(reply(status, {"error": {"message": said}}), 0)
        assert meaning.verdict is Verdict.FAILURE, status


def test_a_request_that_is_too_large_for_a_limit_comes_not_again():
    said = "Request too large for gpt-4o: Limit 30000, Requested 50000."
    meaning = classify(reply(429, {"error": {"message": said}}), 0)
    assert (meaning.verdict, meaning.detail) == (Verdict.UNFIT, "HTTP 429 context too long")


@pytest.mark.parametrize("reason", ["STOP", "MAX_TOKENS", "model_length", "SAFETY"])
def test_a_reason_may_be_written_large(reason):
    said = {"choices": [choice({"content": "so far"}, reason)]}
    assert classify(reply(200, said), 0).verdict is Verdict.ANSWERED


def test_the_words_are_looked_for_wherever_a_server_says_them():
    for error in ({"code": "model_not_found"}, {"type": "Model_Not_Found"}, "MODEL_NOT_FOUND"):
        assert classify(reply(400, {"error": error}), 0).no_such_model
    assert classify(reply(400, b"model_not_found, and no JSON"), 0).no_such_model
    assert not classify(reply(400, {"error": {"param": "model_not_found"}}), 0).no_such_model


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        ({"detail": {"error": {"message": "n must be 1", "code": "n"}}}, "n must be 1", "n"),
        ({"error": {"error": {"message": "n must be 1", "code": "n"}}}, "n must be 1", "n"),
        ({"error": {"detail": {"msg": "n must be 1"}, "code": "n"}}, "n must be 1", "n"),
        ({"error": {"message": {"detail": "n must be 1"}}}, "n must be 1", None),
        ({"error": {"error": "n must be 1"}}, "n must be 1", None),
        (
            {"error": {"message": "n must be 1", "detail": {"message": "deep", "code": 7}}},
            "n must be 1",
            7,
        ),
        ({"detail": {"detail": {"detail": "too far inside"}}}, "too far inside", None),
        ({"error": {"message": None, "detail": {"message": "n must be 1"}}}, "n must be 1", None),
        ({"error": {"error": {"error": {"error": {}}}}}, "the model server answered 413", None),
        ({"detail": {"detail": {"detail": {"msg": "x"}}}}, "the model server answered 413", None),
    ],
)
def test_an_error_inside_others_is_told_as_it_is(body, message, code):
    meaning = classify(reply(413, body), 0)
    assert meaning.verdict is Verdict.REFUSED
    assert meaning.error["message"] == message
    assert meaning.error["code"] == code


THINKING = [
    {"content": None, "reasoning_content": "Well,"},
    {"content": None, "reasoning": "Well,"},
    {"content": None, "function_call": {"name": "f", "arguments": "{}"}},
    {"content": None, "tool_calls": [{}]},
    {"content": None, "audio": {"data": "UklGRg=="}},
    {"content": None, "refusal": "I cannot help with that."},
    {"content": ""},
    {"content": []},
    {"content": [{"type": "thinking", "thinking": "Well,"}, {"type": "text", "text": None}]},
    {"content": [{"type": "text", "text": "Hi"}, "there", 7, None]},
]


def choice(message, reason="stop", **fields):
    return {"message": message, "finish_reason": reason, **fields}


@pytest.mark.parametrize("message", THINKING)
def test_what_says_anything_at_all_is_an_answer(message):
    body = {"choices": [choice(message)]}
    assert classify(reply(200, body), 0).verdict is Verdict.ANSWERED


@pytest.mark.parametrize(
    ("choices", "detail"),
    [
        *(([choice({"content": "Hal"}, reason)], "interrupted") for reason in sorted(BROKEN_OFF)),
        ([choice({"content": "Hal"}, None)], "interrupted"),
        ([choice({"content": "Hal"}, "")], "interrupted"),
        ([choice({"content": "Hal"}, "who knows")], "interrupted"),
        ([choice({"content": "Hal"}, 7)], "interrupted"),
        ([choice({"content": "Hal"}, ["stop"])], "interrupted"),
        ([{"message": {"content": "Hal"}}], "interrupted"),
        ([{"text": "Hal"}], "interrupted"),
        ([choice({"content": "Hi"}), choice({"content": "Hal"}, "abort")], "interrupted"),
        ([choice({"content": None}, "abort")], "interrupted"),
        ([choice({"content": "Hal"}, error={"message": "worker died"})], "interrupted"),
        ([choice({"content": "Hi"}), choice({"content": "Hal"}, error="died")], "interrupted"),
        ([choice({"content": None})], "empty"),
        ([choice({})], "empty"),
        ([choice(None)], "empty"),
        ([choice({"content": None, "tool_calls": [], "reasoning": ""})], "empty"),
        ([], "empty"),
        (None, "empty"),
        ({"0": choice({"content": "Hi"})}, "unshowable"),
        (["Hi"], "unshowable"),
        ([choice("Hi")], "unshowable"),
        ([choice({"content": 7})], "unshowable"),
        ([choice({"content": {"text": "Hi"}})], "unshowable"),
        ([choice(None, text=7)], "unshowable"),
    ],
)
def test_a_200_that_is_no_answer_says_why(choices, detail):
    meaning = classify(reply(200, {"choices": choices}), 0)
    assert (meaning.verdict, meaning.detail) == (Verdict.FAILURE, detail)


@pytest.mark.parametrize("reason", sorted(ENDINGS))
def test_what_ends_an_answer_is_known(reason):
    assert classify(reply(200, {"choices": [choice({"content": "Hi"}, reason)]}), 0).keep


@pytest.mark.parametrize("error", [{"message": "aborted"}, "aborted", [1]])
def test_an_error_beside_choices_is_no_answer(error):
    meaning = classify(reply(200, {**ANSWER, "error": error}), 0)
    assert (meaning.verdict, meaning.detail) == (Verdict.FAILURE, "interrupted")


@pytest.mark.parametrize("error", [None, {}, ""])
def test_no_error_is_none(error):
    assert classify(reply(200, {**ANSWER, "error": error}), 0).verdict is Verdict.ANSWERED
    body = {"choices": [choice({"content": "Hi"}, error=error)]}
    assert classify(reply(200, body), 0).verdict is Verdict.ANSWERED


@pytest.mark.parametrize(
    ("reason", "verdict"),
    [
        (None, Verdict.ANSWERED),
        ("who knows", Verdict.ANSWERED),
        ("abort", Verdict.FAILURE),
        ("error", Verdict.FAILURE),
    ],
)
def test_a_server_that_leaves_the_reason_out_may_be_believed(reason, verdict):
    body = {"choices": [choice({"content": "Hi"}, reason)]}
    assert classify(reply(200, body), 0, strict=False).verdict is verdict


@pytest.mark.parametrize(
    ("message", "reason", "keep"),
    [
        ({"content": "Hi"}, "stop", True),
        ({"content": "Hi"}, "length", True),
        ({"content": ""}, "stop", False),
        ({"content": None}, "length", False),
        ({"content": None}, "max_tokens", False),
        ({"content": None}, "content_filter", False),
        ({"content": None, "reasoning_content": "Well,"}, "length", False),
        ({"content": None, "tool_calls": [{}]}, "tool_calls", True),
        ({"content": None, "refusal": "No."}, "stop", True),
    ],
)
def test_an_answer_that_shows_nothing_is_given_and_not_kept(message, reason, keep):
    meaning = classify(reply(200, {"choices": [choice(message, reason)]}), 0)
    assert (meaning.verdict, meaning.keep) == (Verdict.ANSWERED, keep)


def test_each_choice_must_show_something_to_be_kept():
    body = {"choices": [choice({"content": "Hi"}), choice({"content": None}, "length")]}
    assert not classify(reply(200, body), 0).keep


@pytest.mark.parametrize(
    "content",
    [b'{"choices": [], "x": 1e999}', b'{"choices": [], "x": NaN}', b'{"choices": [], "x": "\xff"}'],
)
def test_what_cannot_be_read_whole_is_not_shown(content):
    assert classify(Reply(200, {}, content), 0).detail == "unshowable"


@pytest.mark.parametrize(
    ("said", "counted"),
    [
        *((7, 7), (0, 0), (2**31 - 1, 2**31 - 1), (2**31, 0), (10**30, 0)),
        *((True, 0), (-1, 0), (1.5, 0), ("7", 0), (None, 0)),
    ],
)
def test_only_plain_numbers_of_tokens_are_counted(said, counted):
    usage = {"prompt_tokens": said, "completion_tokens": 2}
    assert classify(reply(200, {**ANSWER, "usage": usage}), 0).tokens == (counted, 2, 0, 0)


def test_what_is_counted_of_a_prompt_and_an_answer():
    def tokens(usage):
        return classify(reply(200, {**ANSWER, "usage": usage}), 0).tokens

    usage = {
        "prompt_tokens": 1,
        "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 4},
    }
    assert tokens(usage) == (1, 2, 3, 4)
    assert tokens({**usage, "prompt_tokens_details": [7]}) == (1, 2, 0, 4)
    assert tokens({**usage, "completion_tokens_details": None}) == (1, 2, 3, 0)
    assert tokens([7]) == (0, 0, 0, 0)


def test_an_answer_is_taken_along_with_who_gave_it():
    meaning = classify(reply(200, ANSWER), 0)
    assert (meaning.detail, meaning.model, meaning.error) == ("", "m", None)
    assert meaning.answer.text == "Hi"
    assert not meaning.no_such_model


def test_only_who_is_busy_says_when_to_come_again():
    asked = {
        status: classify(reply(status, b"", {"retry-after": "7"}), 0).retry_after_seconds
        for status in (400, 401, 404, 429, 503)
    }
    assert asked == {400: None, 401: None, 404: None, 429: 7.0, 503: None}


def test_of_an_error_that_says_little_the_rest_is_known():
    assert classify(reply(400, {"error": {"message": "no"}}), 0).error == {
        "message": "no",
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }
    full = {"message": "no", "type": "t", "param": "p", "code": "c"}
    assert classify(reply(400, {"error": full}), 0).error == full


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
        ({"error": {"message": None, "detail": "n must be 1"}}, "n must be 1"),
        (FASTAPI_INVALID, "body.messages: field required"),
        ({"detail": [{"loc": ["body", 0], "msg": "a"}, {"msg": "b"}, "c", 7]}, "body.0: a; b; c; "),
        ({"error": [{"message": "a"}]}, "a"),
        ("n must be 1", "n must be 1"),
        (["n must be 1"], "n must be 1"),
        ({"detail": [{"loc": 7}, {"msg": "b"}]}, "; b"),
        ({"error": {"message": {"deep": "er"}}}, "the model server answered 413"),
        ({"error": {}}, "the model server answered 413"),
        (b"no json", "the model server answered 413"),
    ],
)
def test_the_callers_error_keeps_the_servers_words(body, message):
    assert classify(reply(413, body), 0).error["message"] == message


def test_the_bounds_of_what_a_server_says():
    def said(error):
        return classify(reply(413, {"error": error}), 0).error

    assert KEPT_OF_ERROR == 65_536
    assert said({"message": "x" * 65_536})["message"] == "x" * 65_536
    assert said({"message": "x" * 65_537})["message"] == "x" * 65_536 + " …"
    assert said({"message": ["x"] * 21})["message"] == "; ".join(["x"] * 20)
    for field in ("type", "param", "code"):
        for kept in ("x" * 256, 2**53 - 1):
            assert said({field: kept})[field] == kept
        for dropped in ("x" * 257, 2**53, -(2**53)):
            assert said({field: dropped})[field] != dropped


def test_of_an_endless_error_some_is_kept():
    long = "x" * (2 * KEPT_OF_ERROR)
    told = classify(reply(422, {"detail": [{"loc": ["body"] * 9, "msg": long}] * 20}), 0).error
    assert len(told["message"]) < KEPT_OF_ERROR + 10
    told = classify(reply(400, {"error": {"type": long, "param": long, "code": 10**400}}), 0).error
    assert (told["type"], told["param"], told["code"]) == ("invalid_request_error", None, None)


@pytest.mark.parametrize(
    ("code", "told"), [(400, 400), ("bad_n", "bad_n"), (True, None), ([], None)]
)
def test_a_servers_code_is_a_name_or_a_number(code, told):
    assert classify(reply(400, {"error": {"message": "no", "code": code}}), 0).error["code"] == told


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
        ("inf", 3600),
        ("999999", 3600),
        (" 7 ", 7),
        ("Thu, 01 Jan 1970 00:00:40 GMT", 0),
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
