"""Answers that fit what was asked, and answers that only look like one."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fallback_chain.answers import read_answer
from fallback_chain.fit import FITS, Fit, check, heal, without_fence
from fallback_chain.needs import Needs

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
AS_JSON = {"response_format": {"type": "json_object"}}
AS_SCHEMA = {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}}
ANY_SCHEMA = {"response_format": {"type": "json_schema"}}
BROKEN = {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 1}}}}
AS_REGEX = {"guided_regex": "a+"}
TOOLS = {"tools": [{"function": {"name": "look"}}, {"custom": {"name": "free"}}]}
STRICT = {"tools": [{"function": {"name": "look", "strict": True, "parameters": SCHEMA}}]}
LOOSE = {"tools": [{"function": {"name": "look", "strict": True, "parameters": {"type": 1}}}]}
DEMANDING = {"tools": [{"function": {"name": "look", "parameters": SCHEMA}}]}
REQUIRED = {**TOOLS, "tool_choice": "required"}
NAMED = {**TOOLS, "tool_choice": {"function": {"name": "free"}}}
LEGACY = {"functions": [{"name": "look"}]}


def says(content, finish="stop", **message):
    return {"message": {"content": content, **message}, "finish_reason": finish}


def calls(*functions, finish="tool_calls", content=None):
    made = [{"type": "function", "function": function} for function in functions]
    return says(content, finish, tool_calls=made)


def look(arguments="{}"):
    return {"name": "look", "arguments": arguments}


def custom(name):
    return says(None, tool_calls=[{"type": "custom", "custom": {"name": name, "input": "free {"}}])


UNCHECKED = "unchecked"


@pytest.mark.parametrize(
    ("body", "choice", "detail"),
    [
        ({}, says("Hi"), ""),
        ({}, says("Hi", "length"), ""),
        ({"n": 2}, {}, ""),
        ({}, calls(look()), "tools"),
        ({}, says("Hi", function_call=look()), "tools"),
        ({}, says("Hi", tool_calls=[]), ""),
        ({**TOOLS, "tool_choice": "none"}, calls(look()), "tools"),
        (AS_JSON, says("{}"), ""),
        (AS_JSON, says(" {} \n"), ""),
        *((AS_JSON, says(text), "json") for text in ("[1]", '"x"', "42", "null", "true")),
        (AS_JSON, says("Sure! {}"), "json"),
        (AS_JSON, says("```json\n{}\n```"), "json"),
        (AS_JSON, says("{} {}"), "json"),
        (AS_JSON, says(""), "json"),
        (AS_JSON, says(None), "json"),
        (AS_JSON, says(5), "json"),
        (AS_JSON, says("{}", "length"), "cut"),
        (AS_JSON, says("[" * 100_000 + "]" * 100_000), "json"),
        (AS_JSON, says('"\ud800"'), "json"),
        (AS_JSON, {"text": "{}"}, ""),
        (AS_JSON, {"text": "Sure"}, "json"),
        (AS_JSON, says([{"type": "text", "text": "{"}, "?", {"text": 1}, {"text": "}"}]), ""),
        (AS_JSON, says(None, refusal="No."), ""),
        (AS_JSON, says('{"a": 1', "max_tokens"), "cut"),
        (AS_JSON, says("{", ["length"]), "json"),
        (AS_JSON, says("I had", "content_filter"), ""),
        (REQUIRED, says(None, "content_filter"), ""),
        *((AS_JSON, says("", reason), "") for reason in ("refusal", "SAFETY", "CONTENT_FILTER")),
        (AS_JSON, says("", "STOP"), "json"),
        (AS_JSON, says(None, refusal=""), "json"),
        (AS_JSON, says(None, refusal=True), "json"),
        (AS_JSON, says(None, "length", refusal="No."), ""),
        (AS_SCHEMA, says('{"a": 1}'), ""),
        (AS_SCHEMA, says('{"a": "1"}'), "schema"),
        (AS_SCHEMA, says("Sure"), "json"),
        (AS_SCHEMA, says('{"a": 1}', "length"), "cut"),
        (AS_SCHEMA, says(None, refusal="No."), ""),
        (AS_SCHEMA, calls(look()), "tools"),
        (ANY_SCHEMA, says("1"), ""),
        (BROKEN, says("1"), UNCHECKED),
        (BROKEN, says("Sure"), "json"),
        (AS_REGEX, says("b"), UNCHECKED),
        (AS_REGEX, says("a", "length"), "cut"),
        (TOOLS, says("Hi"), ""),
        (TOOLS, says("Hi", "length"), ""),
        (TOOLS, says("Hi", tool_calls=[]), ""),
        (TOOLS, says("Hi", tool_calls="look"), ""),
        (TOOLS, calls(look()), ""),
        (TOOLS, calls(look('{"a": 1}'), look()), ""),
        (TOOLS, calls(look(), finish="length"), "cut"),
        (TOOLS, calls(look('{"a": ')), "tools"),
        (TOOLS, calls(look("[]")), "tools"),
        (TOOLS, calls(look("")), ""),
        (TOOLS, calls(look(None)), ""),
        (TOOLS, calls(look({})), "tools"),
        (TOOLS, calls(look(0)), "tools"),
        (TOOLS, calls({"name": "look"}), ""),
        (TOOLS, calls(look(" ")), "tools"),
        (TOOLS, calls({"name": "peek", "arguments": ""}), "tools"),
        (DEMANDING, calls(look("{}")), ""),
        (DEMANDING, calls(look("")), "tools"),
        (DEMANDING, calls(look(None)), "tools"),
        (DEMANDING, calls({"name": "look"}), "tools"),
        (STRICT, calls(look("")), "tools"),
        (LEGACY, says(None, function_call=look("")), ""),
        (TOOLS, calls({"name": "peek", "arguments": "{}"}), "tools"),
        (TOOLS, calls({"name": ["look"], "arguments": "{}"}), "tools"),
        (TOOLS, calls(look(), {"name": "peek", "arguments": "{}"}), "tools"),
        (TOOLS, says(None, tool_calls=["look"]), "tools"),
        (TOOLS, says(None, tool_calls=[{"function": look("{"), "custom": None}]), "tools"),
        (TOOLS, says(None, tool_calls=[{"function": look("{"), "custom": look()}]), "tools"),
        (TOOLS, says(None, tool_calls=[{"function": None, "custom": {"name": "free"}}]), ""),
        (TOOLS, custom("free"), ""),
        (TOOLS, custom("other"), "tools"),
        (TOOLS, says(None, function_call=look()), ""),
        (TOOLS, says(None, function_call=look("x")), "tools"),
        (LEGACY, says(None, function_call=look()), ""),
        (LEGACY, says(None, function_call={"name": "peek", "arguments": "{}"}), "tools"),
        (LEGACY, says("Hi", function_call="look"), ""),
        (LEGACY, says(None, tool_calls=[], function_call={"name": "peek"}), "tools"),
        (STRICT, calls(look('{"a": 1}')), ""),
        (STRICT, calls(look('{"a": "1"}')), "tools"),
        (LOOSE, calls(look("{}")), UNCHECKED),
        (LOOSE, calls(look("{}"), look("[]")), "tools"),
        (REQUIRED, calls(look()), ""),
        (REQUIRED, says("Hi"), "tools"),
        (REQUIRED, says("Hi", "length"), "cut"),
        (REQUIRED, says(None, refusal="No."), ""),
        (NAMED, custom("free"), ""),
        (NAMED, calls(look()), "tools"),
        ({**TOOLS, **AS_SCHEMA}, calls(look(), content="Let me look"), ""),
        ({**TOOLS, **AS_SCHEMA}, says("Hi"), "json"),
        ({**TOOLS, **AS_SCHEMA}, says('{"a": 1}'), ""),
        (AS_JSON, None, "json"),
        (AS_JSON, {"message": "{}"}, "json"),
        (REQUIRED, None, "tools"),
    ],
)
def test_an_answer_fits(body, choice, detail):
    fit = check({"choices": [choice]}, Needs.of(body))
    assert fit == (Fit("", checked=False) if detail == UNCHECKED else Fit(detail, checked=True))


@pytest.mark.parametrize(
    ("choices", "fit"),
    [
        ([says("{}"), says('{"a": 1}')], Fit()),
        ([says("{}"), says("[]")], Fit("json")),
        ([says("{}"), says("Sure")], Fit("json")),
        ([says("Sure"), says("{}")], Fit("json")),
        ([], Fit("json")),
        ({"0": says("{}")}, Fit("json")),
    ],
)
def test_every_choice_is_checked(choices, fit):
    assert check({"choices": choices}, Needs.of(AS_JSON)) == fit


def test_one_choice_that_was_not_checked_is_said():
    needs = Needs.of(LOOSE)
    assert check({"choices": [says("Hi"), calls(look())]}, needs) == Fit(checked=False)
    assert check({"choices": [calls(look()), calls(look("["))]}, needs) == Fit("tools")


def test_what_is_no_completion_fits_no_form():
    assert check(["choices"], Needs.of(AS_JSON)) == Fit("json")
    assert check({"choices": 5}, Needs.of(AS_JSON)) == Fit("json")
    assert check(None, Needs.of({})) is FITS


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("```json\n{}\n```", "{}"),
        ("```\n[1]\n```", "[1]"),
        ("  ```JSON\r\n{}\r\n```\n", "{}"),
        ('```json {"a": "```"} ```', '{"a": "```"}'),
        ("```\n\n 1 \n\n```", "1"),
        ("```json{}```", "{}"),
        ("``` {} ```", "{}"),
        ("abc{}```", None),
        ("{}", None),
        ("```json\n{}", None),
        ("{}\n```", None),
        ("Here:\n```json\n{}\n```", None),
        ("```json\n{}\n```\nThere.", None),
        ("```json\n{}\n```\n```json\n{}\n```", None),
        ("```python\n{}\n```", None),
        ("````\n{}\n````", None),
        ("```json\nSure\n```", None),
        ("abc{}abc", None),
        ("```{}abc", None),
        ("```", None),
        ("``````", None),
        ("", None),
    ],
)
def test_a_fence_around_json_is_taken_off(text, inside):
    assert heal(text) == inside


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["{}", "[", "look", "stop", "length", '{"a":1}', "```1```"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("choices", "message", "content", "tool_calls", "function", "name", "text"),
                    *("arguments", "finish_reason", "refusal", "function_call", "custom"),
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)
BODIES = [{}, AS_JSON, AS_SCHEMA, BROKEN, AS_REGEX, TOOLS, STRICT, REQUIRED, NAMED, LEGACY]


@given(
    JSON | st.fixed_dictionaries({"choices": st.lists(st.fixed_dictionaries({"message": JSON}))}),
    st.sampled_from(BODIES),
)
def test_no_answer_raises_and_no_word_of_it_is_repeated(completion, body):
    fit = check(completion, Needs.of(body))
    assert fit.detail in {"", "json", "schema", "tools", "cut"}
    assert fit.checked or not fit.detail


@given(st.text(alphabet="`json{}\n 1") | st.builds(json.dumps, JSON))
def test_what_is_healed_is_json(text):
    inside = heal(text)
    assert inside is None or (json.loads(inside) is not Ellipsis and inside in text)


def completed(*choices, **fields):
    return read_answer(msgspec.json.encode({"model": "m", **fields, "choices": choices}))


def test_a_fence_is_taken_out_of_an_answer_and_the_rest_stays():
    chat = {"index": 0, **says("```json\n{}\n```", role="assistant"), "logprobs": None}
    inside = {**chat, "message": {"content": "{}", "role": "assistant"}}
    told = without_fence(completed(chat, usage={"n": 1}))
    assert told == {"model": "m", "usage": {"n": 1}, "choices": [inside]}
    legacy = {"index": 0, "text": "```\n{}\n```", "finish_reason": "stop"}
    told = without_fence(completed(legacy))
    assert told == {"model": "m", "choices": [{**legacy, "text": "{}"}]}


@pytest.mark.parametrize(
    "choices",
    [
        [],
        [says("{}")],
        [says(None)],
        [says("```json\n{}\n```"), says("```json\n{}\n```")],
        [says("```json\nSure\n```")],
    ],
)
def test_an_answer_without_a_fence_stays_as_it_is(choices):
    assert without_fence(completed(*choices)) is None
