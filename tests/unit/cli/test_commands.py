"""The commands' group and what they share; no API is asked."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from cli.client import ApiFailedError
from cli.commands.options import check_writable
from cli.main import Fallthrough, main
from cli.prompts import InputError
from cli.stack.embedded import FolderError
from cli.stack.ports import PortTakenError
from cli.stack.supervisor import StartError
from tasks.errors import SettingsError


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ApiFailedError("no job"), "fallthrough: no job\n"),
        (InputError("line 2"), "fallthrough: line 2\n"),
        (SettingsError("no number"), "fallthrough: no number\n"),
        (PortTakenError("port 1"), "fallthrough: port 1\n"),
        (FolderError("here"), "fallthrough: here\n"),
        (StartError("api ended"), "fallthrough: the stack did not start: api ended\n"),
    ],
)
def test_what_is_the_users_to_mend_is_one_line_and_exit_status_2(error, line):
    @click.group(cls=Fallthrough)
    def group() -> None:
        pass

    @group.command()
    def fail() -> None:
        raise error

    result = CliRunner().invoke(group, ["fail"])
    assert (result.exit_code, result.stderr) == (2, line)


@pytest.mark.parametrize(
    ("command", "choice"),
    [
        (["submit"], "[degraded|wait|fail]"),
        (["submit"], "[fallback|first|off]"),
        (["batch", "run"], "[wait|degraded|fail]"),
    ],
)
def test_the_default_policy_is_the_first_choice(command, choice):
    assert choice in CliRunner().invoke(main, [*command, "--help"]).output


def test_an_output_that_can_be_written_stays_as_it_was(tmp_path):
    old, new = tmp_path / "old.jsonl", tmp_path / "new.jsonl"
    old.write_text("precious\n")
    check_writable(old)
    check_writable(new)
    assert old.read_text() == "precious\n"
    assert not new.exists()


def test_an_output_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(InputError, match="cannot write"):
        check_writable(tmp_path / "nowhere" / "r.jsonl")
