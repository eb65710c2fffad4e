"""The pages show the tables of the code as they are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


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
    ],
)
def test_a_page_that_says_something_else_is_found(tmp_path, page, old, new):
    for name in ("architecture.md", "reference.md"):
        shutil.copy(ROOT / "docs" / name, tmp_path)
    text = (tmp_path / page).read_text()
    assert old in text
    (tmp_path / page).write_text(text.replace(old, new))
    assert check(tmp_path).returncode == 1
