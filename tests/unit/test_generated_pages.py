"""The pages show the tables of the code as they are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BREAKER = "../CIRCUIT_BREAKER_IMPLEMENTATION.md"


def check(folder):
    return subprocess.run(
        [sys.executable, ROOT / "docs" / "tables.py", "--check", folder],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_their_blocks_are_made_from_the_tables():
    checked = check(ROOT / "docs")
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize(
    ("page", "old", "new"),
    [
        ("architecture.md", "queued --> running", "queued --> failed"),
        ("architecture.md", "<!-- table of a job -->", ""),
        ("reference.md", "`saturated` |\n", "`refused` |\n"),
        (BREAKER, "half_open --> closed", "half_open --> half_open"),
    ],
)
def test_a_page_that_says_something_else_is_found(tmp_path, page, old, new):
    folder = tmp_path / "docs"
    folder.mkdir()
    for name in ("architecture.md", "reference.md", BREAKER):
        shutil.copy(ROOT / "docs" / name, folder / name)
    assert check(folder).returncode == 0
    text = (folder / page).read_text()
    assert old in text
    (folder / page).write_text(text.replace(old, new))
    assert check(folder).returncode == 1


def test_what_is_made_of_the_settings_and_the_charts_values_is_as_it_would_be_made():
    checked = subprocess.run(
        [sys.executable, ROOT / "docs" / "deployment.py", "--check"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
