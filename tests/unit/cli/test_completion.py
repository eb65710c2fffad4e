"""A shell completes what is typed, as `fallthrough --help` says it can be set up."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from harness.commands import environ

from cli.main import main

PROGRAMS = Path(sys.executable).parent

# What bash does when the Tab key is pressed: it calls the function that was registered, and shows
# what is in COMPREPLY then; without any it completes names of files.
PRESS_TAB = """
eval "$(_FALLTHROUGH_COMPLETE=bash_source fallthrough)"
compopt() { echo "compopt"; }
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
function=$(complete -p fallthrough | sed 's/.*-F \\([^ ]*\\).*/\\1/')
"$function" fallthrough
printf '%s\\n' "${COMPREPLY[@]}"
"""


def completed(folder, *words):
    """What bash offers for the last of these words."""
    done = subprocess.run(
        ["/bin/bash", "-c", PRESS_TAB, "bash", *words],
        env={**environ(), "PATH": f"{PROGRAMS}:/usr/bin:/bin"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.split("\n")[:-1]


FILES = "compopt"  # bash is told to complete names of files


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("fallthrough", "bre"), ["breakers"]),
        (("fallthrough", "breakers", "re"), ["reset"]),
        (("fallthrough", "submit", "x", "--max"), ["--max-tokens"]),
        (("fallthrough", "submit", "x", "--cache", ""), ["fallback", "first", "off"]),
        (("fallthrough", "submit", "pro"), [FILES, ""]),
        (("fallthrough", "batch", "pro"), [FILES, ""]),
        (("fallthrough", "batch", "att"), [FILES, "attach"]),
        (("fallthrough", "batch", "prompts.txt", "--outp"), ["--output"]),
    ],
)
def test_bash_offers_what_can_be_meant(tmp_path, words, offered):
    (tmp_path / "prompts.txt").write_text("Hello\n")
    assert completed(tmp_path, *words) == offered


def test_the_help_says_how_it_is_set_up():
    [command] = re.findall(r'eval "\$\(.*\)"', CliRunner().invoke(main, ["--help"]).output)
    assert command in PRESS_TAB
