"""Schemas of strangers: what they say, and that none hangs, ends or opens anything."""

from __future__ import annotations

import json
import time

import jsonschema_rs
import pytest

from fallback_chain import schemas
from fallback_chain.schemas import is_valid

TREE = {"items": {"$ref": "#"}}


@pytest.fixture(autouse=True)
def _none_is_kept():
    schemas._compiled.cache_clear()


def said(schema, value, length=10):
    return is_valid(schema if isinstance(schema, str) else json.dumps(schema), value, length)


def nested(depth):
    value = []
    for _ in range(depth - 1):
        value = [value]
    return value


def doubling(levels, last, keyword="allOf"):
    """Return a schema whose size doubles with each level, though its text does not."""
    defs = {
        f"a{level}": {keyword: [{"$ref": f"#/$defs/a{level + 1}"}] * 2} for level in range(levels)
    }
    return {"$ref": "#/$defs/a0", "$defs": {**defs, f"a{levels}": last}}


@pytest.mark.parametrize(
    ("schema", "value", "valid"),
    [
        (True, 1, True),
        (False, 1, False),
        ({"type": "integer"}, 1, True),
        ({"type": "integer"}, "1", False),
        ({"$ref": "#/$defs/a~1b%25~0", "$defs": {"a/b%~": {"type": "integer"}}}, "1", False),
        ({"allOf": [{"$ref": "#/anyOf/0"}], "anyOf": [{"type": "integer"}]}, 1, True),
        ({"$ref": "#/definitions/a", "definitions": {"a": {"type": "null"}}}, 1, False),
        (
            {"properties": {"definitions": {"$ref": "#"}}, "type": "object"},
            {"definitions": 1},
            False,
        ),
        ({"$id": "http://here/", "$schema": "http://json-schema.org/draft-07/schema#"}, 1, True),
        ({"items": {"$ref": "#"}, "type": "array"}, [[], [[1]]], False),
        ({"$ref": "#"}, 1, True),
        ({"pattern": "^a{2}$"}, "aa", True),
        ({"pattern": "^a{2}$"}, "a", False),
        ({"format": "date"}, "someday", True),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "format": "date"}, "x", True),
        ({"properties": {"$id": {"type": "null"}, "pattern": {}}}, {"$id": 1}, False),
        ({"patternProperties": {"^a": {"type": "null"}}}, {"ab": 1}, False),
        ({"enum": [10**30, 1.5]}, 10**30, True),
    ],
)
def test_a_schema_says(schema, value, valid):
    assert said(schema, value) is valid


@pytest.mark.parametrize(
    "schema",
    [
        "",
        "{",
        "[]",
        "5",
        '{"not":' * 5000 + "{}" + "}" * 5000,
        {"type": "nothing"},
        {"$ref": "http://127.0.0.1:1/x"},
        {"$ref": "file:///etc/hostname"},
        {"$ref": "other.json"},
        {"$ref": "#anchor", "$anchor": "anchor"},
        {"$ref": "#/$defs/none"},
        {"allOf": [{}], "$ref": "#/allOf/x"},
        {"allOf": [{}], "$ref": "#/allOf/1"},
        {"title": "x", "$ref": "#/title/x"},
        {"$dynamicRef": "#"},
        {"$schema": "https://json-schema.org/draft/2019-09/schema", "$recursiveRef": "#"},
        {"$schema": "http://127.0.0.1:1/x"},
        {"$schema": "http://json-schema.org/draft-04/schema#"},
        {"allOf": [{"$id": "http://there/"}]},
        {"allOf": [{"$schema": "http://json-schema.org/draft-07/schema#"}]},
        {"pattern": "("},
        {"pattern": "(?=a)a"},
        {"pattern": "(a{1000}){1000}"},
        {"patternProperties": {"(a{1000}){1000}": {}}},
    ],
    ids=lambda it: str(it)[:40],
)
def test_what_cannot_be_compiled_or_followed_is_not_checked(schema):
    assert said(schema, "a") is None


@pytest.mark.parametrize("size", [0, 1])
def test_a_long_schema_is_not_read(size):
    empty = len('{"title":""}')
    schema = json.dumps({"title": "x" * (schemas.MOST_SCHEMA - empty - 1 + size)})
    assert len(schema) == schemas.MOST_SCHEMA + size
    assert said(schema, 1) is (None if size else True)


def looking(levels, keyword):
    """Return a schema in which each level looks again at all that the next one says."""
    defs = {
        f"a{level}": {"anyOf": [{"$ref": f"#/$defs/a{level + 1}"}], keyword: False}
        for level in range(levels)
    }
    every = {"additionalProperties": {"$ref": "#/$defs/a0"}, "items": {"$ref": "#/$defs/a0"}}
    return {"$ref": "#/$defs/a0", "$defs": {**defs, f"a{levels}": every}}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"pattern": "(a+)+$"}, "a" * 40 + "!"),
        ({"pattern": "^(a|a)*$"}, "a" * 100_000 + "!"),
        ({"pattern": "[ab]*a[ab]{3000}d"}, "ab" * 50_000 + "d"),
        ({"pattern": "(([ab]{0,50}){0,50})c$"}, "ab" * 50_000 + "c"),
        ({"patternProperties": {"[ab]*a[ab]{3000}d": {}}}, {"ab" * 50_000 + "d": 1}),
        (doubling(40, {"type": "integer"}), 1),
        (doubling(12, {"type": "integer"}), list(range(30_000))),
        (doubling(40, {"items": {"$ref": "#/$defs/a0"}}), [[[[1]]]]),
        (doubling(11, {"items": {"$ref": "#/$defs/a0"}}), [[1] * 1000] * 30),
        ({"properties": {"patternProperties": doubling(40, {})}}, {"patternProperties": 1}),
        ({"properties": {"patternProperties": {"$ref": "#/$defs/a0"}}, **doubling(40, {})}, 1),
        ({"enum": [str(n) for n in range(20_000)]}, [str(-n) for n in range(20_000)]),
        ({"uniqueItems": True}, [[n] for n in range(100_000)]),
        ({"allOf": [TREE] * 500}, [[1] * 100] * 100),
        (looking(30, "unevaluatedProperties"), {"a": {"a": {}}}),
        (looking(30, "unevaluatedItems"), [[[]]]),
        (looking(9, "unevaluatedProperties"), {"a": {"a": {}}}),
    ],
    ids=range(17),
)
def test_no_schema_takes_long(schema, value):
    length = len(json.dumps(value))
    began = time.perf_counter()
    said(schema, value, length)
    assert time.perf_counter() - began < 5


def test_what_is_too_much_work_is_not_checked():
    items = {"items": {"type": "integer"}}
    assert said(items, [1], int(schemas.MOST_WORK / 3)) is True  # nodes: one, and these two
    assert said(items, [1], int(schemas.MOST_WORK / 3) + 1) is None
    assert said(TREE, [1], int(schemas.MOST_WORK / 3)) is True
    twice = {"properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}}
    assert said(twice, {}, int(schemas.MOST_WORK / 10)) is True  # five, recursing twice
    assert said(twice, {}, int(schemas.MOST_WORK / 10) + 1) is None
    closed = {"unevaluatedProperties": False}
    assert said(closed, {}, int(schemas.MOST_WORK / 8)) is True  # two, looked at four times
    assert said(closed, {}, int(schemas.MOST_WORK / 8) + 1) is None


def test_a_schema_that_is_just_not_too_much_is_compiled(monkeypatch):
    monkeypatch.setattr(schemas, "MOST_WORK", 3)
    assert said({"items": {"type": "boolean"}}, [True], 1) is True


def test_the_bounds_are_these():
    """Whoever moves one has measured what it costs."""
    assert (schemas.KEPT, schemas.MOST_SCHEMA) == (64, 262_144)
    assert (schemas.MOST_NODES, schemas.MOST_NESTING, schemas.MOST_DEPTH) == (10_000, 200, 100)
    assert schemas.MOST_WORK == 50_000_000


@pytest.mark.parametrize("more", [0, 1])
def test_a_schema_has_only_so_many_characters(more):
    text = '{"type": "object"}'
    text += " " * (schemas.MOST_SCHEMA - len(text) + more)
    assert schemas.is_valid(text, {}, 2) is (None if more else True)


@pytest.mark.parametrize(("times", "is_checked"), [(20, True), (30, False)])
def test_a_pattern_that_is_short_and_large_is_not_compiled(times, is_checked):
    """Each letter of Unicode is many states, which nobody sees before it is compiled."""
    assert (said({"pattern": rf"^\p{{L}}{{{times}}}$"}, "a") is not None) is is_checked


@pytest.mark.parametrize(
    ("pattern", "states"),
    [("abcd", 1), ("a{8}", 3), ("a{1,8}b{8}", 6), ("(a{20}){20}x", 103), ("a{8,}", 3), ("a{x}", 1)],
)
def test_repetitions_are_states_of_a_pattern(pattern, states):
    assert schemas._states(pattern) == states


@pytest.mark.parametrize("more", [0, 1])
def test_subschemas_are_counted_and_bounded(more, monkeypatch):
    monkeypatch.setattr(schemas, "MOST_NODES", 9)
    assert said({"allOf": [{}] * (7 + more)}, 1) is (None if more else True)
    assert said({"enum": [1] * (63 + 8 * more)}, 1) is (None if more else True)
    pattern = "a" * (31 + more)
    assert said({"pattern": pattern}, 1) is (None if more else True)
    assert said({"patternProperties": {"a" * (27 + more): True}}, 1) is (None if more else True)


def test_a_reference_to_an_anchor_is_not_taken_for_a_place_that_is_named_nearly_so():
    anchored = {"$defs": {"x": {"$anchor": "foo"}}}
    assert said({"$ref": "#foo", "oo": {}, **anchored}, 1) is None


@pytest.mark.parametrize("name", ["$defs", "definitions"])
def test_a_property_may_be_named_as_definitions_are_and_counts(name, monkeypatch):
    monkeypatch.setattr(schemas, "MOST_NODES", 9)
    many = {"allOf": [{}] * 8}
    assert said({"properties": {name: many}}, {}) is None
    assert said({name: {"a": many}}, {}) is True, "of definitions only what is referred to"


@pytest.mark.parametrize("more", [0, 1])
def test_nesting_is_bounded(more):
    levels = schemas.MOST_NESTING // 2 - 1 + more  # each is a definition, and the reference in it
    chain = {f"a{n}": {"not": {"$ref": f"#/$defs/a{n + 1}"}} for n in range(levels)}
    schema = {"$ref": "#/$defs/a0", "$defs": {**chain, f"a{levels}": {}}}
    assert (said(schema, 1) is None) is bool(more)


def test_what_stands_beside_one_another_is_no_nesting():
    assert said({"allOf": [{}] * (schemas.MOST_NESTING + 1)}, 1) is True


@pytest.mark.parametrize("more", [0, 1])
def test_depth_is_bounded(more):
    assert said(TREE, nested(schemas.MOST_DEPTH + more)) is (None if more else True)
    within = {"a": nested(schemas.MOST_DEPTH - 1 + more)}
    assert said(TREE, within) is (None if more else True)


def test_the_deepest_values_do_no_harm():
    assert said(TREE, nested(100_000)) is None
    most = doubling(7, {"items": {"$ref": "#/$defs/a0"}}, "oneOf")
    assert said(most, nested(schemas.MOST_DEPTH)) is not None


def test_what_is_always_too_much_is_not_compiled(monkeypatch):
    compiled = []
    monkeypatch.setattr(jsonschema_rs, "validator_for", lambda *_, **__: compiled.append(1))
    assert said(looking(90, "unevaluatedItems"), 1) is None
    assert compiled == []


class PanicException(BaseException):
    """As the one that no module exports."""


@pytest.mark.parametrize("error", [PanicException, MemoryError, KeyboardInterrupt, SystemExit])
def test_a_panic_of_the_engine_is_no_check_and_what_ends_the_process_goes_on(error, monkeypatch):
    def fail(*args, **kwargs):
        raise error

    class Broken:
        is_valid = staticmethod(fail)

    for replaced in (lambda *args, **kwargs: Broken(), fail):
        schemas._compiled.cache_clear()
        monkeypatch.setattr(jsonschema_rs, "validator_for", replaced)
        if error in (PanicException, MemoryError):
            assert said({}, 1) is None
        else:
            with pytest.raises(error):
                said({}, 1)


def test_a_schema_is_compiled_once_and_few_are_kept(monkeypatch):
    compiled = []
    real = jsonschema_rs.validator_for

    def counted(schema, **options):
        compiled.append((schema, options))
        return real(schema, **options)

    monkeypatch.setattr(jsonschema_rs, "validator_for", counted)
    for number in (1, 1, 2, 1):
        said({"const": number}, 1)
    assert len(compiled) == 2
    for number in range(schemas.KEPT * 2):
        said({"const": number}, 1)
    assert schemas._compiled.cache_info().currsize == schemas.KEPT
    for broken in ("{", "{"):
        said(broken, 1)
    assert schemas._compiled.cache_info().hits >= 3
    with pytest.raises(LookupError, match="http://there"):
        compiled[0][1]["retriever"]("http://there")
    assert compiled[0][1]["pattern_options"] is schemas.PATTERNS
