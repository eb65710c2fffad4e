"""A batch's units, and which of its lines they are to answer."""

from __future__ import annotations

import msgspec
import pytest
from harness.records import slice_unit

from tasks.records.batches import (
    COUNTED_MODEL,
    LineResult,
    Part,
    SliceRange,
    is_batch,
    is_unit,
    is_unit_of,
    phase_unit_id,
    slice_unit_id,
    split_unit_id,
    unanswered,
)

UNITS = [
    phase_unit_id("batch_1", "join"),
    slice_unit_id("batch_1", 7),
    split_unit_id("batch_1", 7, "token"),
]


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_known_by_its_name_and_by_its_batch(unit):
    assert is_unit(unit)
    assert not is_batch(unit)
    assert is_unit_of(unit, "batch_1")
    assert not is_unit_of(unit, "batch_12")
    assert not is_unit_of(unit.replace("batch_1", "batch_12"), "batch_1")


@pytest.mark.parametrize(
    ("name", "unit", "batch"),
    [("job_1", False, False), ("batch_1", False, True), ("file-1", False, False)],
)
def test_other_names_are_no_units(name, unit, batch):
    assert (is_unit(name), is_batch(name), is_unit_of(name, "batch_1")) == (unit, batch, False)


def test_the_names_of_units_tell_them_apart():
    assert UNITS == ["unit_batch_1_join", "unit_batch_1_7", "unit_batch_1_7_token"]


@pytest.mark.parametrize(
    ("record", "text"), [(SliceRange(5, 70, 3, 2), "5:70:3:2"), (Part(7, 0, 12), "7:0:12")]
)
def test_what_is_written_down_can_be_read_again(record, text):
    assert str(record) == text
    assert type(record).parse(text) == record


ME, OTHER = "unit_batch_1_0_me", "unit_batch_1_0_other"


@pytest.mark.parametrize(
    ("fields", "lines"),
    [
        ({}, [0, 1, 2]),
        ({"results": {0: b"o"}}, [1, 2]),
        ({"moved_to": {0: OTHER}}, [1, 2]),
        ({"id": ME, "lines": (0, 2), "moved_to": {0: ME, 2: ME}}, [0, 2]),
        ({"id": ME, "lines": (0, 2), "moved_to": {0: ME, 2: OTHER}}, [0]),
        ({"id": ME, "lines": (0, 2), "moved_to": {0: ME, 2: ME}, "results": {2: b"o"}}, [0]),
        ({"results": {0: b"o", 1: b"e"}, "moved_to": {2: OTHER}}, []),
    ],
)
def test_a_units_lines_are_open_until_they_have_a_result_or_leave(fields, lines):
    unit = slice_unit(range=SliceRange(0, 1, 3, 1), **fields)
    assert unit.open_lines == lines


@pytest.mark.parametrize(("results", "complete"), [(2, False), (3, True)])
def test_a_slice_is_complete_when_every_line_has_a_result(results, complete):
    unit = slice_unit(range=SliceRange(0, 1, 3, 1), results=set(range(results)))
    assert unit.complete is complete


def test_a_stored_line_says_of_which_file_it_is():
    assert LineResult(line=0, good=True, content=b"x", counted_as="gpu:succeeded").stored == b"ox"
    assert unanswered(0, b"x").stored == b"ex"
    assert unanswered(0, b"x").counted_as == "-:failed"


def test_a_line_is_counted_by_who_answered_it_under_a_name_of_some_length():
    line = LineResult(line=0, good=True, content=b"x", counted_as="gpu:succeeded")
    assert (line.answered_by, unanswered(0, b"x").answered_by) == ("", "")
    named = msgspec.structs.replace(line, model="m" * 1000)
    assert named.answered_by == "gpu:" + "m" * COUNTED_MODEL
