"""Whoever asks whether the API is ready costs the others nothing."""

from __future__ import annotations

import asyncio

import pytest

from api import readiness
from api.readiness import Readiness
from tasks.errors import StoreUnavailable


class Check:
    """A part that is asked whether it is there."""

    def __init__(self) -> None:
        self.asked, self.error, self.go = 0, None, asyncio.Event()
        self.go.set()

    async def __call__(self):
        self.asked += 1
        await self.go.wait()
        if self.error:
            raise self.error


@pytest.fixture
def store():
    return Check()


@pytest.fixture
def broker():
    return Check()


@pytest.fixture
def ready(store, broker):
    return Readiness(store=store, broker=broker)


async def test_all_who_ask_at_once_share_one_look(ready, store, broker):
    store.go.clear()
    asking = [asyncio.create_task(ready.reasons()) for _ in range(100)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    asking[0].cancel()
    store.go.set()
    assert await asyncio.gather(*asking[1:]) == [[]] * 99
    assert (store.asked, broker.asked) == (1, 1)
    assert await ready.reasons() == []
    assert (store.asked, broker.asked) == (2, 2)


async def test_what_is_not_there_or_does_not_answer_is_named(ready, store, broker, monkeypatch):
    monkeypatch.setattr(readiness, "READY_SECONDS", 0.01)
    store.error = StoreUnavailable("away")
    assert await ready.reasons() == ["no store"]
    broker.go.clear()
    assert await ready.reasons() == ["no store", "no broker"]
    store.error = None
    broker.go.set()
    assert await ready.reasons() == []
