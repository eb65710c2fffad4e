"""A store that is away for an hour is told in a line now and then."""

from __future__ import annotations

import logging

from api import refusals
from api.refusals import Refusals

AWAY = "the job store did not answer: ConnectionError"


def test_each_kind_is_told_at_once_and_then_with_how_many_there_were(caplog):
    caplog.set_level(logging.WARNING, refusals.__name__)
    now = 0.0
    noted = Refusals(lambda: now)
    for _ in range(1_000):
        noted.note("unavailable", AWAY)
    noted.note("store_full", "the job store is full")
    assert caplog.messages == [f"request refused: {AWAY}", "request refused: the job store is full"]

    now = refusals.AGAIN_SECONDS
    noted.note("unavailable", AWAY)
    noted.note("unavailable", AWAY)
    [told] = caplog.messages[2:]
    assert told == f"request refused: {AWAY} (and 999 more since the last line of these)"

    now = 2 * refusals.AGAIN_SECONDS
    noted.note("store_full", "the job store is full")
    assert caplog.messages[3:] == ["request refused: the job store is full"]
