"""Units of batches: a turn each, so that lone jobs have threads."""

from __future__ import annotations

import asyncio

import pytest
from harness.batches import jsonl, line
from harness.records import slice_unit
from harness.waiting import eventually, turns

from fallback_chain import Attempt, Verdict
from tasks.errors import StoreUnavailable
from tasks.execution.phases import PhaseRunner
from tasks.execution.units import UnitRunner
from tasks.records.batches import PhaseUnit, SliceRange
from tasks.records.jobs import Dispatch, Ref
from tasks.records.outcomes import HandOn, Park
from tasks.storage import content_name

CONTENT = jsonl([line("c0", "prompt")])
TRIED = (Attempt("gpu", Verdict.FAILURE, 1.0),)


class Units:
    """Units of one line each, which goes to the next tier as soon as it is let."""

    def __init__(self, worker) -> None:
        worker.storage.write(content_name("file-1"), CONTENT)
        worker.answerer.outcome = self._outcome
        self._worker = worker
        self._runner = UnitRunner(worker.context, PhaseRunner(worker.context, 128), most=1)
        self.open = asyncio.Event()

    async def _outcome(self, _):
        await self.open.wait()
        return HandOn(TRIED, 1)

    def there_is(self, number, tier="gpu", **fields):
        """Have the store lease a unit that is asked for; return what a message says of it."""
        where = SliceRange(0, len(CONTENT), 1, 1)
        unit = slice_unit(id=f"unit_batch_1_{number}", tier=tier, range=where, **fields)
        ref = Ref(unit.id, 0)
        self._worker.batches.units[ref] = unit
        return ref

    def run(self, ref, tier="gpu"):
        return asyncio.create_task(self._runner.run_unit(tier, ref, "batch", "me"))


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


async def test_what_has_begun_before_waits_for_no_turn(worker, units):
    first = units.run(units.there_is(0))
    await eventually(lambda: worker.answerer.asked)
    again = units.run(units.there_is(1, first=True))
    await eventually(lambda: len(worker.answerer.asked) == 2)
    units.open.set()
    assert [await first, await again] == [[Ref("unit_batch_1_0", 1)], [Ref("unit_batch_1_1", 1)]]


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


async def test_what_waits_for_its_turn_when_the_worker_stops_is_handed_back(worker, units):
    first = units.run(units.there_is(0))
    await eventually(lambda: worker.answerer.asked)
    await units.run(units.there_is(1))
    worker.drain.started = True
    units.open.set()
    assert await first == []
    assert moves(worker, "hand_back") == [("hand_back", "gpu")]
    assert worker.publisher.dispatched[-1] == Dispatch("unit_batch_1_1", 1, "gpu", "batch.begun")
