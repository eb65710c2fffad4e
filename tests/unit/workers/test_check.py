"""What `python -m workers.check` says of the installation."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from workers.check import PACKAGES, packages

PROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())


def test_who_is_told_to_stop_before_its_end_does_not_say_that_all_is_well():
    with socket.create_server(("127.0.0.1", 0)) as mute:  # a store that takes connections only
        url = f"redis://127.0.0.1:{mute.getsockname()[1]}/0"
        environ = {**os.environ, "FALLTHROUGH_REDIS_URL": url}
        command = (sys.executable, "-m", "workers.check")
        with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE) as checking:
            asking, _ = mute.accept()
            with asking:
                checking.terminate()
                assert checking.wait(5) == -signal.SIGTERM


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
