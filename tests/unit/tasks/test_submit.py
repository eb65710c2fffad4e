"""How a job, or a batch, enters: recorded, then published; or refused, without a trace."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import msgspec
import pytest
from harness.fakes import FakePublisher
from harness.waiting import eventually, turns

from fallback_chain import Body
from tasks.errors import PublishError, StoreFull, StoreUnavailable
from tasks.records.batches import BatchOptions, Endpoint, NewBatch
from tasks.records.idempotency import IdempotencyKey
from tasks.records.jobs import Dispatch, Options, Queue, Ref, Submission
from tasks.submit import Submitter

JOBS = [
    Submission(
        id=f"job_{n}",
        owner="ann",
        queue=Queue.BATCH,
        body=Body.of({}),
        options=Options(),
        deadline_seconds=60.0,
    )
    for n in (1, 2)
]
KEYS = [IdempotencyKey("name", "0" * 32, lookup=True)]
VALIDATION = Dispatch("unit_batch_1_validate", 0, "validate", "phases")
BATCH = NewBatch("batch_1", "ann", Endpoint.CHAT, "file-1", "24h", {}, BatchOptions())


class FakeStore:
    """Takes everything. earlier: what a create with the same key made before."""

    def __init__(self) -> None:
        self.moves: list[tuple] = []
        self.earlier: list[str] | None = None
        self.batch_id, self.cancelled = "batch_1", [Dispatch("unit_join", 0, "join", "phases")]
        self.room = True
        self.away = False
        self.looks = 0
        self.looking = asyncio.Event()
        self.looking.set()
        self.jobs = SimpleNamespace(create=self._create, discard=self._discard)
        self.batches = SimpleNamespace(create=self._create_batch, cancel=self._cancel)
        self.connection = SimpleNamespace(has_room=self._has_room)
        self.durability = SimpleNamespace(job=self._safe, batch=self._safe, waits=True)
        self.safe = True

    async def _create(self, jobs, order, keys, letter):
        self.moves.append(("create", [job.id for job in jobs], order, keys))
        return 1234.5, self.earlier, "interactive.begun"

    async def _discard(self, owner, ids, keys):
        if self.away:
            raise StoreUnavailable
        self.moves.append(("discard", owner, ids, keys))

    async def _create_batch(self, batch, keys):
        self.moves.append(("create_batch", batch.id, keys))
        return self.batch_id, [VALIDATION] if self.batch_id == batch.id else []

    async def _cancel(self, batch_id, owner):
        self.moves.append(("cancel", batch_id, owner))
        return self.cancelled

    async def _safe(self, name):
        self.moves.append(("safe", name))
        if not self.safe:
            raise StoreUnavailable

    async def _has_room(self):
        self.looks += 1
        await self.looking.wait()
        if self.away:
            raise StoreUnavailable
        return self.room


@pytest.fixture
async def store():
    return FakeStore()


@pytest.fixture
def publisher():
    return FakePublisher(("cpu",))


@pytest.fixture
async def submitter(store, publisher):
    return Submitter(store, publisher)


async def test_jobs_are_recorded_and_published_at_the_first_tier(submitter, store, publisher):
    assert await submitter.submit(JOBS, KEYS) == (1234.5, None)
    assert store.moves == [
        ("create", ["job_1", "job_2"], ("cpu", "cache"), KEYS),
        ("safe", "job_1"),
    ]
    assert publisher.published == [("cpu", "interactive.begun", [Ref("job_1", 0), Ref("job_2", 0)])]


async def test_each_job_is_published_where_the_first_tier_is_that_may_answer_it(
    submitter, publisher
):
    only_cached = msgspec.structs.replace(JOBS[0], options=Options(tiers=("cache",)))
    await submitter.submit([only_cached, JOBS[1]])
    assert publisher.published == [
        ("cache", "interactive.begun", [Ref("job_1", 0)]),
        ("cpu", "interactive.begun", [Ref("job_2", 0)]),
    ]


async def test_what_an_earlier_request_made_is_not_made_again(submitter, store, publisher):
    store.earlier = ["job_0"]
    assert await submitter.submit(JOBS, KEYS) == (1234.5, ["job_0"])
    assert publisher.published == []


async def test_what_the_broker_does_not_take_is_taken_back(submitter, store, publisher):
    publisher.refuses = PublishError("away")
    with pytest.raises(PublishError):
        await submitter.submit(JOBS, KEYS)
    assert store.moves[-1] == ("discard", "ann", ["job_1", "job_2"], KEYS)


@pytest.mark.parametrize("what", ["jobs", "batch"])
async def test_what_is_cut_off_while_the_broker_hangs_is_taken_back(
    submitter, store, publisher, what
):
    """The API ends, and tells its caller to ask again."""
    hangs = asyncio.Event()
    publisher.publish = publisher.dispatch = lambda *_: hangs.wait()
    creating = submitter.submit(JOBS) if what == "jobs" else submitter.submit_batch(BATCH, [])
    asking = asyncio.create_task(creating)
    await eventually(lambda: len(store.moves) == 2)
    await turns()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    taken_back = {
        "jobs": ("discard", "ann", ["job_1", "job_2"], ()),
        "batch": ("cancel", "batch_1", "ann"),
    }
    assert store.moves[-1] == taken_back[what]


async def test_who_ends_waits_for_what_is_taken_back(submitter, store, publisher):
    """Who asked may be cut off once more; and the store is closed after it."""
    hangs, answers = asyncio.Event(), asyncio.Event()
    publisher.publish = lambda *_: hangs.wait()
    discard = store.jobs.discard

    async def slow(*args):
        await answers.wait()
        await discard(*args)

    store.jobs.discard = slow
    asking = asyncio.create_task(submitter.submit(JOBS, KEYS))
    await eventually(lambda: len(store.moves) == 2)
    for _ in range(2):
        await turns()
        asking.cancel()
    await asyncio.wait([asking])
    stopping = asyncio.create_task(submitter.stop())
    await turns()
    assert not stopping.done()
    answers.set()
    await asyncio.wait_for(stopping, 5)
    assert store.moves[-1] == ("discard", "ann", ["job_1", "job_2"], KEYS)
    await submitter.stop()


async def test_what_cannot_be_taken_back_is_left_to_the_sweeper(submitter, store, publisher):
    publisher.refuses = PublishError("away")
    await submitter.check_room()
    store.away = True
    with pytest.raises(PublishError):
        await submitter.submit(JOBS)


async def test_a_full_store_takes_nothing_new(submitter, store, publisher):
    store.room = False
    with pytest.raises(StoreFull, match="nearly full"):
        await submitter.submit(JOBS)
    with pytest.raises(StoreFull):
        await submitter.submit_batch(BATCH, KEYS)
    assert (store.moves, publisher.published) == ([], [])


async def test_a_store_that_has_room_is_believed_for_a_while(submitter, store, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("tasks.submit.time", SimpleNamespace(monotonic=lambda: now[0]))
    for now[0] in (100.0, 100.5, 100.99):
        await submitter.check_room()
    assert store.looks == 1
    now[0] = 101.0
    store.room = False
    with pytest.raises(StoreFull):
        await submitter.check_room()


async def test_a_store_that_was_full_is_looked_at_again_at_once(submitter, store):
    store.room = False
    with pytest.raises(StoreFull):
        await submitter.check_room()
    store.room = True
    await submitter.check_room()


async def test_all_who_ask_at_once_share_a_look(submitter, store):
    store.looking.clear()
    first = asyncio.create_task(submitter.check_room())
    await turns()
    others = [asyncio.create_task(submitter.check_room()) for _ in range(5)]
    await turns()
    store.looking.set()
    await asyncio.gather(first, *others)
    assert store.looks == 2


async def test_a_store_that_is_away_refuses(submitter, store):
    store.away = True
    with pytest.raises(StoreUnavailable):
        await submitter.submit(JOBS)


@pytest.mark.parametrize("batch_id", ["batch_1", "batch_0"])
async def test_only_a_new_batch_is_validated(submitter, store, publisher, batch_id):
    store.batch_id = batch_id
    assert await submitter.submit_batch(BATCH, KEYS) == batch_id
    assert store.moves == [("create_batch", "batch_1", KEYS), ("safe", batch_id)]
    assert publisher.dispatched == ([VALIDATION] if batch_id == "batch_1" else [])


@pytest.mark.parametrize("cancelled", [None, [], [Dispatch("unit_join", 0, "join", "phases")]])
async def test_a_batch_that_is_cancelled_is_joined(submitter, store, publisher, cancelled):
    store.cancelled = cancelled
    assert await submitter.cancel_batch("batch_1", "ann") is (cancelled is not None)
    assert publisher.dispatched == (cancelled or [])


async def test_jobs_that_the_store_did_not_make_safe_are_taken_back(submitter, store, publisher):
    store.safe = False
    with pytest.raises(StoreUnavailable):
        await submitter.submit(JOBS, KEYS)
    assert store.moves[-1] == ("discard", "ann", ["job_1", "job_2"], KEYS)
    assert publisher.published == []


async def test_a_batch_that_the_store_did_not_make_safe_is_cancelled(submitter, store, publisher):
    store.safe = False
    with pytest.raises(StoreUnavailable):
        await submitter.submit_batch(BATCH, [])
    assert store.moves[-1] == ("cancel", "batch_1", "ann")
    assert publisher.dispatched == []


@pytest.mark.parametrize("batch_id", ["batch_1", "batch_0"])
async def test_a_batch_that_its_key_finds_again_is_not_cancelled(submitter, store, batch_id):
    store.safe, store.batch_id = False, batch_id
    with pytest.raises(StoreUnavailable):
        await submitter.submit_batch(BATCH, KEYS)
    assert store.moves == [("create_batch", "batch_1", KEYS), ("safe", batch_id)]


async def test_of_a_batch_that_was_not_made_safe_a_repeated_create_is_not_told(submitter, store):
    store.safe, store.earlier = False, ["job_0"]
    with pytest.raises(StoreUnavailable):
        await submitter.submit(JOBS, KEYS)
