"""The one reader of answers, and the one answer that we write ourselves."""

from __future__ import annotations

import json
import time

import pytest

from fallback_chain import UnshowableError
from fallback_chain.answers import (
    AT_LENGTH,
    BESIDE,
    ENDINGS,
    INTERRUPTED,
    MOST_NESTING,
    NO_WORDS,
    SEEN,
    Choice,
    degraded_answer,
    is_deeper,
    read_answer,
    text_in,
    text_of,
)


def read(document):
    return read_answer(json.dumps(document).encode())


def one(**choice):
    [read_choice] = read({"choices": [choice]}).choices
    return read_choice


def test_the_words_for_how_an_answer_ends():
    # As the servers and gateways spell them; each is another's way to say what OpenAI says.
    openai = {"stop", "length", "tool_calls", "function_call", "content_filter"}
    others = {"eos", "eos_token", "stop_sequence", "end_turn", "max_tokens", "tool_use"}
    refused = {"refusal", "safety", "recitation"}
    assert openai | others | refused | {"repetition", "model_length"} == ENDINGS
    broken_off = {"abort", "aborted", "cancelled", "error", "load", "unload", "timeout"}
    assert broken_off == INTERRUPTED
    assert {"length", "max_tokens", "model_length"} == AT_LENGTH
    assert {*AT_LENGTH, *refused, "content_filter"} == NO_WORDS


def test_where_an_answer_is_that_has_no_text():
    seen = ("tool_calls", "function_call", "refusal", "audio")
    assert (*seen, "reasoning_content", "reasoning") == BESIDE
    assert set(seen) == SEEN


def test_an_answer_is_read_whole():
    document = {
        "model": "m",
        "usage": {"prompt_tokens": 1},
        "choices": [
            {"message": {"content": "Hi"}, "finish_reason": "stop"},
            {"message": {"content": None, "reasoning": "Well,"}, "finish_reason": "length"},
            {"text": "Ho", "finish_reason": None},
        ],
    }
    answer = read(document)
    assert answer.document == document
    assert answer.choices == [
        Choice("Hi", "stop", frozenset()),
        Choice(None, "length", frozenset({"reasoning"})),
        Choice("Ho", None, frozenset()),
    ]
    assert (answer.text, answer.model, answer.usage) == ("Hi", "m", {"prompt_tokens": 1})


@pytest.mark.parametrize("choices", [[], None, "absent"])
def test_an_answer_without_a_choice_has_no_text(choices):
    document = {} if choices == "absent" else {"choices": choices}
    assert (read(document).choices, read(document).text) == ([], "")


def test_a_choice_without_a_text_has_an_empty_one_to_show():
    assert read({"choices": [{"message": {"content": None, "tool_calls": [{}]}}]}).text == ""


@pytest.mark.parametrize(
    ("messages", "calls"),
    [
        ([{"content": "Hi"}], False),
        ([{"content": "Hi", "tool_calls": []}], False),
        ([{"content": None, "refusal": "No."}], False),
        ([{"content": None, "tool_calls": [{}]}], True),
        ([{"content": None, "function_call": {"name": "f"}}], True),
        ([{"content": "Hi"}, {"content": None, "tool_calls": [{}]}], True),
        ([], False),
    ],
)
def test_whether_an_answer_calls_a_tool(messages, calls):
    assert read({"choices": [{"message": message} for message in messages]}).calls_a_tool is calls


@pytest.mark.parametrize(("levels", "is_read"), [(500, True), (501, False)])
def test_an_answer_is_only_so_deep(levels, is_read):
    content = b'{"choices": [], "x": ' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"
    if is_read:
        assert read_answer(content).choices == []
    else:
        with pytest.raises(UnshowableError):
            read_answer(content)


@pytest.mark.parametrize(("error", "broken"), [({"message": "died"}, True), (None, False)])
def test_a_choice_with_an_error_of_its_own_is_broken(error, broken):
    assert one(message={"content": "Hal"}, error=error).broken is broken


@pytest.mark.parametrize("said", [None, 1, [], {"name": "m"}, True])
def test_a_model_or_a_usage_of_another_type_is_none(said):
    assert read({"model": said}).model is None
    if said != {"name": "m"}:
        assert read({"usage": said}).usage is None


@pytest.mark.parametrize("name", BESIDE)
def test_what_stands_beside_the_text_is_named_if_it_is_there(name):
    assert one(message={"content": None, name: {"any": 1}}).beside == {name}
    assert one(message={"content": None, name: None}).beside == set()
    assert one(message={"content": None, name: ""}).beside == set()


def test_a_reason_that_is_no_word_is_none():
    assert one(message={"content": ""}, finish_reason={"type": "stop"}).finish_reason is None
    assert one(message={"content": ""}).finish_reason is None


def test_a_message_that_is_null_leaves_the_text_of_a_legacy_completion():
    assert one(message=None, text="Hi") == Choice("Hi", None, frozenset())
    assert one(message={"content": None}, text="not of a chat").text is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b"\xff",
        b'{"x": 1e999}',
        *(json.dumps(it).encode() for it in ([], "Hi", 1, None)),
        *(json.dumps({"choices": it}).encode() for it in ("Hi", {"0": 1}, 1, [None], ["Hi"], [[]])),
        *(
            json.dumps({"choices": [{"message": it}]}).encode()
            for it in ("Hi", [], 1, {"content": 1}, {"content": {}}, {"content": True})
        ),
        json.dumps({"choices": [{"text": 1}]}).encode(),
        json.dumps({"choices": [{"message": {"content": "Hi"}}, 1]}).encode(),
    ],
)
def test_what_cannot_be_shown_is_not_read(content):
    with pytest.raises(UnshowableError):
        read_answer(content)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("Hi", "Hi"),
        ("", ""),
        (None, None),
        (1, None),
        ([], ""),
        ([{"type": "text", "text": "Hi"}, {"type": "text", "text": " there"}], "Hi there"),
        ([{"text": None}, "Hi", None, {"image_url": {}}, {"text": 1}, {"text": "!"}], "!"),
    ],
)
def test_a_text_may_come_in_parts(content, text):
    assert text_in(content) == text


@pytest.mark.parametrize(
    ("choice", "says", "shows"),
    [
        (Choice("Hi", "stop", frozenset()), True, True),
        (Choice("", "stop", frozenset()), True, False),
        (Choice(None, "stop", frozenset()), False, False),
        (Choice(None, None, frozenset()), False, False),
        *((Choice(None, reason, frozenset()), True, False) for reason in sorted(NO_WORDS)),
        *((Choice(None, "stop", frozenset({name})), True, name in SEEN) for name in BESIDE),
    ],
)
def test_whether_a_choice_is_an_answer_and_whether_anybody_sees_it(choice, says, shows):
    assert (choice.says_something, choice.shows_something) == (says, shows)


def test_the_text_of_an_answer_is_its_first_choices():
    choices = [{"message": {"content": "first"}}, {"message": {"content": "second"}}]
    assert text_of(json.dumps({"choices": choices}).encode()) == "first"


@pytest.mark.parametrize("legacy", [False, True])
def test_a_degraded_answer_is_an_answer_that_says_what_it_is(legacy):
    content = degraded_answer("Sorry.", "asked", "7", legacy=legacy)
    document = json.loads(content)
    assert abs(document.pop("created") - time.time()) < 5
    said = {"text": "Sorry."} if legacy else {"message": {"role": "assistant", "content": "Sorry."}}
    assert document == {
        "id": "cmpl-7" if legacy else "chatcmpl-7",
        "object": "text_completion" if legacy else "chat.completion",
        "model": "asked",
        "choices": [{"index": 0, **said, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        "fallthrough": {"degraded": True},
    }
    assert text_of(content) == "Sorry."


def test_a_degraded_answer_has_a_name_and_a_model_in_any_case():
    first, second = (json.loads(degraded_answer("Sorry.", "")) for _ in range(2))
    assert "message" in first["choices"][0], "a chat's, unless told otherwise"
    assert first["model"] == "fallthrough-degraded"
    assert first["id"] != second["id"]
    assert len(first["id"]) == len("chatcmpl-") + 24


@pytest.mark.parametrize("more", [0, 1])
def test_what_a_deeper_stack_could_not_read_is_not_taken(more):
    deep = "[" * (MOST_NESTING - 1 + more) + "]" * (MOST_NESTING - 1 + more)
    content = f'{{"choices": [], "x": {deep}}}'.encode()
    if more:
        with pytest.raises(UnshowableError):
            read_answer(content)
    else:
        assert read_answer(content).choices == []


def test_many_brackets_beside_one_another_are_no_nesting():
    assert len(read({"choices": [{"text": "Hi"}] * 2 * MOST_NESTING}).choices) == 2 * MOST_NESTING


@pytest.mark.parametrize(
    ("value", "depth"),
    [(1, 0), ("[[", 0), ([], 1), ({}, 1), ([1, [2], 3], 2), ({"a": [{"b": 1}], "c": 2}, 3)],
)
def test_how_deep_a_value_is(value, depth):
    assert not is_deeper(value, depth)
    assert depth == 0 or is_deeper(value, depth - 1)
