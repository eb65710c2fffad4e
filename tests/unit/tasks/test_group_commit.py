"""What shares a commit with what, and who is told what it came to."""

from __future__ import annotations

import asyncio

import pytest
from harness.waiting import eventually, turns

from tasks.group_commit import GroupCommit, Linger

LONG = 60.0  # seconds that no test waits for


class Ledger:
    """Notes the groups that are committed. A commit goes on while `open` is set."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.at_once = self.most_at_once = 0
        self.error: Exception | None = None

    async def commit(self, items):
        self.groups.append(items)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await self.open.wait()
        self.at_once -= 1
        if self.error:
            raise self.error
        return [ValueError(item) if item == "bad" else item.upper() for item in items]


@pytest.fixture
async def ledger():
    return Ledger()


@pytest.fixture
def group(ledger):
    return GroupCommit(ledger.commit, 10)


async def hold(ledger, group, item="a"):
    """Have a first item in a commit that does not end yet."""
    ledger.open.clear()
    first = group.put(item)
    await turns()
    assert ledger.groups[-1] == [item]
    return first


async def test_an_idle_group_commits_at_once(ledger, group):
    assert await group.submit("a") == "A"
    assert await group.submit("b") == "B"
    assert ledger.groups == [["a"], ["b"]]


async def test_what_arrives_while_a_commit_is_under_way_shares_the_next_one(ledger, group):
    results = [await hold(ledger, group), group.put("b")]
    await turns()
    results.append(group.put("c"))
    await turns()
    assert ledger.groups == [["a"]]
    ledger.open.set()
    assert await asyncio.gather(*results) == ["A", "B", "C"]
    assert ledger.groups == [["a"], ["b", "c"]]
    assert ledger.most_at_once == 1


async def test_a_commit_takes_no_more_than_the_largest(ledger):
    group = GroupCommit(ledger.commit, 2)
    await asyncio.gather(*(group.put(item) for item in "abcde"))
    assert ledger.groups == [["a", "b"], ["c", "d"], ["e"]]


async def test_what_its_submitter_went_away_from_is_not_committed(ledger, group):
    first, gone, there = await hold(ledger, group), group.put("gone"), group.put("there")
    gone.cancel()
    ledger.open.set()
    await asyncio.gather(first, there)
    assert ledger.groups == [["a"], ["there"]]


async def test_a_group_that_nobody_waits_for_any_more_is_no_commit(ledger, group):
    first, gone = await hold(ledger, group), group.put("gone")
    gone.cancel()
    ledger.open.set()
    await first
    await group.flush()
    assert ledger.groups == [["a"]]


async def test_who_goes_away_during_a_commit_does_not_disturb_the_others(ledger, group):
    ledger.open.clear()
    gone, there = group.put("gone"), group.put("there")
    await turns()
    gone.cancel()
    ledger.open.set()
    assert await there == "THERE"


async def test_an_error_reaches_every_submitter_and_the_next_commit_goes_on(ledger, group):
    ledger.error = ConnectionError("away")
    results = await asyncio.gather(group.put("a"), group.put("b"), return_exceptions=True)
    assert results == [ledger.error] * 2
    ledger.error = None
    assert await group.submit("c") == "C"


async def test_an_item_may_have_an_error_of_its_own(group):
    bad, good = group.put("bad"), group.put("good")
    with pytest.raises(ValueError, match="bad"):
        await bad
    assert await good == "GOOD"


async def test_who_lingers_takes_along_what_comes_within_the_time(ledger):
    group = GroupCommit(ledger.commit, 10, Linger(seconds=0.02, enough=10))
    first = group.put("a")
    await turns()
    await asyncio.gather(first, group.put("b"))
    assert ledger.groups == [["a", "b"]]


@pytest.mark.parametrize("at_once", [True, False])
async def test_who_lingers_goes_on_when_enough_are_there(ledger, at_once):
    group = GroupCommit(ledger.commit, 10, Linger(LONG, enough=2))
    first = group.put("a")
    if not at_once:
        await turns()
        assert ledger.groups == []
    async with asyncio.timeout(5):
        await asyncio.gather(first, group.put("b"))
    assert ledger.groups == [["a", "b"]]


async def test_who_lingers_waits_until_enough_are_there(ledger):
    group = GroupCommit(ledger.commit, 10, Linger(LONG, enough=3))
    results = []
    for item in "abc":
        await turns()
        assert ledger.groups == []
        results.append(group.put(item))
    assert await asyncio.gather(*results) == ["A", "B", "C"]


async def test_who_lingers_again_waits_for_enough_again(ledger):
    group = GroupCommit(ledger.commit, 10, Linger(LONG, enough=2))
    first = group.put("a")
    await turns()
    await asyncio.gather(first, group.put("b"))
    third = group.put("c")
    await turns()
    assert not third.done()
    await asyncio.gather(third, group.put("d"))
    assert ledger.groups == [["a", "b"], ["c", "d"]]


async def test_a_flush_hurries_who_lingers_now_and_later(ledger):
    group = GroupCommit(ledger.commit, 10, Linger(LONG, enough=10))
    first = group.put("a")
    await turns()
    async with asyncio.timeout(5):
        await group.flush()
        assert first.result() == "A"
        assert await group.submit("b") == "B"


async def test_a_flush_returns_when_nothing_waits(ledger, group):
    first, second = await hold(ledger, group), group.put("b")
    flushing = asyncio.create_task(group.flush())
    await turns()
    assert not flushing.done()
    ledger.open.set()
    await flushing
    assert (first.result(), second.result()) == ("A", "B")
    await group.flush()
    assert ledger.groups == [["a"], ["b"]]


async def test_what_is_cancelled_commits_nothing_more(ledger, group):
    first, second = await hold(ledger, group), group.put("b")
    group.cancel()
    ledger.open.set()
    await turns()
    assert ledger.groups == [["a"]]
    assert not first.done()
    assert second.cancelled()


async def test_an_idle_group_may_be_cancelled(ledger, group):
    group.cancel()
    assert await group.submit("a") == "A"


async def test_those_that_wait_can_be_rejected_and_what_is_under_way_is_not(ledger, group):
    first = await hold(ledger, group)
    gone, there = group.put("gone"), group.put("there")
    gone.cancel()
    error = TimeoutError("the one before took too long")
    group.reject_waiting(error)
    assert there.exception() is error
    ledger.open.set()
    assert await first == "A"
    await group.flush()
    assert ledger.groups == [["a"]]


async def test_what_comes_after_a_commit_has_ended_begins_another(ledger, group):
    first = await hold(ledger, group)
    ledger.open.set()
    await eventually(first.done)
    second = group.put("b")  # before the one who commits has looked whether more waits
    await asyncio.wait_for(second, 5)
    assert ledger.groups == [["a"], ["b"]]


async def test_a_cancel_counts_in_the_very_moment_that_enough_are_there(ledger):
    group = GroupCommit(ledger.commit, 10, Linger(LONG, enough=2))
    group.put("a")
    await turns()
    group.put("b")
    group.cancel()
    await turns(10)
    assert ledger.groups == []


async def test_what_is_posted_is_committed_and_flush_tells_what_it_came_to(ledger, group):
    group.post("a")
    await group.flush()
    assert ledger.groups == [["a"]]
    failing = GroupCommit(fails, 10)
    failing.post("b")
    with pytest.raises(ValueError, match="of b"):
        await failing.flush()


async def fails(items):
    message = f"of {items[0]}"
    raise ValueError(message)
