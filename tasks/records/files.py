"""What a file is. No I/O."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class FileRecord(msgspec.Struct, frozen=True):
    """A file as its owner sees it; times are epoch seconds."""

    id: str
    owner: str
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str


class NewFile(msgspec.Struct, frozen=True):
    """A file to be kept for so many seconds. once: the keys that it has claimed."""

    id: str
    owner: str
    filename: str
    purpose: str
    seconds: int
    once: Sequence[str] = ()


def new_file_id() -> str:
    """Return an id that cannot be guessed."""
    return f"file-{os.urandom(12).hex()}"


FILE_SECONDS = 30 * 86_400  # how long files are kept
