"""Standard streams that are closed, or full: a line and status 2, and no secret that is lost."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from harness.commands import FALLTHROUGH, environ

from cli.commands import keys
from cli.main import Fallthrough, main
from cli.terminal import UntoldError, drop_unwritten, echo, echo_once, is_terminal
from tasks import keys as keyring


def through_a_shell(words, streams, tmp_path):
    """What is said by a command whose streams a shell has redirected."""
    return subprocess.run(
        ["/bin/sh", "-c", f'"$@" {streams}', "sh", *FALLTHROUGH, *words.split()],
        env=environ(FALLTHROUGH_KEYS_FILE=str(tmp_path / "keys.json")),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "streams", "said"),
    [
        ("batch -", "<&-", "cannot read standard input: it is closed"),
        ("submit -", "<&-", "cannot read standard input: it is closed"),
        ("breakers", ">&-", "standard output is closed"),
        ("keys create ann", ">&-", "standard output is closed"),
        ("up --help", ">&-", "standard output is closed"),
        ("config", ">/dev/full", "standard output cannot be written: No space left"),
        ("config --json", ">/dev/full", "standard output cannot be written: No space left"),
        ("keys list", ">/dev/full", "standard output cannot be written: No space left"),
        ("keys create ann", ">/dev/full", "of ann, which nobody has seen, is revoked again"),
        ("keys create ann --json", ">/dev/full", "which nobody has seen, is revoked again"),
        ("--help", ">/dev/full", "standard output cannot be written: No space left"),
        ("batch run --help", ">/dev/full", "standard output cannot be written: No space left"),
        ("--version", ">/dev/full", "standard output cannot be written: No space left"),
    ],
)
def test_it_is_told_in_one_line(words, streams, said, tmp_path):
    done = through_a_shell(words, streams, tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert done.stderr.startswith("fallthrough: ")
    assert said in done.stderr
    assert keyring.read_file(tmp_path / "keys.json") == []


@pytest.mark.parametrize("streams", ["2>&-", "2>/dev/full"])
@pytest.mark.parametrize("words", ["config", "keys create ann"])
def test_what_is_only_said_beside_it_may_be_lost(words, streams, tmp_path):
    done = through_a_shell(words, streams, tmp_path)
    assert (done.returncode, done.stderr, bool(done.stdout)) == (0, "", True)


@pytest.mark.parametrize(
    ("words", "streams"),
    [
        ("config", ">&- 2>&-"),
        ("config", ">/dev/full 2>/dev/full"),
        ("batch nowhere.txt", "2>&-"),
        ("batch nowhere.txt", "2>/dev/full"),
    ],
)
def test_where_nothing_can_be_said_the_status_says_it(words, streams, tmp_path):
    assert through_a_shell(words, streams, tmp_path).returncode == 2


def test_a_reader_that_has_gone_revokes_the_key_that_it_did_not_read(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    monkeypatch.setattr("cli.terminal.click.echo", broken)
    with pytest.raises(UntoldError, match=r"Broken pipe; key .* of ann"):
        keys.create_key.callback.__wrapped__(tmp_path / "k.json", "ann", admin=False, as_json=False)
    assert keyring.read_file(tmp_path / "k.json") == []


def test_a_key_that_was_shown_stays(tmp_path):
    path = str(tmp_path / "k.json")
    done = CliRunner().invoke(main, ["keys", "--file", path, "create", "ann", "--json"])
    [key] = keyring.read_file(Path(path))
    assert json.loads(done.stdout)["id"] == key.id


def test_another_fault_of_the_system_is_no_full_disk():
    @click.group(cls=Fallthrough)
    def group() -> None:
        pass

    @group.command()
    def fail() -> None:
        Path("/nowhere/x").read_bytes()

    assert isinstance(CliRunner().invoke(group, ["fail"]).exception, FileNotFoundError)


def test_a_full_stream_is_let_go(monkeypatch):
    with Path("/dev/full").open("w") as stream:  # whose end writes what is still to be written
        monkeypatch.setattr("sys.stdout", stream)
        with pytest.raises(UntoldError, match="No space left on device; it is lost"):
            echo_once("x", "it is lost")
        drop_unwritten()


def test_a_stream_that_is_closed_is_no_terminal(monkeypatch):
    assert not is_terminal(None)
    monkeypatch.setattr("sys.stderr", None)
    echo("x", err=True)
