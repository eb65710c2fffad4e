"""What a message has done: where processes know different tiers, and as a process stops."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from harness.batches import jsonl, line
from harness.fakes import FakePublisher
from harness.records import begun_job, slice_unit
from harness.waiting import eventually, turns

from fallback_chain import Attempt, Verdict
from tasks.execution.jobs import JobRunner
from tasks.execution.messages import Message, MessageRunner
from tasks.execution.phases import PhaseRunner
from tasks.execution.units import UnitRunner
from tasks.records.batches import BatchOptions, LineHistory, SliceRange
from tasks.records.jobs import Dispatch, Ref, Status
from tasks.records.outcomes import Finish, HandOn
from tasks.storage import content_name
from tasks.telemetry.slices import SliceReport, report_to

UNIT = Ref("unit_batch_1_0", 0)
JOBS = [Ref("job_1", 0), Ref("job_2", 0)]
NOT_HERE = Attempt("l4", Verdict.NOT_CONFIGURED, 0.0)


def failed(tier):
    return Attempt(tier, Verdict.FAILURE, 1.0)


class Runners:
    """Take what they are given, and leave `left` to the next tier."""

    def __init__(self) -> None:
        self.ran: list[tuple] = []
        self.left: list[Ref] = []
        self.jobs = SimpleNamespace(run_slice=self._run)
        self.units = SimpleNamespace(run_unit=self._run)
        self.phases = SimpleNamespace(run_phase=self._run)

    async def _run(self, tier, what, *rest):
        self.ran.append((tier, what, *rest))
        return self.left


@pytest.fixture
def runners():
    return Runners()


@pytest.fixture
def run(worker, runners):
    async def run(tier, refs, queue="interactive", following=""):
        runner = MessageRunner(worker.context, runners)
        return await runner.run(Message(tier, refs, queue, following), "me")

    return run


@pytest.mark.parametrize(
    ("tier", "refs", "ran"),
    [
        ("gpu", JOBS, ("gpu", JOBS, "batch", "me")),
        ("cpu", [UNIT], ("cpu", UNIT, "batch", "me")),
        ("join", [Ref("unit_batch_1_join", 0)], ("join", Ref("unit_batch_1_join", 0), "me")),
    ],
)
async def test_each_kind_has_its_runner(run, runners, tier, refs, ran):
    assert await run(tier, refs, "batch") == []
    assert runners.ran == [ran]


async def test_what_is_left_follows_the_chain_of_its_message(run, runners, worker):
    runners.left = [Ref("job_2", 1)]
    assert await run("gpu", JOBS, following="cpu") == runners.left
    assert worker.publisher.dispatched == []


@pytest.mark.parametrize("following", ["cache", "l4", ""])
async def test_where_another_tier_follows_than_is_ours_what_is_left_is_sent_there(
    run, runners, worker, following
):
    """Its sender knows other tiers: the record stands at ours, and no message would find it."""
    runners.left = [Ref("job_2", 1)]
    assert await run("gpu", JOBS, following=following) == []
    assert worker.publisher.dispatched == [Dispatch("job_2", 1, "cpu", "interactive.begun")]


async def test_jobs_at_a_tier_that_is_not_set_up_go_on_uncalled(run, runners, worker):
    tried = {"job_1": (), "job_2": (failed("gpu"),), "job_3": (failed("gpu"), failed("cpu"))}
    worker.jobs.jobs = {
        name: begun_job(id=name, tier="l4", attempts=attempts) for name, attempts in tried.items()
    }
    refs = [Ref(name, 0) for name in tried]
    report_to(report := SliceReport())
    assert await run("l4", refs, following="cpu") == []
    assert runners.ran == []
    assert worker.publisher.dispatched == [
        Dispatch("job_1", 1, "gpu", "interactive.begun"),
        Dispatch("job_2", 1, "cpu", "interactive.begun"),
        Dispatch("job_3", 1, "cache", "interactive.begun"),
    ]
    assert report.text == "handed on 3 (not_configured)"


async def test_jobs_that_have_left_it_meanwhile_stay_where_they_are(run, worker):
    assert await run("l4", JOBS) == []
    assert worker.jobs.moves == [("begin", "l4")]
    assert worker.publisher.dispatched == []


async def test_a_unit_at_a_tier_that_is_not_set_up_goes_where_not_all_its_lines_were(run, worker):
    """It goes round at no two tiers: each time it is known of one more that it was not there."""
    histories = {
        0: LineHistory((failed("gpu"),), 1),
        1: LineHistory((failed("gpu"), failed("cpu"))),
    }
    worker.batches.units[UNIT] = slice_unit(
        id=UNIT.id, tier="l4", range=SliceRange(0, 9, 2, 1), histories=histories
    )
    assert await run("l4", [UNIT], "batch") == []
    assert worker.batches.moves[1:] == [
        (
            "hand_on",
            "cpu",
            {
                0: LineHistory((failed("gpu"), NOT_HERE), 1),
                1: LineHistory((failed("gpu"), failed("cpu"), NOT_HERE)),
            },
        )
    ]
    assert worker.publisher.dispatched == [Dispatch(UNIT.id, 1, "cpu", "batch.begun")]


async def test_a_unit_that_is_not_ours_any_more_is_left(run, worker):
    worker.batches.units[UNIT] = slice_unit(id=UNIT.id, tier="l4")
    worker.batches.ours = False
    assert await run("l4", [UNIT], "batch") == []
    assert await run("l4", [Ref("unit_batch_1_9", 0)], "batch") == []
    assert worker.publisher.dispatched == []


async def test_it_goes_on_where_its_batch_wants_no_answer_too(run, worker):
    """That it passes over is said where it stands: here only the way is found."""
    options = BatchOptions(tiers=("cpu",))
    worker.batches.units[UNIT] = slice_unit(id=UNIT.id, tier="l4", options=options)
    await run("l4", [UNIT], "batch")
    [sent] = worker.publisher.dispatched
    assert sent.tier == "gpu"


async def test_where_no_model_is_set_up_all_goes_to_the_cache(run, worker):
    object.__setattr__(worker.context, "publisher", FakePublisher(()))
    worker.publisher = worker.context.publisher
    worker.jobs.jobs = {"job_1": begun_job(id="job_1", tier="gpu")}
    await run("gpu", [Ref("job_1", 0)], following="cpu")
    assert worker.publisher.dispatched == [Dispatch("job_1", 1, "cache", "interactive.begun")]


ANSWER = Finish(status=Status.SUCCEEDED, attempts=(), tier_used="gpu", answer=b"{}")
FAILURE = HandOn((failed("gpu"),), 1)


@pytest.fixture
def whole(worker):
    """Run messages by the runners that there are; the store is away for a moment after a call."""
    content = jsonl([line("c0", "prompt")])
    worker.storage.write(content_name("file-1"), content)
    unit = slice_unit(range=SliceRange(0, len(content), 1, 1))
    worker.batches.units[Ref(unit.id, 0)] = unit
    worker.jobs.jobs["job_1"] = begun_job(id="job_1", tier="gpu")
    phases = PhaseRunner(worker.context, 128)
    return MessageRunner(
        worker.context,
        SimpleNamespace(
            jobs=JobRunner(worker.context),
            units=UnitRunner(worker.context, phases, most=1, most_first=1),
            phases=phases,
        ),
    )


@pytest.mark.parametrize(
    ("ref", "outcome", "step"),
    [
        (UNIT, ANSWER, "record"),
        (UNIT, FAILURE, "hand_on"),
        (JOBS[0], ANSWER, "finish"),
        (JOBS[0], FAILURE, "hand_on"),
    ],
)
async def test_what_a_call_came_to_outlasts_a_store_that_is_away_in_the_drain(
    whole, worker, ref, outcome, step
):
    """An answer that is thrown away is asked for twice."""
    came = asyncio.get_running_loop().create_future()
    worker.answerer.outcome = lambda _: came
    running = asyncio.create_task(whole.run(Message("gpu", [ref], "batch", "cpu"), "me"))
    await eventually(lambda: worker.answerer.asked)
    stopping = asyncio.create_task(worker.drain.run(60))
    await turns()
    worker.jobs.away = worker.batches.away = 20
    came.set_result(outcome)
    await asyncio.wait_for(running, 5)
    await asyncio.wait_for(stopping, 5)
    assert step in {move[0] for move in worker.jobs.moves + worker.batches.moves}
