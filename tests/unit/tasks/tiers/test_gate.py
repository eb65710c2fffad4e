"""Where lines wait for a tier: nobody asks in vain, one probes, all go once it is well."""

from __future__ import annotations

import asyncio

import pytest
from harness.waiting import eventually, turns

from tasks.tiers.gate import Gate, Word


class Tier:
    """A tier as a gate sees it."""

    def __init__(self) -> None:
        self.due, self.closed, self.share = 100.0, False, 0.0
        self.looks, self.broken = 0, False

    async def due_seconds(self):
        self.looks += 1
        if self.broken:
            raise ValueError
        return self.due

    def close(self, share=1.0):
        self.due, self.closed, self.share = 0.0, True, share

    class config:  # noqa: N801 - as a tier has it
        name = "gpu"


@pytest.fixture
def tier():
    return Tier()


@pytest.fixture
async def gate(tier, monkeypatch):
    monkeypatch.setattr("tasks.tiers.gate.LOOK_SECONDS", 0.01)
    monkeypatch.setattr("tasks.tiers.gate.PROBE_SECONDS", 0.005)
    gate = Gate(tier, lambda share: round(4 * share))
    yield gate
    gate.shut()
    await asyncio.sleep(0.02)


def told(lines):
    return [turn.result() for turn in lines if turn.done() and not turn.cancelled()]


async def test_nobody_asks_a_tier_that_refuses_and_all_go_once_it_is_well(tier, gate):
    lines = [gate.line_up() for _ in range(5)]
    await eventually(lambda: tier.looks > 2)
    assert not told(lines)
    tier.close()
    await eventually(lambda: told(lines) == [Word.ASK] * 5)
    assert not gate.anybody


async def test_a_change_is_looked_at_at_once(tier, gate, monkeypatch):
    monkeypatch.setattr("tasks.tiers.gate.LOOK_SECONDS", 100)
    line = gate.line_up()
    await turns(20)
    tier.close()
    gate.changed()
    await eventually(line.done)


async def test_a_tier_that_is_due_is_tried_by_one_at_a_time(tier, gate, monkeypatch):
    monkeypatch.setattr("tasks.tiers.gate.PROBE_SECONDS", 0.2)
    tier.due = 0.0
    lines = [gate.line_up() for _ in range(5)]
    await eventually(lambda: told(lines))
    await asyncio.sleep(0.1)
    assert told(lines) == [Word.ASK]
    await eventually(lambda: len(told(lines)) == 2)


async def test_a_tier_that_takes_some_calls_is_asked_by_as_many_as_it_could_take(
    tier, gate, monkeypatch
):
    monkeypatch.setattr("tasks.tiers.gate.PROBE_SECONDS", 0.2)
    tier.close(share=0.5)
    lines = [gate.line_up() for _ in range(5)]
    await eventually(lambda: told(lines))
    await asyncio.sleep(0.1)
    assert told(lines) == [Word.ASK] * 2
    await eventually(lambda: len(told(lines)) == 5)


async def test_who_waits_for_a_tier_that_has_its_share_asks_when_it_takes_more(tier, gate):
    tier.close(share=0.1)
    lines = [gate.line_up() for _ in range(5)]
    await eventually(lambda: tier.looks > 3)
    assert not told(lines)
    tier.close(share=0.5)
    gate.changed()
    await eventually(lambda: told(lines))


async def test_who_steps_out_is_told_nothing_until_he_comes_back(tier, gate):
    first, second = gate.line_up(), gate.line_up()
    gate.step_out([first])
    tier.close()
    await eventually(second.done)
    await asyncio.sleep(0.02)
    assert not first.done()
    gate.come_back([first])
    await eventually(first.done)


async def test_who_is_to_come_later_steps_out_and_comes_back_as_if_he_had_not(tier, gate):
    """Or he would be told to ask by one while the other sends him elsewhere."""
    tier.close()
    soon, late = gate.line_up(after_seconds=0.02), gate.line_up(after_seconds=0.2)
    gate.step_out([soon, late])
    await asyncio.sleep(0.05)
    assert not soon.done()
    gate.come_back([soon, late])
    await eventually(soon.done)
    assert not late.done()
    await eventually(late.done)


async def test_who_comes_later_does_not_wait_before(tier, gate):
    tier.close()
    line = gate.line_up(after_seconds=0.05)
    await asyncio.sleep(0.02)
    assert not line.done()
    await eventually(line.done)


@pytest.mark.parametrize("later", [0.0, 0.01])
async def test_nobody_waits_in_a_process_that_stops(tier, gate, later):
    before = gate.line_up(after_seconds=later)
    gate.shut()
    await eventually(before.done)
    assert [before.result(), await gate.line_up()] == [Word.STOP] * 2


async def test_who_left_the_line_is_passed_over(tier, gate):
    gone, there = gate.line_up(), gate.line_up()
    gone.cancel()
    tier.due = 0.0
    await eventually(there.done)


async def test_a_defect_lets_nobody_wait_for_ever(tier, gate, caplog):
    tier.broken = True
    line = gate.line_up()
    await eventually(line.done)
    assert "the gate of tier gpu broke off" in caplog.text
    tier.broken = False
    tier.close()
    assert await asyncio.wait_for(gate.line_up(), 5) is Word.ASK


async def test_a_server_that_is_due_beside_one_that_is_held_is_tried_by_one_line(
    tier, gate, monkeypatch
):
    """Of a tier of several: the held one is closed, and takes nothing."""
    monkeypatch.setattr("tasks.tiers.gate.PROBE_SECONDS", 0.2)
    tier.close(share=0.0)
    lines = [gate.line_up() for _ in range(5)]
    await eventually(lambda: told(lines))
    await asyncio.sleep(0.05)
    assert told(lines) == [Word.ASK]
