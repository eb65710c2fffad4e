"""Flower's settings, as Flower reads them."""

from __future__ import annotations

import runpy
from pathlib import Path

import flower.options  # noqa: F401 - defines what the file looks at
import pytest
from tornado.options import options

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


@pytest.mark.parametrize("given", [[], [""], [" "]])
def test_set_to_nothing_it_is_no_password(monkeypatch, given):
    monkeypatch.setattr(options.mockable(), "basic_auth", given)
    assert runpy.run_path(str(FILE))["basic_auth"] == []


def test_there_may_be_several(monkeypatch):
    monkeypatch.setattr(options.mockable(), "basic_auth", ["ann:open sesame", " bob:a:b"])
    assert runpy.run_path(str(FILE))["basic_auth"] == ["ann:open sesame", "bob:a:b"]


@pytest.mark.parametrize(
    ("given", "entry"),
    [
        ("admin:x,long-and-secret", "2 of 2"),
        ("admin:secret,", "2 of 2"),
        ("ann:secret,,bob:secret", "2 of 3"),
        ("secret", "1 of 1"),
        ("admin:,secret", "1 of 2"),
    ],
)
def test_a_comma_in_a_password_is_said(monkeypatch, capsys, given, entry):
    monkeypatch.setattr(options.mockable(), "basic_auth", given.split(","))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(FILE))
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"entry {entry} is not user:password" in line
    assert "secret" not in line
