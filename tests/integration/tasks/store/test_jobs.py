"""Every transition of the job store, on a real Valkey."""

from __future__ import annotations

import asyncio
import time

import pytest
import redis

from tasks.errors import StoreUnavailable, StoreUnfit
from tasks.records.jobs import Options, Queue, Status, Submission, new_job_id
from tasks.settings import Settings
from tasks.store.connection import connect
from tasks.store.jobs import JobStore

ME, OTHER = "worker-1:slice-1", "worker-2:slice-9"
ALL_BUSY = {"interactive": False, "batch": False}
NONE_LEFT = {"interactive": True, "batch": True}


@pytest.fixture
async def store(valkey):
    settings = Settings(
        redis_url=valkey.url, lease_seconds=1, dispatch_grace_seconds=1, sweep_seconds=0.1
    )
    store = JobStore(connect(valkey.url), settings)
    yield store
    await store.close()


def job(queue=Queue.INTERACTIVE, owner="ann", deadline=60.0, prompt="Hello"):
    return Submission(
        id=new_job_id(),
        owner=owner,
        queue=queue,
        body={"messages": [{"role": "user", "content": prompt}]},
        options=Options(),
        deadline_seconds=deadline,
        metadata={"team": "blue"},
    )


async def created(store, **fields):
    new = job(**fields)
    await store.create([new], "gpu")
    return new.id


async def begun(store, **fields):
    job_id = await created(store, **fields)
    [mine] = await store.begin(ME, "gpu", [(job_id, 0)])
    return mine


async def status(store, job_id):
    return (await store.get(job_id, "ann")).status


async def move(store, mine, to="cpu", mark="t1", due_seconds=None):
    return await store.move(
        [mine], to, mark, attempts=[[{"tier": "gpu"}]], failures=[1], due_seconds=due_seconds
    )


async def test_a_new_job_is_queued_with_all_that_it_needs(store):
    new = job()
    at, _ = await store.create([new], "gpu")
    record = await store.get(new.id, "ann")
    assert (record.status, record.tier, record.attempt) == (Status.QUEUED, "gpu", 0)
    assert record.created_at == at == pytest.approx(time.time(), abs=2)
    assert record.deadline_at == pytest.approx(at + 60, abs=0.01)
    assert record.metadata == {"team": "blue"}
    assert (await store.gauges()).waiting["interactive"] == 1


async def test_another_owner_has_no_such_job(store):
    job_id = await created(store)
    assert await store.get(job_id, "bob") is None
    assert not await store.cancel(job_id, "bob")
    assert await status(store, job_id) is Status.QUEUED


async def test_a_job_begins_once(store):
    job_id = await created(store)
    [mine] = await store.begin(ME, "gpu", [(job_id, 0)])
    assert mine.body["messages"][0]["content"] == "Hello"
    assert mine.deadline - time.monotonic() == pytest.approx(60, abs=2)
    assert await store.begin(OTHER, "gpu", [(job_id, 0)]) == []
    assert [again.id for again in await store.begin(ME, "gpu", [(job_id, 0)])] == [job_id]


@pytest.mark.parametrize(("tier", "attempt"), [("cpu", 0), ("gpu", 1)])
async def test_a_message_of_another_tier_or_attempt_is_stale(store, tier, attempt):
    job_id = await created(store)
    assert await store.begin(ME, tier, [(job_id, attempt), ("job_unknown", 0)]) == []


async def test_the_first_finish_wins(store):
    mine = await begun(store)
    assert await store.finish(mine, Status.SUCCEEDED, {"tier_used": "gpu", "answer": b"{}"})
    assert not await store.finish(mine, Status.FAILED, {"error": b"{}"})
    record = await store.get(mine.id, "ann")
    assert (record.status, record.tier_used) == (Status.SUCCEEDED, "gpu")
    assert await store.counts() == {"gpu": {"succeeded": 1}}
    assert sum((await store.latencies()).values()) == 1


async def test_only_a_finished_job_has_a_ttl_and_its_body_is_gone(store):
    mine = await begun(store)
    key = f"ft:job:{mine.id}"
    assert await store.redis.ttl(key) == -1
    await store.finish(mine, Status.SUCCEEDED, {})
    assert 86_000 < await store.redis.ttl(key) <= 86_400
    assert not await store.redis.hexists(key, "body")


async def test_a_finish_after_the_job_moved_on_is_refused(store):
    mine = await begun(store)
    assert await move(store, mine) == [(mine.id, 1)]
    assert not await store.finish(mine, Status.SUCCEEDED, {})
    [theirs] = await store.begin(OTHER, "cpu", [(mine.id, 1)])
    assert not await store.finish(mine, Status.SUCCEEDED, {})
    assert await store.finish(theirs, Status.SUCCEEDED, {"tier_used": "cpu"})


async def test_a_move_asked_again_gives_the_same_answer_and_another_one_none(store):
    mine = await begun(store)
    assert await move(store, mine) == [(mine.id, 1)]
    assert await move(store, mine) == [(mine.id, 1)]
    assert await move(store, mine, mark="t2") == []
    await store.begin(OTHER, "cpu", [(mine.id, 1)])
    assert await move(store, mine) == []


async def test_cancel_ends_what_waits_and_what_runs_and_nothing_else(store):
    waiting, mine = await created(store), await begun(store)
    assert await store.cancel(waiting, "ann")
    assert await store.cancel(mine.id, "ann")
    assert await status(store, waiting) is await status(store, mine.id) is Status.CANCELLED
    assert await store.begin(ME, "gpu", [(waiting, 0)]) == []
    assert not await store.finish(mine, Status.SUCCEEDED, {})
    assert await store.renew([(mine.id, ME)]) == [mine.id]
    done = await begun(store)
    await store.finish(done, Status.SUCCEEDED, {})
    assert await store.cancel(done.id, "ann")
    assert await status(store, done.id) is Status.SUCCEEDED


async def test_listeners_hear_of_finishes_and_of_cancelled_runs(store):
    mine = await begun(store)
    listening = store.events("finished", "cancelled")
    assert await anext(listening) is None
    await store.cancel(mine.id, "ann")
    heard = {await anext(listening), await anext(listening)}
    assert heard == {("finished", mine.id), ("cancelled", mine.id)}
    await listening.aclose()


async def test_a_job_past_its_deadline_does_not_begin(store):
    job_id = await created(store, deadline=0.01)
    await asyncio.sleep(0.05)
    assert await store.begin(ME, "gpu", [(job_id, 0)]) == []
    assert await status(store, job_id) is Status.EXPIRED


async def test_the_sweeper_ends_what_is_past_its_deadline(store):
    waiting = await created(store, deadline=0.01)
    await asyncio.sleep(0.05)
    assert await store.sweep("s", ALL_BUSY) == []
    assert await status(store, waiting) is Status.EXPIRED
    assert await store.counts() == {"-": {"expired": 1}}


async def test_a_lease_that_ends_gives_the_job_to_another(store):
    mine = await begun(store)
    assert await store.renew([(mine.id, ME)]) == []
    assert await store.sweep("s", ALL_BUSY) == []
    await asyncio.sleep(1.05)
    assert await store.sweep("s", ALL_BUSY) == [(mine.id, 1, "gpu", "interactive", "lease")]
    assert await store.renew([(mine.id, ME)]) == [mine.id]
    assert not await store.finish(mine, Status.SUCCEEDED, {})
    [theirs] = await store.begin(OTHER, "gpu", [(mine.id, 1)])
    assert theirs.attempts[0]["verdict"] == "lost"


async def test_a_renewed_lease_is_left_alone(store):
    mine = await begun(store)
    for _ in range(3):
        await asyncio.sleep(0.5)
        assert await store.renew([(mine.id, ME)]) == []
        assert await store.sweep("s", NONE_LEFT) == []


async def test_one_sweeper_at_a_time(store):
    assert await store.sweep("one", ALL_BUSY) == []
    assert await store.sweep("two", ALL_BUSY) is None


async def test_a_backlog_is_not_taken_for_lost(store):
    await created(store)
    await asyncio.sleep(1.05)
    assert await store.sweep("s", ALL_BUSY) == []


async def test_what_a_later_job_overtook_is_taken_for_lost(store):
    lost = await created(store)
    await asyncio.sleep(0.01)
    await begun(store)
    await asyncio.sleep(0.5)
    assert await store.sweep("s", ALL_BUSY) == []
    await asyncio.sleep(0.6)
    found = await store.sweep("s", ALL_BUSY)
    assert (lost, 1, "gpu", "interactive", "unbegun") in found


async def test_what_has_no_message_left_is_taken_for_lost_and_given_twice_the_time(store):
    lost = await created(store, queue=Queue.BATCH)
    await asyncio.sleep(1.05)
    assert await store.sweep("s", NONE_LEFT) == [(lost, 1, "gpu", "batch", "unbegun")]
    await asyncio.sleep(1.2)
    assert await store.sweep("s", NONE_LEFT) == []
    await asyncio.sleep(1.0)
    assert await store.sweep("s", NONE_LEFT) == [(lost, 2, "gpu", "batch", "unbegun")]


async def test_a_parked_job_is_due_at_its_time_at_its_first_tier(store):
    mine = await begun(store)
    assert await move(store, mine, to="", due_seconds=0.3) == [(mine.id, 1)]
    assert (await store.gauges()).parked == 1
    assert await store.sweep("s", NONE_LEFT) == []
    await asyncio.sleep(0.35)
    assert await store.sweep("s", ALL_BUSY) == [(mine.id, 2, "gpu", "interactive", "parked")]


async def test_what_was_never_published_is_taken_back_unless_it_began(store):
    waiting, running = await created(store), (await begun(store)).id
    assert await store.discard("ann", [waiting, running]) == 1
    assert await store.get(waiting, "ann") is None
    assert await status(store, running) is Status.RUNNING


async def test_jobs_are_listed_newest_first_by_owner_and_page(store):
    ids = []
    for _ in range(5):
        ids.append(await created(store))
        await asyncio.sleep(0.002)
    await created(store, owner="bob")
    first, more = await store.list_jobs("ann", 2, None)
    assert ([r.id for r in first], more) == (ids[:2:-1], True)
    rest, more = await store.list_jobs("ann", 10, first[-1].id)
    assert ([r.id for r in rest], more) == (ids[2::-1], False)
    assert await store.list_jobs("ann", 10, "job_unknown") == ([], False)


async def test_results_past_their_ttl_leave_the_list(store):
    kept, gone = await created(store), await created(store)
    await store.redis.delete(f"ft:job:{gone}")
    assert [r.id for r in (await store.list_jobs("ann", 10, None))[0]] == [kept]
    assert await store.redis.zcard("ft:owner:ann") == 1


async def test_permits_are_for_the_whole_fleet_and_leased(store):
    assert await store.permits("cpu", 2, "take", ["a"])
    assert await store.permits("cpu", 2, "take", ["b"])
    assert not await store.permits("cpu", 2, "take", ["c"])
    await store.permits("cpu", 2, "give", ["a"])
    assert await store.permits("cpu", 2, "take", ["c"])
    await asyncio.sleep(0.6)
    await store.permits("cpu", 2, "renew", ["b"])
    await asyncio.sleep(0.6)
    assert await store.permits("cpu", 2, "take", ["d"]), "c's holder is gone"
    assert not await store.permits("cpu", 2, "take", ["e"]), "b's is not"


async def test_a_full_store_takes_no_new_job_and_finishes_the_accepted_ones(store):
    mine = await begun(store)
    await store.redis.config_set("maxmemory", 1)
    try:
        assert not await store.has_room()
        with pytest.raises(StoreUnavailable):
            await created(store)
        assert await store.finish(mine, Status.SUCCEEDED, {"tier_used": "gpu"})
    finally:
        await store.redis.config_set("maxmemory", 0)
    assert await store.has_room()


async def test_a_store_that_drops_keys_is_unfit(store):
    await store.check()
    await store.redis.config_set("maxmemory", "1gb")
    await store.redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(StoreUnfit, match="allkeys-lru"):
            await store.check()
    finally:
        await store.redis.config_set("maxmemory-policy", "noeviction")
        await store.redis.config_set("maxmemory", 0)


async def test_a_store_that_refuses_us_is_unfit_and_says_why(store):
    await store.redis.config_set("requirepass", "hunter2")
    other = JobStore(connect(store_url(store)), Settings())
    try:
        with pytest.raises(StoreUnfit, match=r"(?i)auth"):
            await other.check()
    finally:
        await store.redis.config_set("requirepass", "")
        await other.close()


def store_url(store):
    return f"redis://127.0.0.1:{store.redis.connection_pool.connection_kwargs['port']}/0"


async def test_transitions_asked_at_once_each_get_their_own_answer(store):
    new = [job(prompt=str(n)) for n in range(50)]
    await asyncio.gather(*(store.create([each], "gpu") for each in new))
    answers = await asyncio.gather(*(store.begin(ME, "gpu", [(each.id, 0)]) for each in new))
    assert [a[0].body["messages"][0]["content"] for a in answers] == [str(n) for n in range(50)]


async def test_a_store_that_is_away_is_said_to_be(own_valkey):
    store = JobStore(connect(own_valkey.url), Settings(redis_url=own_valkey.url))
    await store.ping()
    own_valkey.kill()
    with pytest.raises(StoreUnavailable):
        await created(store)
    own_valkey.start()
    await created(store)
    await store.close()


async def test_scripts_are_loaded_again_after_the_server_forgot_them(store):
    await created(store)
    with redis.Redis(port=store.redis.connection_pool.connection_kwargs["port"]) as client:
        client.script_flush()
    await created(store)
