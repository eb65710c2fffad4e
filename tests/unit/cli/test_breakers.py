"""What `fallthrough breakers` prints of what the API says."""

from __future__ import annotations

import contextlib

import pytest
from click.testing import CliRunner

from cli import environment
from cli.main import main

CALM = {
    "state": "closed",
    "configured": True,
    "consecutive_failures": 0,
    "retry_after_seconds": 0.0,
    "hold_reason": None,
    "share": 1.0,
    "window": {"seconds": 30.0, "calls": 0, "failures": 0, "slow": 0},
    "override": None,
    "changed": None,
}
BY_ANN = {"by": "ann", "why": None, "at": 0.0}
REFUSED = {"trouble": "misconfigured", "host": "gpu-box:8000", "reason": "HTTP 401"}


@pytest.fixture
def shows(monkeypatch):
    def shows(**view: object) -> list[str]:
        class Client:
            def breakers(self) -> dict[str, object]:
                return {"max_gpu": {**CALM, **view}}

        monkeypatch.setattr(environment, "client", lambda _: contextlib.nullcontext(Client()))
        return CliRunner().invoke(main, ["breakers"]).stdout.splitlines()

    return shows


def test_a_calm_breaker_is_one_row(shows):
    assert shows() == [
        "breaker  state   in a row  window  goes on in",
        "max_gpu  closed  0",
    ]


@pytest.mark.parametrize(
    ("override", "what"),
    [("open", "opened"), ("disabled", "disabled"), (None, "reset or set to auto")],
)
def test_what_was_done_by_hand_is_said_with_who_did_it(shows, override, what):
    note = shows(override=override, changed={**BY_ANN, "why": "a [new] model"})[-1]
    assert note.startswith(f"max_gpu: {what} by hand, ann, 19")
    assert note.endswith(": a [new] model")


def test_a_breaker_that_opens_by_itself_is_nobodys(shows):
    row, note = shows(state="open", retry_after_seconds=12.34, changed=BY_ANN)[1:]
    assert row == "max_gpu  open   0                 12.3 s"
    assert note.startswith("max_gpu: reset or set to auto by hand, ann, ")


def test_an_open_breaker_says_what_its_server_did(shows):
    failed = {"host": "gpu-box:8000", "last": "failure: connect", "since": 0.0}
    line = "max_gpu: gpu-box:8000 does not answer (failure: connect)"
    assert shows(state="open", unanswered=failed)[2:] == [line]
    assert shows(state="closed", unanswered=failed)[2:] == []
    assert shows(state="open", unanswered=None)[2:] == []


def test_a_trouble_is_said_once_and_whole(shows):
    held = {"hold_reason": "misconfigured", "troubles": [REFUSED]}
    assert shows(**held)[2:] == ["max_gpu: misconfigured at gpu-box:8000: HTTP 401"]
    assert shows(hold_reason="saturated")[2:] == ["max_gpu: saturated"]
