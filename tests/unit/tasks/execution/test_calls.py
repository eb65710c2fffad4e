"""Nobody waits for the slowest call: what is left meanwhile leaves early, together."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from harness.waiting import eventually, turns

from tasks.drain import Drain
from tasks.execution.calls import Calls

LONG = 60.0  # seconds that no test waits for


class Slice:
    """Calls that end when they are told to; those that were not answered wait in `left`."""

    def __init__(self, drain: Drain) -> None:
        self.calls = Calls(drain)
        self.left: list[str] = []
        self.early: list[list[str]] = []  # what left together
        self.ends = asyncio.Event()  # of leave_early
        self.ends.set()
        self._answers: dict[str, asyncio.Future[bool]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, *names: str) -> asyncio.Task[None]:
        for name in names:
            self._answers[name] = asyncio.get_running_loop().create_future()
        self._tasks = [asyncio.create_task(self._call(name)) for name in names]
        return asyncio.create_task(self.calls.run(self._tasks, self._leave_early))

    def end(self, *names: str, answered: bool) -> None:
        for name in names:
            self._answers[name].set_result(answered)

    async def _call(self, name: str) -> None:
        if not await self._answers[name]:
            self.left.append(name)
            self.calls.leave()

    async def _leave_early(self) -> None:
        left, self.left = self.left, []
        self.early.append(left)
        await self.ends.wait()

    async def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.fixture
async def drain():
    return Drain()


@pytest.fixture
async def slice_(drain):
    slice_ = Slice(drain)
    yield slice_
    await slice_.cancel()


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr("tasks.execution.calls.COALESCE_SECONDS", 0.0)


@pytest.fixture
def patient(monkeypatch):
    monkeypatch.setattr("tasks.execution.calls.COALESCE_SECONDS", LONG)


@pytest.fixture
def moments(monkeypatch):
    """The times that what is left waits for company; each ends when a test says so."""
    moments = []

    def timeout(_):
        moments.append(asyncio.timeout(None))
        return moments[-1]

    parts = SimpleNamespace(Event=asyncio.Event, timeout=timeout)
    monkeypatch.setattr("tasks.execution.calls.asyncio", parts)
    return moments


async def ended(running):
    await asyncio.wait_for(running, 5)


async def test_no_calls_have_ended(slice_):
    await ended(slice_.start())
    assert slice_.early == []


async def test_what_is_left_does_not_wait_for_the_slowest(slice_, at_once):
    running = slice_.start("quick", "slow")
    slice_.end("quick", answered=False)
    await eventually(lambda: slice_.early)
    assert slice_.early == [["quick"]]
    assert not running.done()
    slice_.end("slow", answered=True)
    await ended(running)
    assert (slice_.early, slice_.left) == ([["quick"]], [])


async def test_what_is_left_within_a_moment_leaves_together(slice_):
    running = slice_.start("first", "second", "slow")
    slice_.end("first", answered=False)
    await turns()
    assert slice_.early == []
    slice_.end("second", answered=False)
    await eventually(lambda: slice_.early)
    assert slice_.early == [["first", "second"]]
    slice_.end("slow", answered=True)
    await ended(running)


async def test_what_left_together_does_not_leave_once_more(slice_, moments):
    running = slice_.start("first", "second", "slow")
    for name in ("first", "second"):
        slice_.end(name, answered=False)
        await turns()
    moments[0].reschedule(0)
    await eventually(lambda: slice_.early)
    await turns()
    assert (slice_.early, len(moments)) == ([["first", "second"]], 1)
    slice_.end("slow", answered=True)
    await ended(running)


async def test_where_nothing_is_left_nothing_leaves(slice_, at_once):
    running = slice_.start("a", "b")
    slice_.end("a", answered=True)
    await turns(20)
    slice_.end("b", answered=True)
    await ended(running)
    assert slice_.early == []


async def test_what_the_last_call_leaves_stays_for_the_chain(slice_, patient):
    running = slice_.start("a", "b")
    slice_.end("a", answered=True)
    await turns()
    slice_.end("b", answered=False)
    await ended(running)
    assert (slice_.early, slice_.left) == ([], ["b"])


async def test_the_last_end_is_not_kept_waiting_for_company(slice_, patient):
    running = slice_.start("first", "last")
    slice_.end("first", answered=False)
    await turns()
    slice_.end("last", answered=True)
    await ended(running)
    assert (slice_.early, slice_.left) == ([], ["first"])


async def test_what_is_left_later_leaves_later(slice_, at_once):
    running = slice_.start("first", "second", "slow")
    for number, name in enumerate(("first", "second"), 1):
        slice_.end(name, answered=False)
        await eventually(lambda number=number: len(slice_.early) == number)
    assert slice_.early == [["first"], ["second"]]
    slice_.end("slow", answered=True)
    await ended(running)


async def test_what_is_left_while_others_leave_is_not_forgotten(slice_, at_once):
    slice_.ends.clear()
    running = slice_.start("first", "second", "slow")
    slice_.end("first", answered=False)
    await eventually(lambda: slice_.early)
    slice_.end("second", answered=False)
    await eventually(lambda: slice_.left)
    slice_.ends.set()
    await eventually(lambda: len(slice_.early) == 2)
    assert slice_.early == [["first"], ["second"]]
    slice_.end("slow", answered=True)
    await ended(running)


async def test_who_left_once_is_not_asked_to_leave_again(slice_, at_once):
    running = slice_.start("first", "second", "slow")
    slice_.end("first", answered=False)
    await eventually(lambda: slice_.early)
    slice_.end("second", answered=True)
    await turns(20)
    slice_.end("slow", answered=True)
    await ended(running)
    assert slice_.early == [["first"]]


async def test_a_drain_waits_for_the_calls_and_cuts_them_off(slice_, drain):
    running = slice_.start("quick", "slow")
    await turns()
    stopping = asyncio.create_task(drain.run(0.01))
    slice_.end("quick", answered=True)
    await stopping
    await ended(running)
    assert [task.cancelled() for task in slice_._tasks] == [False, True]


@pytest.mark.parametrize("cancelled", [True, False])
async def test_a_drain_forgets_calls_that_nobody_watches_any_more(slice_, drain, cancelled):
    running = slice_.start("a")
    await turns()
    assert drain._running == set(slice_._tasks)
    if cancelled:
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    else:
        slice_.end("a", answered=True)
        await ended(running)
    assert drain._running == set()


async def test_a_cancel_counts_in_the_very_moment_that_the_last_call_ends(slice_, patient):
    running = slice_.start("first", "last")
    await turns()
    slice_._tasks[1].add_done_callback(lambda _: running.cancel())
    slice_.end("first", answered=False)
    await turns()
    slice_.end("last", answered=True)
    with pytest.raises(asyncio.CancelledError):
        await ended(running)
