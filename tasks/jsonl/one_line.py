"""A line of JSON that is one line to every reader. Pure."""

from __future__ import annotations


def one_line(line: bytes) -> bytes:
    """Return a line of JSON of which any reader makes one line.

    JSON lets stand in a text what Python's splitlines (the SDK's readers too) breaks at.
    """
    if line.isascii():
        return line
    if b"\xe2\x80" in line:
        line = line.replace(b"\xe2\x80\xa8", rb"\u2028").replace(b"\xe2\x80\xa9", rb"\u2029")
    return line.replace(b"\xc2\x85", rb"\u0085") if b"\xc2\x85" in line else line
