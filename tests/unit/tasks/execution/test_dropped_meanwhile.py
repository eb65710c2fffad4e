"""What is given out in the store is sent, whoever is cancelled between the two.

A step that ends a lease is one after which it cannot be renewed: whoever renews leases may find
this out before the step's asker has its answer, and drop him.
"""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
from harness.batches import jsonl, line
from harness.fakes import meanwhile
from harness.records import begun_job, slice_unit
from harness.waiting import eventually

from fallback_chain import Attempt, Verdict
from tasks.execution.jobs import JobRunner
from tasks.execution.phases import PhaseRunner
from tasks.execution.units import UnitRunner
from tasks.records.batches import PhaseUnit, SliceRange
from tasks.records.jobs import Dispatch, Ref, Status
from tasks.records.losses import MOST_LOSSES, broke_off
from tasks.records.outcomes import Finish, HandBack, HandOn, HandUp
from tasks.storage import content_name

CONTENT = jsonl([line("c0", "prompt"), line("c1", "prompt")])
TRIED = (Attempt("gpu", Verdict.FAILURE, 1.0),)
ON, UP = HandOn(TRIED, 1), HandUp("gpu")
ANSWER = Finish(status=Status.SUCCEEDED, attempts=TRIED, tier_used="gpu", answer=b"{}")
NEXT_SLICE = Dispatch("unit_next", 0, "gpu", "batch")
JOIN = Dispatch("unit_join", 0, "join", "phases")


@pytest.fixture
def drops(worker):
    """Have a unit or a job be dropped when a step of the store's is done that is about it."""

    def drops(owner, step, name):
        meanwhile(owner, step, lambda: worker.leases.drop(name))

    return drops


def run_unit(worker, outcomes, tier="gpu", **fields):
    """Run a unit of two lines that come to these outcomes; return what is left to the chain."""
    worker.storage.write(content_name("file-1"), CONTENT)
    worker.answerer.outcome = lambda job: outcomes[int(job.id[-1])]
    unit = slice_unit(tier=tier, range=SliceRange(0, len(CONTENT), 2, 1), **fields)
    worker.batches.units[Ref(unit.id, 0)] = unit
    runner = UnitRunner(worker.context, PhaseRunner(worker.context, 2), most=1, most_first=1)
    return asyncio.wait_for(runner.run_unit(tier, Ref(unit.id, 0), "batch", "me"), 5)


async def test_the_next_slice_is_sent(worker, drops):
    drops(worker.batches, "complete_slice", "unit_batch_1_0")
    await run_unit(worker, [ANSWER, ANSWER])
    assert worker.publisher.dispatched == [NEXT_SLICE]


async def test_what_the_next_task_is_to_answer_is_left_to_it(worker, drops):
    drops(worker.batches, "hand_on", "unit_batch_1_0")
    assert await run_unit(worker, [ON, ON]) == [Ref("unit_batch_1_0", 1)]


async def test_lines_that_leave_are_sent(worker, drops):
    drops(worker.batches, "split", "unit_batch_1_0")
    await run_unit(worker, [UP, HandBack()], tier="cpu")
    [sent] = worker.publisher.dispatched
    assert (sent.id[:15], sent.tier) == ("unit_batch_1_0_", "gpu")


async def test_what_is_handed_back_is_sent(worker, drops):
    drops(worker.batches, "hand_back", "unit_batch_1_0")
    await run_unit(worker, [HandBack(), HandBack()])
    assert worker.publisher.dispatched == [Dispatch("unit_batch_1_0", 1, "gpu", "batch.begun")]


async def test_the_end_of_a_batch_without_its_input_is_sent(worker, drops, monkeypatch):
    monkeypatch.setattr("tasks.execution.line_reader.MISSING_SECONDS", 0.0)
    drops(worker.batches, "end_without_input", "unit_batch_1_0")
    await run_unit(worker, [ANSWER, ANSWER], input_file_id="file-gone")
    assert worker.publisher.dispatched == [JOIN]


def phase_unit(phase, **fields):
    usual = {name: getattr(slice_unit(), name) for name in PhaseUnit.__dataclass_fields__}
    return PhaseUnit(**{**usual, "id": f"unit_batch_1_{phase}", "tier": phase, **fields})


PHASES = {
    "start": (phase_unit("validate"), NEXT_SLICE),
    "give_up": (phase_unit("join", attempts=(broke_off("join"),) * MOST_LOSSES), JOIN),
    "complete_slice": (
        slice_unit(tier="part", range=SliceRange(0, 0, 0, 1), results=set()),
        NEXT_SLICE,
    ),
}


@pytest.mark.parametrize("step", PHASES)
@pytest.mark.parametrize("cut_off", [False, True])
async def test_what_a_phase_gives_out_is_sent(worker, step, cut_off):
    unit, sent = PHASES[step]
    worker.storage.write(content_name("file-1"), CONTENT)
    worker.batches.units[Ref(unit.id, 0)] = unit
    dropped = partial(worker.leases.drop, unit.id)
    meanwhile(worker.batches, step, partial(_cut_off, worker) if cut_off else dropped)
    worker.batches.ours = not cut_off  # a unit that has ended cannot be handed back
    phases = PhaseRunner(worker.context, 2)
    await asyncio.wait_for(phases.run_phase(unit.tier, Ref(unit.id, 0), "me"), 5)
    assert worker.publisher.dispatched == [sent]


def _cut_off(worker):
    """Let the drain's time be over."""
    worker.drain.cut_off = True
    for call in worker.drain._running:
        call.cancel()


async def test_a_phase_that_is_handed_back_is_sent(worker, drops):
    unit = phase_unit("join")
    worker.batches.units[Ref(unit.id, 0)] = unit
    hangs = asyncio.get_running_loop().create_future()
    worker.batches.parts = lambda _: hangs
    drops(worker.batches, "hand_back", unit.id)
    phases = PhaseRunner(worker.context, 2)
    running = asyncio.create_task(phases.run_phase("join", Ref(unit.id, 0), "me"))
    await eventually(lambda: len(worker.leases) == 1)
    _cut_off(worker)
    await asyncio.wait_for(running, 5)
    assert worker.publisher.dispatched == [Dispatch(unit.id, 1, "join", "phases.begun")]


JOBS = {"hand_on": (UP, "gpu"), "hand_back": (HandBack(), "cpu")}


@pytest.mark.parametrize("step", JOBS)
async def test_a_job_that_goes_elsewhere_is_sent(worker, drops, step):
    outcome, to = JOBS[step]
    drops(worker.jobs, step, "job_1")
    await run_job(worker, outcome)
    assert worker.publisher.dispatched == [Dispatch("job_1", 1, to, "interactive.begun")]


async def test_a_job_that_ended_as_it_was_cut_off_is_not_handed_back(worker):
    meanwhile(worker.jobs, "finish", lambda: _cut_off(worker))
    await run_job(worker, ANSWER)
    assert [move[0] for move in worker.jobs.moves] == ["begin", "finish"]
    assert worker.publisher.dispatched == []


async def test_a_job_that_ended_is_told_of(worker, drops):
    drops(worker.jobs, "finish", "job_1")
    await run_job(worker, ANSWER)
    assert worker.observer.events[1:] == [("finished", "gpu", "succeeded")]
    assert worker.answerer.kept == ["job_1"]


async def run_job(worker, outcome):
    worker.answerer.outcome = lambda _: outcome
    worker.jobs.jobs["job_1"] = begun_job(tier="cpu")
    runner = JobRunner(worker.context)
    await asyncio.wait_for(runner.run_slice("cpu", [Ref("job_1", 0)], "interactive", "me"), 5)
