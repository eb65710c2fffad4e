"""docs/architecture.md shows the tables of transitions as they are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def check(page):
    return subprocess.run(
        [sys.executable, ROOT / "docs" / "tables.py", "--check", page],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_its_blocks_are_made_from_the_tables():
    checked = check(ROOT / "docs" / "architecture.md")
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize(
    ("old", "new"), [("queued --> running", "queued --> failed"), ("<!-- table of a job -->", "")]
)
def test_a_page_that_says_something_else_is_found(tmp_path, old, new):
    page = tmp_path / "page.md"
    page.write_text((ROOT / "docs" / "architecture.md").read_text().replace(old, new))
    assert check(page).returncode == 1
