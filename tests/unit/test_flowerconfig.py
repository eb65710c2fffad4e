"""Flower's settings, as Flower reads them."""

from __future__ import annotations

import runpy
from pathlib import Path

import flower.options  # noqa: F401 - defines what the file looks at
import pytest

FILE = Path(__file__).parents[2] / "flowerconfig.py"


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("FLOWER_DB", str(tmp_path / "db"))


@pytest.mark.parametrize(
    ("name", "default", "text", "value"),
    [
        ("inspect_timeout", 3000.0, "500", 500.0),
        ("max_tasks", 10_000, "20", 20),
        ("read_only", True, "false", False),
    ],
)
def test_a_variable_goes_before_the_default(monkeypatch, name, default, text, value):
    variable = f"FLOWER_{name.upper()}"
    monkeypatch.delenv(variable, raising=False)
    assert runpy.run_path(str(FILE))[name] == default
    monkeypatch.setenv(variable, text)
    assert runpy.run_path(str(FILE))[name] == value
