"""Jobs and batches that fit what somebody looks for, on a real store."""

from __future__ import annotations

import msgspec
import pytest
from harness.records import ORDER
from harness.stores import store_on

from fallback_chain import Attempt, Body, Verdict
from tasks.errors import NoSuchCursor
from tasks.records.jobs import Options, Queue, Ref, Status, Submission, new_job_id
from tasks.records.outcomes import Finish
from tasks.store import search
from tasks.store.jobs import LARGEST_LISTED
from tasks.store.search import Search


@pytest.fixture
async def store(store_url, clock):
    store = store_on(store_url, clock)
    yield store
    await store.close()


async def create(store, clock, **metadata):
    job = Submission(
        *(new_job_id(), "ann", Queue.INTERACTIVE, Body.of({"model": "m"}), Options(), 3600.0),
        metadata=metadata,
    )
    clock.advance(1)
    await store.jobs.create([job], ORDER)
    return job.id


async def finish(store, name, tier):
    [job] = await store.jobs.begin("me", "gpu", [Ref(name, 0)])
    tries = (Attempt(tier, Verdict.ANSWERED, 1.0),)
    done = Finish(status=Status.SUCCEEDED, attempts=tries, tier_used=tier, model="org/m")
    await store.jobs.finish(job, done)


async def found(store, text="", limit=10, after=None, **tests):
    names = {"tier": "tier_used tier", "model": "answer_model model"}
    wanted = Search(text, tuple((names.get(name, name), value) for name, value in tests.items()))
    records, following = await store.jobs.search_jobs("ann", wanted, limit, after)
    return [record.id for record in records], following


async def test_each_filter_finds_what_it_names(store, clock):
    old = await create(store, clock, team="Blue sky")
    new = await create(store, clock, team='re"d')
    await finish(store, old, "cpu")
    assert await found(store, status="succeeded") == ([old], None)
    assert await found(store, status="queued") == ([new], None)
    assert await found(store, tier="cpu") == ([old], None)
    assert await found(store, tier="gpu") == ([new], None), "where it stands"
    assert await found(store, model="org/m") == ([old], None), "of who answered"
    assert await found(store, model="m") == ([new], None)
    assert await found(store, "blue SKY") == ([old], None), "whatever its case"
    assert await found(store, 're"d') == ([new], None), "as it was sent, not as JSON"
    assert await found(store, "team") == ([], None), "a value, not its name"
    assert await found(store, new[4:20]) == ([new], None)
    assert await found(store, "blue", status="queued") == ([], None)
    assert await found(store, "%") == ([], None), "no pattern"
    others, _ = await store.jobs.search_jobs("bob", Search("blue"), 10, None)
    assert others == []


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_pages_hold_each_once_newest_first(store, clock, limit, monkeypatch):
    monkeypatch.setattr(search, "LOOK", 2)
    names = [await create(store, clock, n=str(n % 2)) for n in range(7)]
    seen, after = [], None
    while True:
        page, after = await found(store, limit=limit, after=after, status="queued")
        assert len(page) <= limit
        seen += page
        if after is None:
            break
    assert seen == names[::-1]


async def test_one_request_looks_at_so_many_and_says_where_to_go_on(store, clock, monkeypatch):
    monkeypatch.setattr(search, "LOOK", 2)
    monkeypatch.setattr(search, "MOST_LOOKED", 4)
    wanted = await create(store, clock, colour="green")
    names = [await create(store, clock) for _ in range(6)]
    page, after = await found(store, "green")
    assert (page, after) == ([], names[2])
    assert await found(store, "green", after=after) == ([wanted], None)


async def test_a_cursor_that_is_in_no_list_is_refused(store):
    with pytest.raises(NoSuchCursor):
        await found(store, "x", after="job_00")


async def test_a_list_has_small_answers_and_nothing_else_that_is_large(store, clock):
    """A hundred whole records may be gigabytes: a job's own path has them."""
    sizes = {"none": None, "small": LARGEST_LISTED, "large": LARGEST_LISTED + 1}
    ids = {name: await create(store, clock) for name in sizes}
    for name, size in sizes.items():
        if size is not None:
            [job] = await store.jobs.begin("me", "gpu", [Ref(ids[name], 0)])
            answer = b'"' + b"x" * (size - 2) + b'"'
            tries = (Attempt("gpu", Verdict.ANSWERED, 1.0),)
            named = {"status": Status.SUCCEEDED, "attempts": tries, "tier_used": "gpu"}
            done = Finish(**named, answer=answer, model="m")
            await store.jobs.finish(job, done)
    listed, _ = await store.jobs.list_jobs("ann", 10, None)
    searched, _ = await store.jobs.search_jobs("ann", Search("job_"), 10, None)
    assert listed == searched
    seen = {record.id: record for record in listed}
    kept = {name: seen[ids[name]].answer for name in sizes}
    assert kept["none"] is kept["large"] is None
    assert len(kept["small"]) == LARGEST_LISTED
    for name in sizes:
        whole = await store.jobs.get(ids[name], "ann")
        small = msgspec.structs.replace(whole, answer=kept[name], request=None)
        assert seen[ids[name]] == small
