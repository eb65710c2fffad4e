"""What a worker that was told to stop waits for, and what it cuts off."""

from __future__ import annotations

import asyncio

import pytest
from harness.waiting import eventually, turns

from tasks.drain import Drain


@pytest.fixture
async def drain():
    return Drain()


class Call:
    """A call to a model that goes on until it is let go."""

    def __init__(self, drain: Drain) -> None:
        self._drain = drain
        self.go = asyncio.Event()
        self.cut_off_when_cancelled: bool | None = None
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cut_off_when_cancelled = self._drain.cut_off
            raise


@pytest.fixture
async def call(drain):
    call = Call(drain)
    drain.watch([call.task])
    await turns()
    return call


async def test_who_runs_nothing_stops_at_once(drain):
    assert (drain.started, drain.cut_off) == (False, False)
    await asyncio.wait_for(drain.run(60), 5)
    assert (drain.started, drain.cut_off) == (True, True)


async def test_what_runs_may_end(drain, call):
    stopping = asyncio.create_task(drain.run(60))
    await turns()
    assert (drain.started, drain.cut_off) == (True, False)
    call.go.set()
    await asyncio.wait_for(stopping, 5)
    assert drain.cut_off
    assert not call.task.cancelled()


async def test_what_does_not_end_in_time_is_cut_off(drain, call, caplog):
    await drain.run(0.01)
    await asyncio.wait([call.task])
    assert call.task.cancelled()
    assert call.cut_off_when_cancelled
    assert "1 calls are cut off" in caplog.text


async def test_what_is_forgotten_is_neither_waited_for_nor_cut_off(drain, call):
    drain.forget([call.task])
    await asyncio.wait_for(drain.run(60), 5)
    assert not call.task.done()
    call.go.set()
    await call.task


async def test_what_began_after_the_drain_is_cut_off_with_the_rest(drain, call):
    stopping = asyncio.create_task(drain.run(0.01))
    await turns()
    late = Call(drain)
    drain.watch([late.task])
    await stopping
    await eventually(lambda: call.task.cancelled() and late.task.cancelled())


async def test_what_has_ended_in_time_is_not_told_as_cut_off(drain, call, caplog):
    stopping = asyncio.create_task(drain.run(60))
    call.go.set()  # and whoever watches it has not had its turn yet
    await asyncio.wait_for(stopping, 5)
    assert not caplog.records


async def test_who_asked_for_it_is_told_before_anything_else(drain):
    told = []
    drain.at_start(lambda: told.append(drain.started))
    await drain.run(0.0)
    assert told == [True]


async def test_who_hands_over_what_is_cut_off_is_waited_for_and_not_cut_off(drain, call):
    handed_over = []

    async def hand_over():
        await asyncio.wait([call.task])
        await turns()
        handed_over.append(call.task.cancelled())

    drain.wait_for(asyncio.create_task(hand_over()))
    await asyncio.wait_for(drain.run(0.01), 5)
    assert handed_over == [True]


async def test_who_hands_over_is_waited_for_though_nothing_is_called(drain):
    ended = asyncio.Event()
    drain.wait_for(asyncio.create_task(ended.wait()))
    stopping = asyncio.create_task(drain.run(60))
    await turns()
    assert not drain.cut_off
    ended.set()
    await asyncio.wait_for(stopping, 5)


async def test_what_began_to_be_handed_over_after_the_drain_is_waited_for_as_well(drain):
    """A unit whose last call has just ended begins to wait, and gives up its thread."""
    await asyncio.wait_for(drain.run(60), 5)
    handing = asyncio.create_task(asyncio.sleep(0.02))
    drain.wait_for(handing)
    await asyncio.wait_for(drain.handed_over(), 5)
    assert handing.done()


async def test_the_time_of_what_is_at_work_is_not_over_as_its_calls_have_ended(drain, call):
    """What they came to is recorded then, in a store that may be away for a moment."""
    recorded = []

    async def work():
        with drain.at_work():
            await asyncio.wait([call.task])
            await turns(20)
            recorded.append(drain.cut_off)

    working = asyncio.create_task(work())
    await turns()
    stopping = asyncio.create_task(drain.run(60))
    await turns()
    call.go.set()
    await asyncio.wait_for(stopping, 5)
    await working
    assert recorded == [False]


async def test_what_is_at_work_for_too_long_is_cut_off_and_waited_for(drain, call):
    async def work():
        with drain.at_work():
            await asyncio.wait([call.task])
            await turns(20)

    working = asyncio.create_task(work())
    await turns()
    await asyncio.wait_for(drain.run(0.01), 5)
    assert (call.task.cancelled(), working.done()) == (True, True)


async def test_who_is_in_a_hurry_cuts_off_what_runs(drain, call, caplog):
    stopping = asyncio.create_task(drain.run(60))
    await turns()
    drain.hurry()
    await asyncio.wait_for(stopping, 5)
    await asyncio.wait([call.task])
    assert (call.task.cancelled(), call.cut_off_when_cancelled) == (True, True)
    assert "1 calls are cut off" in caplog.text
    drain.hurry()  # once more changes nothing


async def test_who_is_in_a_hurry_from_the_first_waits_for_nothing(drain, call):
    drain.hurry()
    await asyncio.wait_for(drain.run(60), 5)
    await asyncio.wait([call.task])
    assert call.task.cancelled()
