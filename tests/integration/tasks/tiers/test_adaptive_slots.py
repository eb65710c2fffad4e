"""A limit that adapts finds what an engine bears: real store, tiers and calls; a stub engine."""

from __future__ import annotations

import asyncio
import math
import statistics
from collections import Counter
from contextlib import asynccontextmanager

import pytest
from harness.stores import store_on
from harness.waiting import eventually

from circuit_breaker import CircuitBreaker, CircuitBreakerConfig
from fallback_chain import ChatTier, HttptoolsHttp, TierConfig, Verdict
from tasks.store.limits import Share
from tasks.tiers.slots import AdaptiveSlots

BODY = {"messages": [{"role": "user", "content": "Hi"}]}
SECONDS = 0.05  # of a call


class Engine:
    """What a stub is: so many slots; who comes beyond them gets a 429."""

    def __init__(self, upstream, slots: int) -> None:
        self.upstream, self.slots = upstream, slots
        upstream.delay = SECONDS
        upstream.plan = lambda _: "too-many" if upstream.running > self.slots else "ok"


class Process:
    """As a worker: its own store connection, slots and client; callers that never cease."""

    def __init__(self, url: str, engine: Engine, share: Share) -> None:
        self._before = asyncio.all_tasks()
        self.store = store_on(url)
        self.slots = AdaptiveSlots(self.store.limits, share)
        self.verdicts: Counter[Verdict] = Counter()
        self.http = HttptoolsHttp(connect_timeout_seconds=2)
        config = TierConfig("gpu", engine.upstream.url, "m", None, 10.0, adapts=True)
        self.breaker = CircuitBreaker("gpu", CircuitBreakerConfig())
        self.tier = ChatTier(config, self.breaker, self.http)

    async def call(self) -> None:
        token = await self.slots.line_up()
        trial = await self.tier.ask(BODY)
        self.verdicts[trial.attempt.verdict] += 1
        await self.slots.release(token, trial.attempt)

    async def keep_calling(self) -> None:
        while True:
            await self.call()

    async def close(self) -> None:
        # What they still ask the store for, and would open a connection for once it is closed.
        if under_way := asyncio.all_tasks() - self._before - {asyncio.current_task()}:
            _, pending = await asyncio.wait(under_way, timeout=5)
            assert not pending
        await self.http.aclose()
        await self.store.close()


@asynccontextmanager
async def load(processes, callers):
    """Callers of every process that never cease."""
    calling = [asyncio.create_task(p.keep_calling()) for p in processes for _ in range(callers)]
    try:
        yield
    finally:
        for each in calling:
            each.cancel()
        await asyncio.gather(*calling, return_exceptions=True)


@pytest.fixture
async def fleet(valkey, gpu):
    engine = Engine(gpu, 8)
    share = Share("gpu", 2, 64)
    processes = [Process(valkey.url, engine, share) for _ in range(2)]
    yield engine, processes
    for each in processes:
        await each.close()


def answered(processes):
    return sum(each.verdicts[Verdict.ANSWERED] for each in processes)


def turned_away(processes):
    return sum(each.verdicts[Verdict.SATURATED] for each in processes)


async def observed(processes, answers):
    """Return the limits that are seen until so many answers, and the share of those turned away."""
    limits, turned, before = [], turned_away(processes), answered(processes)
    while (now := answered(processes)) < before + answers:
        limits.append(processes[0].slots.limit)
        await asyncio.sleep(0.02)
    return limits, (turned_away(processes) - turned) / (now - before)


async def test_it_settles_near_what_the_engine_bears_and_follows_it(fleet):
    engine, processes = fleet
    async with load(processes, 40):
        await eventually(lambda: answered(processes) > 200, 30)
        for slots in (8, 24, 6):
            engine.slots = slots
            near = range(math.floor(0.7 * slots), slots + 2)
            await eventually(lambda: processes[0].slots.limit in near, 60)  # noqa: B023
            spans = [await observed(processes, 40 * slots) for _ in range(3)]
            seen = [limit for limits, _ in spans for limit in limits]
            usual = statistics.median_low(seen)
            assert 0.5 * slots <= usual <= slots + 1, (slots, Counter(seen))
            shares = [share for _, share in spans]
            assert statistics.median(shares) < 0.15, shares
    assert all(each.breaker.refusal() is None for each in processes), "no 429 held the tier"
    assert sum(each.verdicts.total() for each in processes) == answered(processes) + turned_away(
        processes
    )


async def test_where_batches_fill_all_that_they_may_a_lone_call_begins_at_once(valkey, gpu):
    engine = Engine(gpu, 20)
    share = Share("gpu", 20, 20)
    batch = Process(valkey.url, engine, share._replace(reserved=1))
    lone = Process(valkey.url, engine, share)
    async with load([batch], 60):
        await eventually(lambda: gpu.running == 18, 10)
        for _ in range(20):
            began = asyncio.get_running_loop().time()
            token = await asyncio.wait_for(lone.slots.line_up(), 5)
            assert asyncio.get_running_loop().time() - began < 0.09, "it waited for a look"
            await lone.slots.release(token)
    assert gpu.most_running <= 19
    assert not batch.verdicts[Verdict.SATURATED]
    for each in (batch, lone):
        await each.close()
