"""A server that is due for a probe is asked for its models, where no job can be the probe."""

from __future__ import annotations

import asyncio

import pytest

from circuit_breaker import CircuitBreaker, CircuitBreakerConfig, CircuitState, MemoryStore, Outcome
from fallback_chain import ChatTier, Reply, TierConfig, UpstreamError

LISTED = Reply(200, {}, b'{"data": [{"id": "m"}]}')


class Stand:
    """A tier whose breaker is open, and due unless it is said; comes: what its server does."""

    def __init__(self, comes) -> None:
        self.now_ms, self.comes, self.asked = 0, comes, 0
        config = CircuitBreakerConfig(failure_threshold=1, recovery_timeout_seconds=10)
        self.breaker = CircuitBreaker("b", config, MemoryStore(lambda: self.now_ms))
        tier = TierConfig("gpu", "http://gpu", "m", None, 60.0)
        self.tier = ChatTier(tier, self.breaker, self)

    async def request(self, method, url, **_):
        assert (method, url) == ("GET", "http://gpu/v1/models"), "it costs no tokens"
        self.asked += 1
        if isinstance(self.comes, Exception):
            raise self.comes
        if self.comes == "hang":
            await asyncio.sleep(60)
        return self.comes

    async def open(self):
        await self.breaker.record(await self.breaker.acquire(), Outcome.FAILURE)
        return self

    async def knock(self, after_seconds=10):
        self.now_ms += after_seconds * 1000
        await self.tier.knock()
        return self.breaker.state


@pytest.mark.parametrize(
    "comes",
    [
        *(LISTED, Reply(404, {}, b""), Reply(401, {}, b""), Reply(200, {}, b"<html>")),
        Reply(500, {}, b""),
    ],
    ids=["listed", "no such route", "no key", "no list", "a list that is broken"],
)
async def test_a_server_that_answers_is_probed_by_the_next_job_and_closed_by_none_but_it(comes):
    stand = await Stand(comes).open()
    assert await stand.knock() is CircuitState.HALF_OPEN
    for _ in range(3):
        assert await stand.knock() is CircuitState.HALF_OPEN
    assert stand.asked == 1, "it waits for a job now"
    assert (await stand.breaker.acquire()).probe


@pytest.mark.parametrize(
    "comes",
    [UpstreamError("refused", "connect"), Reply(503, {}, b""), "hang"],
    ids=["refused", "503", "hang"],
)
async def test_one_that_does_not_answer_is_left_alone_for_another_open_time(comes, monkeypatch):
    monkeypatch.setattr("fallback_chain.tier.KNOCK_SECONDS", 0.01)
    stand = await Stand(comes).open()
    assert await stand.knock() is CircuitState.OPEN
    assert await stand.tier.due_seconds() == 10


async def test_nobody_knocks_before_it_is_due_or_at_what_is_well():
    stand = Stand(LISTED)
    assert await stand.knock() is CircuitState.CLOSED
    await stand.open()
    assert await stand.knock(after_seconds=9) is CircuitState.OPEN
    assert stand.asked == 0


async def test_who_knocks_and_is_cut_off_gives_the_probe_back():
    stand = await Stand("hang").open()
    stand.now_ms += 10_000
    knocking = asyncio.create_task(stand.tier.knock())
    await asyncio.sleep(0.01)
    knocking.cancel()
    await asyncio.gather(knocking, return_exceptions=True)
    assert (await stand.breaker.acquire()).probe


async def test_one_that_is_being_probed_is_not_due_before_the_probe_ends_or_is_lost():
    stand = await Stand(LISTED).open()
    await stand.knock()
    assert await stand.tier.due_seconds() == 0
    probe = await stand.breaker.acquire()
    assert await stand.tier.due_seconds() == stand.breaker.config.lease_seconds
    await stand.breaker.record(probe, Outcome.SUCCESS)
    assert await stand.tier.due_seconds() == 0
