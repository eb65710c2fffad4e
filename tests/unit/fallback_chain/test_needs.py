"""What requests need, read from bodies as clients of many servers send them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fallback_chain.needs import NOTHING, UNREADABLE, Need, Needs, lacks, parse_accepts

SCHEMA = {"type": "object"}
SCHEMA_TEXT = '{"type":"object"}'
TOOL = {"type": "function", "function": {"name": "look", "parameters": SCHEMA}}
STRICT = {"type": "function", "function": {"name": "look", "parameters": SCHEMA, "strict": True}}
OTHER = {"type": "function", "function": {"name": "other"}}
OF_WORDS = [need for need in Need if need is not Need.EMBEDDINGS]
PLAIN = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def with_part(part):
    return {"messages": ["?", {"content": None}, {"content": ["?", {"type": []}, part]}]}


@pytest.mark.parametrize(
    ("body", "needs"),
    [
        (PLAIN, ""),
        ({**PLAIN, "n": 1, "logprobs": False, "top_logprobs": 0, "modalities": ["text"]}, ""),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}, "schema"),
        ({"response_format": {"type": "json_schema"}}, "schema"),
        ({"response_format": {"type": "json_object"}}, "json"),
        ({"response_format": {"type": "json_object", "schema": {}}}, "schema"),
        ({"response_format": {"type": "structural_tag"}}, "schema"),
        ({"response_format": {"type": "text"}}, ""),
        ({"response_format": {"type": 1}}, ""),
        ({"response_format": "json_object"}, ""),
        ({"guided_json": {}}, "schema"),
        ({"guided_json": 5}, ""),
        ({"json_schema": "{}"}, "schema"),
        ({"structured_outputs": {"json": {}}}, "schema"),
        ({"structured_outputs": {"json_object": True}}, "json"),
        ({"structured_outputs": {"json_object": 1}}, ""),
        *(
            ({"structured_outputs": {kind: "a"}}, "schema")
            for kind in ("regex", "choice", "grammar", "structural_tag")
        ),
        *(
            ({field: "a"}, "schema")
            for field in (
                *("guided_regex", "guided_choice", "guided_grammar", "grammar", "regex", "ebnf"),
            )
        ),
        ({"guided_regex": ""}, ""),
        ({"tools": [TOOL]}, "tools"),
        ({"tools": []}, ""),
        ({"tools": ["look"]}, ""),
        ({"tools": [TOOL], "tool_choice": "none"}, ""),
        ({"functions": [{"name": "look"}]}, "tools"),
        ({"functions": [{"name": "look"}], "function_call": "none"}, ""),
        ({"functions": ["look"]}, ""),
        (with_part({"type": "text"}), ""),
        (with_part({"type": "image_url"}), "images"),
        (with_part({"type": "input_image"}), "images"),
        (with_part({"type": "input_audio"}), "audio"),
        (with_part({"type": "audio_url"}), "audio"),
        (with_part({"type": "video_url"}), "video"),
        (with_part({"type": "file"}), "files"),
        ({"n": 2.0}, "n"),
        (with_part({"type": "input_file"}), "files"),
        ({**with_part({"type": "image_url"}), "n": 2}, "images,n"),
        ({"modalities": ["text", "audio"]}, "audio"),
        ({"modalities": "audio"}, ""),
        ({"n": 2}, "n"),
        ({"n": True}, ""),
        ({"n": "2"}, ""),
        ({"best_of": 2}, "n"),
        ({"best_of": 1}, ""),
        ({"logprobs": True}, "logprobs"),
        ({"prompt": "Hi", "logprobs": 0}, "logprobs"),
        ({"logprobs": -1}, ""),
        ({"logprobs": None}, ""),
        ({"prompt_logprobs": 1}, "logprobs"),
        ({"top_logprobs": 1}, "logprobs"),
        ({"messages": {"content": [{"type": "image_url"}]}}, ""),
        ([], ""),
        (None, ""),
    ],
)
def test_a_body_needs(body, needs):
    kinds = Needs.of(body).kinds
    assert ",".join(need for need in Need if need in kinds) == needs


def test_a_body_without_needs_costs_no_object():
    assert Needs.of(PLAIN) is NOTHING
    assert Needs.of(None) is NOTHING


DEEP = {"type": "object"}
for _ in range(100_000):
    DEEP = {"not": DEEP}


@pytest.mark.parametrize(
    ("body", "schema"),
    [
        ({"response_format": {"type": "json_schema"}}, None),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
            SCHEMA_TEXT,
        ),
        ({"response_format": {"type": "json_schema", "schema": SCHEMA}}, SCHEMA_TEXT),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, SCHEMA_TEXT),
        ({"response_format": {"type": "json_object"}}, None),
        ({"guided_json": SCHEMA_TEXT}, SCHEMA_TEXT),
        ({"structured_outputs": {"json": SCHEMA}}, SCHEMA_TEXT),
        ({"response_format": {"type": "json_schema"}, "guided_json": SCHEMA}, None),
        ({"guided_json": SCHEMA, "guided_regex": "a"}, SCHEMA_TEXT),
        ({"guided_json": DEEP}, UNREADABLE),
        ({"guided_json": {"const": "\ud800"}}, UNREADABLE),
        ({"guided_json": {"const": 10**5000}}, UNREADABLE),
        ({"guided_json": {"const": object()}}, UNREADABLE),
    ],
    ids=lambda it: None,
)
def test_a_schema_is_kept_as_text(body, schema):
    assert Needs.of(body).schema == schema


@pytest.mark.parametrize(
    ("body", "tools", "required"),
    [
        ({"tools": [TOOL, OTHER]}, {"look": None, "other": None}, False),
        ({"tools": [STRICT]}, {"look": SCHEMA_TEXT}, False),
        ({"tools": [{"function": {"name": "look", "strict": True}}]}, {"look": None}, False),
        ({"tools": [{"type": "custom", "custom": {"name": "look"}}]}, {"look": None}, False),
        ({"tools": [{"type": "function", "name": "look"}]}, {"look": None}, False),
        ({"tools": [{"function": {"name": 1}}, TOOL, 1]}, {"look": None}, False),
        ({"tools": [TOOL], "tool_choice": "auto"}, {"look": None}, False),
        ({"tools": [TOOL], "tool_choice": "required"}, {"look": None}, True),
        ({"tools": [TOOL], "tool_choice": "any"}, {"look": None}, True),
        ({"tools": [TOOL], "tool_choice": ["required"]}, {"look": None}, False),
        (
            {"tools": [STRICT, OTHER], "tool_choice": {"function": {"name": "look"}}},
            {"look": SCHEMA_TEXT},
            True,
        ),
        (
            {"tools": [TOOL, OTHER], "tool_choice": {"allowed_tools": {"mode": "required"}}},
            {"look": None, "other": None},
            True,
        ),
        (
            {"tools": [TOOL], "tool_choice": {"allowed_tools": {"mode": "auto"}}},
            {"look": None},
            False,
        ),
        ({"functions": [{"name": "look"}]}, {"look": None}, False),
        ({"functions": [{"name": "a"}], "function_call": {"name": "a"}}, {"a": None}, True),
        ({"functions": [{"name": "a"}], "tool_choice": "required"}, {"a": None}, False),
        ({"tools": [TOOL], "functions": [{"name": "a"}]}, {"look": None}, False),
        ({"tools": [TOOL], "tool_choice": "none"}, {}, False),
        ({"tools": [], "tool_choice": "required"}, {}, False),
    ],
)
def test_what_may_be_called_and_must(body, tools, required):
    needs = Needs.of(body)
    assert needs.tools == tools
    assert needs.call_required is required
    assert (Need.TOOLS in needs.kinds) is bool(tools)


@pytest.mark.parametrize(
    ("body", "strict", "checkable", "other"),
    [
        (PLAIN, False, False, False),
        ({"n": 2}, False, False, False),
        ({"guided_json": {}}, True, True, False),
        ({"response_format": {"type": "json_object"}}, True, True, False),
        ({"guided_regex": "a"}, True, True, True),
        ({"tools": [TOOL]}, False, True, False),
        ({"tools": [TOOL], "tool_choice": "required"}, True, True, False),
    ],
)
def test_a_form_is_demanded_or_only_checked(body, strict, checkable, other):
    needs = Needs.of(body)
    assert (needs.strict_form, needs.checkable, needs.other_form) == (strict, checkable, other)


@pytest.mark.parametrize(
    ("text", "accepts"),
    [
        ("", None),
        (" ", None),
        ("text", set()),
        ("json,tools", {Need.JSON, Need.TOOLS}),
        (" JSON , text", {Need.JSON}),
        (",".join(OF_WORDS), set(OF_WORDS)),
        ("embeddings", {Need.EMBEDDINGS}),
    ],
)
def test_a_tier_accepts(text, accepts):
    assert parse_accepts(text) == accepts


@pytest.mark.parametrize("text", ["jsn", "json,", ",", "json tools"])
def test_an_unknown_word_is_named_beside_the_known_ones(text):
    known = "text, schema, json, tools, images, audio, video, files, n, logprobs, embeddings"
    with pytest.raises(ValueError, match=f"is not one of {known}$") as caught:
        parse_accepts(text)
    assert repr(text.split(",")[-1]) in str(caught.value)


def test_a_tier_lacks_what_it_does_not_accept_in_a_fixed_order():
    needs = Needs.of({"n": 2, "guided_json": {}, "tools": [TOOL], "logprobs": True})
    assert lacks(needs, None) == []
    assert lacks(needs, parse_accepts("text")) == ["schema", "tools", "n", "logprobs"]
    assert lacks(needs, parse_accepts("n,schema")) == ["tools", "logprobs"]
    assert lacks(NOTHING, parse_accepts("text")) == []


def test_a_tier_that_embeds_and_does_nothing_else_lacks_every_chat():
    alone, vectors = parse_accepts("embeddings"), Needs.of({"model": "m", "input": "x", "n": 2})
    assert lacks(NOTHING, alone) == lacks(Needs.of({**PLAIN, "input": "x"}), alone) == ["chat"]
    assert lacks(Needs.of({"prompt": "x", "n": 2}), alone) == ["chat"]
    assert [lacks(vectors, accepts) for accepts in (alone, None, parse_accepts("text"))] == [[]] * 3
    with pytest.raises(ValueError, match="stands alone"):
        parse_accepts("embeddings, json")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(
        [*Need, "json_schema", "json_object", "image_url", "none", "required", "function"]
    ),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("type", "schema", "json_schema", "function", "name", "parameters", "strict"),
                    *("content", "json", "regex", "allowed_tools", "mode", "custom", "json_object"),
                ]
            )
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
FIELDS = [
    *("messages", "response_format", "structured_outputs", "guided_json", "tools", "functions"),
    *("tool_choice", "function_call", "modalities", "n", "best_of", "logprobs", "top_logprobs"),
    *("regex", "ebnf", "prompt_logprobs"),
]


@given(JSON | st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_no_body_raises(body):
    needs = Needs.of(body)
    assert needs.checkable or not needs.strict_form
    assert lacks(needs, frozenset()) == [need for need in Need if need in needs.kinds]
