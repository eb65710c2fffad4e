"""What bytes are that were taken for a text in UTF-8, and are none. Pure."""

from __future__ import annotations

NUL = b"\0"
ZIP = "it is a zip archive, as .xlsx and .docx are"
OLD_OFFICE = "it is an old Excel or Word file"
PDF = "it is a PDF"
PARQUET = "it is Parquet"
SQLITE = "it is an SQLite database"
# What it begins with, and what it is.
_MAGICS = (
    (b"\xff\xfe\0\0", "it is UTF-32, not UTF-8; convert it first: iconv -f UTF-32 -t UTF-8"),
    (b"\xff\xfe", "it is UTF-16, not UTF-8; convert it first: iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "it is UTF-16, not UTF-8; convert it first: iconv -f UTF-16 -t UTF-8"),
    (b"\x1f\x8b", "it is compressed; unpack it first: gunzip"),
    (b"BZh", "it is compressed; unpack it first: bunzip2"),
    (b"\xfd7zXZ", "it is compressed; unpack it first: unxz"),
    (b"\x28\xb5\x2f\xfd", "it is compressed; unpack it first: unzstd"),
    (b"PK", ZIP),
    (b"\xd0\xcf\x11\xe0", OLD_OFFICE),
    (b"%PDF", PDF),
    (b"PAR1", PARQUET),
    (b"SQLite format 3", SQLITE),
)


def is_wide(line: bytes) -> bool:
    """Whether it reads as letters and NULs, as UTF-16 does without its mark."""
    return line.count(NUL) * 4 > len(line)


def what_it_is(head: bytes, line: bytes) -> str:
    """Return what it is, and what to do; "": something that is not known here.

    head: its first line, if that is known; line: that which is no text in UTF-8.
    """
    for magic, what in _MAGICS:
        if head.startswith(magic):
            return what
    if is_wide(line):
        what = "it has NULs, as UTF-16 has; convert it"
        if line.startswith(NUL) and not head:  # or the last half of a line's end before it
            return f"{what} to UTF-8 first"
        order = "BE" if line.startswith(NUL) else "LE"
        return f"{what} first: iconv -f UTF-16{order} -t UTF-8"
    return ""
