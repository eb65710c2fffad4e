"""What the log says of tiers in trouble, and how often."""

from __future__ import annotations

import logging

import pytest

from fallback_chain import Verdict
from tasks.errors import StoreUnavailable
from tasks.records.troubles import TierHealth, TierReport
from workers.metrics import WorkerMetrics
from workers.troubles import TroubleWatch

HOSTS = {"max_gpu": "gpu:8000", "ollama_cpu": "cpu:11434"}
WELL = TierHealth(answered=1000.0)
NO_MODEL = TierHealth(
    since=900.0,
    asked=1000.0,
    unanswered=9,
    last="unfit: HTTP 404 no such model",
    trouble="no_such_model",
    reason="HTTP 404 no such model",
    first_seen=900.0,
    last_seen=1000.0,
    times=9,
)


class Fleet:
    """Knows what it is told to know; says may_say once of each thing until a minute is over."""

    def __init__(self):
        self.healths, self.noted, self.said = {"max_gpu": WELL, "ollama_cpu": WELL}, [], set()
        self.away = False

    async def note(self, reports, hosts):
        if self.away:
            raise StoreUnavailable
        self.noted.append((dict(reports), dict(hosts)))
        return self.healths

    async def may_say(self, tier, what):
        new = (tier, what) not in self.said
        self.said.add((tier, what))
        return new


@pytest.fixture
def fleet():
    return Fleet()


@pytest.fixture
def watch(fleet, caplog):
    caplog.set_level(logging.INFO)
    return TroubleWatch(fleet, HOSTS, 60.0)


def tries(*details):
    made = TierReport()
    for detail in details:
        made.add(Verdict.UNFIT, detail)
    return {"max_gpu": made}


async def test_a_change_is_said_with_host_and_reason_and_not_again(watch, fleet, caplog):
    fleet.healths = {"max_gpu": NO_MODEL, "ollama_cpu": TierHealth()}
    for _ in range(3):
        await watch.report(tries("HTTP 404 no such model"))
    [record] = caplog.records
    assert record.levelname == "ERROR"
    assert record.getMessage() == (
        "max_gpu at gpu:8000 does not have the model that it is asked for (HTTP 404 no such model)"
    )
    fleet.said.clear()  # a minute later
    await watch.report(tries("HTTP 404 no such model"))
    assert len(caplog.records) == 2


async def test_silence_is_said_beside_it_and_its_end_once(watch, fleet, caplog):
    fleet.healths = {"max_gpu": NO_MODEL, "ollama_cpu": WELL}
    await watch.report(tries("x"))
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert "answers nothing while others answer (unfit: " in caplog.text
    fleet.healths = {"max_gpu": WELL, "ollama_cpu": WELL}
    for _ in range(2):
        await watch.report(tries())
    assert [record.getMessage() for record in caplog.records[2:]] == [
        "max_gpu at gpu:8000 answers again"
    ]


async def test_why_a_server_does_not_answer_is_said_once_each_time_it_begins(watch, fleet, caplog):
    failing = TierHealth(answered=900.0, unanswered=3, last="failure: connect")
    busy = failing._replace(last="saturated: HTTP 429")
    for health in (failing, failing, busy, WELL, failing):
        fleet.healths = {"max_gpu": health, "ollama_cpu": WELL}
        await watch.report(tries("x"))
    line = "max_gpu at gpu:8000 does not answer (failure: connect)"
    assert caplog.messages == [line]  # the second time comes within the minute of the first
    fleet.said.clear()
    fleet.healths = {"max_gpu": failing, "ollama_cpu": failing}
    await watch.report(tries("x"))
    assert caplog.messages[1:] == ["ollama_cpu at cpu:11434 does not answer (failure: connect)"]


async def test_all_tiers_are_noted_together_and_nothing_if_nothing_was_tried(watch, fleet):
    await watch.report({})
    assert fleet.noted == []
    seen = tries("x")
    await watch.report(seen)
    assert fleet.noted == [({"max_gpu": seen["max_gpu"], "ollama_cpu": TierReport()}, HOSTS)]


async def test_a_store_that_is_away_breaks_nothing(watch, fleet, caplog):
    fleet.away = True
    await watch.report(tries("x"))
    assert caplog.records == []


def test_tries_of_model_tiers_are_taken_once():
    metrics = WorkerMetrics(("gpu", "cpu"))
    metrics.tried("gpu", Verdict.MISCONFIGURED, 0.1, "HTTP 401")
    metrics.tried("cpu", Verdict.ANSWERED, 0.1)
    metrics.tried("cache", Verdict.MISS, 0.1)
    metrics.tried("gpu", Verdict.ANSWERED, 0.1, endpoint=2)
    taken = metrics.take_reports()
    assert (taken["max_gpu"].trouble, taken["ollama_cpu"].answered) == ("misconfigured", True)
    assert (set(taken), taken["max_gpu:2"].answered) == ({*HOSTS, "max_gpu:2"}, True)
    assert metrics.take_reports() == {}
