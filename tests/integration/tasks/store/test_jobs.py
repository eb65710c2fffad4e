"""Every transition of the job store, on a real Valkey whose clock the test turns."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest
import redis
from harness.records import ORDER
from harness.stores import store_on

from fallback_chain import Attempt, Body, Verdict
from tasks.errors import NoSuchCursor, StoreFull, StoreUnavailable, StoreUnfit
from tasks.records.idempotency import IdempotencyKey
from tasks.records.jobs import Dispatch, Options, Queue, Ref, Status, Submission, Swept, new_job_id
from tasks.records.losses import ALONE, lost
from tasks.records.outcomes import Finish, HandOn, Park
from tasks.settings import Settings
from tasks.store import keyspace
from tasks.store.connection import Connection

ME, OTHER = "worker-1:slice-1", "worker-2:slice-9"
ALL_BUSY = {queue.value: False for queue in Queue}
NONE_LEFT = {queue.value: True for queue in Queue}
BEGUN = "interactive.begun"
TRIED = (Attempt("gpu", Verdict.FAILURE, 1.0),)
EXPIRED = Finish(status=Status.EXPIRED, attempts=())


def succeeded(tier="gpu", **fields):
    return Finish(**{"status": Status.SUCCEEDED, "attempts": (), "tier_used": tier, **fields})


@pytest.fixture
async def store(store_url, clock):
    store = store_on(store_url, clock, lease_seconds=1, dispatch_grace_seconds=1, sweep_seconds=0.1)
    yield store
    await store.close()


@pytest.fixture
def jobs(store):
    return store.jobs


def job(queue=Queue.INTERACTIVE, owner="ann", deadline=60.0, prompt="Hello"):
    return Submission(
        id=new_job_id(),
        owner=owner,
        queue=queue,
        body=Body.of({"messages": [{"role": "user", "content": prompt}]}),
        options=Options(),
        deadline_seconds=deadline,
        metadata={"team": "blue"},
    )


async def created(jobs, **fields):
    new = job(**fields)
    await jobs.create([new], ORDER)
    return new.id


async def begun(jobs, **fields):
    job_id = await created(jobs, **fields)
    [mine] = await jobs.begin(ME, "gpu", [Ref(job_id, 0)])
    return mine


async def status(jobs, job_id):
    return (await jobs.get(job_id, "ann")).status


async def hand_on(jobs, mine, to="cpu", mark="t1"):
    return await jobs.hand_on([mine], to, mark, [HandOn(TRIED, 1)])


async def sweep(store, empty=None):
    """Sweep as the next sweeper would, whenever the last one was there."""
    await store.connection.command("DEL", keyspace.SWEEPER)
    return await store.jobs.sweep(empty or ALL_BUSY)


def swept(job_id, attempt, reason, queue="interactive"):
    return Swept(Dispatch(job_id, attempt, "gpu", queue), reason)


async def test_a_new_job_is_queued_with_all_that_it_needs(store, jobs, clock):
    new = job()
    at, *_ = await jobs.create([new], ORDER)
    record = await jobs.get(new.id, "ann")
    assert (record.status, record.tier, record.attempt) == (Status.QUEUED, "gpu", 0)
    assert record.created_at == at == clock.ms / 1000
    assert record.deadline_at == at + 60
    assert record.metadata == {"team": "blue"}
    assert (await store.fleet.gauges()).waiting["interactive"] == 1


async def test_the_time_is_the_servers_and_a_job_says_when_it_began(store_url):
    store = store_on(store_url)
    before = time.time() - 1
    mine = await begun(store.jobs)
    record = await store.jobs.get(mine.id, "ann")
    assert before < record.created_at <= record.started_at < time.time() + 1
    await store.close()


async def test_another_owner_has_no_such_job(jobs):
    job_id = await created(jobs)
    assert await jobs.get(job_id, "bob") is None
    assert not await jobs.cancel(job_id, "bob")
    assert await status(jobs, job_id) is Status.QUEUED


async def test_a_job_begins_once(jobs):
    job_id = await created(jobs)
    [mine] = await jobs.begin(ME, "gpu", [Ref(job_id, 0)])
    assert mine.body.decoded()["messages"][0]["content"] == "Hello"
    assert mine.deadline - time.monotonic() == pytest.approx(60, abs=2)
    assert await jobs.begin(OTHER, "gpu", [Ref(job_id, 0)]) == []
    assert [again.id for again in await jobs.begin(ME, "gpu", [Ref(job_id, 0)])] == [job_id]


@pytest.mark.parametrize(("tier", "attempt"), [("cpu", 0), ("gpu", 1)])
async def test_a_message_of_another_tier_or_attempt_is_stale(jobs, tier, attempt):
    job_id = await created(jobs)
    assert await jobs.begin(ME, tier, [Ref(job_id, attempt), Ref("job_unknown", 0)]) == []


async def test_the_first_finish_wins(store, jobs):
    mine = await begun(jobs)
    error = {"message": "no"}
    assert await jobs.finish(mine, succeeded(answer=b"{}", attempts=TRIED))
    assert not await jobs.finish(
        mine, Finish(status=Status.FAILED, attempts=(), error=error, error_status=400)
    )
    record = await jobs.get(mine.id, "ann")
    assert (record.status, record.tier_used, record.error) == (Status.SUCCEEDED, "gpu", None)
    [attempt] = record.attempts
    assert abs(attempt.pop("began") - time.time()) < 60
    assert attempt == {"tier": "gpu", "verdict": "failure", "milliseconds": 1.0}
    assert await store.fleet.counts() == {"gpu": {"succeeded": 1}}
    assert sum((await store.fleet.latencies()).values()) == 1


async def test_a_failure_has_its_error_and_status(jobs):
    mine = await begun(jobs)
    error = {"message": "no", "code": "x"}
    finish = Finish(status=Status.FAILED, attempts=(), error=error, error_status=400)
    assert await jobs.finish(mine, finish)
    record = await jobs.get(mine.id, "ann")
    assert (record.error, record.error_status, record.tier_used) == (error, 400, None)


@pytest.mark.parametrize("is_kept", [True, False])
async def test_only_a_finished_job_has_a_ttl_and_a_large_request_is_gone(store, jobs, is_kept):
    prompt = "x" * (10 if is_kept else Settings().kept_request_bytes)
    mine = await begun(jobs, prompt=prompt)
    key = keyspace.job(mine.id)
    assert await store.connection.command("TTL", key) == -1
    await jobs.finish(mine, succeeded())
    assert 86_000 < await store.connection.command("TTL", key) <= 86_400
    assert await store.connection.command("HEXISTS", key, "body") == is_kept


async def test_a_finish_after_the_job_moved_on_is_refused(jobs):
    mine = await begun(jobs)
    assert await hand_on(jobs, mine) == [(mine.id, 1)]
    assert not await jobs.finish(mine, succeeded())
    [theirs] = await jobs.begin(OTHER, "cpu", [Ref(mine.id, 1)])
    assert not await jobs.finish(mine, succeeded())
    assert await jobs.finish(theirs, succeeded("cpu"))


async def test_a_move_asked_again_gives_the_same_answer_and_another_one_none(jobs):
    mine = await begun(jobs)
    assert await hand_on(jobs, mine) == [(mine.id, 1)]
    assert await hand_on(jobs, mine) == [(mine.id, 1)]
    assert await hand_on(jobs, mine, mark="t2") == []
    await jobs.begin(OTHER, "cpu", [Ref(mine.id, 1)])
    assert await hand_on(jobs, mine) == []


def undated(attempts):
    assert all(abs(attempt.began - time.time()) < 60 for attempt in attempts)
    return tuple(msgspec.structs.replace(attempt, began=0.0) for attempt in attempts)


async def test_what_was_tried_goes_along_and_what_is_handed_back_is_as_it_was(jobs):
    mine = await begun(jobs)
    await hand_on(jobs, mine)
    [next_one] = await jobs.begin(OTHER, "cpu", [Ref(mine.id, 1)])
    assert (undated(next_one.attempts), next_one.failures) == (TRIED, 1)
    assert await jobs.hand_back(next_one, "t2") == [(mine.id, 2)]
    [same] = await jobs.begin(ME, "cpu", [Ref(mine.id, 2)])
    assert (undated(same.attempts), same.failures) == (TRIED, 1)


async def test_cancel_ends_what_waits_and_what_runs_and_nothing_else(jobs):
    waiting, mine = await created(jobs), await begun(jobs)
    assert await jobs.cancel(waiting, "ann")
    assert await jobs.cancel(mine.id, "ann")
    assert await status(jobs, waiting) is await status(jobs, mine.id) is Status.CANCELLED
    assert await jobs.begin(ME, "gpu", [Ref(waiting, 0)]) == []
    assert not await jobs.finish(mine, succeeded())
    assert await jobs.renew([(mine.id, ME)]) == [mine.id]
    done = await begun(jobs)
    await jobs.finish(done, succeeded())
    assert await jobs.cancel(done.id, "ann")
    assert await status(jobs, done.id) is Status.SUCCEEDED


async def test_listeners_hear_of_finishes_and_of_cancelled_runs(store, jobs):
    mine = await begun(jobs)
    listening = store.connection.events("finished", "cancelled")
    assert await anext(listening) is None
    await jobs.cancel(mine.id, "ann")
    heard = {await anext(listening), await anext(listening)}
    assert heard == {("finished", mine.id), ("cancelled", mine.id)}
    await listening.aclose()


async def test_listeners_hear_of_runs_that_end_with_their_deadline(store, jobs, clock):
    mine = await begun(jobs, deadline=1)
    listening = store.connection.events("finished", "cancelled")
    assert await anext(listening) is None
    clock.advance(1)
    await sweep(store)
    async with asyncio.timeout(5):
        heard = {await anext(listening), await anext(listening)}
    assert heard == {("finished", mine.id), ("cancelled", mine.id)}
    await listening.aclose()


async def test_a_job_past_its_deadline_does_not_begin(jobs, clock):
    job_id = await created(jobs, deadline=10)
    clock.advance(10)
    assert await jobs.begin(ME, "gpu", [Ref(job_id, 0)]) == []
    assert await status(jobs, job_id) is Status.EXPIRED


async def test_the_sweeper_ends_what_is_past_its_deadline(store, jobs, clock):
    waiting = await created(jobs, deadline=10)
    clock.advance(9.999)
    assert await sweep(store) == []
    assert await status(jobs, waiting) is Status.QUEUED
    clock.advance(0.001)
    assert await sweep(store) == []
    assert await status(jobs, waiting) is Status.EXPIRED
    assert await store.fleet.counts() == {"-": {"expired": 1}}


async def test_a_lease_that_ends_gives_the_job_to_another(store, jobs, clock):
    mine = await begun(jobs)
    assert await jobs.renew([(mine.id, ME)]) == []
    clock.advance(0.999)
    assert await sweep(store) == []
    clock.advance(0.001)
    assert await sweep(store) == [swept(mine.id, 1, "lease", BEGUN)]
    assert await jobs.renew([(mine.id, ME)]) == [mine.id]
    assert not await jobs.finish(mine, succeeded())
    [theirs] = await jobs.begin(OTHER, "gpu", [Ref(mine.id, 1)])
    assert theirs.attempts == (Attempt("gpu", Verdict.LOST, 0.0),)


async def test_who_is_suspected_is_blamed_only_if_it_was_called(store, jobs, clock):
    mine = await begun(jobs)
    for attempt, called in enumerate([False, False, False, True, False, True], start=1):
        assert await jobs.note_alone(mine) if called else True
        clock.advance(1)
        assert await sweep(store) == [swept(mine.id, attempt, "lease", BEGUN)]
        [mine] = await jobs.begin(ME, "gpu", [Ref(mine.id, attempt)])
    assert mine.attempts == (*[lost("gpu")] * 2, *[lost("gpu", ALONE)] * 2)


async def test_who_lost_a_job_does_not_note_that_it_is_called(store, jobs, clock):
    mine = await begun(jobs)
    clock.advance(1)
    await sweep(store)
    assert not await jobs.note_alone(mine)
    [theirs] = await jobs.begin(OTHER, "gpu", [Ref(mine.id, 1)])
    assert not await jobs.note_alone(mine)
    assert await jobs.note_alone(theirs)


async def test_a_renewed_lease_is_left_alone(store, jobs, clock):
    mine = await begun(jobs)
    for _ in range(3):
        clock.advance(0.9)
        assert await jobs.renew([(mine.id, ME)]) == []
        assert await sweep(store, NONE_LEFT) == []


@pytest.mark.parametrize(
    "waits", ["for its worker", "for its time", "for its message", "for its deadline"]
)
async def test_a_record_that_somebody_deleted_is_looked_for_once(store, jobs, clock, waits):
    """By hand, or by a rule of the store's: the sweeper goes on with what is there."""
    keys = [keyspace.LEASES, keyspace.PARKED, *keyspace.DISPATCHED]
    if waits == "for its message":
        gone, _ = await created(jobs), await begun(jobs)
    elif waits == "for its deadline":
        gone = await created(jobs, deadline=1)
        keys.append(keyspace.DEADLINES)
    else:
        mine = await begun(jobs)
        gone = mine.id
        if waits == "for its time":
            await jobs.park(mine, "gpu", "t1", Park(TRIED, 1, 1))
    other = await begun(jobs)
    await store.connection.command("DEL", keyspace.job(gone))
    clock.advance(1)
    await sweep(store, NONE_LEFT)
    for key in keys:
        assert gone.encode() not in await store.connection.command("ZRANGE", key, 0, -1)
    assert not await store.connection.command("EXISTS", keyspace.job(gone))
    assert await jobs.begin(OTHER, "gpu", [Ref(other.id, 1)])


async def test_one_sweeper_at_a_time_and_the_next_an_interval_later(jobs, clock):
    assert await jobs.sweep(ALL_BUSY) == []
    clock.advance(0.099)
    assert await jobs.sweep(ALL_BUSY) is None
    clock.advance(0.001)
    assert await jobs.sweep(ALL_BUSY) == []


async def test_who_held_a_lease_while_the_store_was_away_has_the_time_to_renew_it(jobs, clock):
    kept, lost = await begun(jobs), await begun(jobs)
    assert await jobs.sweep(ALL_BUSY) == []
    clock.advance(20)
    assert await jobs.sweep(ALL_BUSY) == []
    assert await jobs.renew([(kept.id, ME)]) == []
    for _ in range(9):
        clock.advance(0.1)
        assert await jobs.sweep(ALL_BUSY) == []
    assert await jobs.renew([(kept.id, ME)]) == []
    clock.advance(0.1)
    assert await jobs.sweep(ALL_BUSY) == [swept(lost.id, 1, "lease", BEGUN)]


async def test_a_clock_that_is_set_back_holds_nothing_for_longer_than_usual(store, jobs, clock):
    """Two minutes: of leases, of what is parked, of messages, and of the sweeper itself."""
    running, waiting, parked = await begun(jobs), await created(jobs), await begun(jobs)
    await jobs.park(parked, "gpu", "t1", Park((), 0, 30))
    assert await jobs.sweep(ALL_BUSY) == []
    clock.advance(-120)
    assert await jobs.sweep(NONE_LEFT) == []
    found = {}
    for tenth in range(1, 302):
        clock.advance(0.1)
        for each in await jobs.sweep(NONE_LEFT):
            found.setdefault(each.dispatch.id, (each.reason, tenth / 10))
    assert found == {
        running.id: ("lease", 1.0),
        waiting: ("unbegun", 30.0),
        parked.id: ("parked", 30.0),
    }


async def test_after_a_clock_was_set_back_a_backlog_is_no_loss(jobs, clock):
    await begun(jobs)
    clock.advance(-120)
    waiting = await created(jobs)
    clock.advance(1)
    assert await jobs.sweep(ALL_BUSY) == []
    assert await status(jobs, waiting) is Status.QUEUED


async def test_after_a_clock_was_set_back_what_was_overtaken_is_taken_for_lost(jobs, clock):
    await begun(jobs)
    clock.advance(-120)
    assert await jobs.sweep(ALL_BUSY) == []
    lost = await created(jobs)
    clock.advance(0.5)
    await begun(jobs)
    clock.advance(0.5)
    assert await jobs.sweep(ALL_BUSY) == [swept(lost, 1, "unbegun", BEGUN)]


async def test_a_time_of_the_last_sweep_that_is_none_holds_up_no_sweep(store, jobs):
    await store.connection.command("SET", keyspace.SWEEPER, "somebody")
    assert await jobs.sweep(ALL_BUSY) == []


async def test_a_backlog_hides_nothing_that_was_overtaken(store, jobs, clock, monkeypatch):
    """However many wait before it, of which a sweep looks at so many."""
    monkeypatch.setattr("tasks.store.jobs.SWEEP_LIMIT", 2)
    lost = await created(jobs)
    clock.advance(1)
    assert await sweep(store, NONE_LEFT) == [swept(lost, 1, "unbegun", BEGUN)]
    early, *backlog = [await begun(jobs) for _ in range(3)]
    clock.advance(0.2)
    await jobs.hand_back(early, "t1")
    clock.advance(0.3)
    for each in backlog:
        await jobs.hand_back(each, "t2")
    await jobs.begin(ME, "gpu", [Ref(early.id, 1)])
    clock.advance(1.5)
    found = await sweep(store) + await sweep(store)
    assert swept(lost, 2, "unbegun", BEGUN) in found
    assert {each.reason for each in found if each.dispatch.id != lost} == {"lease"}


async def test_what_waits_for_its_message_is_looked_for_twice_a_minute_at_least(store, clock):
    lost = await created(store.jobs, deadline=1000)
    waits = []
    for attempt in range(1, 8):
        began = clock.ms
        while not await sweep(store, NONE_LEFT):
            clock.advance(0.5)
        waits.append((clock.ms - began) / 1000)
        assert (await store.jobs.get(lost, "ann")).attempt == attempt
    assert waits == [1, 2, 4, 8, 16, 30, 30]


async def test_what_is_unfinished_is_measured_by_queue(store, jobs, clock):
    await created(jobs)
    clock.advance(2)
    for _ in range(2):
        await created(jobs, queue=Queue.BATCH)
    running = [await begun(jobs) for _ in range(3)]
    gone = await begun(jobs, queue=Queue.BATCH)
    await jobs.park(running[0], "gpu", "t1", Park((), 0, 30))
    await store.connection.command("DEL", keyspace.job(gone.id))
    clock.advance(1)
    gauges = await store.fleet.gauges()
    assert gauges.parked == 1
    assert {name: n for name, n in gauges.waiting.items() if n} == {"interactive": 1, "batch": 2}
    assert {name: n for name, n in gauges.running.items() if n} == {"interactive": 2}
    assert {n: s for n, s in gauges.oldest.items() if s} == {"interactive": 3.0, "batch": 1.0}


async def test_a_backlog_is_not_taken_for_lost(store, jobs, clock):
    await created(jobs)
    clock.advance(1)
    assert await sweep(store) == []


async def test_what_a_later_job_overtook_is_taken_for_lost(store, jobs, clock):
    lost = await created(jobs)
    clock.advance(0.5)
    await begun(jobs)
    assert await sweep(store) == []
    clock.advance(0.5)
    assert await sweep(store) == [swept(lost, 1, "unbegun", BEGUN)]


async def test_what_begins_late_hides_nothing_that_was_overtaken(store, jobs, clock):
    late = await created(jobs)
    clock.advance(0.25)
    lost = await created(jobs)
    clock.advance(0.25)
    await begun(jobs)
    await jobs.begin(ME, "gpu", [Ref(late, 0)])
    clock.advance(0.75)
    assert await sweep(store) == [swept(lost, 1, "unbegun", BEGUN)]


async def test_what_has_no_message_left_is_taken_for_lost_and_given_twice_the_time(
    store, jobs, clock
):
    lost = await created(jobs, queue=Queue.BATCH)
    clock.advance(1)
    assert await sweep(store, NONE_LEFT) == [swept(lost, 1, "unbegun", "batch.begun")]
    clock.advance(1.999)
    assert await sweep(store, NONE_LEFT) == []
    clock.advance(0.001)
    assert await sweep(store, NONE_LEFT) == [swept(lost, 2, "unbegun", "batch.begun")]


async def test_a_parked_job_is_due_at_its_time_at_the_tier_that_it_is_parked_at(store, jobs, clock):
    first = await begun(jobs)
    await hand_on(jobs, first)
    [mine] = await jobs.begin(ME, "cpu", [Ref(first.id, 1)])
    await jobs.park(mine, "gpu", "t2", Park(TRIED, 2, 30))
    assert (await store.fleet.gauges()).parked == 1
    clock.advance(29.999)
    assert await sweep(store, NONE_LEFT) == []
    clock.advance(0.001)
    assert await sweep(store) == [swept(mine.id, 3, "parked")]
    [again] = await jobs.begin(ME, "gpu", [Ref(mine.id, 3)])
    assert (again.attempts, again.failures) == (TRIED, 2)


async def test_a_job_begins_and_waits_where_the_first_tier_is_that_may_answer_it(jobs):
    """Parked at another it would be called to it as its probe, and pass it over."""
    asked = msgspec.structs.replace(job(), options=Options(tiers=("cpu",)))
    await jobs.create([asked], ORDER)
    assert await jobs.begin(ME, "gpu", [Ref(asked.id, 0)]) == []
    [mine] = await jobs.begin(ME, "cpu", [Ref(asked.id, 0)])
    await jobs.park(mine, "cpu", "t1", Park(TRIED, 1, 30))
    assert await jobs.recall("gpu", 1) == []
    [called] = await jobs.recall("cpu", 1)
    assert (called.id, called.tier) == (asked.id, "cpu")


async def test_what_was_never_published_is_taken_back_unless_it_began(jobs):
    waiting, running = await created(jobs), (await begun(jobs)).id
    assert await jobs.discard("ann", [waiting, running]) == 1
    assert await jobs.get(waiting, "ann") is None
    assert await status(jobs, running) is Status.RUNNING


async def test_a_key_that_is_only_noted_finds_nothing_and_is_found_later(jobs):
    noted = IdempotencyKey("name", "d" * 32, lookup=False)
    first, second, third = job(), job(), job()
    assert (await jobs.create([first], ORDER, [noted]))[1] is None
    assert (await jobs.create([second], ORDER, [noted]))[1] is None, "it is another caller's"
    asking = noted._replace(lookup=True)
    assert (await jobs.create([third], ORDER, [asking]))[1] == [second.id]


async def test_of_what_somebody_was_told_nothing_is_taken_back(store, jobs):
    asking = IdempotencyKey("name", "d" * 32, lookup=True)
    kept, gone = job(), job()
    await jobs.create([kept, gone], ORDER, [asking])
    await store.connection.command("DEL", keyspace.job(gone.id))
    assert (await jobs.create([job(), job()], ORDER, [asking]))[1] == [kept.id, gone.id]
    assert not await store.connection.command("EXISTS", keyspace.job(gone.id))
    assert await jobs.discard("ann", [kept.id], [asking]) == 1
    assert await status(jobs, kept.id) is Status.QUEUED
    assert (await jobs.create([job()], ORDER, [asking]))[1] == [kept.id, gone.id]


async def test_what_is_taken_back_leaves_nothing_and_frees_its_key(store, jobs):
    asking = IdempotencyKey("name", "d" * 32, lookup=True)
    before = set(await store.connection.client.keys("*"))
    new = job()
    await jobs.create([new], ORDER, [asking])
    assert await jobs.discard("ann", [new.id, "job_unknown"], [asking]) == 0
    left = set(await store.connection.client.keys("*")) - before
    assert left <= {b"{ft}:owners"}
    assert (await jobs.create([again := job()], ORDER, [asking]))[1] is None
    assert await status(jobs, again.id) is Status.QUEUED


async def test_what_a_key_made_and_is_past_its_time_is_made_again(store, jobs):
    asking = IdempotencyKey("name", "d" * 32, lookup=True)
    first, second = job(), job()
    await jobs.create([first], ORDER, [asking])
    await store.connection.command("DEL", keyspace.job(first.id))
    assert (await jobs.create([second], ORDER, [asking]))[1] is None
    assert await status(jobs, second.id) is Status.QUEUED


async def test_jobs_are_listed_newest_first_by_owner_and_page(jobs, clock):
    ids = []
    for _ in range(5):
        ids.append(await created(jobs))
        clock.advance(0.002)
    await created(jobs, owner="bob")
    first, more = await jobs.list_jobs("ann", 2, None)
    assert ([r.id for r in first], more) == (ids[:2:-1], True)
    rest, more = await jobs.list_jobs("ann", 10, first[-1].id)
    assert ([r.id for r in rest], more) == (ids[2::-1], False)
    with pytest.raises(NoSuchCursor):
        await jobs.list_jobs("ann", 10, "job_unknown")


async def test_results_past_their_ttl_are_listed_no_more(store, jobs):
    kept, gone = await created(jobs), await created(jobs)
    await store.connection.command("DEL", keyspace.job(gone))
    assert [r.id for r in (await jobs.list_jobs("ann", 10, None))[0]] == [kept]
    assert [r.id for r in (await jobs.list_jobs("ann", 10, gone))[0]] == [kept], "it had a place"


async def test_lists_that_nobody_looks_at_are_pruned(store, jobs, clock):
    """Of two thousand jobs past their TTL none is left in a list; what is there stays in it."""
    old = [job(deadline=10**6) for _ in range(2000)]
    await jobs.create(old[:1000], ORDER)
    await jobs.create(old[1000:], ORDER)
    for each in old:
        await store.connection.command("DEL", keyspace.job(each.id))
    kept = await created(jobs, deadline=10**6)
    other = await created(jobs, owner="bob")
    assert await store.fleet.prune_lists() == 0, "nothing so young can be gone"
    clock.advance(86_400)
    fresh = await created(jobs)
    assert await store.fleet.prune_lists() == 2000
    assert [r.id for r in (await jobs.list_jobs("ann", 10, old[7].id))[0]] == []
    assert await store.connection.command("PTTL", keyspace.gone("owner:ann", old[7].id)) > 0
    assert await store.connection.command("ZRANGE", keyspace.jobs_of("ann"), 0, -1) == [
        *(kept.encode(), fresh.encode()),
    ]
    await store.connection.command("DEL", keyspace.job(other))
    clock.advance(60)
    assert await store.fleet.prune_lists() == 1
    assert await store.connection.command("ZRANGE", keyspace.OWNERS, 0, -1) == [b"ann"]


async def test_a_full_store_takes_no_new_job_and_finishes_the_accepted_ones(store, jobs):
    mine = await begun(jobs)
    await store.connection.client.config_set("maxmemory", 1)
    try:
        assert not await store.connection.has_room()
        with pytest.raises(StoreFull):
            await created(jobs)
        assert await jobs.finish(mine, succeeded())
        await store.fleet.heartbeat("worker", 1)
        assert (await store.fleet.gauges()).workers == 1
    finally:
        await store.connection.client.config_set("maxmemory", 0)
    assert await store.connection.has_room()


async def test_a_store_that_drops_keys_is_unfit(store):
    client = store.connection.client
    await store.connection.check()
    await client.config_set("maxmemory", "1gb")
    await client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(StoreUnfit, match="allkeys-lru"):
            await store.connection.check()
    finally:
        await client.config_set("maxmemory-policy", "noeviction")
        await client.config_set("maxmemory", 0)


async def test_a_store_that_refuses_us_is_unfit_and_says_why(store, store_url):
    await store.connection.client.config_set("requirepass", "hunter2")
    other = Connection(store_url)
    try:
        with pytest.raises(StoreUnfit, match=r"(?i)auth"):
            await other.check()
    finally:
        await store.connection.client.config_set("requirepass", "")
        await other.close()


async def test_transitions_asked_at_once_each_get_their_own_answer(jobs):
    new = [job(prompt=str(n)) for n in range(50)]
    await asyncio.gather(*(jobs.create([each], ORDER) for each in new))
    answers = await asyncio.gather(*(jobs.begin(ME, "gpu", [Ref(each.id, 0)]) for each in new))
    bodies = [job.body.decoded() for [job] in answers]
    assert [body["messages"][0]["content"] for body in bodies] == [str(n) for n in range(50)]


async def test_a_store_that_is_away_is_said_to_be(own_valkey):
    store = store_on(own_valkey.url)
    await store.connection.ping()
    own_valkey.kill()
    with pytest.raises(StoreUnavailable):
        await created(store.jobs)
    own_valkey.start()
    await created(store.jobs)
    await store.close()


async def test_a_store_that_takes_no_writes_is_away(own_valkey):
    store = store_on(own_valkey.url)
    with own_valkey.client() as client:
        client.config_set("min-replicas-to-write", 1)
        with pytest.raises(StoreUnavailable):
            await store.connection.ping()
        client.config_set("min-replicas-to-write", 0)
        await store.connection.ping()
        client.execute_command("REPLICAOF", "127.0.0.1", "9")
        with pytest.raises(StoreUnavailable):
            await store.connection.ping()
    await store.close()


async def test_scripts_are_loaded_again_after_the_server_forgot_them(jobs, store_url):
    await created(jobs)
    with redis.Redis.from_url(store_url) as client:
        client.script_flush()
    await created(jobs)
