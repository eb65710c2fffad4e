"""Who waits for a job, and what happens to the loop that wakes them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from api.waiters import Waiters
from tasks.background import Background
from tasks.records.jobs import Status


class Store:
    """A store with one job, and a subscription that breaks in a way that nobody thought of."""

    def __init__(self, broken):
        self.status, self.broken, self.reads = Status.RUNNING, broken, 0
        self.jobs = self.connection = self
        self.finishes = asyncio.Queue()
        self.listening = asyncio.Event()

    async def get(self, job_id, owner):
        self.reads += 1
        return SimpleNamespace(id=job_id, owner=owner, status=self.status)

    def subscription(self, *_):
        return self

    async def messages(self):
        yield None
        if self.broken:
            self.broken -= 1
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "a stranger's message")
        self.listening.set()
        while True:
            yield "finished", (await self.finishes.get()).encode()

    def finish(self, job_id):
        self.status = Status.SUCCEEDED
        self.finishes.put_nowait(job_id)


@pytest.mark.parametrize("broken", [0, 1, 2])
async def test_a_waiter_is_woken_by_the_finish_even_if_the_subscription_broke(broken, caplog):
    store, ended, died = Store(broken), [], []
    waiters = Waiters(store)
    background = Background(died.append, end=lambda: ended.append("ended"), again_seconds=0.01)
    background.start("finishes", waiters.listen)
    waiting = asyncio.create_task(waiters.wait("job_1", "ann", 60))
    async with asyncio.timeout(5):
        await store.listening.wait()
        store.finish("job_1")
        record = await waiting
    assert record.status is Status.SUCCEEDED
    assert [r.getMessage() for r in caplog.records] == ["the loop finishes died"] * broken
    assert (ended, died) == ([], ["finishes"] * broken)
    await background.stop()


async def test_a_listener_that_cannot_be_kept_alive_ends_the_process():
    store, ended = Store(broken=100), asyncio.Event()
    background = Background(lambda _: None, end=ended.set, again_seconds=0.01)
    background.start("finishes", Waiters(store).listen)
    await asyncio.wait_for(ended.wait(), 5)
    await background.stop()


@pytest.mark.parametrize("moment", ["before it is waited for", "later"])
async def test_who_entered_before_his_job_began_reads_it_once(moment):
    store = Store(broken=0)
    waiters = Waiters(store)
    listening = asyncio.create_task(waiters.listen())
    await store.listening.wait()
    with waiters.waiting_for("job_1") as entered:
        if moment == "before it is waited for":
            store.finish("job_1")
            await entered
        waiting = asyncio.create_task(waiters.wait("job_1", "ann", 60, entered))
        await asyncio.sleep(0.05)
        if moment == "later":
            assert store.reads == 0
            store.finish("job_1")
        record = await asyncio.wait_for(waiting, 5)
    assert (record.status, store.reads) == (Status.SUCCEEDED, 1)
    assert not waiters._waiting, "nobody is listed any more"
    listening.cancel()


async def test_who_entered_is_not_kept_by_what_he_does_not_hear(monkeypatch):
    monkeypatch.setattr("api.waiters.LOOK_SECONDS", 0.05)
    store = Store(broken=0)
    waiters = Waiters(store)
    with waiters.waiting_for("job_1") as entered:
        store.status = Status.SUCCEEDED  # and no word of it
        record = await asyncio.wait_for(waiters.wait("job_1", "ann", 60, entered), 5)
    assert record.status is Status.SUCCEEDED
