"""A slice of lone jobs at one tier: each comes to its own end, and waits for no other."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest
from harness.records import begun_job
from harness.waiting import eventually, turns

from fallback_chain import Attempt, Verdict
from tasks.errors import PublishError
from tasks.execution.context import LARGE_BODIES
from tasks.execution.jobs import JobRunner
from tasks.records.jobs import Dispatch, Options, Ref, Status
from tasks.records.losses import lost
from tasks.records.outcomes import LATE_SECONDS, Finish, HandBack, HandOn, HandUp, Park

TRIED = (Attempt("gpu", Verdict.FAILURE, 1.0),)
ON = HandOn(TRIED, 1)
ANSWER = Finish(status=Status.SUCCEEDED, attempts=TRIED, tier_used="gpu", answer=b"{}")
REFUSAL = Finish(status=Status.FAILED, attempts=TRIED, error={}, error_status=400)


class Slice:
    """Jobs a, b, …: each comes to its outcome once that is there."""

    def __init__(self, worker) -> None:
        self._worker = worker
        self._outcomes: dict[str, asyncio.Future] = {}
        worker.answerer.outcome = lambda job: self._outcomes[job.id]

    def run(self, names, tier="gpu", queue="interactive", attempts=None):
        for name in names:
            self._outcomes[name] = asyncio.get_running_loop().create_future()
            self._worker.jobs.jobs[name] = begun_job(
                id=name, tier=tier, **(attempts or {}).get(name, {})
            )
        refs = [Ref(name, 0) for name in names]
        runner = JobRunner(self._worker.context)
        return asyncio.create_task(runner.run_slice(tier, refs, queue, "me"))

    def come_to(self, **outcomes):
        for name, outcome in outcomes.items():
            self._outcomes[name].set_result(outcome)

    async def ends(self, running, **outcomes):
        """Return what the slice leaves to the next task of the chain."""
        self.come_to(**outcomes)
        return await asyncio.wait_for(running, 5)


@pytest.fixture
async def slice_(worker):
    return Slice(worker)


def moves(worker, *kinds):
    return [move for move in worker.jobs.moves if move[0] in kinds]


async def test_each_job_comes_to_its_own_end(worker, slice_):
    running = slice_.run("abcde")
    await eventually(lambda: len(worker.answerer.asked) == 5)
    assert len(worker.leases) == 5
    left = await slice_.ends(
        running, a=ANSWER, b=ON, c=Park(TRIED, 1, 4.0), d=HandBack(), e=REFUSAL
    )
    assert left == [Ref("b", 1)]
    assert moves(worker, "hand_on", "park", "hand_back") == [
        ("park", "c", 4.0),
        ("hand_back", "d"),
        ("hand_on", "cpu", {"b": 1}),
    ]
    assert moves(worker, "finish") == [("finish", "a", "succeeded"), ("finish", "e", "failed")]
    assert worker.publisher.dispatched == [Dispatch("d", 1, "gpu", "interactive.begun")]
    assert len(worker.leases) == 0


async def test_it_tells_what_began_and_how_it_ended(worker, slice_):
    await slice_.ends(slice_.run("abc"), a=ANSWER, b=REFUSAL, c=ON)
    assert worker.observer.events == [
        *[("begun", "gpu")] * 3,
        ("finished", "gpu", "succeeded"),
        ("finished", "-", "failed"),
    ]


async def test_a_failed_job_is_a_warning_and_a_good_one_is_none(slice_, caplog):
    caplog.set_level(logging.DEBUG, "tasks")
    await slice_.ends(slice_.run("ab"), a=ANSWER, b=REFUSAL)
    told = {record.getMessage(): record.levelno for record in caplog.records}
    assert told["job a succeeded by tier gpu"] == logging.DEBUG
    assert told["job b failed by tier gpu"] == logging.WARNING


async def test_an_answer_is_kept_even_if_another_finish_was_first(worker, slice_):
    worker.jobs.wins = False
    await slice_.ends(slice_.run("a"), a=ANSWER)
    assert worker.answerer.kept == ["a"]
    assert worker.observer.events == [("begun", "gpu")], "and it is not counted twice"


async def test_a_slice_has_ended_when_its_answers_are_kept(worker, slice_):
    keeps = asyncio.Event()
    worker.answerer.keep = lambda *_: keeps.wait()
    running = slice_.run("a")
    slice_.come_to(a=ANSWER)
    await eventually(lambda: moves(worker, "finish"))
    await turns()
    assert not running.done()
    keeps.set()
    await slice_.ends(running)


async def test_only_what_the_store_leases_is_answered(worker, slice_):
    running = slice_.run("ab")
    del worker.jobs.jobs["a"]
    await slice_.ends(running, b=ANSWER)
    assert worker.answerer.asked == ["b"]


async def test_where_all_is_stale_nothing_happens(worker, slice_):
    running = slice_.run("a")
    worker.jobs.jobs.clear()
    assert await slice_.ends(running) == []
    assert worker.jobs.moves == [("begin", "gpu")]


async def test_what_its_tier_could_not_answer_leaves_before_the_slowest_ends(worker, slice_):
    running = slice_.run("abc", queue="batch")
    slice_.come_to(a=ON, b=ON)
    await eventually(lambda: worker.publisher.dispatched)
    assert worker.publisher.dispatched == [Dispatch(x, 1, "cpu", "batch.begun") for x in "ab"]
    assert not running.done()
    assert await slice_.ends(running, c=ON) == [Ref("c", 1)]
    assert [move[2] for move in moves(worker, "hand_on")] == [{"a": 1, "b": 1}, {"c": 1}]


async def test_what_nobody_holds_any_more_is_not_published(worker, slice_, monkeypatch):
    monkeypatch.setattr("tasks.execution.calls.COALESCE_SECONDS", 0.0)

    async def theirs(*_):
        return []

    worker.jobs.hand_on = worker.jobs.hand_back = theirs
    running = slice_.run("abc")
    slice_.come_to(a=ON, b=HandBack())
    await turns(20)
    assert await slice_.ends(running, c=ON) == []
    assert worker.publisher.dispatched == []


async def test_a_worker_that_stops_publishes_a_slice_again_unbegun(worker, slice_):
    worker.drain.started = True
    assert await slice_.ends(slice_.run("ab")) == []
    assert worker.publisher.dispatched == [Dispatch(x, 0, "gpu", "interactive") for x in "ab"]
    assert worker.jobs.moves == []


@pytest.fixture
async def full(worker):
    """No room for large bodies, but at the last tier."""
    async with worker.context.room.of(LARGE_BODIES, 0.0):
        yield


@pytest.mark.usefixtures("full")
async def test_a_worker_that_stops_hands_back_at_once_what_waits_for_room(worker, slice_):
    running = slice_.run("a", attempts={"a": {"left_bytes": 1}})
    await turns()
    slice_.come_to(a=HandBack())
    await turns()
    assert moves(worker, "hand_back") == []
    draining = asyncio.create_task(worker.drain.run(60.0))
    assert await asyncio.wait_for(running, 5) == []
    assert moves(worker, "hand_back") == [("hand_back", "a")]
    draining.cancel()


@pytest.mark.usefixtures("full")
async def test_what_finds_no_room_in_time_is_handed_on(worker, slice_):
    late = {"left_bytes": 1, "deadline": time.monotonic() + 0.05}
    running = slice_.run("a", attempts={"a": late})
    assert await slice_.ends(running, a=ON) == [Ref("a", 1)]
    assert worker.answerer.asked == []


@pytest.mark.usefixtures("full")
async def test_at_the_last_tier_nobody_waits_for_those_at_the_others(worker, slice_):
    running = slice_.run("a", tier="cache", attempts={"a": {"left_bytes": 1}})
    assert await slice_.ends(running, a=ANSWER) == []
    assert worker.answerer.asked == ["a"]


async def test_a_worker_that_stops_leaves_to_the_sweeper_what_the_broker_does_not_take(
    worker, slice_
):
    worker.drain.started = True
    worker.publisher.refuses = PublishError("away")
    assert await slice_.ends(slice_.run("ab")) == []


async def test_what_a_drain_cuts_off_is_handed_back(worker, slice_):
    running = slice_.run("ab")
    await eventually(lambda: len(worker.answerer.asked) == 2)
    slice_.come_to(a=ANSWER)
    await worker.drain.run(0.01)
    assert await asyncio.wait_for(running, 5) == []
    assert moves(worker, "finish", "hand_back") == [
        ("finish", "a", "succeeded"),
        ("hand_back", "b"),
    ]
    assert worker.publisher.dispatched == [Dispatch("b", 1, "gpu", "interactive.begun")]


async def test_of_a_job_that_is_dropped_nothing_more_is_said(worker, slice_):
    running = slice_.run("ab")
    await eventually(lambda: len(worker.answerer.asked) == 2)
    worker.leases.drop("a")
    assert await slice_.ends(running, b=ANSWER) == []
    assert moves(worker, "finish", "hand_back") == [("finish", "b", "succeeded")]


async def test_a_store_that_is_away_when_the_drain_is_over_is_told_as_an_outage(
    worker, slice_, caplog
):
    running = slice_.run("a")
    await eventually(lambda: worker.answerer.asked)
    worker.drain.started = worker.drain.cut_off = True
    worker.jobs.away = 1
    assert await slice_.ends(running, a=ANSWER) == []
    told = [record for record in caplog.records if "broke off" in record.message]
    assert [(record.levelname, record.exc_info) for record in told] == [("WARNING", None)]
    assert len(worker.leases) == 0


async def test_a_store_that_is_away_as_a_drain_cuts_off_is_told_as_an_outage(
    worker, slice_, caplog
):
    running = slice_.run("a")
    await eventually(lambda: worker.answerer.asked)
    worker.jobs.away = 1
    await worker.drain.run(0.01)
    assert await asyncio.wait_for(running, 5) == []
    told = [record for record in caplog.records if "broke off" in record.message]
    assert [(record.levelname, record.exc_info) for record in told] == [("WARNING", None)]
    assert len(worker.leases) == 0


async def test_a_defect_of_ours_sends_a_job_on_as_one_that_failed(worker, slice_, caplog):
    left = await slice_.ends(slice_.run("ab"), a=ValueError("a defect"), b=ANSWER)
    assert left == [Ref("a", 1)]
    assert moves(worker, "hand_on") == [("hand_on", "cpu", {"a": 1})]
    assert "job a at tier gpu broke off" in caplog.text
    assert len(worker.leases) == 0


async def test_a_defect_at_the_last_tier_has_a_job_wait(worker, slice_):
    assert await slice_.ends(slice_.run("a", tier="cache"), a=ValueError("a defect")) == []
    assert moves(worker, "park") == [("park", "a", LATE_SECONDS)]


async def test_what_may_have_cost_workers_is_called_alone_and_noted_before(worker, slice_):
    suspects = {"attempts": (lost("gpu"), lost("gpu"))}
    running = slice_.run("abc", attempts={"a": suspects, "c": suspects})
    await eventually(lambda: len(worker.answerer.asked) == 2)
    await turns(20)
    assert worker.answerer.asked == ["a", "b"]
    assert moves(worker, "note_alone") == [("note_alone", "a")]
    slice_.come_to(a=ANSWER)
    await eventually(lambda: len(worker.answerer.asked) == 3)
    assert moves(worker, "note_alone") == [("note_alone", "a"), ("note_alone", "c")]
    assert await slice_.ends(running, b=ANSWER, c=ANSWER) == []


async def test_no_phase_of_a_batch_is_at_work_while_a_suspect_is_noted(worker, slice_):
    """A worker that dies of the phase would have it blamed."""
    phases, began = worker.context.phases, []

    async def phase():
        async with phases.together(10):
            began.append("phase")

    async with phases.together(10):
        running = slice_.run("a", attempts={"a": {"attempts": (lost("gpu"),) * 2}})
        await turns(20)
        assert (moves(worker, "note_alone"), worker.answerer.asked) == ([], [])
    await eventually(lambda: worker.answerer.asked == ["a"])
    waiting = asyncio.create_task(phase())
    await turns(20)
    assert (moves(worker, "note_alone"), began) == ([("note_alone", "a")], [])
    assert await slice_.ends(running, a=ANSWER) == []
    await asyncio.wait_for(waiting, 5)


async def test_a_suspect_that_is_not_ours_any_more_is_not_called(worker, slice_):
    worker.jobs.wins = False
    running = slice_.run("a", attempts={"a": {"attempts": (lost("gpu"), lost("gpu"))}})
    assert await asyncio.wait_for(running, 5) == []
    assert worker.answerer.asked == []
    assert len(worker.leases) == 0


async def test_a_store_that_is_away_is_waited_for(worker, slice_):
    running = slice_.run("ab")
    await eventually(lambda: len(worker.answerer.asked) == 2)
    worker.jobs.away = 3
    assert await slice_.ends(running, a=ANSWER, b=ON) == [Ref("b", 1)]
    assert moves(worker, "finish") == [("finish", "a", "succeeded")]


async def test_a_tier_that_may_not_answer_is_passed_over_before_there_is_room(worker, slice_):
    """A body that is too large to be held is not fetched for it, and a suspect is not noted."""
    lost_twice = (lost("gpu"), lost("gpu"))
    large = {"options": Options(tiers=("gpu",)), "left_bytes": LARGE_BODIES + 1}
    running = slice_.run("ab", "cpu", attempts={"a": large | {"attempts": lost_twice}, "b": large})
    assert await asyncio.wait_for(running, 5) == [Ref("a", 1), Ref("b", 1)]
    assert worker.answerer.asked == []
    assert moves(worker, "hand_on", "note_alone") == [("hand_on", "cache", {"a": 0, "b": 0})]


async def test_what_a_tier_above_may_take_again_goes_up_as_it_came_and_waits_for_nobody(
    worker, slice_
):
    running = slice_.run("ab", tier="cpu", attempts={"a": {"attempts": TRIED, "failures": 0}})
    slice_.come_to(a=HandUp("gpu"))
    await eventually(lambda: worker.publisher.dispatched)
    assert worker.publisher.dispatched == [Dispatch("a", 1, "gpu", "interactive.begun")]
    assert moves(worker, "hand_on") == [("hand_on", "gpu", {"a": 0})]
    assert not running.done()
    assert await slice_.ends(running, b=ANSWER) == []
