"""How a running stack is found by its data folder, and what is read of it."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys

import pytest

from cli.stack.running import FILE, LOCK, Announcement, Running, RunningPart, running_in
from cli.stack.supervisor import environ_with

SECRET = "hunter2"  # noqa: S105 - made up


@pytest.fixture
def data(tmp_path):
    """The folder of a stack that runs: its lock is held."""
    with (tmp_path / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield tmp_path


@pytest.fixture
def process():
    """Start a process that works with these settings."""
    started = []

    def start(**settings) -> RunningPart:
        waits = [sys.executable, "-S", "-c", "print(flush=True); input()"]
        environ = environ_with(settings)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        started.append(subprocess.Popen(waits, env=environ, **pipes))
        started[-1].stdout.readline()
        return RunningPart("api", "http://127.0.0.1:1", started[-1].pid, "api.log")

    yield start
    for each in started:
        each.communicate(b"\n")


def test_what_was_told_is_found_while_the_lock_is_held(data):
    parts = (RunningPart("api", "http://127.0.0.1:1", 7, "api.log"),)
    Announcement(data).tell("http://127.0.0.1:1", parts)
    assert running_in(data) == Running(data, "http://127.0.0.1:1", parts)


def test_without_the_lock_nothing_runs_whatever_a_killed_stack_has_left(tmp_path):
    Announcement(tmp_path).tell("http://127.0.0.1:1", ())
    assert running_in(tmp_path) is None, "it never ran"
    (tmp_path / LOCK).touch()
    assert running_in(tmp_path) is None
    assert running_in(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    "text", [None, "", "{", "[]", "{}", '{"api_url": "x", "parts": [{"x": 1}]}']
)
def test_a_stack_that_has_not_yet_told_is_starting(data, text):
    if text is not None:
        (data / FILE).write_text(text)
    assert running_in(data) == Running(data)


def test_a_change_is_told_once_and_what_ended_is_withdrawn(data):
    announcement = Announcement(data)
    announcement.tell("http://a", ())
    before = (data / FILE).stat().st_ino
    announcement.tell("http://a", ())
    assert (data / FILE).stat().st_ino == before, "nothing has changed"
    announcement.tell("http://b", ())
    assert json.loads((data / FILE).read_text())["api_url"] == "http://b"
    announcement.withdraw()
    announcement.withdraw()
    assert running_in(data) == Running(data)


def test_a_folder_that_takes_no_file_ends_no_stack(tmp_path):
    gone = Announcement(tmp_path / "gone")
    gone.tell("http://a", ())
    gone.withdraw()
    (tmp_path / "gone").mkdir()
    gone.tell("http://a", ())
    assert (tmp_path / "gone" / FILE).exists(), "told as soon as there is room"


def test_settings_are_read_where_the_parts_have_them_and_are_in_no_file(data, process):
    url = f"redis://:{SECRET}@127.0.0.1:1/0"
    without = RunningPart("model", "http://127.0.0.1:2", os.getpid(), "")
    dead = RunningPart("flower", "http://127.0.0.1:3", None, "")
    part = process(FALLTHROUGH_REDIS_URL=url, FALLTHROUGH_GPU_URL="http://é", OTHER="x")
    Announcement(data).tell("http://a", (without, dead, part))
    assert SECRET not in (data / FILE).read_text()
    found = running_in(data).settings()
    assert found == {"FALLTHROUGH_REDIS_URL": url, "FALLTHROUGH_GPU_URL": "http://é"}


def test_a_stack_whose_parts_do_not_tell_has_no_settings(tmp_path):
    parts = (RunningPart("api", "", None, ""), RunningPart("worker", "", 2**30, ""))
    assert Running(tmp_path, "", parts).settings() == {}
