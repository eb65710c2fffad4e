"""Loops that are started again, and the process that ends when one cannot be kept alive."""

from __future__ import annotations

import asyncio
import logging

import pytest
from harness.waiting import eventually, turns

from tasks.background import Background


class Ends:
    """Stands for the end of the process."""

    def __init__(self) -> None:
        self.number, self.loops = 0, []

    def __call__(self) -> None:
        self.number += 1

    def died(self, name: str) -> None:
        self.loops.append(name)


@pytest.fixture
def ends():
    return Ends()


@pytest.fixture
async def background(ends):
    background = Background(ends.died, ends, again_seconds=0)
    yield background
    await background.stop()


class Loop:
    """Dies at each of these times, then lives."""

    def __init__(self, deaths=(), monkeypatch=None) -> None:
        self.deaths, self.runs, self.lives = list(deaths), 0, False
        self.now = 0.0
        if monkeypatch:
            monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: self.now)

    async def __call__(self) -> None:
        self.runs += 1
        if self.deaths:
            self.now = self.deaths.pop(0)
            raise RuntimeError("a defect")
        self.lives = True
        await asyncio.Event().wait()


async def test_a_loop_that_raises_is_logged_and_started_again(background, ends, caplog):
    loop = Loop(deaths=[1])
    background.start("listener", loop)
    await eventually(lambda: loop.lives)
    assert loop.runs == 2
    [record] = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.ERROR, "the loop listener died")
    assert "a defect" in record.exc_text
    assert (ends.number, ends.loops) == (0, ["listener"])


@pytest.mark.parametrize(
    ("deaths", "runs"),
    [
        ([0, 0, 0], 3),
        ([0, 30, 59.9], 3),
        ([0, 1, 61, 62, 63], 5),
        ([0, 30, 60], None),
        ([0, 1, 61, 62, 122, 123, 183], None),
        ([0, 0], None),
    ],
)
async def test_three_deaths_within_a_minute_end_the_process(
    background, ends, monkeypatch, deaths, runs
):
    loop = Loop(deaths, monkeypatch)
    background.start("listener", loop)
    await turns(50)
    assert loop.runs == (runs or len(deaths) + 1)
    assert ends.number == (runs is not None)
    assert loop.lives is (runs is None)


async def test_the_last_thing_that_a_process_says_is_which_loop_it_lost(background, ends, caplog):
    background.start("listener", Loop([0, 0, 0]))
    await eventually(lambda: ends.number)
    last = caplog.records[-1]
    assert last.levelno == logging.CRITICAL
    assert last.getMessage() == "the loop listener cannot be kept alive: this process ends"


async def test_a_loop_that_died_is_started_again_after_a_while(ends):
    background = Background(ends.died, ends, again_seconds=60)
    loop = Loop(deaths=[0])
    background.start("listener", loop)
    await turns(20)
    assert loop.runs == 1
    await background.stop()


async def test_a_loop_that_returns_has_done_its_work(background, ends, caplog):
    runs = []

    async def work():
        runs.append(1)

    background.start("once", work)
    await turns(20)
    assert runs == [1]
    assert not ends.number
    assert not caplog.records


async def test_stop_ends_every_loop_whatever_it_does(ends, caplog):
    background = Background(ends.died, ends, again_seconds=60)
    living, waiting, done = Loop(), Loop(deaths=[0]), asyncio.Event()
    ended = []

    async def cleaning_up():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cleaned up")

    async def returning():
        done.set()

    for loop in (living, waiting, cleaning_up, returning):
        background.start("loop", loop)
    await eventually(lambda: living.lives and waiting.runs and done.is_set())
    await background.stop()
    assert ended == ["cleaned up"]
    await turns()
    assert (living.runs, waiting.runs, ends.number) == (1, 1, 0)


async def test_a_loop_that_raises_when_it_is_ended_is_not_started_again(background, ends):
    runs = []

    async def stubborn():
        runs.append(1)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionError("lost while it was closed") from None

    background.start("stubborn", stubborn)
    await eventually(lambda: runs)
    try:
        await asyncio.wait_for(background.stop(), 1)
    except TimeoutError:
        pytest.fail("it never stops")
    assert (len(runs), ends.number) == (1, 0)


async def test_a_cancel_of_what_a_loop_waits_for_is_a_death_and_not_its_end(caplog):
    """Nobody has cancelled the loop: it would be gone without a word."""
    runs = []

    async def work():
        runs.append("run")
        if len(runs) == 1:
            inner = asyncio.get_running_loop().create_future()
            inner.cancel()
            await inner
        await asyncio.Event().wait()

    background = Background(lambda _: None, again_seconds=0)
    background.start("listener", work)
    await eventually(lambda: len(runs) == 2)
    assert "the loop listener died" in caplog.text
    await background.stop()
