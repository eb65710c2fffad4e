"""What validation finds in a batch's input file, line by line."""

from __future__ import annotations

import io
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.jsonl.input import MAX_ERRORS, custom_id_of, examine, read_line
from tasks.records.batches import Endpoint, SliceRange, window_seconds


def line(custom_id, **fields):
    body = {"messages": [{"role": "user", "content": "x"}]}
    whole = {"custom_id": custom_id, "method": "POST", "url": Endpoint.CHAT.value, "body": body}
    return json.dumps({**whole, **fields}).encode()


def check(content, endpoint=Endpoint.CHAT, slice_lines=3):
    return examine(io.BytesIO(content), endpoint, slice_lines)


def codes(content, **options):
    return [(e.code, e.line) for e in check(content, **options).errors]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", [("empty_file", None)]),
        (b"\n \r\n", [("empty_file", None)]),
        (b"\xef\xbb\xbf" + line("a") + b"\r\n" + line("b") + b"\r\n", []),
        (line("a") + b"\n{", [("invalid_json_line", 2)]),
        (b"\xff\xfe\n" + line("a"), [("invalid_json_line", 1)]),
        (line("a") + b"\n\x00\x00", [("invalid_json_line", 2)]),
        (line("a") + b"\n" + line("a"), [("duplicate_custom_id", 2)]),
        (line(None), [("invalid_request", 1)]),
        (b'{"method": "POST"}', [("missing_required_parameter", 1)]),
        (line("a", url="/v1/embeddings"), [("url_mismatch", 1)]),
        (line("a") + b"\n" + line("b", url="/v1/completions"), [("url_mismatch", 2)]),
        (line("a", method="GET"), [("invalid_request", 1)]),
        (line("a", body=[]), [("invalid_request", 1)]),
        (line("a", body={}), [("invalid_request", 1)]),
        (line("a", body={"messages": []}), [("invalid_request", 1)]),
        (line("a", body={"messages": "x"}), [("invalid_request", 1)]),
        (line("a", body={"messages": [1], "model": 7}), [("invalid_request", 1)]),
        (line("a", body={"messages": [1], "model": "m" * 256}), []),
        (line("a", body={"messages": [1], "model": "m" * 257}), [("invalid_request", 1)]),
        (line("a", body={"messages": [1], "fallthrough": {}}), [("invalid_request", 1)]),
        (line("a", body={"messages": [1], "fallthrough": None}), []),
        (b"[]", [("invalid_request", 1)]),
        (line("a") + b"\n" + line("b").replace(b"user", b"us\xffer"), [("invalid_json_line", 2)]),
        (line("a").replace(b'"x"', b'"\xff"'), [("invalid_json_line", 1)]),
        (line("a").replace(b'"x"', b"1e999"), [("invalid_json_line", 1)]),
        (line("a").replace(b'"x"', b"7" * 5_000), [("invalid_json_line", 1)]),
        (line("a").replace(b'"x"', b"[" * 2_000 + b"]" * 2_000), [("invalid_json_line", 1)]),
        (line("a") + b"\n" + b"x" * 5_000_000 + b"\n" + line("b"), [("line_too_large", 2)]),
        (
            line("a", body={"messages": [1], "model": "m"})
            + b"\n"
            + line("b", body={"messages": [1], "model": "n"}),
            [("model_mismatch", 2)],
        ),
    ],
)
def test_each_bad_line_is_named(content, found):
    assert codes(content) == found


def test_a_batch_holds_fifty_thousand_lines():
    content = b"\n".join(line(f"c{n}") for n in range(50_000))
    assert check(content).total == 50_000
    assert codes(content) == []
    found = check(content + b"\n" + b"\n \r\n\n".join(line("one more") for _ in range(7)) + b"\n\n")
    assert [(e.code, e.line) for e in found.errors] == [("too_many_tasks", 50_001)]
    assert found.total == 50_007
    assert "this file has 50007" in found.errors[0].message


def test_a_thousand_errors_are_told_and_all_are_counted():
    found = check(b"{\n" * 5_000)
    assert len(found.errors) == MAX_ERRORS
    assert found.error_count == 5_000
    told = json.loads(found.encoded())["data"]
    assert [each["line"] for each in told] == [*range(1, MAX_ERRORS + 1), None]
    assert "5000 in all" in told[-1]["message"]


@given(
    sizes=st.lists(st.integers(0, 3_000), max_size=40),
    ending=st.sampled_from([b"\n", b"\r\n"]),
    bom=st.booleans(),
    slice_lines=st.integers(1, 7),
)
def test_every_line_lies_in_one_slice_at_its_place(sizes, ending, bom, slice_lines):
    lines = [line(f"c{n}", padding="é" * size) for n, size in enumerate(sizes)]
    content = (b"\xef\xbb\xbf" if bom else b"") + ending.join(lines)
    found = check(content, slice_lines=slice_lines)
    seen = []
    for place in found.ranges:
        part = content[place.offset : place.offset + place.length]
        texts = [text for text in part.split(b"\n") if text.strip()]
        assert len(texts) == place.lines <= slice_lines
        assert SliceRange.parse(str(place)) == place
        seen += [json.loads(text)["custom_id"] for text in texts]
    assert seen == [f"c{n}" for n in range(len(lines))]


@given(st.binary(max_size=40), st.sampled_from([b'"content": "x', b'"x', b'"user', b"x"]))
def test_what_it_lets_through_can_be_read_when_it_is_run(junk, place):
    content = line("a", body={"messages": [{"role": "user", "content": "x"}], "user": "y"})
    content = content.replace(place, place + junk.replace(b"\n", b""), 1)
    if not check(content).errors:
        read_line(content)


def test_long_custom_ids_take_no_memory():
    content = b"\n".join(line(f"{n:04000}") for n in range(5_000))
    tracemalloc.start()
    try:
        assert check(content).total == 5_000
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 10_000_000


@pytest.mark.parametrize(
    ("text", "custom_id"),
    [
        (line("a").replace(b'"x"', b'"\xff"'), "a"),
        (line("a").replace(b'"x"', b"1e999"), "a"),
        (line("a")[:-5], None),
        (line(7), None),
        (b"", None),
    ],
)
def test_the_custom_id_of_a_broken_line_is_read_if_it_can_be(text, custom_id):
    assert custom_id_of(text) == custom_id


def embedding(custom_id, given, **fields):
    body = {"model": "m", "input": given, **fields}
    return line(custom_id, url=Endpoint.EMBEDDINGS.value, body=body)


def lines(*texts):
    return b"\n".join(texts)


@pytest.mark.parametrize("prompt", ["x", ["x"]])
def test_a_completions_prompt_is_one_text(prompt):
    content = line("a", url=Endpoint.COMPLETIONS.value, body={"prompt": prompt})
    assert codes(content, endpoint=Endpoint.COMPLETIONS) == []


@pytest.mark.parametrize("prompt", ["", [""], [], None, 5, {}, ["a", "b"], [1, 2, 3], [[1, 2]]])
def test_what_the_route_takes_for_no_prompt_a_batch_does_not_take_either(prompt):
    """Another tier's model reads other words in the ids of tokens."""
    content = line("a", url=Endpoint.COMPLETIONS.value, body={"prompt": prompt})
    assert codes(content, endpoint=Endpoint.COMPLETIONS) == [("invalid_request", 1)]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (lines(embedding("a", "x"), embedding("b", ["x", "y"]), embedding("c", [1, 2])), []),
        (embedding("a", ""), [("invalid_request", "body.input")]),
        (embedding("a", []), [("invalid_request", "body.input")]),
        (embedding("a", None), [("invalid_request", "body.input")]),
        (embedding("a", ["x", ""]), [("invalid_request", "body.input[1]")]),
        (embedding("a", ["x"] * 2049), [("invalid_request", "body.input")]),
        (embedding("a", "x", model=None), [("invalid_request", "body.model")]),
        (line("a"), [("url_mismatch", "url"), ("invalid_request", "body.input")]),
    ],
)
def test_lines_of_embeddings_name_their_model_and_what_is_to_be_embedded(content, found):
    errors = check(content, Endpoint.EMBEDDINGS).errors
    assert [(error.code, error.param) for error in errors] == found


def test_a_batch_embeds_at_most_fifty_thousand_inputs_over_all_its_lines():
    most = [embedding(f"c{n}", ["x"] * 2000) for n in range(25)]
    assert check(lines(*most), Endpoint.EMBEDDINGS).errors == []
    [error] = check(lines(*most, embedding("one", "x")), Endpoint.EMBEDDINGS).errors
    assert (error.code, error.line) == ("too_many_inputs", None)
    assert "50000 inputs; this file has 50001" in error.message


def test_a_slice_of_embeddings_holds_so_many_inputs_that_the_store_bears_their_vectors():
    sizes = (300, 212, 1, 2000, 512, 100)
    content = lines(*(embedding(f"c{n}", ["x"] * size) for n, size in enumerate(sizes)))
    findings = check(content, Endpoint.EMBEDDINGS, slice_lines=128)
    assert [each.lines for each in findings.ranges] == [2, 1, 1, 1, 1]
    assert findings.inputs == sum(sizes)


@given(st.binary(max_size=2_000))
def test_no_content_makes_it_raise(content):
    check(content)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("24h", 86_400), ("90m", 5_400), ("7d", 604_800), ("8d", None), ("0h", None), ("soon", None)],
)
def test_windows(text, seconds):
    assert window_seconds(text) == seconds
