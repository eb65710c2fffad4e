"""One unit of a batch at one tier: its lines answered, recorded, and what is left sent on."""

from __future__ import annotations

import asyncio
import json

import pytest
from harness.batches import jsonl, line
from harness.fakes import FakePublisher, meanwhile
from harness.records import slice_unit
from harness.waiting import eventually, turns

from fallback_chain import Attempt, Verdict
from tasks.execution.ending import LATE_SECONDS
from tasks.execution.phases import AGAIN_SECONDS, PhaseRunner
from tasks.execution.unit_run import UnitRun
from tasks.records.batches import LineHistory, Part, SliceRange
from tasks.records.jobs import Dispatch, Ref, Status
from tasks.records.losses import ALONE, lost
from tasks.records.outcomes import (
    MOST_ATTEMPTS,
    Finish,
    HandBack,
    HandOn,
    HandUp,
    Park,
    error_of,
)
from tasks.storage import content_name, part_name
from tasks.tiers.gate import Word

LINES = 3
CONTENT = jsonl([line(f"c{n}", f"prompt {n}") for n in range(LINES)])
TRIED = (Attempt("gpu", Verdict.FAILURE, 1.0),)
ON, KEPT = HandOn(TRIED, 1), LineHistory(TRIED, 1)
ANSWER = Finish(status=Status.SUCCEEDED, attempts=TRIED, tier_used="gpu", answer=b'{"n": 1}')
REFUSAL = Finish(
    status=Status.FAILED, attempts=TRIED, error=error_of("no", "bad"), error_status=400
)
NEXT_SLICE = Dispatch("unit_next", 0, "gpu", "batch")


class Run:
    """A unit's run. Line n comes to outcomes[n], once it is there."""

    def __init__(self, worker, storage, **fields) -> None:
        storage.write(content_name("file-1"), CONTENT)
        self.worker = worker
        self.outcomes = [asyncio.get_running_loop().create_future() for _ in range(LINES)]
        worker.answerer.outcome = lambda job: self.outcomes[int(job.id[-1])]
        self.unit = slice_unit(range=SliceRange(0, len(CONTENT), LINES, 1), **fields)
        self._run = UnitRun(worker.context, PhaseRunner(worker.context, 128), self.unit)
        self.work = self._run.work

    def come_to(self, outcomes):
        for index, outcome in outcomes.items():
            self.outcomes[index].set_result(outcome)

    async def begin(self):
        """Let its turn come, and all its calls be made."""
        calls = len(self.unit.open_lines)
        self._run.turn.set()
        await eventually(lambda: len(self.worker.answerer.asked) == calls or self.work.done())

    @property
    def is_idle(self):
        return self._run.idle.is_set() and self._run.waits

    def park(self):
        self._run.park()

    async def begin_alone(self, calls):
        """Let its turn come, and so many of its calls be made."""
        self._run.turn.set()
        await eventually(lambda: len(self.worker.answerer.asked) == calls)

    async def end(self, *outcomes):
        """Return what it leaves to the next task of the chain."""
        self.come_to({i: outcome for i, outcome in enumerate(outcomes) if outcome is not None})
        self._run.turn.set()
        return await asyncio.wait_for(self.work, 5)


@pytest.fixture
async def run(worker):
    run = Run(worker, worker.storage)
    yield run
    run.work.cancel()
    await asyncio.gather(run.work, return_exceptions=True)


def moves(worker, *kinds):
    return [move for move in worker.batches.moves if move[0] in kinds]


def part(worker, kind):
    content = worker.storage.read(part_name("batch_1", "0", kind), 0, 100_000)
    return [json.loads(text) for text in content.splitlines()]


async def test_lines_are_answered_and_recorded_and_their_part_is_written(worker, run):
    assert await run.end(ANSWER, REFUSAL, ANSWER) == []
    assert moves(worker, "record") == [("record", [0, 1, 2])]
    assert [each["custom_id"] for each in part(worker, "output")] == ["c0", "c2"]
    [error] = part(worker, "error")
    assert (error["custom_id"], error["response"]["status_code"]) == ("c1", 400)
    [(_, written)] = moves(worker, "complete_slice")
    assert written.slice == 0
    assert worker.publisher.dispatched == [NEXT_SLICE]
    assert worker.answerer.kept == ["batch_1-0-0", "batch_1-0-1", "batch_1-0-2"]


async def test_lines_that_failed_leave_while_the_slowest_runs(worker, run):
    await run.begin()
    run.come_to({0: ON, 2: ON})
    await eventually(lambda: worker.publisher.dispatched)
    assert moves(worker, "split") == [("split", "cpu", {0: KEPT, 2: KEPT})]
    [dispatch] = worker.publisher.dispatched
    assert (dispatch.attempt, dispatch.tier, dispatch.queue) == (0, "cpu", "batch.begun")
    assert run.unit.moved_to == {0: dispatch.id, 2: dispatch.id}
    assert not run.work.done()
    run.come_to({1: ANSWER})
    assert await run.end() == []
    assert moves(worker, "record", "drop", "hand_on") == [("record", [1]), ("drop", run.unit.id)]


async def test_what_left_once_does_not_leave_again(worker, run):
    await run.begin()
    for number in (0, 1):
        run.come_to({number: ON})
        await eventually(lambda number=number: len(moves(worker, "split")) == number + 1)
    worker.drain.started = True
    run.come_to({2: HandBack()})
    assert await run.end() == []
    assert [move[2] for move in moves(worker, "split")] == [{0: KEPT}, {1: KEPT}]


async def test_what_nobody_may_split_any_more_is_not_sent(worker, run):
    worker.batches.ours = False
    await run.begin()
    run.come_to({0: ON})
    await eventually(lambda: moves(worker, "split"))
    run.come_to({1: ON, 2: ON})
    assert await run.end() == []
    assert worker.publisher.dispatched == []


async def test_what_is_left_at_the_end_goes_on_in_the_chain(worker, run):
    assert await run.end(ON, ANSWER, ON) == [Ref(run.unit.id, 1)]
    assert moves(worker, "hand_on") == [("hand_on", "cpu", {0: KEPT, 2: KEPT})]


async def test_a_unit_that_is_another_workers_now_is_not_handed_on(worker, run):
    worker.batches.ours = False
    assert await run.end(ON, ON, ON) == []


async def test_what_no_tier_could_answer_waits(worker, run):
    assert await run.end(Park(TRIED, 1, 9.0), Park(TRIED, 1, 4.0), ANSWER) == []
    assert moves(worker, "park") == [("park", {0: KEPT, 1: KEPT}, 4.0)]


async def test_past_its_window_a_line_is_left_to_the_sweeper(worker):
    run = Run(worker, worker.storage, deadline=0.0)
    expired = Finish(status=Status.EXPIRED, attempts=())
    assert await run.end(ANSWER, expired, expired) == []
    assert moves(worker, "record") == [("record", [0])]
    assert moves(worker, "park") == [("park", {}, LATE_SECONDS)]


@pytest.mark.parametrize("ours", [True, False])
async def test_a_drain_before_its_turn_hands_a_unit_back(worker, run, ours):
    worker.drain.started = True
    worker.batches.ours = ours
    assert await run.end() == []
    assert worker.answerer.asked == []
    assert moves(worker, "hand_back") == [("hand_back", "gpu")]
    again = Dispatch(run.unit.id, 1, "gpu", "batch.begun")
    assert worker.publisher.dispatched == ([again] if ours else [])


async def test_what_a_drain_did_not_let_be_called_comes_back_and_the_failed_go_on(worker, run):
    await run.begin()
    worker.drain.started = True
    assert await run.end(ON, HandBack(), ANSWER) == []
    assert moves(worker, "split", "hand_back") == [
        ("split", "cpu", {0: KEPT}),
        ("hand_back", "gpu"),
    ]
    assert [each.tier for each in worker.publisher.dispatched] == ["cpu", "gpu"]


@pytest.mark.parametrize("tier", ["gpu", "cpu", "cache"])
async def test_what_a_drain_cuts_off_comes_back(worker, tier):
    run = Run(worker, worker.storage, tier=tier)
    await run.begin()
    run.come_to({0: ANSWER})
    await worker.drain.run(0.0)
    assert await asyncio.wait_for(run.work, 5) == []
    assert moves(worker, "record", "hand_back") == [("record", [0]), ("hand_back", tier)]
    assert worker.publisher.dispatched == [Dispatch(run.unit.id, 1, tier, "batch.begun")]


@pytest.mark.parametrize("tier", ["gpu", "cpu", "cache"])
async def test_lines_that_end_a_moment_before_their_window_come_back_to_be_ended(worker, tier):
    run = Run(worker, worker.storage, tier=tier)
    expired = Finish(status=Status.EXPIRED, attempts=())
    assert await run.end(ANSWER, expired, expired) == []
    assert moves(worker, "record", "hand_back") == [("record", [0]), ("hand_back", tier)]


async def test_a_unit_that_is_dropped_calls_and_records_nothing_more(worker, run):
    await run.begin()
    run.come_to({0: ANSWER})
    await turns()
    run.work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run.work
    assert [outcome.cancelled() for outcome in run.outcomes] == [False, True, True]
    await turns()
    assert worker.batches.moves == []
    assert asyncio.all_tasks() == {asyncio.current_task()}, "nothing goes on"


async def test_a_unit_that_is_dropped_before_its_turn_never_begins(worker, run):
    await turns()
    run.work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run.end()
    assert worker.batches.moves == []


async def test_a_batch_whose_input_is_gone_is_ended(worker, run, monkeypatch, caplog):
    monkeypatch.setattr("tasks.execution.line_reader.MISSING_SECONDS", 0.0)
    worker.storage.remove(content_name("file-1"))
    assert await run.end() == []
    [(_, errors)] = moves(worker, "end_without_input")
    assert json.loads(errors)["data"][0]["code"] == "file_not_found"
    assert worker.publisher.dispatched == [Dispatch("unit_join", 0, "join", "phases")]
    assert "its input file is gone" in caplog.text


async def test_a_line_that_cannot_be_read_has_an_error_and_asks_nobody(worker):
    run = Run(worker, worker.storage)
    worker.storage.write(content_name("file-1"), CONTENT.replace(b'"prompt 1"', b"1e999"))
    assert await run.end(ANSWER, ANSWER, ANSWER) == []
    assert worker.answerer.asked == ["batch_1-0-0", "batch_1-0-2"]
    [error] = part(worker, "error")
    assert (error["custom_id"], error["error"]["code"]) == ("c1", "invalid_json_line")


@pytest.mark.parametrize("tier", ["gpu", "cpu"])
async def test_a_defect_of_ours_sends_a_line_on_as_one_that_failed(worker, caplog, tier):
    run = Run(worker, worker.storage, tier=tier, histories={0: LineHistory(TRIED, 1)})
    assert await run.end(ValueError("a defect"), ANSWER, ANSWER) == [Ref(run.unit.id, 1)]
    [(_, _, histories)] = moves(worker, "hand_on")
    defect = Attempt(tier, Verdict.FAILURE, 0.0, "defect")
    assert histories == {0: LineHistory((*TRIED, defect), 2)}
    assert "line batch_1-0-0 at tier" in caplog.text


async def test_a_defect_at_the_last_tier_has_a_line_wait(worker, caplog):
    run = Run(worker, worker.storage, tier="cache")
    assert await run.end(ValueError("a defect"), ANSWER, ANSWER) == []
    defect = Attempt("cache", Verdict.FAILURE, 0.0, "defect")
    kept = {0: LineHistory((defect,), 1)}
    assert moves(worker, "park") == [("park", kept, LATE_SECONDS)]
    assert "broke off" in caplog.text


SUSPECTED = LineHistory((*TRIED, lost("gpu", ALONE)), 1)


async def test_the_lines_of_a_unit_that_cost_workers_are_called_one_by_one(worker):
    """Each is noted before, as if the worker had died of it: what it comes to is written over."""
    losses, tried = (lost("gpu"),) * 2, {1: LineHistory(TRIED, 1)}
    run = Run(worker, worker.storage, attempts=losses, histories=tried)
    run.come_to({0: ANSWER})
    await run.begin_alone(2)
    assert moves(worker, "note_line") == [
        ("note_line", 0, LineHistory((lost("gpu", ALONE),), 0)),
        ("note_line", 1, SUSPECTED),
    ]
    assert await run.end(None, ON, ANSWER) == [Ref(run.unit.id, 1)]
    assert moves(worker, "hand_on") == [("hand_on", "cpu", {1: KEPT})]


async def test_no_phase_of_a_batch_is_at_work_while_a_line_is_noted(worker):
    """A worker that dies of the phase would have it blamed."""
    phases, began = worker.context.phases, []

    async def phase():
        async with phases.together(10):
            began.append("phase")

    async with phases.together(10):
        run = Run(worker, worker.storage, attempts=(lost("gpu"),) * 2)
        await run.begin_alone(0)
        await turns(20)
        assert (moves(worker, "note_line"), worker.answerer.asked) == ([], [])
    await run.begin_alone(1)
    waiting = asyncio.create_task(phase())
    await turns(20)
    assert (len(moves(worker, "note_line")), began) == (1, [])
    await run.end(ANSWER, ANSWER, ANSWER)
    await asyncio.wait_for(waiting, 5)


@pytest.mark.parametrize("stop", ["before its call", "in its call"])
async def test_a_suspect_that_a_stopping_worker_hands_back_is_noted_as_it_was(worker, stop):
    """Two restarts in a row would prove it guilty: its worker has not died of it."""
    known = LineHistory((*TRIED, lost("cpu")), 1)
    losses = {"attempts": (lost("gpu"),) * 2, "histories": {1: known}}
    run = Run(worker, worker.storage, **losses, results={0}, moved_to={2: "unit_batch_1_0_token"})
    await run.begin_alone(1)
    if stop == "before its call":
        worker.drain.started = True
        run.come_to({1: HandBack()})
    else:
        await worker.drain.run(0.0)
    assert await asyncio.wait_for(run.work, 5) == []
    guilty = LineHistory((*known.attempts, lost("gpu", ALONE)), 1)
    assert moves(worker, "note_line", "hand_back") == [
        ("note_line", 1, guilty),
        ("note_line", 1, known),
        ("hand_back", "gpu"),
    ]


async def test_a_line_that_cost_a_worker_is_called_after_all_others(worker):
    run = Run(worker, worker.storage, histories={0: SUSPECTED})
    await run.begin_alone(2)
    await turns(20)
    assert worker.answerer.asked == ["batch_1-0-1", "batch_1-0-2"]
    run.come_to({1: ANSWER, 2: ANSWER})
    await eventually(lambda: len(worker.answerer.asked) == 3)
    assert await run.end(ANSWER) == []


async def test_of_a_unit_that_is_not_ours_no_suspect_is_called(worker):
    run = Run(worker, worker.storage, attempts=(lost("gpu"),) * 2)
    worker.batches.ours = False
    assert await run.end() == []
    assert worker.answerer.asked == []


async def test_a_slice_that_others_have_completed_is_written_by_who_finds_it(worker):
    known = {n: b"o%d" % n for n in range(LINES)}
    run = Run(worker, worker.storage, results=set(known))
    worker.batches.known = known
    assert await run.end() == []
    assert moves(worker, "record") == [("record", [])]
    assert moves(worker, "complete_slice") == [("complete_slice", Part(0, 6, 0))]


async def test_what_others_recorded_meanwhile_is_in_the_part(worker, run):
    await run.begin()
    worker.batches.known = {0: b"otheirs", 1: b"otheirs"}
    assert await run.end(ANSWER, ANSWER, ANSWER) == []
    content = worker.storage.read(part_name("batch_1", "0", "output"), 0, 1000)
    assert content.splitlines()[:2] == [b"theirs"] * 2


async def test_what_a_unit_that_left_recorded_is_in_the_part(worker):
    worker.batches.known = {0: b"otheirs"}
    run = Run(worker, worker.storage, moved_to={0: "unit_batch_1_0_token"})
    run.come_to({1: ANSWER, 2: ANSWER})
    assert await run.end() == []
    content = worker.storage.read(part_name("batch_1", "0", "output"), 0, 1000)
    assert content.splitlines()[0] == b"theirs"


async def test_a_part_is_left_to_who_has_its_lease_now(worker, run):
    worker.batches.ours = False
    assert await run.end(ANSWER, ANSWER, ANSWER) == []
    assert moves(worker, "complete_slice", "drop") == [("drop", run.unit.id)]


async def test_a_unit_whose_results_the_store_has_forgotten_goes_to_its_tier_again(worker, run):
    worker.batches.ours = False  # the slice is not complete, whatever we were told
    worker.batches.forgot = True
    hand_back = worker.batches.hand_back

    async def handed_back(*args):
        worker.batches.ours = True
        return await hand_back(*args)

    worker.batches.hand_back = handed_back
    assert await run.end(ANSWER, ANSWER, ANSWER) == []
    assert moves(worker, "drop", "hand_back") == [("drop", run.unit.id), ("hand_back", "gpu")]
    assert worker.publisher.dispatched[-1].id == run.unit.id


async def test_a_part_that_cannot_be_written_is_left_to_who_comes_next(
    worker, run, monkeypatch, caplog
):
    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(worker.storage, "writing", full)
    assert await run.end(ANSWER, ANSWER, ANSWER) == []
    assert moves(worker, "complete_slice") == []
    assert moves(worker, "put_off") == [("put_off", "part", (), AGAIN_SECONDS)]
    assert "part of batch_1 broke off: OSError" in caplog.text


async def test_a_store_that_is_away_is_waited_for(worker, run):
    worker.batches.away = 3
    assert await run.end(ON, ON, ON) == [Ref(run.unit.id, 1)]


# Lines that wait for their tier

REFUSED = (Attempt("gpu", Verdict.REJECTED, 1.0, "open"),)
WAITS = HandOn(REFUSED, 0)


@pytest.fixture
def waiting(worker, run):
    """A unit of which the first try of every line is refused, and waits; its turns, by line."""
    worker.answerer.holds = lambda _: True

    class Turns:
        async def begin(self):
            await run.begin()
            again = [asyncio.get_running_loop().create_future() for _ in range(LINES)]
            first, run.outcomes = run.outcomes, again
            for future in first:
                future.set_result(WAITS)
            await eventually(lambda: len(worker.answerer.turns) == LINES)
            await turns(5)

        def tell(self, line, word):
            worker.answerer.turns[f"batch_1-0-{line}"].set_result(word)

        def told(self, line):
            turn = worker.answerer.turns[f"batch_1-0-{line}"]
            return turn.result() if turn.done() else None

    return Turns()


@pytest.fixture(autouse=True)
def _quick_descent(monkeypatch):
    monkeypatch.setattr("tasks.execution.descent.LOOK_SECONDS", 0.01)
    monkeypatch.setattr("tasks.execution.descent.COALESCE_SECONDS", 0.0)


async def test_lines_wait_for_their_tier_and_are_asked_again_and_nothing_is_moved(
    worker, run, waiting
):
    await waiting.begin()
    assert (worker.publisher.dispatched, worker.batches.moves) == ([], [])
    for index in range(LINES):
        waiting.tell(index, Word.ASK)
    assert await run.end(ANSWER, ANSWER, ANSWER) == []
    assert len(worker.answerer.asked) == 2 * LINES
    assert moves(worker, "record") == [("record", [0, 1, 2])]


async def test_a_line_that_waits_knows_once_that_it_was_refused(worker, run, waiting):
    await waiting.begin()
    seen = []
    worker.answerer.outcome = lambda job: seen.append(job.attempts) or WAITS_AGAIN
    for _ in range(3):
        waiting.tell(0, Word.ASK)
        await eventually(lambda: waiting.told(0) is None)
    assert seen == [REFUSED] * 3


async def test_of_a_line_that_waits_for_days_not_every_try_is_kept(worker, run, waiting):
    """Of a busy server each line learns so again and again; that its worker was lost, it keeps."""
    await waiting.begin()
    busy = Attempt("gpu", Verdict.SATURATED, 1.0)
    seen = []

    def outcome(job):
        seen.append(job.attempts)
        return HandOn((*job.attempts, lost("gpu") if len(seen) == 1 else busy), 0)

    worker.answerer.outcome = outcome
    for number in range(3 * MOST_ATTEMPTS):
        waiting.tell(0, Word.ASK)
        await eventually(lambda number=number: len(seen) > number and waiting.told(0) is None, 5)
    assert len(seen[-1]) == MOST_ATTEMPTS + 1
    assert seen[-1][0] == lost("gpu")


WAITS_AGAIN = HandOn((*REFUSED, *REFUSED), 0)


async def test_a_kept_answer_ends_the_waiting_before_it_begins(worker, run, waiting):
    worker.answerer.kept_answers = {f"batch_1-0-{line}": ANSWER for line in range(LINES)}
    assert await run.end(WAITS, WAITS, WAITS) == []
    assert moves(worker, "record") == [("record", [0, 1, 2])]


async def test_what_waits_goes_down_as_far_as_there_is_room(worker, run, waiting):
    await waiting.begin()
    worker.answerer.room = {"cpu": 2}
    kept = LineHistory(REFUSED, 0)
    await eventually(lambda: moves(worker, "split"))
    assert moves(worker, "split")[0] == ("split", "cpu", {0: kept, 1: kept})
    worker.answerer.room = {"cpu": 0}
    assert [waiting.told(line) for line in range(LINES)] == [Word.GONE, Word.GONE, None]
    [dispatch] = worker.publisher.dispatched
    assert run.unit.moved_to == {0: dispatch.id, 1: dispatch.id}
    waiting.tell(2, Word.ASK)
    run.come_to({2: ANSWER})
    assert await run.end() == []
    assert moves(worker, "record", "drop") == [("record", [2]), ("drop", run.unit.id)]


async def test_what_waits_goes_to_the_first_lower_tier_that_has_room(worker, run, waiting):
    object.__setattr__(worker.context, "publisher", FakePublisher(("gpu", "l4", "cpu")))
    await waiting.begin()
    worker.answerer.unfit_at = {"l4": {"batch_1-0-1"}}
    worker.answerer.room = {"l4": 1, "cpu": 5}
    await eventually(lambda: waiting.told(2) is Word.GONE)
    assert [(to, list(lines)) for _, to, lines in moves(worker, "split")] == [
        ("l4", [0]),
        ("cpu", [1, 2]),
    ]


async def test_a_line_that_a_tier_between_did_not_answer_is_parked_at_its_first(worker, run):
    object.__setattr__(worker.context, "publisher", FakePublisher(("h100", "gpu", "cpu")))
    worker.answerer.unanswered_between = {"batch_1-0-0"}
    assert await run.end(WAITS, ANSWER, ANSWER) == []
    assert moves(worker, "park", "split") == [("park", {0: LineHistory(REFUSED, 0)}, 1.0)]
    assert worker.batches.parked_at == ["h100"]


async def test_what_the_next_tier_would_not_take_waits_where_it_is(worker, run, waiting):
    await waiting.begin()
    worker.answerer.unfit_below = {"batch_1-0-0", "batch_1-0-2"}
    worker.answerer.room = {"cpu": 5}
    await eventually(lambda: moves(worker, "split"))
    assert list(moves(worker, "split")[0][2]) == [1]
    assert [waiting.told(line) for line in range(LINES)] == [None, Word.GONE, None]


async def test_a_store_that_is_away_sends_nothing_down_and_loses_nothing(worker, run, waiting):
    await waiting.begin()
    worker.batches.away = 10**9
    worker.answerer.room = {"cpu": 5}
    await asyncio.sleep(0.05)
    assert [waiting.told(line) for line in range(LINES)] == [None] * LINES
    worker.batches.away = 0
    await eventually(lambda: waiting.told(2) is Word.GONE)


async def test_what_waits_when_the_process_stops_is_handed_back(worker, run, waiting):
    await waiting.begin()
    for index in range(LINES):
        waiting.tell(index, Word.STOP)
    assert await run.end() == []
    assert moves(worker, "hand_back", "park") == [("hand_back", "gpu")]
    [dispatch] = worker.publisher.dispatched
    assert (dispatch.id, dispatch.attempt, dispatch.tier) == (run.unit.id, 1, "gpu")


async def test_what_waits_makes_room_for_another_unit_and_counts_no_failure(worker, run, waiting):
    await waiting.begin()
    assert run.is_idle
    run.park()
    assert await run.end() == []
    kept = LineHistory(REFUSED, 0)
    assert moves(worker, "park") == [("park", dict.fromkeys(range(LINES), kept), 3.0)]


async def test_what_is_parked_as_it_goes_down_has_left_and_the_rest_is_parked(worker, run, waiting):
    """A line is in one place: below it is answered, and here it would be asked for again."""
    await waiting.begin()
    meanwhile(worker.batches, "split", run.park)
    worker.answerer.room = {"cpu": 2}
    assert await run.end() == []
    kept = LineHistory(REFUSED, 0)
    assert moves(worker, "split", "park") == [
        ("split", "cpu", {0: kept, 1: kept}),
        ("park", {2: kept}, 3.0),
    ]


async def test_a_unit_whose_lines_leave_knows_it_before_they_are_sent(worker, run, waiting):
    await waiting.begin()
    known = []

    async def dispatch(_):
        known.append(list(run.unit.moved_to))

    worker.publisher.dispatch = dispatch
    worker.answerer.room = {"cpu": LINES}
    await eventually(lambda: known)
    assert known == [[0, 1, 2]]


async def test_a_unit_whose_batch_is_cancelled_waits_no_more(worker, run, waiting):
    await waiting.begin()
    run.work.cancel()
    await asyncio.gather(run.work, return_exceptions=True)
    worker.answerer.room = {"cpu": 5}
    await asyncio.sleep(0.05)
    assert (moves(worker, "split"), worker.publisher.dispatched) == ([], [])


async def test_what_a_tier_above_may_take_again_goes_up_as_it_came(worker, run):
    run.unit.histories[0] = LineHistory(REFUSED, 0)
    assert await run.end(HandUp("gpu0"), ANSWER, HandUp("gpu0")) == []
    kept = {0: LineHistory(REFUSED, 0), 2: LineHistory((), 0)}
    assert moves(worker, "split") == [("split", "gpu0", kept)]
    [dispatch] = worker.publisher.dispatched
    assert (dispatch.attempt, dispatch.tier, dispatch.queue) == (0, "gpu0", "batch.begun")
    assert moves(worker, "record", "drop") == [("record", [1]), ("drop", run.unit.id)]
