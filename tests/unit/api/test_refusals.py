"""A store that is away for an hour is told in a line now and then."""

from __future__ import annotations

import logging

from api import refusals
from api.refusals import Refusals
from tasks.errors import PublishError, StoreFull, StoreUnavailable

AWAY = StoreUnavailable("the job store did not answer: ConnectionError")
FULL = StoreFull("the job store is full")
NO_BROKER = PublishError("the broker did not take it")


def test_each_kind_is_told_at_once_and_then_with_how_many_there_were(caplog):
    caplog.set_level(logging.WARNING, refusals.__name__)
    now = 0.0
    noted = Refusals(lambda: now)
    for _ in range(1_000):
        noted.note(AWAY)
    noted.note(FULL)
    noted.note(NO_BROKER)  # "unavailable" as well
    assert caplog.messages == [f"request refused: {each}" for each in (AWAY, FULL, NO_BROKER)]

    now = refusals.AGAIN_SECONDS
    noted.note(AWAY)
    noted.note(AWAY)
    [told] = caplog.messages[3:]
    assert told == f"request refused: {AWAY} (and 999 more since the last line of these)"

    now = 2 * refusals.AGAIN_SECONDS
    noted.note(FULL)
    assert caplog.messages[4:] == ["request refused: the job store is full"]
