"""What people read: nothing that a model, a server or a file says can steer their terminal."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
from typing import TYPE_CHECKING, TextIO

import click
from rich.cells import cell_len

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# All of C0 but the tab and the end of a line, and all of C1: with any of them a sequence begins.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class UntoldError(Exception):
    """A line could not be printed; the message says what becomes of what it told."""


def shown(text: str) -> str:
    """Return a text whose control characters are to be seen, and do nothing."""
    ends = text.replace("\r\n", "\n")
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", ends)


def echo(text: str, *, err: bool = False) -> None:
    """Print a line. What goes to a file or a pipe stays as it is."""
    try:
        click.echo(shown(text) if is_terminal(sys.stderr if err else sys.stdout) else text, err=err)
    except OSError as error:
        if not err or error.errno == errno.EPIPE:
            raise  # else: nobody is told that nobody can be told


def echo_error(text: str) -> None:
    """Print a line on standard error."""
    echo(text, err=True)


def echo_once(text: str, otherwise: str) -> None:
    """Print what cannot be asked for again; raises UntoldError, with what becomes of it."""
    try:
        echo(text)
    except OSError as error:
        message = f"standard output cannot be written: {error.strerror}; {otherwise}"
        raise UntoldError(message) from None


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person reads a stream; None: it was closed before we began."""
    return stream is not None and stream.isatty()


def drop_unwritten() -> None:
    """Drop what could not be written: Python would try again as it ends, and change the status."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Speech:
    """A text that comes to a terminal in pieces, on standard output."""

    def __init__(self) -> None:
        self._said: list[str] = []
        self._held = ""  # it may be the half of a line's end

    @property
    def text(self) -> str:
        """All that was to be said so far."""
        return "".join(self._said)

    def say(self, text: str) -> None:
        """Write what comes next."""
        self._said.append(text)
        text = self._held + text
        self._held = "\r" if text.endswith("\r") else ""
        click.echo(shown(text.removesuffix(self._held)), nl=False)

    def end(self) -> None:
        """End the line, if anything was said."""
        if self._said:
            click.echo(shown(self._held))


def aligned(rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a line for each row, its cells under one another; the first row is the head.

    No cell is cut: a terminal that is too narrow breaks the line.
    """
    rows = list(rows)
    widths = [max(cell_len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]


def speak_any_locale() -> None:
    """Have what a locale cannot write replaced, so that no command breaks off at it."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a test's is another
            stream.reconfigure(errors="replace")
