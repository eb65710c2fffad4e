"""API keys: random, shown once, kept as hashes in a file or given in the environment.

The file is JSON: {"keys": [{"id", "owner", "hash", "admin", "created_at"}]}. A key is 256 random
bits, so a plain SHA-256 of it tells nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import re
import secrets
import time
from typing import TYPE_CHECKING

import msgspec

from tasks.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PREFIX = "ft-"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SHORTEST = 16  # characters of a key from the environment


class Key(msgspec.Struct, frozen=True):
    """A key that is known; owner: its name space."""

    id: str
    owner: str
    hash: str
    admin: bool = False
    created_at: int = 0


class _File(msgspec.Struct):
    keys: list[Key]


def hashed(secret: str) -> str:
    """Return what is kept of a key."""
    return hashlib.sha256(secret.encode()).hexdigest()


def parse_environment(text: str) -> list[Key]:
    """Read FALLTHROUGH_API_KEYS: owner=key, comma-separated; "owner!=key" for an admin's."""
    return [
        Key(f"env-{number}", owner, hashed(secret), admin)
        for number, (owner, secret, admin) in enumerate(_entries(text), 1)
    ]


def admins(text: str) -> list[str]:
    """Return "owner:key" of the admins in FALLTHROUGH_API_KEYS, for basic authentication."""
    return [f"{owner}:{secret}" for owner, secret, admin in _entries(text) if admin]


def _entries(text: str) -> Iterator[tuple[str, str, bool]]:
    for number, entry in enumerate(filter(None, (e.strip() for e in text.split(","))), 1):
        owner, equals, secret = entry.partition("=")
        admin = owner.endswith("!")
        owner = owner.removesuffix("!")
        if not equals or not NAME.fullmatch(owner) or len(secret) < SHORTEST:
            message = (
                f"FALLTHROUGH_API_KEYS: entry {number} is not owner=key with a key of at least "
                f"{SHORTEST} characters (owner!=key for an admin)"
            )
            raise SettingsError(message)
        yield owner, secret, admin


def read_file(path: Path) -> list[Key]:
    """Return the keys of a file; none if it is not there."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=_File).keys
    except FileNotFoundError:
        return []
    except (OSError, msgspec.DecodeError) as error:
        message = f"FALLTHROUGH_KEYS_FILE: {path} cannot be read: {error}"
        raise SettingsError(message) from None


def create(path: Path, owner: str, *, admin: bool) -> tuple[Key, str]:
    """Add a key to a file; return it, and the secret that is shown this once."""
    if not NAME.fullmatch(owner):
        message = f"{owner!r} is no name: letters, digits, dot, dash, underscore; up to 64"
        raise SettingsError(message)
    secret = PREFIX + secrets.token_urlsafe(32)
    key = Key(secrets.token_hex(4), owner, hashed(secret), admin, int(time.time()))
    _change(path, lambda keys: [*keys, key])
    return key, secret


def revoke(path: Path, key_id: str) -> None:
    """Take a key out of a file."""
    if all(key.id != key_id for key in read_file(path)):
        message = f"no key {key_id!r} in {path}"
        raise SettingsError(message)
    _change(path, lambda keys: [key for key in keys if key.id != key_id])


def _change(path: Path, change: Callable[[list[Key]], list[Key]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        content = msgspec.json.format(msgspec.json.encode(_File(change(read_file(path)))))
        fresh = path.with_suffix(".new")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content + b"\n")
        fresh.replace(path)


class KeyRing:
    """The keys that are valid now: a change of the file counts within a second."""

    def __init__(self, environment: str, path: Path | None) -> None:
        self._fixed = parse_environment(environment)
        self._path = path
        self._read: list[Key] = []
        self._seen: float | None = None
        self._look_at = 0.0

    def __bool__(self) -> bool:
        return bool(self._keys())

    def _keys(self) -> list[Key]:
        if self._path is not None and time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + 1.0
            seen = self._path.stat().st_mtime if self._path.exists() else None
            if seen != self._seen:
                self._read, self._seen = read_file(self._path), seen
        return [*self._fixed, *self._read]

    def find(self, secret: str) -> Key | None:
        """Return the key with this secret; takes as long for a near miss as for any other."""
        asked, found = hashed(secret), None
        for key in self._keys():
            if hmac.compare_digest(key.hash, asked):
                found = key
        return found
