"""API keys: random, shown once, kept as hashes in a file or given in the environment.

The file is JSON: {"keys": [{"id", "owner", "hash", "admin", "created_at"}]}. A key is 256 random
bits, so a plain SHA-256 of it tells nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec

from tasks.errors import SettingsError
from tasks.hosts import is_loopback
from tasks.setting_kinds import fault_of_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tasks.settings import Settings

PREFIX = "ft-"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
LONGEST_SHOWN = 200  # characters of a path that an error repeats
SHORTEST = 16  # characters of a key from the environment

log = logging.getLogger(__name__)


class Key(msgspec.Struct, frozen=True):
    """A key that is known; owner: its name space."""

    id: str
    owner: Annotated[str, msgspec.Meta(pattern=f"^{NAME.pattern}$")]
    hash: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
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


class _Entry(NamedTuple):
    owner: str
    secret: str
    admin: bool


def _entries(text: str) -> Iterator[_Entry]:
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
        # Of anything else no client could send a header that says the same.
        if fault := fault_of_key(secret):
            message = f"FALLTHROUGH_API_KEYS: entry {number}: {fault}"
            raise SettingsError(message)
        yield _Entry(owner, secret, admin)


def read_file(path: Path) -> list[Key]:
    """Return the keys of a file; none if it is not there."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=_File).keys
    except FileNotFoundError:
        return []
    except (OSError, ValueError, RecursionError) as error:  # msgspec's own are ValueErrors
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> SettingsError:
    reason = error.strerror if isinstance(error, OSError) else None
    reason = reason or "it is no file of keys as `fallthrough keys create` writes it"
    message = f"FALLTHROUGH_KEYS_FILE: {str(path)[:LONGEST_SHOWN]} cannot be read: {reason}"
    return SettingsError(message)


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
    path = Path(os.path.realpath(path))  # a link goes on leading to the file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f"{path.name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            keys = _File(change(read_file(path)))
            _replace(path, msgspec.json.format(msgspec.json.encode(keys)) + b"\n")
    except OSError as error:
        message = f"{str(path)[:LONGEST_SHOWN]} cannot be written: {error.strerror or error}"
        raise SettingsError(message) from None


def _replace(path: Path, content: bytes) -> None:
    """Put content in a file's place: whoever could read it still can, nobody else."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            if path.exists():
                was = path.stat()
                os.fchown(file.fileno(), was.st_uid, was.st_gid)
                os.fchmod(file.fileno(), stat.S_IMODE(was.st_mode))
            file.write(content)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


class KeyRing:
    """The keys that are valid now: a change of the file counts within a second.

    Raises SettingsError only while it is made. A file that cannot be read later is told in the
    log, and leaves the keys as they are; one that is gone leaves none.
    """

    def __init__(self, environment: str, path: Path | None) -> None:
        self._fixed = parse_environment(environment)
        self._path = path
        self._read: list[Key] = []
        self._seen: tuple[int, ...] | None = None
        self._look_at = 0.0
        self._complaint = ""  # what was told last: told once, though it is tried every second
        if path is not None:
            self._look(path)

    def __bool__(self) -> bool:
        return bool(self._keys())

    def _keys(self) -> list[Key]:
        if self._path is not None and time.monotonic() >= self._look_at:
            complaint = ""
            try:
                self._look(self._path)
            except SettingsError as error:
                complaint = str(error)
            if complaint and complaint != self._complaint:
                log.error("%s; the keys that were read before stay valid", complaint)
            self._complaint = complaint
        return [*self._fixed, *self._read]

    def _look(self, path: Path) -> None:
        self._look_at = time.monotonic() + 1.0
        try:
            now = path.stat()
            seen = (now.st_mtime_ns, now.st_ino, now.st_size)
        except FileNotFoundError:
            seen = None
        except OSError as error:
            raise _unreadable(path, error) from None
        if seen != self._seen:
            self._read, self._seen = read_file(path), seen

    def find(self, secret: str) -> Key | None:
        """Return the key with this secret; takes as long for a near miss as for any other."""
        digest, found = hashed(secret), None
        for key in self._keys():
            if hmac.compare_digest(key.hash, digest):
                found = key
        return found


def key_ring(settings: Settings) -> KeyRing:
    """Return the keys that the settings name; raises SettingsError."""
    path = Path(settings.keys_file) if settings.keys_file else None
    return KeyRing(settings.api_keys, path)


def check_exposure(settings: Settings, keys: KeyRing | None = None) -> None:
    """Raise SettingsError for a server that anybody on the network could use."""
    keys = key_ring(settings) if keys is None else keys
    if keys or settings.allow_no_keys or is_loopback(settings.host):
        return
    # No server looks into a file that it is not told of, though the command made one.
    named = "" if settings.keys_file else " and name its file in FALLTHROUGH_KEYS_FILE"
    message = (
        f"FALLTHROUGH_HOST: {settings.host} is reachable from elsewhere and there are no API keys: "
        f"make one with `fallthrough keys create NAME`{named}, or set FALLTHROUGH_ALLOW_NO_KEYS=1"
    )
    raise SettingsError(message)
