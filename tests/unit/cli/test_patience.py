"""An API that is away is asked again, for a while."""

from __future__ import annotations

from types import SimpleNamespace

import httpx
import pytest

from cli import patience
from cli.client import (
    ApiAwayError,
    ApiBusyError,
    ApiCutOffError,
    ApiFailedError,
    ApiRefusedError,
    ApiTooLargeError,
    ApiUnderWayError,
    _error_type,
)
from cli.patience import Patience

AWAY, BUSY, NO = ApiAwayError("away"), ApiBusyError("too much"), ApiFailedError("no job")
CUT = ApiCutOffError("cut off")


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """A clock that goes on only where it is slept."""
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    monkeypatch.setattr(patience, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    return now


def calls(*answers):
    """A call that answers so, one after another, and then as at the last."""
    left = list(answers)

    def call():
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return call


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ([1], 0),
        ([AWAY, 1], 1),
        ([AWAY, AWAY, BUSY, AWAY, 1], 1),
        ([BUSY, BUSY, 1], 0),
        ([BUSY, AWAY, 1], 1),
    ],
)
def test_it_asks_until_it_is_answered_and_tells_once_why(answers, told):
    said = []
    assert Patience(said.append, "it goes on").ask(calls(*answers)) == 1
    assert said == ["away\n… it goes on; trying again"] * told


@pytest.mark.parametrize("error", [AWAY, BUSY])
def test_it_gives_up_what_stays_away(clock, error):
    with pytest.raises(ApiAwayError, match=str(error)):
        Patience(print, "").ask(calls(error))
    assert clock[0] == pytest.approx(patience.AWAY_SECONDS, abs=2 * patience.AGAIN_SECONDS)


@pytest.mark.parametrize(
    ("error", "seconds"), [(AWAY, 0.0), (BUSY, 0.0), (CUT, patience.UNKNOWN_SECONDS)]
)
def test_one_that_never_answered_is_soon_given_up(clock, error, seconds):
    said = []
    with pytest.raises(ApiAwayError, match=str(error)):
        Patience(said.append, "it goes on", is_known=False).ask(calls(error))
    assert clock[0] == pytest.approx(seconds, abs=2 * patience.AGAIN_SECONDS)
    assert len(said) == bool(seconds)


def test_one_that_has_answered_once_is_waited_for(clock):
    waits = Patience(print, "it goes on", is_known=False)
    assert waits.ask(calls(1)) == 1
    assert waits.ask(calls(*[AWAY] * 100, 2)) == 2
    assert clock[0] > 2 * patience.UNKNOWN_SECONDS


def test_one_that_still_does_what_it_was_told_before_is_waited_for(clock):
    under_way = ApiUnderWayError("this upload was sent before, and is still under way")
    said = []
    waits = Patience(said.append, "it goes on", is_known=False)
    assert waits.ask(calls(CUT, *[under_way] * 100, 1)) == 1
    assert clock[0] > 2 * patience.UNKNOWN_SECONDS
    assert said == ["cut off\n… it goes on; trying again"]


def test_it_tells_that_it_is_turned_away_if_that_lasts(clock):
    said = []
    turned_away = int(2 * patience.BUSY_SECONDS / patience.AGAIN_SECONDS)
    assert Patience(said.append, "it goes on").ask(calls(*[BUSY] * turned_away, 1)) == 1
    assert said == ["too much\n… it goes on; trying again"]


def test_what_creates_something_has_one_key_however_often_it_is_sent():
    keys = []

    def create(key):
        keys.append(key)
        if len(keys) % 3:
            raise CUT
        return len(keys)

    waits = Patience(print, "it goes on")
    assert [waits.once(create), waits.once(create)] == [3, 6]
    assert len(set(keys[:3])) == len(set(keys[3:])) == 1
    assert keys[0] != keys[3]


def test_what_is_refused_is_not_asked_again(clock):
    with pytest.raises(ApiFailedError, match="no job"):
        Patience(print, "").ask(calls(NO))
    assert clock == [0.0]


def test_an_api_that_answers_others_is_not_away(clock):
    said = []
    shared = Patience(said.append, "it goes on")
    refusals = int(3 * patience.AWAY_SECONDS / patience.AGAIN_SECONDS)

    def turned_away():
        shared.ask(calls("another's answer"))
        return turns.pop()()

    def refused():
        raise BUSY

    turns = [lambda: "mine", *[refused] * refusals]
    assert shared.ask(turned_away) == "mine"
    assert clock[0] > 2 * patience.AWAY_SECONDS


@pytest.mark.parametrize(
    ("status", "headers", "kind"),
    [
        (400, {}, ApiRefusedError),
        (401, {}, ApiFailedError),
        (409, {}, ApiFailedError),
        (409, {"retry-after": "5"}, ApiUnderWayError),
        (413, {}, ApiTooLargeError),
        (422, {}, ApiRefusedError),
        (429, {}, ApiBusyError),
        (429, {"x-should-retry": "true"}, ApiBusyError),
        (429, {"x-should-retry": "false"}, ApiFailedError),
        (500, {}, ApiAwayError),
        (500, {"x-should-retry": "false"}, ApiFailedError),
        (502, {}, ApiCutOffError),
        (503, {}, ApiAwayError),
        (504, {}, ApiCutOffError),
    ],
)
def test_what_a_reply_says_of_asking_again(status, headers, kind):
    assert _error_type(httpx.Response(status, headers=headers)) is kind


def test_it_waits_a_minute_at_least():
    assert patience.AWAY_SECONDS >= 60
