"""What a file is. No I/O."""

from __future__ import annotations

import os

import msgspec

FILE_SECONDS = 30 * 86_400  # how long files are kept


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
    """A file to be kept for so many seconds."""

    id: str
    owner: str
    filename: str
    purpose: str
    seconds: int


def new_file_id() -> str:
    """Return an id that cannot be guessed."""
    return f"file-{os.urandom(12).hex()}"
