"""Files of results: whole, or not there."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class OutputError(Exception):
    """Results could not be written; the message says how to get them."""


@contextlib.contextmanager
def writing(output: Path, how_to_get: str) -> Iterator[BinaryIO]:
    """Yield a file for results, which takes its name when all is written; raises OutputError."""
    try:
        whole = _resolved(output)
        special = whole.exists() and not whole.is_file()  # a device, a pipe
        place = whole if special else whole.with_name(f".{whole.name[:200]}.{os.getpid()}")
        try:
            with place.open("wb") as target:
                yield target
            if not special:
                place.replace(whole)
        finally:
            if not special:
                place.unlink(missing_ok=True)
    except OSError as error:
        message = f"cannot write the results to {output}: {error.strerror}; {how_to_get}"
        raise OutputError(message) from None


def _resolved(output: Path) -> Path:
    """Return what a link leads to; raises OSError."""
    try:
        return output.resolve()
    except RuntimeError:  # of Python before 3.13, for a link that leads to itself
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None


def free_name(wanted: Path) -> Path:
    """Return a name that no file has yet: the wanted one, or one with a number."""
    number, name = 1, wanted
    while name.exists():
        number += 1
        name = wanted.with_name(f"{wanted.stem}-{number}{wanted.suffix}")
    return name
