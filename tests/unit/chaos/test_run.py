"""What was accepted and what ran is laid to the fault that it met."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from chaos.faults import Fault, all_faults
from chaos.ledger import Ledger, Run
from chaos.plan import Plan
from chaos.run import Cycle, Director, deck_of

ROOT = Path(__file__).parents[3]


@pytest.fixture
def director():
    director = Director(SimpleNamespace(), SimpleNamespace(), Ledger(), random.Random(1))
    yield director
    director.stalls.stop()


def met_by(director, fault, *items):
    began = max(item.at for item in items) + 0.001
    director.cycles.append(Cycle(fault, list(items), began, began + 1))
    director.account()
    return director.tallies[fault.name]


def nothing(*_):
    """What no fault does."""


def test_what_is_never_final_is_lost(director):
    ledger = director.ledger
    seen, lost = (ledger.accept("job", f"job_{n}", [f"{n}"]) for n in range(2))
    gone = ledger.accept("batch", "batch_1", ["a", "b"])
    ledger.see(seen, "answered")
    ledger.see(gone, "not found")
    tally = met_by(director, Fault("kill", nothing), seen, lost, gone)
    assert (tally.lost, tally.in_flight) == (3, 4)


@pytest.mark.parametrize("once", [True, False])
def test_what_ran_twice_breaks_a_promise_only_where_nothing_may(director, once):
    ledger = director.ledger
    item = ledger.accept("job", "job_1", ["a"])
    ledger.see(item, "answered")
    ledger.runs += [Run("a", item.at, item.at + 2), Run("a", item.at + 0.5, item.at + 3)]
    tally = met_by(director, Fault("fault", nothing, once=once), item)
    assert (tally.lost, tally.ran_twice, tally.overlapping) == (0, 1, 1)
    assert len(ledger.problems) == once


def test_what_runs_again_after_the_next_fault_is_that_ones(director):
    ledger = director.ledger
    item = ledger.accept("job", "job_1", ["a"])
    ledger.see(item, "answered")
    ledger.runs += [Run("a", item.at, item.at + 1), Run("a", item.at + 5, item.at + 6)]
    first, second = (Fault(name, nothing, once=name == "first") for name in ("first", "second"))
    director.cycles += [
        Cycle(first, [item], item.at + 0.5, item.at + 2),
        Cycle(second, [item], item.at + 3, item.at + 7),
    ]
    director.account()
    assert (director.tallies["first"].ran_twice, director.tallies["second"].ran_twice) == (0, 1)
    assert ledger.problems == []


def test_faults_by_which_nothing_may_run_twice_are_taken_one_after_the_other():
    faults = [Fault(f"{n}", nothing, once=n % 2 == 0) for n in range(10)]
    deck = deck_of(faults, random.Random(1))
    assert [fault.once for fault in reversed(deck)] == [True] * 5 + [False] * 5
    assert deck == deck_of(faults, random.Random(1))
    assert deck != deck_of(faults, random.Random(2))


def test_a_result_that_changed_was_seen_twice(director):
    ledger = director.ledger
    item = ledger.accept("job", "job_1", ["a"])
    for result in ("one", "two"):
        ledger.see(item, result)
    assert met_by(director, Fault("fault", nothing), item).seen_twice == 1


def test_a_plan_has_the_faults_that_it_names():
    faults = all_faults(
        SimpleNamespace(
            links={"api-store": None},
            **dict.fromkeys(["rabbitmq", "durable", "store_host", "broker_host"], True),
        )
    )
    names = [fault.name for fault in faults]
    assert len(set(names)) == len(names)
    plan = Plan(1, "valkey", 1, names=["kill -9", "RST"], without=["store", "rabbitmq"])
    assert [name for name in names if plan.has(name)] == ["kill -9 api", "kill -9 worker"]
    assert all(Plan(1, "valkey", 1).has(name) for name in names)


def test_who_is_told_to_end_stops_what_it_started(tmp_path):
    """SIGTERM is what a CI sends, and `timeout`."""
    program = f"""
import asyncio, os, pathlib, signal
from chaos.run import until_it_ends

async def perform():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(60)
    finally:
        await asyncio.to_thread(pathlib.Path({str(tmp_path / "stopped")!r}).touch)

until_it_ends(perform())
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": f"{ROOT}/tests:{ROOT}"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert (tmp_path / "stopped").exists()
