"""What `fallthrough doctor` makes of what the asking process says, or fails to say."""

from __future__ import annotations

import sys

import pytest

from cli import check
from cli.check import Check, CheckFailedError, table

GOOD = {"part": "cpu", "check": "answer", "state": "ok", "detail": "one token", "advice": ""}
BAD = {
    "part": "broker",
    "check": "key",
    "state": "failed",
    "detail": "refused",
    "advice": "set a key",
}


def test_rows_are_aligned_and_what_to_do_stands_below_what_failed():
    assert table([GOOD, BAD]).splitlines() == [
        "part    check   state   detail",
        "cpu     answer  ok      one token",
        "broker  key     failed  refused",
        "                        → set a key",
    ]


@pytest.fixture
def says(monkeypatch):
    def says(program: str) -> None:
        monkeypatch.setattr(check, "COMMAND", (sys.executable, "-c", program))

    return says


def test_rows_are_read_from_the_process(says):
    says('print(\'[{"part": "gpu"}]\')')
    with Check({}) as under_way:
        assert under_way.rows() == [{"part": "gpu"}]


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import sys; sys.exit('x\\ncheck: no such setting')", "check: no such setting"),
        ("import os; os._exit(9)", "status 9"),
    ],
)
def test_a_process_that_asks_nothing_says_why(says, program, reason):
    says(program)
    with Check({}) as under_way, pytest.raises(CheckFailedError, match=reason):
        under_way.rows()


def test_who_leaves_waits_for_no_answer(says):
    says("import time; time.sleep(600)")
    told = []
    with Check({}) as under_way:
        under_way.when_done(told.append)
    assert told == []
