"""The tiers of a worker process: real tiers and breakers, in front of servers that are not."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from harness.fakes import Heard
from harness.upstream import PLANS

from circuit_breaker import CircuitBreaker, CircuitBreakerConfig, MemoryStore, Outcome, Permit
from fallback_chain import (
    CacheTier,
    ChatTier,
    MemoryCache,
    Reply,
    TierConfig,
    UpstreamError,
    cache_key,
)
from tasks.drain import Drain
from tasks.errors import StoreUnavailable
from tasks.records.jobs import Queue
from tasks.settings import Settings
from tasks.tiers.answerer import Answerer
from tasks.tiers.build import Tiers
from tasks.tiers.slots import LocalSlots

if TYPE_CHECKING:
    from tasks.records.jobs import BegunJob

ANSWER = {
    "object": "chat.completion",
    "model": "m",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
}


class Servers:
    """The model servers of all tiers. mode: ok, hang, reset, slow or a key of PLANS."""

    def __init__(self) -> None:
        self.mode = "ok"
        self.asked: list[str] = []
        self.go = asyncio.Event()  # what ends a slow call

    async def request(self, method, url, *, headers, content, timeout_seconds):
        self.asked.append(url.removeprefix("http://"))
        if self.mode == "reset":
            raise UpstreamError("reset", "reset")
        if self.mode == "hang":
            raise UpstreamError("timeout", "timeout")
        if self.mode == "slow":
            await self.go.wait()
        status, body, headers = PLANS.get(self.mode, (200, ANSWER, {}))
        return Reply(status, headers, json.dumps(body).encode())

    async def aclose(self):
        """There is nothing to close."""


class Bench:
    """An answerer, and all that it works with. Its breakers' clock stands still."""

    def __init__(self, tiers=("gpu", "cpu"), slots=None, **settings) -> None:
        self.now_ms = 1_000_000
        self.servers, self.observer, self.drain = Servers(), Heard(), Drain()
        store = MemoryStore(lambda: self.now_ms)
        self.breakers = {
            name: CircuitBreaker(name, CircuitBreakerConfig(recovery_timeout_seconds=12), store)
            for name in ("gpu", "cpu", "cache")
        }
        self.models = {
            name: ChatTier(
                TierConfig(name, f"http://{name}", "m", None, 60.0),
                self.breakers[name],
                self.servers,
            )
            for name in tiers
        }
        self._answers = MemoryCache()
        self.cache = CacheTier(self._answers, self.breakers["cache"])
        self.slots = slots or LocalSlots(1)
        by_queue = {(tier, queue): self.slots for tier in ("gpu", "cpu") for queue in Queue}
        self.answerer = Answerer(
            Settings(degraded_message="Sorry.", **settings),
            Tiers(self.models, self.cache, by_queue, self.servers),
            self.drain,
            self.observer,
        )

    async def answer(self, job: BegunJob):
        async with asyncio.timeout(5):
            return await self.answerer.answer(job)

    async def fail(self, tier: str, times: int = 3) -> None:
        """Have calls to a tier fail; the third one opens its breaker."""
        for _ in range(times):
            permit = await self.breakers[tier].acquire()
            assert isinstance(permit, Permit)
            await self.breakers[tier].record(permit, Outcome.FAILURE)

    async def remember(self, job: BegunJob, answer: bytes = b"cached", model: str = "m") -> None:
        await self._answers.put(cache_key(job.owner, job.body), answer, model)

    async def remembered(self, job: BegunJob) -> list[bytes]:
        """Return what the cache has for a job: an answer, or none."""
        found = await self._answers.get(cache_key(job.owner, job.body))
        return [found.answer] if found else []


class FakeLimits:
    """A semaphore of the fleet's; while it is not open its answers are on their way."""

    def __init__(self) -> None:
        self.free = 1
        self.held: set[str] = set()
        self.asked: list[str] = []
        self.renewals: list[list[str]] = []
        self.away = False
        self.open = asyncio.Event()
        self.open.set()

    async def take_slot(self, tier, limit, token):
        self.asked.append(token)
        taken = not self.away and len(self.held) < self.free
        if taken:
            self.held.add(token)
        await self.open.wait()
        if self.away:
            raise StoreUnavailable
        return taken

    async def release_slot(self, tier, token):
        if self.away:
            raise StoreUnavailable
        self.held.discard(token)

    async def renew_slots(self, tier, tokens):
        self.renewals.append(tokens)


@pytest.fixture
async def limits():
    return FakeLimits()


@pytest.fixture
def make_bench(monkeypatch):
    """Make benches; every slot must be back in the end."""
    monkeypatch.setattr("tasks.tiers.answerer.LOOK_AGAIN_SECONDS", 0.001)
    benches = []

    def make(**options):
        benches.append(Bench(**options))
        return benches[-1]

    yield make
    assert [bench.slots.taken for bench in benches] == [0] * len(benches)


@pytest.fixture
async def bench(make_bench):
    return make_bench()
