"""Units of batches: a turn each, so that lone jobs have threads."""

from __future__ import annotations

import asyncio

import pytest
from harness.batches import jsonl, line
from harness.records import slice_unit
from harness.waiting import eventually, turns

from fallback_chain import Attempt, Verdict
from tasks.errors import StoreUnavailable
from tasks.execution.phases import AGAIN_SECONDS, PhaseRunner
from tasks.execution.units import UnitRunner
from tasks.records.batches import BatchOptions, LineHistory, PhaseUnit, SliceRange
from tasks.records.jobs import Dispatch, Ref
from tasks.records.outcomes import HandOn, Park
from tasks.storage import content_name
from tasks.telemetry.slices import SliceReport, report_to
from tasks.tiers.gate import Word

CONTENT = jsonl([line("c0", "prompt")])
TRIED = (Attempt("gpu", Verdict.FAILURE, 1.0),)


class Units:
    """Units of one line each, which goes to the next tier as soon as it is let."""

    def __init__(self, worker) -> None:
        worker.storage.write(content_name("file-1"), CONTENT)
        worker.answerer.outcome = self._outcome
        self._worker = worker
        phases = PhaseRunner(worker.context, 128)
        self._runner = UnitRunner(worker.context, phases, most=1, most_first=2)
        self.open = asyncio.Event()

    async def _outcome(self, _):
        await self.open.wait()
        return HandOn(TRIED, 1)

    async def never_answered(self, _):
        await asyncio.get_running_loop().create_future()

    def there_is(self, number, tier="gpu", **fields):
        """Have the store lease a unit that is asked for; return what a message says of it."""
        where = SliceRange(0, len(CONTENT), 1, 1)
        unit = slice_unit(id=f"unit_batch_1_{number}", tier=tier, range=where, **fields)
        ref = Ref(unit.id, 0)
        self._worker.batches.units[ref] = unit
        return ref

    def run(self, ref, tier="gpu", report=None):
        async def run():
            report_to(report or SliceReport())
            return await self._runner.run_unit(tier, ref, "batch", "me")

        return asyncio.create_task(run())


@pytest.fixture
async def units(worker):
    return Units(worker)


def moves(worker, kind):
    return [move for move in worker.batches.moves if move[0] == kind]


async def test_a_unit_is_leased_run_and_left_to_the_chain(worker, units):
    ref = units.there_is(0)
    running = units.run(ref)
    await eventually(lambda: worker.answerer.asked)
    assert worker.observer.events == [("begun", "gpu")]
    assert len(worker.leases) == 1
    units.open.set()
    assert await running == [Ref(ref.id, 1)]
    assert len(worker.leases) == 0


async def test_a_message_that_names_no_unit_does_nothing(worker, units):
    assert await units.run(Ref("unit_batch_1_0", 0)) == []
    assert (worker.answerer.asked, worker.observer.events) == ([], [])


async def test_a_unit_whose_batch_has_ended_is_dropped_and_told_of(worker, units, caplog):
    """Its slice is not there any more, so the store hands out no lines with it."""
    ref = Ref("unit_batch_1_0", 0)
    common = {name: getattr(slice_unit(), name) for name in PhaseUnit.__dataclass_fields__}
    worker.batches.units[ref] = PhaseUnit(**common)
    assert await units.run(ref) == []
    assert (worker.answerer.asked, worker.observer.events) == ([], [])
    assert moves(worker, "drop") == [("drop", "unit_batch_1_0")]
    assert "unit_batch_1_0 comes too late" in caplog.text


async def test_a_worker_that_stops_sends_a_unit_back_unbegun(worker, units):
    worker.drain.started = True
    assert await units.run(units.there_is(0)) == []
    assert worker.batches.moves == []
    assert worker.publisher.dispatched == [Dispatch("unit_batch_1_0", 0, "gpu", "batch")]


async def test_who_waits_for_a_turn_keeps_its_lease_and_no_thread(worker, units):
    first = units.run(units.there_is(0))
    await eventually(lambda: worker.answerer.asked)
    assert await asyncio.wait_for(units.run(units.there_is(1)), 5) == []
    await turns(20)
    assert len(worker.answerer.asked) == 1
    assert len(worker.leases) == 2
    units.open.set()
    assert await first == []
    assert len(worker.answerer.asked) == 2
    assert worker.publisher.dispatched == [
        Dispatch("unit_batch_1_0", 1, "cpu", "batch.begun"),
        Dispatch("unit_batch_1_1", 1, "cpu", "batch.begun"),
    ]
    assert len(worker.leases) == 0


async def test_lines_count_for_the_task_in_whose_turn_they_are_asked(worker, units):
    working, waiting = SliceReport(), SliceReport()
    first = units.run(units.there_is(0), report=working)
    await eventually(lambda: worker.answerer.asked)
    assert await asyncio.wait_for(units.run(units.there_is(1), report=waiting), 5) == []
    assert (waiting.event, waiting.text) == ("task-waiting", "waiting 1")
    units.open.set()
    await first
    assert (working.event, working.text) == ("task-handed_on", "handed on 2 (failure)")
    assert waiting.text == "waiting 1"


async def test_what_has_begun_before_waits_for_no_turn(worker, units):
    first = units.run(units.there_is(0))
    await eventually(lambda: worker.answerer.asked)
    again = units.run(units.there_is(1, first=True))
    await eventually(lambda: len(worker.answerer.asked) == 2)
    units.open.set()
    assert [await first, await again] == [[Ref("unit_batch_1_0", 1)], [Ref("unit_batch_1_1", 1)]]


async def test_what_comes_first_leaves_threads_to_lone_jobs_too_and_has_the_next_turn(
    worker, units
):
    began, ends = [], {False: asyncio.Event(), True: asyncio.Event()}

    async def outcome(job):
        began.append(job.first)
        await ends[job.first].wait()
        return HandOn(TRIED, 1)

    worker.answerer.outcome = outcome
    running = [units.run(units.there_is(0))]
    await eventually(lambda: began == [False])
    running.append(units.run(units.there_is(1, first=True)))
    await eventually(lambda: began == [False, True])
    for number, first in ((2, False), (3, True)):
        waits = units.run(units.there_is(number, first=first))
        assert await asyncio.wait_for(waits, 5) == []
    await turns(20)
    assert (len(began), len(worker.leases)) == (2, 4)
    ends[False].set()
    await eventually(lambda: began == [False, True, True])
    ends[True].set()
    await asyncio.gather(*running)
    assert began == [False, True, True, False]
    assert len(worker.leases) == 0


async def test_what_waits_after_the_last_tier_goes_to_no_other(worker, units):
    worker.answerer.outcome = lambda _: Park(TRIED, 1, 4.0)
    first = units.run(units.there_is(0, "cache"), "cache")
    second = units.run(units.there_is(1, "cache"), "cache")
    assert await asyncio.gather(first, second) == [[], []]
    assert len(moves(worker, "park")) == 2
    assert worker.publisher.dispatched == []


async def test_a_turn_that_is_over_leaves_room_for_the_next(units):
    units.open.set()
    for number in range(3):
        assert await units.run(units.there_is(number)) == [Ref(f"unit_batch_1_{number}", 1)]


async def test_a_unit_that_was_dropped_takes_no_turn(worker, units):
    first = units.run(units.there_is(0))
    await eventually(lambda: worker.answerer.asked)
    for number in (1, 2):
        await units.run(units.there_is(number))
    worker.leases.drop("unit_batch_1_1")
    units.open.set()
    assert await first == []
    assert [each.id for each in worker.publisher.dispatched] == ["unit_batch_1_0", "unit_batch_1_2"]


async def test_a_unit_that_is_dropped_at_work_is_nobodys(worker, units):
    running = units.run(units.there_is(0))
    await eventually(lambda: worker.answerer.asked)
    worker.leases.drop_batch("batch_1")
    assert await running == []
    assert moves(worker, "hand_on") == []


async def test_a_defect_in_one_unit_does_not_keep_the_next_from_its_turn(worker, units, caplog):
    hand_on = worker.batches.hand_on

    async def broken(unit, *args):
        if unit.id.endswith("_0"):
            raise ValueError("a defect")
        return await hand_on(unit, *args)

    worker.batches.hand_on = broken
    first = units.run(units.there_is(0))
    await eventually(lambda: worker.answerer.asked)
    await units.run(units.there_is(1))
    units.open.set()
    assert await first == []
    assert [each.id for each in worker.publisher.dispatched] == ["unit_batch_1_1"]
    assert "unit_batch_1_0 at tier gpu broke off" in caplog.text
    assert len(worker.leases) == 0


@pytest.mark.parametrize("error", [OSError("away"), StoreUnavailable("away")])
async def test_what_is_away_is_told_as_an_outage(worker, units, caplog, monkeypatch, error):
    def away(*_):
        raise error

    monkeypatch.setattr(worker.storage, "read", away)
    assert await units.run(units.there_is(0)) == []
    told = [record for record in caplog.records if "broke off" in record.message]
    assert [(record.levelname, record.exc_info) for record in told] == [("WARNING", None)]
    assert len(worker.leases) == 0
    put_off = [("put_off", "gpu", (), AGAIN_SECONDS)]  # so that it does not count as a loss
    assert moves(worker, "put_off") == (put_off if isinstance(error, OSError) else [])


async def test_what_waits_for_its_turn_when_the_worker_stops_is_handed_back(worker, units):
    first = units.run(units.there_is(0))
    await eventually(lambda: worker.answerer.asked)
    await units.run(units.there_is(1))
    worker.drain.started = True
    units.open.set()
    assert await first == []
    assert moves(worker, "hand_back") == [("hand_back", "gpu")]
    assert worker.publisher.dispatched[-1] == Dispatch("unit_batch_1_1", 1, "gpu", "batch.begun")


async def test_what_waits_for_its_turn_is_handed_back_as_the_drain_starts(worker, units):
    """A call that runs may last as long as the drain: others need not wait for its end."""
    working = [units.run(units.there_is(0)), units.run(units.there_is(1, first=True))]
    await eventually(lambda: len(worker.answerer.asked) == 2)
    for number in (2, 3):
        ref = units.there_is(number, first=number == 3)
        assert await asyncio.wait_for(units.run(ref), 5) == []
    stopping = asyncio.create_task(worker.drain.run(60))
    await eventually(lambda: len(worker.publisher.dispatched) == 2)
    assert len(moves(worker, "hand_back")) == 2
    assert {each.id for each in worker.publisher.dispatched} == {"unit_batch_1_2", "unit_batch_1_3"}
    assert not any(each.done() for each in working)
    units.open.set()
    await asyncio.wait_for(asyncio.gather(*working, stopping), 5)
    assert len(worker.leases) == 0


async def test_a_unit_that_begins_as_the_drain_starts_is_handed_back_at_once(worker, units):
    first = units.run(units.there_is(0))
    await eventually(lambda: worker.answerer.asked)
    begin, stopping = worker.batches.begin, []

    async def late(*args):
        stopping.append(asyncio.create_task(worker.drain.run(60)))
        await turns()
        return await begin(*args)

    worker.batches.begin = late
    assert await asyncio.wait_for(units.run(units.there_is(1)), 5) == []
    assert moves(worker, "hand_back") == [("hand_back", "gpu")]
    assert not first.done()
    units.open.set()
    await asyncio.wait_for(asyncio.gather(first, *stopping), 5)


# Units whose lines all wait for their tier


REFUSED = (Attempt("gpu", Verdict.REJECTED, 1.0),)


@pytest.fixture
def waiting(worker, units):
    """Units whose lines wait, until their turns are told something; how many do."""
    worker.answerer.holds = lambda _: True
    worker.answerer.turns = turns_by_call = {}
    line_up = worker.answerer.line_up

    def note(job, outcome):
        turn = line_up(job, outcome)
        turns_by_call[len(turns_by_call)] = turns_by_call.pop(job.id)
        return turn

    worker.answerer.line_up = note
    worker.answerer.outcome = lambda _: HandOn(REFUSED, 0)
    return turns_by_call


async def test_a_unit_that_waits_needs_no_turn_and_no_thread(worker, units, waiting):
    for number in range(3):
        assert await asyncio.wait_for(units.run(units.there_is(number)), 5) == []
    assert (len(waiting), len(worker.leases)) == (3, 3)


async def test_what_it_leaves_in_the_end_goes_on_without_the_thread(worker, units, waiting):
    await units.run(units.there_is(0))
    worker.answerer.holds = lambda _: False
    waiting[0].set_result(Word.ASK)
    await eventually(lambda: worker.publisher.dispatched)
    assert worker.publisher.dispatched == [Dispatch("unit_batch_1_0", 1, "cpu", "batch.begun")]
    await eventually(lambda: len(worker.leases) == 0)


async def test_of_too_many_that_wait_the_oldest_waits_in_the_store(
    worker, units, waiting, monkeypatch
):
    monkeypatch.setattr("tasks.execution.units.MOST_HELD", 2)
    for number in range(4):
        await units.run(units.there_is(number))
    await eventually(lambda: len(moves(worker, "park")) == 2)
    assert [waiting[n].done() for n in range(4)] == [True, True, False, False]


async def test_who_was_asked_as_others_came_to_wait_is_one_too_many_later(
    worker, units, waiting, monkeypatch
):
    monkeypatch.setattr("tasks.execution.units.MOST_HELD", 2)
    refused, asked = HandOn(REFUSED, 0), asyncio.Event()

    async def outcome(job):
        if len(worker.answerer.asked) in (3, 4):
            await asked.wait()
        return refused

    worker.answerer.outcome = outcome
    for number in range(4):
        if number == 2:
            for turn in (0, 1):
                waiting[turn].set_result(Word.ASK)
            await eventually(lambda: len(worker.answerer.asked) == 4)
        await units.run(units.there_is(number))
    asked.set()
    await eventually(lambda: len(waiting) == 6)
    assert moves(worker, "park") == []
    await units.run(units.there_is(4))
    await eventually(lambda: len(moves(worker, "park")) == 3)


async def test_the_drain_waits_for_what_is_handed_back(worker, units, waiting):
    await units.run(units.there_is(0))
    waiting[0].set_result(Word.STOP)
    await worker.drain.run(5)
    assert [move[0] for move in worker.batches.moves if move[0] != "begin"] == ["hand_back"]
    assert worker.publisher.dispatched == [Dispatch("unit_batch_1_0", 1, "gpu", "batch.begun")]


async def test_what_the_drain_cuts_off_of_a_unit_without_a_thread_is_handed_back(
    worker, units, waiting
):
    await units.run(units.there_is(0))
    worker.answerer.outcome = units.never_answered
    waiting[0].set_result(Word.ASK)
    await eventually(lambda: len(worker.answerer.asked) == 2)
    await worker.drain.run(0.0)
    await eventually(lambda: worker.publisher.dispatched)
    assert [move[0] for move in worker.batches.moves if move[0] != "begin"] == ["hand_back"]
    assert worker.publisher.dispatched == [Dispatch("unit_batch_1_0", 1, "gpu", "batch.begun")]
    assert len(worker.leases) == 0


async def test_a_tier_that_may_not_answer_is_passed_over_without_a_turn_and_told_once(
    worker, units
):
    busy = units.run(units.there_is(0), "cpu")
    await eventually(lambda: worker.answerer.asked)
    passed = Attempt("cpu", Verdict.NOT_ALLOWED, 0.0)
    asked = {"tier": "cpu", "options": BatchOptions(tiers=("gpu",))}
    known = units.there_is(1, **asked, histories={0: LineHistory((*TRIED, passed), 1)})
    ref = units.there_is(2, **asked, histories={0: LineHistory(TRIED, 1)})
    new = units.there_is(3, **asked)
    for each in (known, ref, new):
        left = await asyncio.wait_for(units.run(each, "cpu"), 5)
        assert left == [Ref(each.id, 1)]
    assert moves(worker, "hand_on") == [
        ("hand_on", "cache", {}),
        ("hand_on", "cache", {0: LineHistory((*TRIED, passed), 1)}),
        ("hand_on", "cache", {0: LineHistory((passed,))}),
    ]
    assert len(worker.answerer.asked) == 1
    units.open.set()
    await busy


async def test_at_the_cache_every_unit_stops(worker, units):
    units.open.set()
    ref = units.there_is(0, "cache", options=BatchOptions(tiers=("gpu",)))
    worker.answerer.outcome = lambda _: Park(TRIED, 1, 4.0)
    assert await units.run(ref, "cache") == []
    assert moves(worker, "park") == [("park", {0: LineHistory(TRIED, 1)}, 4.0)]


async def test_a_unit_that_is_another_workers_is_not_passed_on(worker, units):
    worker.batches.ours = False
    ref = units.there_is(0, "cpu", options=BatchOptions(tiers=("gpu",)))
    assert await units.run(ref, "cpu") == []
