"""What `python -m workers.check` says of the installation."""

from __future__ import annotations

import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from workers.check import PACKAGES, packages

PROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())


def test_our_own_packages_are_nobody_elses():
    assert packages({"tasks": ["fallthrough"], "httpx": ["httpx"]}) == []
    assert packages(packages_distributions()) == []


def test_a_package_that_another_distribution_has_too_is_told():
    [row] = packages({"tasks": ["fallthrough", "other"], "api": ["fallthrough"]})
    assert (row.part, row.state) == ("install", "failed")
    assert row.detail == "the distribution other has tasks, too"
    assert "environment of its own" in row.advice


def test_those_that_are_looked_at_are_those_that_are_installed():
    tools = PROJECT["tool"]["setuptools"]
    found = {each.removesuffix("*") for each in tools["packages"]["find"]["include"]}
    assert set(PACKAGES) == found | set(tools["py-modules"])
