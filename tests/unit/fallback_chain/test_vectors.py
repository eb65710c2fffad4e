"""Embeddings: which inputs may be asked for, and which answers hold what was asked for."""

from __future__ import annotations

import base64
import json
import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fallback_chain.errors import UnshowableError
from fallback_chain.vectors import MOST_INPUTS, count_of, fault_of, read_vectors

PACKED = base64.b64encode(struct.pack("<2f", 1.0, -1.0)).decode()
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=3), inside),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("given", "count"),
    [
        ("text", 1),
        (["a"], 1),
        (["a", "b"], 2),
        ([7], 1),
        ([7, 0, 9], 1),
        ([7, 5.0], 1),  # JSON knows no other number
        ([7.0, 5], 1),
        ([[7]], 1),
        ([[7], [8, 9]], 2),
        (["a"] * MOST_INPUTS, MOST_INPUTS),
        ([1] * (MOST_INPUTS + 1), 1),
    ],
)
def test_inputs_are_counted(given, count):
    assert (fault_of(given), count_of(given)) == (None, count)


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ("", ""),
        ([], ""),
        (None, ""),
        (7, ""),
        ({"text": "a"}, ""),
        ([""], "[0]"),
        (["a", ""], "[1]"),
        (["a", 7], "[1]"),
        ([7, "a"], "[1]"),
        ([7, -1], "[1]"),
        ([True], "[0]"),
        ([1.5], "[0]"),
        ([[]], "[0]"),
        ([[7], []], "[1]"),
        ([[7], ["a"]], "[1]"),
        ([2**31], "[0]"),
        ([[[7]]], "[0]"),
        (["a"] * (MOST_INPUTS + 1), ""),
        ([[1]] * (MOST_INPUTS + 1), ""),
    ],
)
def test_what_is_wrong_with_an_input_is_said_and_where(given, place):
    fault = fault_of(given)
    assert fault
    assert fault.place == place
    assert fault.what.startswith(("must be a text", "may hold 2048"))


@given(ANY_JSON)
def test_no_input_makes_it_raise(given):
    fault_of(given)
    assert count_of(given) >= 1


def answer(*entries, **fields):
    return json.dumps({"data": list(entries), "model": "m", **fields}).encode()


def entry(embedding, index=None):
    return {
        "object": "embedding",
        "embedding": embedding,
        **({} if index is None else {"index": index}),
    }


@pytest.mark.parametrize(
    ("content", "inputs"),
    [
        (answer(entry([1.0, -2e-5, 3], 0)), 1),
        (answer(entry([1.0], 0), entry([2.0], 1)), 2),
        (answer(entry([1.0], 1), entry([2.0], 0)), 2),
        (answer(entry([1.0]), entry([2.0])), 2),
        (answer(entry(PACKED, 0)), 1),
        (answer(entry([1.0], 0), note="ü"), 1),
        (answer(*(entry([0.5] * 3, i) for i in range(MOST_INPUTS))), MOST_INPUTS),
    ],
    ids=range(7),
)
def test_an_answer_has_a_vector_for_each_input(content, inputs):
    usage = {"prompt_tokens": 3, "total_tokens": 3}
    content = content[:-1] + b', "usage": ' + json.dumps(usage).encode() + b"}"
    assert read_vectors(content, inputs) == ("m", usage)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"<html>",
        b'{"data": null}',
        b'{"choices": []}',
        answer(),
        answer(entry([1.0], 0), entry([1.0], 1)),
        answer(entry([1.0], 1)),
        answer(entry([1.0], "0")),
        answer(entry([], 0)),
        answer(entry([None], 0)),
        answer(entry([True], 0)),
        answer(entry([[1.0]], 0)),
        answer(entry(["1"], 0)),
        answer(entry(None, 0)),
        answer(entry({"values": [1.0]}, 0)),
        answer(entry("", 0)),
        answer(entry("AAA", 0)),
        answer(entry("AAAA", 0)),
        answer(entry("????????", 0)),
        answer({"index": 0}),
        answer("a"),
        answer(entry([1.0], 0), error={"message": "out of memory"}),
        answer(entry([1.0], 0)).replace(b"1.0", b"1e999"),
        answer(entry([1.0], 0)).replace(b"1.0", b"NaN"),
        answer(entry([1.0], 0), note="?").replace(b"?", b"\xff"),
        answer(entry([1.0], 0), note="?").replace(b'"?"', b"[" * 600 + b"]" * 600),
        answer(entry([1.0], 0), note="?").replace(b'"?"', b"[" * 90_000 + b"]" * 90_000),
    ],
    ids=range(28),
)
def test_anything_else_is_no_answer(content):
    with pytest.raises(UnshowableError):
        read_vectors(content, 1)


@given(st.binary(max_size=200) | ANY_JSON.map(msgspec.json.encode))
def test_no_answer_makes_it_raise_anything_else(content):
    with pytest.raises(UnshowableError):
        read_vectors(content, 1)
