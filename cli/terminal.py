"""What people read: nothing that a model, a server or a file says can steer their terminal."""

from __future__ import annotations

import re
import sys

import click

# All of C0 but the tab and the end of a line, and all of C1: with any of them a sequence begins.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def shown(text: str) -> str:
    """Return a text whose control characters are to be seen, and do nothing."""
    ends = text.replace("\r\n", "\n")
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", ends)


def echo(text: str, *, err: bool = False) -> None:
    """Print a line. What goes to a file or a pipe stays as it is."""
    stream = sys.stderr if err else sys.stdout
    click.echo(shown(text) if stream.isatty() else text, err=err)


def speak_any_locale() -> None:
    """Have what a locale cannot write replaced, so that no command breaks off at it."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a test's is another
            stream.reconfigure(errors="replace")
