"""A Redis hash, read field by field."""

from __future__ import annotations

import msgspec
import pytest

from tasks.store.fields import Fields

FIELDS = Fields(
    {
        b"name": "Zo\u00eb".encode(),
        b"count": b"7",
        b"created_ms": b"1500",
        b"age": b"0.5",
        b"json": b'{"a": [1]}',
        b"empty": b"",
        b"by:gpu:succeeded": b"3",
        b"by:cpu:failed": b"1",
        b"bystander": b"9",
    }
)


@pytest.mark.parametrize(
    ("read", "name", "value", "default"),
    [
        (Fields.text, "name", "Zo\u00eb", ""),
        (Fields.number, "count", 7, 0),
        (Fields.seconds, "created_ms", 1.5, None),
        (Fields.real, "age", 0.5, None),
        (Fields.raw, "json", msgspec.Raw(b'{"a": [1]}'), None),
        (Fields.json, "json", {"a": [1]}, None),
    ],
)
def test_a_field_is_read_as_what_it_is_and_a_missing_or_empty_one_is_the_default(
    read, name, value, default
):
    assert read(FIELDS, name) == value
    assert read(FIELDS, "missing") == read(FIELDS, "empty") == default


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_json_may_have_a_default_of_its_own(name):
    assert FIELDS.json(name, {}) == {}


def test_zero_is_a_number_and_not_missing():
    fields = Fields({b"ms": b"0", b"real": b"0"})
    assert (fields.seconds("ms"), fields.real("real"), fields.number("ms")) == (0.0, 0.0, 0)


def test_counters_are_named_by_what_follows_their_prefix():
    assert FIELDS.counts("by:") == {"gpu:succeeded": 3, "cpu:failed": 1}
    assert FIELDS.counts("nothing:") == {}
