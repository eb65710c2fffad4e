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
    MemoryCache,
    Reply,
    TierConfig,
    UpstreamError,
    build_tier,
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
        self.modes: dict[str, str] = {}  # of those that have one of their own, by name
        self.asked: list[str] = []
        self.go = asyncio.Event()  # what ends a slow call

    async def request(self, method, url, *, headers, content, timeout_seconds):
        self.asked.append(url.removeprefix("http://"))
        mode = self.modes.get(self.asked[-1].partition("/")[0], self.mode)
        if mode == "reset":
            raise UpstreamError("reset", "reset")
        if mode == "hang":
            raise UpstreamError("timeout", "timeout")
        if mode == "slow":
            await self.go.wait()
        status, body, headers = PLANS.get(mode, (200, ANSWER, {}))
        return Reply(status, headers, json.dumps(body).encode())

    async def aclose(self):
        """There is nothing to close."""


class Bench:
    """An answerer, and all that it works with. Its breakers' clock stands still."""

    def __init__(self, tiers=("gpu", "cpu"), slots=None, servers=1, **settings) -> None:
        self.now_ms = 1_000_000
        self.servers, self.observer, self.drain = Servers(), Heard(), Drain()
        store = MemoryStore(lambda: self.now_ms)
        config = CircuitBreakerConfig(
            recovery_timeout_seconds=12, ramp_seconds=settings.get("breaker_ramp_seconds", 0.0)
        )
        self.breakers = {
            name: CircuitBreaker(name, config, store, draw=lambda: 0.0)
            for name in (*tiers, "gpu", "cpu", "cache")
        }
        self.models = {name: self._tier(name, servers, store) for name in tiers}
        self._answers = MemoryCache()
        self.cache = CacheTier(self._answers, self.breakers["cache"])
        self.slots = slots or LocalSlots(1)
        names = list(dict.fromkeys((*tiers, "gpu", "cpu")))
        by_queue = {(tier, queue): self.slots for tier in names for queue in Queue}
        self.answerer = Answerer(
            Settings(degraded_message="Sorry.", tiers=",".join(names), **settings),
            Tiers(self.models, self.cache, by_queue, self.servers),
            self.drain,
            self.observer,
        )

    def _tier(self, name, servers, store):
        """Return a tier; the names of its other servers end in 2, 3 ..."""
        urls = [f"http://{name}", *(f"http://{name}{number}" for number in range(2, servers + 1))]
        config = TierConfig(name, ",".join(urls), "m", None, 60.0)
        others = {
            each.breaker_name: CircuitBreaker(each.breaker_name, store=store)
            for each in config.endpoints[1:]
        }
        first = config.endpoints[0].breaker_name
        return build_tier(config, {first: self.breakers[name], **others}, self.servers)

    async def answer(self, job: BegunJob):
        async with asyncio.timeout(5):
            return await self.answerer.answer(job)

    async def fail(self, tier: str, times: int = 3) -> None:
        """Have calls to a tier fail; the third one opens its breaker."""
        for _ in range(times):
            permit = await self.breakers[tier].acquire()
            assert isinstance(permit, Permit)
            await self.breakers[tier].record(permit, Outcome.FAILURE)

    async def close(self, tier: str) -> None:
        """Have two probes close the breaker that fail() opened."""
        self.now_ms += 12_000
        for _ in range(2):
            permit = await self.breakers[tier].acquire()
            assert isinstance(permit, Permit)
            await self.breakers[tier].record(permit, Outcome.SUCCESS)

    async def remember(self, job: BegunJob, answer: bytes = b"cached", model: str = "m") -> None:
        key = cache_key(job.owner, job.body.decoded(), job.endpoint)
        await self._answers.put(key, answer, model)

    async def remembered(self, job: BegunJob) -> list[bytes]:
        """Return what the cache has for a job: an answer, or none."""
        found = await self._answers.get(cache_key(job.owner, job.body.decoded(), job.endpoint))
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
