"""What bytes are that are no text in UTF-8: each kind is called what it is."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
from io import BytesIO

import pytest

from tasks.foreign import is_wide, what_it_is

TEXT = '{"prompt": "Grün"}\n'


def zipped():
    content = BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a.txt", TEXT)
    return content.getvalue()


KINDS = {
    "UTF-16, marked": (TEXT.encode("utf-16"), "iconv -f UTF-16 -t UTF-8"),
    "UTF-16, the other way round": (b"\xfe\xff" + TEXT.encode("utf-16-be"), "iconv -f UTF-16 "),
    "UTF-16, unmarked": (TEXT.encode("utf-16-le"), "iconv -f UTF-16LE -t UTF-8"),
    "UTF-16, unmarked, the other way round": (TEXT.encode("utf-16-be"), "iconv -f UTF-16BE "),
    "UTF-32": (TEXT.encode("utf-32"), "iconv -f UTF-32 -t UTF-8"),
    "gzip": (gzip.compress(TEXT.encode(), mtime=0), "gunzip"),
    "bzip2": (bz2.compress(TEXT.encode()), "bunzip2"),
    "xz": (lzma.compress(TEXT.encode()), "unxz"),
    "zip": (zipped(), "a zip archive"),
    "latin-1": (TEXT.encode("latin-1"), ""),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_called_what_it_is(kind):
    content, said = KINDS[kind]
    found = what_it_is(content, content)
    assert said in found
    assert bool(found) is bool(said)


def test_of_a_line_that_is_not_the_first_nobody_knows_the_order():
    """What is cut at its newlines leaves half of each to the line behind it."""
    first, second, _ = ("é" + TEXT + TEXT).encode("utf-16-le").split(b"\n")
    assert "iconv -f UTF-16LE " in what_it_is(first, first)
    assert "convert it to UTF-8 first" in what_it_is(b"", second)
    assert "iconv -f UTF-16LE " in what_it_is(b"", second.removeprefix(b"\0"))


@pytest.mark.parametrize("text", ["", "x", '{"a": "\\u0000"}', "日本", "a\0bcdefgh"])
def test_a_text_is_not_wide(text):
    assert not is_wide(text.encode())
