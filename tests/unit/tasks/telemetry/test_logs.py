"""A log that machines read, or people; and what a line is about."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from contextlib import contextmanager

import pytest

from tasks.settings import Settings
from tasks.telemetry import logs

log = logging.getLogger("tasks.example")
library = logging.getLogger("library.example")

COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Stderr(io.StringIO):
    """A standard error that may be a terminal."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self):
        return self._terminal


@contextmanager
def configured(*, terminal=False, part="worker", **settings):
    """The process's log; afterwards it is what it was, with the handlers of the tests."""
    loggers = [logging.getLogger(), *(logging.getLogger(name) for name in logs.OURS)]
    handlers, levels = loggers[0].handlers, [logger.level for logger in loggers]
    loggers[0].handlers = []
    stderr = Stderr(terminal=terminal)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stderr", stderr)
            logs.configure(Settings(**settings), part)
            yield stderr
    finally:
        loggers[0].handlers = handlers
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@pytest.fixture
def about():
    token = logs.about.set({"job_id": "job_1", "tier": "gpu"})
    yield
    logs.about.reset(token)


def lines(stderr):
    return [json.loads(text) for text in stderr.getvalue().splitlines()]


def test_where_nobody_looks_a_log_is_json():
    with configured() as stderr:
        log.warning("it is %s", "late")
    [line] = lines(stderr)
    assert line.pop("time")
    assert line == {
        "level": "WARNING",
        "logger": "tasks.example",
        "message": "it is late",
        "part": "worker",
    }


def test_a_line_says_which_job_it_is_about(about):
    with configured(log_format="json", terminal=True) as stderr:
        log.warning("first")
        log.warning("second", extra={"job_id": "job_2"})
    told = [(line["job_id"], line["tier"]) for line in lines(stderr)]
    assert told == [("job_1", "gpu"), ("job_2", "gpu")]


def test_an_error_in_json_has_its_traceback_in_the_line():
    with configured(part="api") as stderr:
        try:
            int("no number")
        except ValueError:
            log.exception("broke off")
    [line] = lines(stderr)
    assert line["part"] == "api"
    assert "ValueError: invalid literal" in line["exc_info"]


@pytest.mark.parametrize("terminal", [True, False])
def test_people_read_text(about, terminal):
    with configured(log_format="text", terminal=terminal) as stderr:
        log.warning("it is late")
    text = " ".join(COLOURS.sub("", stderr.getvalue()).split())
    assert "WARNING" in text
    assert "it is late job_id=job_1 tier=gpu" in text
    assert ("tasks.example" in text) is not terminal


def test_on_a_terminal_a_log_is_text_by_itself():
    with configured(terminal=True) as stderr:
        log.warning("it is late")
    assert not stderr.getvalue().startswith("{")
    assert "it is late" in stderr.getvalue()


@pytest.mark.parametrize(
    ("level", "told"),
    [
        ("DEBUG", ["tasks.example debug", "tasks.example info", "library.example info"]),
        ("INFO", ["tasks.example info", "library.example info"]),
        ("ERROR", []),
    ],
)
def test_libraries_never_tell_more_than_info(level, told):
    with configured(log_level=level) as stderr:
        for logger in (log, library):
            logger.debug("debug")
            logger.info("info")
    assert [f"{line['logger']} {line['message']}" for line in lines(stderr)] == told
