"""What the fleet knows of its tiers, on a real server, by the clock of the test."""

from __future__ import annotations

import pytest
from harness.stores import store_on

from fallback_chain import Verdict
from tasks.records.troubles import TierHealth, TierReport
from tasks.store import keyspace
from tasks.store.tiers import HEALTH_SECONDS

HOSTS = {"gpu": "gpu:8000", "cpu": "cpu:11434"}
MISSING, REFUSED = "HTTP 404 no such model", "HTTP 401"


@pytest.fixture
async def store(store_url, clock):
    store = store_on(store_url, clock)
    yield store
    await store.close()


@pytest.fixture
def tiers(store):
    return store.tiers


def report(*tries):
    made = TierReport()
    for verdict, detail in tries:
        made.add(verdict, detail)
    return made


ANSWERED = (Verdict.ANSWERED, "")
MISSES, REFUSES = (Verdict.UNFIT, MISSING), (Verdict.MISCONFIGURED, REFUSED)


async def test_tries_without_an_answer_are_counted_from_the_first(tiers, clock):
    start = clock.ms / 1000
    await tiers.note({"gpu": report((Verdict.FAILURE, "timeout"))}, HOSTS)
    clock.advance(5)
    told = await tiers.note({"gpu": report((Verdict.REJECTED, "open")), "cpu": report()}, HOSTS)
    assert told == await tiers.healths(["gpu", "cpu"])
    gpu = TierHealth(
        since=start, asked=start + 5, unanswered=2, last="failure: timeout", host="gpu:8000"
    )
    assert told == {"gpu": gpu, "cpu": TierHealth()}


async def test_a_trouble_is_kept_with_its_first_and_last_time_until_another_comes(tiers, clock):
    start = clock.ms / 1000
    for tries in ((MISSES, MISSES), (MISSES,)):
        told = (await tiers.note({"gpu": report(*tries)}, HOSTS))["gpu"]
        clock.advance(10)
    assert (told.trouble, told.reason, told.times) == ("no_such_model", MISSING, 3)
    assert (told.first_seen, told.last_seen, told.unanswered) == (start, start + 10, 3)
    told = (await tiers.note({"gpu": report(REFUSES)}, HOSTS))["gpu"]
    assert (told.trouble, told.reason, told.times) == ("misconfigured", REFUSED, 1)
    assert (told.first_seen, told.last_seen, told.unanswered) == (start + 20, start + 20, 4)


async def test_an_answer_clears_what_was_before_it_and_not_what_comes_after(tiers, clock):
    await tiers.note({"gpu": report(REFUSES), "cpu": report(REFUSES)}, HOSTS)
    clock.advance(1)
    told = await tiers.note({"gpu": report(REFUSES, ANSWERED)}, HOSTS)
    assert told["gpu"] == TierHealth(answered=clock.ms / 1000)
    assert (await tiers.healths(["cpu"]))["cpu"].trouble == "misconfigured"
    told = await tiers.note({"gpu": report(ANSWERED, MISSES)}, HOSTS)
    assert (told["gpu"].trouble, told["gpu"].times) == ("no_such_model", 1)
    assert told["gpu"].since == told["gpu"].answered == clock.ms / 1000


async def test_a_record_goes_an_hour_after_the_last_try_of_its_tier(tiers, store):
    await tiers.note({"gpu": report(REFUSES), "cpu": report(ANSWERED)}, HOSTS)
    for tier in HOSTS:
        left = await store.connection.command("PTTL", keyspace.tier(tier))
        assert HEALTH_SECONDS - 5 < left / 1000 <= HEALTH_SECONDS
    await store.connection.command("PEXPIRE", keyspace.tier("gpu"), 60_000)
    await tiers.note({"gpu": report(), "cpu": report(ANSWERED)}, HOSTS)
    assert await store.connection.command("PTTL", keyspace.tier("gpu")) <= 60_000, "nobody asked it"


async def test_one_of_the_fleet_says_a_thing_once_a_minute(tiers, store):
    said = [await tiers.may_say("gpu", "silent") for _ in range(3)]
    assert said == [True, False, False]
    assert await tiers.may_say("gpu", "misconfigured")
    assert await tiers.may_say("cpu", "silent")
    assert 50 < await store.connection.command("TTL", keyspace.said("gpu", "silent")) <= 60
