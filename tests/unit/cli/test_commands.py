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


def every_command(group, *path):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from every_command(command, *path, name)
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield " ".join((*path, name)), command


# What prints nothing to be read by a program, and why.
NO_JSON = {
    "demo": "it is shown to a person",
    "files download": "it prints the file as it is",
}


@pytest.mark.parametrize(("path", "command"), list(every_command(main)), ids=str)
def test_whatever_is_printed_can_be_had_as_json(path, command):
    options = {name for parameter in command.params for name in parameter.opts}
    assert ("--json" in options) is (path not in NO_JSON)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "fallthrough up  "),
        (["statsu"], "Did you mean 'status'?"),
        (["jobs", "lst"], "Did you mean 'list'?"),
        (["batch", "retyr"], "Did you mean 'retry'?"),
        (["breakers", "rest"], "Did you mean 'reset'?"),
        (["submit"], "Missing argument 'SOURCE'"),
        (["submit", "x", "--tempeature", "1"], "Did you mean '--temperature'?"),
        (["submit", "x", "--temperature"], "Option '--temperature' requires an argument"),
        (["submit", "x", "--temperature", "hot"], "'hot' is not a valid float"),
        (["submit", "x", "--max-tokens", "0"], "0 is not in the range x>=1"),
        (["submit", "x", "--cache", "maybe"], "'maybe' is not one of 'fallback', 'first', 'off'"),
        (["submit", "x", "y"], "Got unexpected extra argument (y)"),
    ],
)
def test_what_is_mistyped_is_told_with_what_was_meant(words, said):
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2
    assert said in done.stderr
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    "words",
    [["status"], ["cancel"], ["batch", "status"], ["batch", "cancel"], ["files", "download"]],
)
def test_an_empty_id_is_told_as_one(words):
    """As "$batch" is where a shell has no such variable."""
    done = CliRunner().invoke(main, [*words, ""])
    assert (done.exit_code, done.stderr) == (2, "fallthrough: the id or name is empty\n")
