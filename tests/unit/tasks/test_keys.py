"""The keys file, and the keys from the environment."""

from __future__ import annotations

import itertools
import os
from types import SimpleNamespace

import pytest

from tasks.errors import SettingsError
from tasks.keys import KeyRing, check_exposure, create, parse_environment, read_file, revoke
from tasks.settings import Settings

LETTERS = "0123456789abcdef"


@pytest.fixture
def ring(tmp_path, monkeypatch):
    """A key ring that looks at its file every time."""
    seconds = itertools.count(1000, 10)
    clock = SimpleNamespace(monotonic=lambda: next(seconds), time=lambda: 0.0)
    monkeypatch.setattr("tasks.keys.time", clock)
    return KeyRing("", tmp_path / "keys.json")


@pytest.mark.parametrize(
    "secret",
    [
        *(f"{LETTERS}é", f"{LETTERS}\udcff", f" {LETTERS}"),
        *(f"{LETTERS[:8]}\t{LETTERS[8:]}", f"{LETTERS} x", f"{LETTERS}\n{LETTERS}"),
    ],
)
def test_a_key_that_no_request_can_carry_is_refused(secret):
    with pytest.raises(SettingsError, match="entry 2: it has characters"):
        parse_environment(f"ann={LETTERS},bob={secret}")


def test_blanks_around_an_entry_are_no_part_of_its_key():
    keys = parse_environment(f"ann={LETTERS} , bob={LETTERS}\n")
    assert [key.hash for key in keys] == [parse_environment(f"x={LETTERS}")[0].hash] * 2


@pytest.mark.parametrize(
    "content",
    [
        b"{broken",
        b"\xff",
        b"[" * 100_000,
        '{"keys": [{"id": "1", "owner": "ann", "hash": "é"}]}'.encode(),
        b'{"keys": [{"id": "1", "owner": "ann:x", "hash": "%s"}]}' % (b"0" * 64),
    ],
)
def test_a_file_that_holds_no_keys_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "keys.json").write_bytes(content)
    with pytest.raises(SettingsError, match=r"^FALLTHROUGH_KEYS_FILE: .* cannot be read"):
        KeyRing("", tmp_path / "keys.json")


def test_a_file_that_cannot_be_read_any_more_is_told_once_and_changes_nothing(ring, caplog):
    path = ring._path
    _, secret = create(path, "ann", admin=False)
    assert ring.find(secret)
    path.rename(path.with_suffix(".away"))
    path.mkdir()
    assert ring.find(secret)
    assert ring.find(secret)
    assert len(caplog.records) == 1
    path.rmdir()
    assert ring.find(secret) is None
    path.write_text("{broken")
    assert ring.find(secret) is None
    assert len(caplog.records) == 2


def test_a_change_keeps_the_links_the_owner_and_the_mode_of_the_file(tmp_path):
    file, link = tmp_path / "there" / "real.json", tmp_path / "keys.json"
    link.symlink_to(file)
    key, _ = create(link, "ann", admin=False)
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o640)
    owner = 65534 if os.geteuid() == 0 else os.geteuid()
    os.chown(file, owner, owner if os.geteuid() == 0 else -1)
    create(link, "bob", admin=False)
    revoke(link, key.id)
    assert link.is_symlink()
    assert [key.owner for key in read_file(file)] == ["bob"]
    now = file.stat()
    assert (now.st_uid, now.st_mode & 0o777) == (owner, 0o640)


def test_a_keys_file_that_is_named_like_a_lock_keeps_its_keys(tmp_path):
    for owner in ("ann", "bob"):
        create(tmp_path / "keys.lock", owner, admin=False)
    assert [key.owner for key in read_file(tmp_path / "keys.lock")] == ["ann", "bob"]


def test_a_file_that_cannot_be_written_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="cannot be written"):
        create(tmp_path / "file" / "keys.json", "ann", admin=False)


@pytest.mark.parametrize("file", ["", "keys.json"])
def test_a_server_without_keys_is_told_how_it_gets_one_all_the_way(tmp_path, file):
    path = str(tmp_path / file) if file else ""
    with pytest.raises(SettingsError, match="keys create NAME") as error:
        check_exposure(Settings(host="0.0.0.0", keys_file=path))  # noqa: S104
    # Without the file's name the key that was made is not found, and the same is said again.
    assert ("FALLTHROUGH_KEYS_FILE" in str(error.value)) is not bool(file)
