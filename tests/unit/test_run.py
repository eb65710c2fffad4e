"""`./run`, before it runs anything: whether its environment is there, and works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = """#!/usr/bin/env bash
case "$*" in
  *version_info*) ;;
  *_base_executable*) echo "$0" ;;
  *) echo "asked to make an environment" >&2; exit 3 ;;
esac
"""


@pytest.fixture
def clone(tmp_path):
    """A clone whose environment was made."""
    clone = tmp_path / "a clone"
    programs = clone / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("run", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, clone)
    stamped = "cat requirements.lock pyproject.toml | cksum >.venv/stamp"
    subprocess.run(["/bin/sh", "-c", stamped], cwd=clone, check=True)
    (programs / "python").symlink_to(sys.executable)
    # As pip writes it: of a path with blanks the second line names the interpreter.
    head = f"#!/bin/sh\n'''exec' \"{programs}/python\" \"$0\" \"$@\"\n' '''\n"
    (programs / "fallthrough").write_text(head + "print('it runs')\n")
    (programs / "fallthrough").chmod(0o755)
    (clone / "a python").write_text(PYTHON)
    (clone / "a python").chmod(0o755)
    return clone


def run(clone):
    environ = {**os.environ, "PYTHON": str(clone / "a python")}
    done = subprocess.run(
        [clone / "run", "config"], env=environ, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def moved(clone):
    return clone.rename(clone.with_name("elsewhere"))


def copied(clone):
    return Path(shutil.copytree(clone, clone.with_name("copy"), symlinks=True))


def without_its_python(clone):
    (clone / ".venv/bin/python").unlink()
    (clone / ".venv/bin/python").symlink_to("/nowhere/python3")
    return clone


def without_its_programs(clone):
    (clone / ".venv/bin/fallthrough").unlink()
    return clone


def test_an_environment_that_works_is_left_alone(clone):
    assert run(clone) == (0, "it runs\n")
    linked = clone.with_name("a link")
    linked.symlink_to(clone)
    assert run(linked) == (0, "it runs\n")
    larger = clone.with_name("a larger disk")
    (clone / ".venv").rename(larger)
    (clone / ".venv").symlink_to(larger)
    assert run(clone) == (0, "it runs\n")


@pytest.mark.parametrize("change", [moved, copied, without_its_python, without_its_programs])
def test_one_that_does_not_is_made_anew_and_says_why(clone, change):
    status, said = run(change(clone))
    assert "moved or copied, or the Python of .venv is gone: making .venv anew" in said
    assert (status, said.splitlines()[-1]) == (3, "asked to make an environment")


@pytest.mark.parametrize(("failed", "again"), [("tests/a.py::test_b", 1), ("gw3", 0)])
def test_what_failed_runs_once_more_but_not_what_could_not_be_collected(clone, failed, again):
    """pytest-xdist calls a process that found other tests as a test that failed."""
    python = clone / ".venv/bin/python"
    python.unlink()
    python.write_text(f"""#!/bin/sh
[ "$1" = -c ] && exec {sys.executable} "$@"
echo "$@" >>asked
[ $(wc -l <asked) = 2 ] && exit 0
mkdir -p .pytest_cache/v/cache && echo '{{"{failed}": true}}' >.pytest_cache/v/cache/lastfailed
exit 1
""")
    python.chmod(0o755)
    done = subprocess.run([clone / "run", "test"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 - again
    asked = (clone / "asked").read_text().splitlines()
    assert ["--last-failed" in line for line in asked] == [False, True][: 1 + again]
