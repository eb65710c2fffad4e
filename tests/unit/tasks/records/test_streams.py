"""The entries of a stream's log."""

from __future__ import annotations

import pytest

from tasks.records.streams import Entry

FIRST = Entry(2, (b'[{"index":0}]', b'[{"index":1}]'), b'{"id":"x"', "gpu")
LAST = Entry(4, (b'[{"index":0}]',), usage=b'{"choices":[]}', ends=True)


@pytest.mark.parametrize("entry", [FIRST, LAST, Entry(1, (b"[]",)), Entry(3, (), ends=True)])
def test_an_entry_is_read_as_it_was_written(entry):
    read = Entry.of(entry.encoded())
    assert read._replace(choices=tuple(read.choices)) == entry


def test_an_entry_knows_which_of_the_chunks_it_has():
    assert (FIRST.first, LAST.first) == (0, 2)


def test_each_chunk_has_what_all_have():
    assert list(FIRST.frames(FIRST.head)) == [
        b'{"id":"x","choices":[{"index":0}]}',
        b'{"id":"x","choices":[{"index":1}]}',
    ]
    assert list(LAST.frames(b"{")) == [b'{,"choices":[{"index":0}]}', b'{"choices":[]}']
