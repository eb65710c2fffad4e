"""What happens to a whole batch, on a temporary folder."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
from harness.batches import jsonl, line
from harness.records import slice_unit
from harness.waiting import eventually, turns

from tasks.errors import StoreUnavailable
from tasks.execution.phases import (
    AGAIN_SECONDS,
    CLEAR_SECONDS,
    GIVEN_UP,
    INPUT_GONE,
    PhaseRunner,
    _PartWriter,
)
from tasks.jsonl.output import UNANSWERED
from tasks.records.batches import (
    FINAL,
    BatchOptions,
    BatchStatus,
    JoinedFile,
    Part,
    PhaseUnit,
    SliceRange,
)
from tasks.records.jobs import Dispatch, Ref
from tasks.records.losses import ALONE, broke_off, lost
from tasks.storage import UNFINISHED, content_name, custom_ids_name, part_name, parts_folder

BATCH, INPUT = "batch_1", content_name("file-1")
TEXTS = [jsonl([line(f"c{n}", "x" * n)]) for n in range(5)]
CONTENT = b"".join(TEXTS)


def range_of(first, count):
    """Where so many lines lie; the last one's newline is none of it."""
    before, within = TEXTS[:first], TEXTS[first : first + count]
    return SliceRange(len(b"".join(before)), len(b"".join(within)) - 1, count, first + 1)


RANGES = [range_of(0, 2), range_of(2, 2), range_of(4, 1)]


def phase_unit(phase, **fields):
    usual = {name: getattr(slice_unit(), name) for name in PhaseUnit.__dataclass_fields__}
    return PhaseUnit(**{**usual, "id": f"unit_{BATCH}_{phase}", "tier": phase, **fields})


def slice_at_part(**fields):
    return slice_unit(tier="part", slice=1, range=RANGES[1], results={0, 1}, **fields)


@pytest.fixture
def run(worker):
    """Run a unit's phase."""

    async def run(unit):
        worker.batches.units[Ref(unit.id, 0)] = unit
        await PhaseRunner(worker.context, 2).run_phase(unit.tier, Ref(unit.id, 0), "me")
        assert len(worker.leases) == 0

    return run


def moves(worker, *kinds):
    return [move for move in worker.batches.moves if move[0] in kinds]


def exists(worker, name):
    return worker.storage._fs.exists(worker.storage.path(name))


def read(worker, name):
    return worker.storage.read(name, 0, 100_000)


async def test_a_message_that_is_stale_does_nothing(worker):
    await PhaseRunner(worker.context, 2).run_phase("join", Ref("unit_x", 0), "me")
    assert worker.batches.moves == [("begin", "join", Ref("unit_x", 0))]


# Validation


async def test_validation_finds_the_slices_and_notes_the_custom_ids(worker, run):
    worker.storage.write(INPUT, CONTENT)
    await run(phase_unit("validate"))
    [(_, findings, first_tier)] = moves(worker, "start")
    assert (findings.total, findings.errors, first_tier) == (5, [], "gpu")
    assert findings.ranges == RANGES
    assert read(worker, custom_ids_name(BATCH)).splitlines() == [b'"c%d"' % n for n in range(5)]
    assert worker.publisher.dispatched == [Dispatch("unit_next", 0, "gpu", "batch")]


async def test_slices_begin_at_the_first_tier_that_may_answer(worker, run):
    worker.storage.write(INPUT, CONTENT)
    await run(phase_unit("validate", options=BatchOptions(tiers=("cache", "cpu"))))
    assert worker.publisher.dispatched == [Dispatch("unit_next", 0, "cpu", "batch")]


async def test_a_batch_that_failed_leaves_no_custom_ids_behind(worker, run):
    worker.storage.write(INPUT, CONTENT + b"{")
    await run(phase_unit("validate"))
    [(_, findings, _)] = moves(worker, "start")
    assert [error.code for error in findings.errors] == ["invalid_json_line"]
    assert not exists(worker, custom_ids_name(BATCH))


async def test_an_input_that_is_gone_is_an_error_of_the_batch(worker, run):
    worker.storage.write(custom_ids_name(BATCH), b"left by a worker that was lost before")
    await run(phase_unit("validate"))
    [(_, findings, _)] = moves(worker, "start")
    told = [(error.code, error.message) for error in findings.errors]
    assert (told, findings.error_count) == ([("file_not_found", INPUT_GONE)], 1)
    assert not exists(worker, custom_ids_name(BATCH))


async def test_a_batch_can_end_without_its_input(worker):
    await PhaseRunner(worker.context, 2).end_without_input(slice_unit())
    [(_, errors)] = moves(worker, "end_without_input")
    assert json.loads(errors)["data"][0]["message"] == INPUT_GONE
    assert worker.publisher.dispatched == [Dispatch("unit_join", 0, "join", "phases")]


# A slice's part


@pytest.mark.parametrize(
    ("results", "output", "error"),
    [
        ({0: b"oA", 1: b"oB"}, b"A\nB\n", None),
        ({1: b"oB", 0: b"eA"}, b"B\n", b"A\n"),
        ({0: b"eA", 1: b"eB"}, None, b"A\nB\n"),
    ],
)
async def test_a_complete_slice_is_made_durable(worker, run, results, output, error):
    worker.batches.known = results
    await run(slice_at_part())
    for kind, content in (("output", output), ("error", error)):
        name = part_name(BATCH, "1", kind)
        assert exists(worker, name) is (content is not None)
        assert content is None or read(worker, name) == content
    part = Part(1, len(output or b""), len(error or b""))
    assert moves(worker, "complete_slice") == [("complete_slice", part)]
    assert worker.publisher.dispatched == [Dispatch("unit_next", 0, "gpu", "batch")]


@pytest.mark.parametrize("forgot", [False, True])
async def test_a_part_whose_results_another_has_cleared_leaves_nothing_of_itself(
    worker, run, caplog, forgot
):
    """Nor is that a defect. Where the store has lost a line instead, the unit stays."""
    worker.batches.known, worker.batches.forgot = {0: b"oA"}, forgot
    await run(slice_at_part())
    again = [("put_off", "part", (), AGAIN_SECONDS)] if forgot else []
    assert moves(worker, "complete_slice", "drop", "put_off") == [
        ("drop", slice_at_part().id),
        *again,
    ]
    assert "broke off" not in caplog.text
    assert not exists(worker, part_name(BATCH, "1", "output"))
    assert worker.storage._fs.ls(worker.storage.path(UNFINISHED)) == []


async def test_a_part_that_breaks_off_is_noted_and_leaves_nothing_of_itself(
    worker, run, monkeypatch
):
    worker.batches.known = {0: b"oA", 1: b"oB"}

    write = _PartWriter.write

    def break_off(self, results):
        write(self, results)
        raise RuntimeError

    monkeypatch.setattr(_PartWriter, "write", break_off)
    await run(slice_at_part())
    assert moves(worker, "complete_slice", "drop", "put_off") == [
        ("put_off", "part", (broke_off("part"),), AGAIN_SECONDS)
    ]
    assert worker.storage._fs.ls(worker.storage.path(UNFINISHED)) == []


# Joining


@pytest.fixture
async def batch(worker):
    """Three slices, of which the last and the first, in this order, have parts."""
    worker.storage.write(INPUT, CONTENT)
    ids = b"".join(json.dumps(f"c{n}").encode() + b"\n" for n in range(5))
    worker.storage.write(custom_ids_name(BATCH), ids)
    worker.batches.slice_ranges = RANGES
    for stem, kind, content in [("2", "output", b"4"), ("0", "output", b"0"), ("0", "error", b"1")]:
        worker.storage.write(part_name(BATCH, stem, kind), content + b"\n")
    worker.batches.done_parts = [Part(2, 2, 0), Part(0, 2, 2)]
    return worker


async def write_the_rest(worker, run):
    worker.batches.known = {0: b"o2", 1: b"o3"}
    await run(slice_at_part())
    worker.batches.done_parts.append(Part(1, 4, 0))
    worker.publisher.dispatched.clear()


def join(ending="completed", **fields):
    return phase_unit("join", ending=ending, **fields)


async def test_a_join_whose_results_another_has_cleared_ends_nothing(
    batch, run, caplog, monkeypatch
):
    async def answered(*_):
        return {0, 1}  # as it was a moment ago

    monkeypatch.setattr(batch.batches, "answered", answered)
    await run(join(ending="cancelled"))
    assert moves(batch, "complete", "put_off", "drop", "give_up") == []
    assert "broke off" not in caplog.text


async def test_the_parts_are_joined_in_the_order_of_their_end(batch, run):
    await write_the_rest(batch, run)
    await run(join())
    assert read(batch, content_name("file-1-output")) == b"4\n0\n2\n3\n"
    assert read(batch, content_name("file-1-error")) == b"1\n"
    files = [
        JoinedFile("output", "file-1-output", 8, "batch_1_output.jsonl"),
        JoinedFile("error", "file-1-error", 2, "batch_1_error.jsonl"),
    ]
    # A store that loses its last second has them joined again: until then the parts stay.
    assert moves(batch, "complete", "put_off", "drop") == [
        ("complete", 0, [], files),
        ("put_off", "join", (), CLEAR_SECONDS),
    ]
    assert exists(batch, parts_folder(BATCH))
    assert exists(batch, custom_ids_name(BATCH))


async def test_a_file_that_would_be_empty_is_not_made(batch, run):
    batch.batches.slice_ranges = RANGES[:1]
    batch.batches.done_parts = [Part(0, 2, 0)]
    await run(join())
    [(_, _, _, files)] = moves(batch, "complete")
    assert [file.kind for file in files] == ["output"]
    assert not exists(batch, content_name("file-1-error"))


@pytest.mark.parametrize("ending", ["cancelled", "expired", "completed", "failed"])
async def test_a_line_without_an_answer_says_why(batch, run, ending):
    batch.batches.known = {1: b"o3"}  # of the slice that has no part
    await run(join(ending))
    [(_, missing, further, _)] = moves(batch, "complete")
    assert missing == 1
    assert read(batch, content_name("file-1-output")) == b"4\n0\n3\n"
    _, told = read(batch, content_name("file-1-error")).splitlines()
    assert json.loads(told)["custom_id"] == "c2"
    assert json.loads(told)["error"]["code"] == UNANSWERED[ending][0]
    assert further == [Part(1, 2, len(told) + 1)]


async def custom_ids_told(batch, run):
    batch.batches.slice_ranges, batch.batches.done_parts = RANGES, []
    await run(join("cancelled"))
    lines = read(batch, content_name("file-1-error")).splitlines()
    return [json.loads(text)["custom_id"] for text in lines]


async def test_the_custom_ids_of_unanswered_lines_are_read_from_the_input(batch, run):
    batch.storage.remove(custom_ids_name(BATCH))
    assert await custom_ids_told(batch, run) == [f"c{n}" for n in range(5)]


async def test_the_custom_ids_of_an_input_that_is_gone_were_noted(batch, run):
    batch.storage.remove(INPUT)
    assert await custom_ids_told(batch, run) == [f"c{n}" for n in range(5)]


async def test_an_input_that_was_made_shorter_has_lines_without_a_custom_id(batch, run):
    batch.storage.write(INPUT, b"".join(TEXTS[:3]))
    assert await custom_ids_told(batch, run) == ["c0", "c1", "c2", None, None]


async def test_where_nobody_knows_the_custom_ids_every_line_is_told_all_the_same(batch, run):
    batch.storage.remove(INPUT)
    batch.storage.remove(custom_ids_name(BATCH))
    assert await custom_ids_told(batch, run) == [None] * 5


async def test_a_batch_that_is_another_workers_now_keeps_its_parts(batch, run):
    batch.batches.ours = False
    await run(join())
    assert moves(batch, "drop", "put_off") == []
    assert exists(batch, parts_folder(BATCH))


@pytest.mark.parametrize("status", sorted(FINAL))
async def test_a_batch_that_has_ended_only_leaves_its_parts_to_be_cleared(batch, run, status):
    await run(join(status=status))
    assert moves(batch, "complete", "drop") == [("drop", "unit_batch_1_join")]
    assert batch.context.store.files.later == [BATCH]
    assert not exists(batch, parts_folder(BATCH))
    assert not exists(batch, custom_ids_name(BATCH))
    assert exists(batch, INPUT)


@pytest.mark.parametrize("status", sorted(set(BatchStatus) - FINAL))
async def test_a_batch_that_has_not_ended_is_completed(batch, run, status):
    await run(join(status=status))
    assert [move[0] for move in moves(batch, "complete", "put_off")] == ["complete", "put_off"]


# What may come between


async def test_where_the_storage_is_away_the_phase_runs_again_later(
    batch, run, monkeypatch, caplog
):
    def away(*_):
        raise ConnectionError

    monkeypatch.setattr(batch.storage, "open", away)
    tried = (lost("join"), broke_off("join"))
    await run(join(attempts=tried))
    assert moves(batch, "complete", "drop", "put_off") == [
        ("put_off", "join", tried, AGAIN_SECONDS)
    ]
    assert "join of batch_1 broke off: ConnectionError" in caplog.text


async def test_a_phase_that_breaks_off_by_a_defect_runs_again_and_it_is_noted(
    batch, run, monkeypatch, caplog
):
    def defect(*_):
        raise KeyError

    monkeypatch.setattr(batch.storage, "open", defect)
    await run(join(attempts=(lost("join"),)))
    assert moves(batch, "complete", "put_off") == [
        ("put_off", "join", (lost("join"), broke_off("join")), AGAIN_SECONDS)
    ]
    assert "join of batch_1 broke off" in caplog.text


# What its workers die of


WORK = {"validate": "start", "part": "complete_slice", "join": "complete"}


def unit_at(phase, **fields):
    if phase == "part":
        return slice_at_part(**fields)
    return phase_unit(phase, ending="completed", **fields)


@pytest.mark.parametrize("phase", WORK)
async def test_a_phase_that_may_have_cost_workers_runs_alone_and_is_noted_before(batch, run, phase):
    batch.batches.known = {0: b"oA", 1: b"oB"}
    async with batch.context.alone():
        running = asyncio.create_task(run(unit_at(phase, attempts=(lost("gpu"), lost(phase)))))
        await turns()
        assert (moves(batch, WORK[phase]), batch.jobs.moves) == ([], [])
    await asyncio.wait_for(running, 5)
    assert batch.jobs.moves[0][0] == "note_alone"
    assert len(moves(batch, WORK[phase])) == 1


async def test_no_other_phase_runs_beside_one_that_may_have_cost_workers(batch, monkeypatch):
    runner, inside, going = PhaseRunner(batch.context, 2), [], asyncio.Event()

    async def work(unit):
        inside.append(unit.id)
        await going.wait()

    monkeypatch.setattr(runner, "_run", work)
    fresh = replace(join(), id="fresh")
    suspect = replace(join(attempts=(lost("join"),) * 2), id="suspect")
    for unit in (fresh, suspect):
        task = asyncio.create_task(runner.run(unit))
        await turns()
    assert (inside, batch.jobs.moves) == (["fresh"], []), "it is not noted either"
    going.set()
    await asyncio.wait_for(task, 5)
    assert inside == ["fresh", "suspect"]


async def test_a_phase_that_is_another_workers_when_its_turn_comes_is_left_alone(batch, run):
    batch.jobs.wins = False
    await run(join(attempts=(lost("join"),) * 2))
    assert moves(batch, "complete", "put_off", "give_up") == []


@pytest.mark.parametrize("phase", WORK)
@pytest.mark.parametrize(
    "of", [lambda phase: [lost(phase, ALONE)] * 2, lambda phase: [broke_off(phase)] * 3]
)
async def test_a_phase_that_workers_die_of_is_given_up_without_touching_the_storage(
    batch, run, phase, of, monkeypatch
):
    for name in ("open", "read", "writing", "remove"):
        monkeypatch.delattr(f"tasks.storage.Storage.{name}")
    await run(unit_at(phase, attempts=tuple(of(phase))))
    [(_, tier, errors)] = moves(batch, "give_up", WORK[phase], "put_off")
    [error] = json.loads(errors)["data"]
    assert (tier, error["code"]) == (phase, "worker_lost")
    assert GIVEN_UP[phase] in error["message"]
    assert error["line"] == (RANGES[1].first_line if phase == "part" else None)
    assert batch.publisher.dispatched == [Dispatch("unit_join", 0, "join", "phases")]


async def test_what_was_lost_at_a_tier_is_no_fault_of_its_part(batch, run):
    batch.batches.known = {0: b"oA", 1: b"oB"}
    tried = (lost("gpu"), lost("gpu"), lost("part"))
    await run(slice_at_part(attempts=tried))
    assert len(moves(batch, "complete_slice")) == 1


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize(
    ("make", "queue"), [(join, "phases.begun"), (slice_at_part, "batch.begun")]
)
async def test_a_phase_that_outlasts_the_drain_is_handed_over_and_not_lost(
    batch, monkeypatch, make, queue, ours
):
    reached, phase = [], make().tier

    async def work(_):
        reached.append(phase)
        await asyncio.Event().wait()

    unit = make(attempts=(lost(phase),))
    batch.batches.units[Ref(unit.id, 0)], batch.batches.ours = unit, ours
    runner = PhaseRunner(batch.context, 2)
    monkeypatch.setattr(runner, "_run", work)
    running = asyncio.create_task(runner.run_phase(phase, Ref(unit.id, 0), "me"))
    await eventually(lambda: reached)
    await batch.context.drain.run(0.0)
    await asyncio.wait_for(running, 5)
    assert moves(batch, "put_off", "hand_back") == [("hand_back", phase)]
    again = [Dispatch(unit.id, 1, phase, queue)] if ours else []
    assert batch.publisher.dispatched == again
    assert len(batch.leases) == 0


async def test_a_store_that_is_away_at_the_end_of_the_drain_leaves_the_phase_to_its_lease(
    batch, run, caplog
):
    batch.context.drain.cut_off = True
    batch.batches.parts = batch.batches.ranges = lambda _: _away()
    await run(join())
    assert moves(batch, "put_off", "give_up") == []
    assert "join of batch_1 broke off" in caplog.text


async def _away():
    raise StoreUnavailable


async def test_a_batch_that_is_cancelled_meanwhile_is_dropped(worker):
    reached = []

    async def parts(*_):
        reached.append("parts")
        await asyncio.Event().wait()

    worker.batches.parts = parts
    unit = phase_unit("join")
    worker.batches.units[Ref(unit.id, 0)] = unit
    runner = PhaseRunner(worker.context, 2)
    running = asyncio.create_task(runner.run_phase("join", Ref(unit.id, 0), "me"))
    await eventually(lambda: reached)
    worker.leases.drop_batch(BATCH)
    await asyncio.wait_for(running, 5)
    assert (len(worker.leases), worker.publisher.dispatched) == (0, [])


async def test_a_store_that_is_away_is_waited_for(worker, run):
    worker.storage.write(INPUT, CONTENT)
    worker.batches.away = 2
    await run(phase_unit("validate"))
    assert len(moves(worker, "start")) == 1


async def test_a_phase_that_comes_when_there_is_nothing_for_it_is_dropped(worker, run):
    """A part whose batch has ended: the store hands it out without its slice."""
    await run(phase_unit("part"))
    assert len(moves(worker, "drop")) == 1


async def test_a_phase_waits_for_the_suspect_at_work_and_for_none_whose_turn_is_to_come(
    batch, monkeypatch
):
    """Each of them takes as long as its model does."""
    runner, inside = PhaseRunner(batch.context, 2), []

    async def work(unit):
        inside.append(unit.id)

    monkeypatch.setattr(runner, "_run", work)
    suspect = replace(join(attempts=(lost("join"),) * 2), id="suspect")
    async with batch.context.alone():
        waiting = asyncio.create_task(runner.run(suspect))
        await turns()
        other = asyncio.create_task(runner.run(replace(join(), id="fresh")))
        await turns()
        assert inside == []
    await asyncio.wait_for(asyncio.gather(waiting, other), 5)
    assert inside == ["fresh", "suspect"]


async def test_a_phase_waits_for_a_suspect_no_longer_than_a_while(batch, monkeypatch):
    monkeypatch.setattr("tasks.execution.phases.PATIENCE_SECONDS", 0.05)
    runner, inside = PhaseRunner(batch.context, 2), []

    async def work(unit):
        inside.append(unit.id)

    monkeypatch.setattr(runner, "_run", work)
    async with batch.context.alone():
        running = asyncio.create_task(runner.run(replace(join(), id="fresh")))
        await turns()
        assert inside == []
        await asyncio.wait_for(running, 5)
    assert inside == ["fresh"]


@pytest.mark.parametrize("attempts", [(), (lost("join"),) * 2])
async def test_a_phase_that_waits_as_its_worker_is_told_to_stop_is_handed_back(batch, attempts):
    runner = PhaseRunner(batch.context, 2)
    async with batch.context.alone():
        running = asyncio.create_task(runner.run(join(attempts=attempts)))
        await turns()
        batch.context.drain.started = True
    await asyncio.wait_for(running, 5)
    assert moves(batch, "hand_back", "complete") == [("hand_back", "join")]
    assert batch.jobs.moves == []


async def test_a_part_whose_lines_are_done_as_its_worker_stops_is_still_written(batch):
    batch.batches.known = {0: b"oA", 1: b"oB"}
    batch.context.drain.started = True
    await PhaseRunner(batch.context, 2).run(slice_at_part())  # as the run of its unit does
    assert [kind for kind, *_ in moves(batch, "hand_back", "complete_slice")] == ["complete_slice"]


async def test_who_was_paused_at_the_joining_leaves_the_files_of_another_as_they_are(batch, run):
    """The batch has ended, and its results are gone: none seems to be answered."""
    whole = content_name("file-1-output")
    batch.storage.write(whole, b"4\n0\n2\n3\n")
    batch.batches.ours, batch.batches.known = False, {}
    batch.jobs.lost = ["unit_batch_1_join"]
    await run(join())
    assert read(batch, whole) == b"4\n0\n2\n3\n"


async def test_a_phase_that_comes_once_its_worker_stops_is_handed_back(batch, monkeypatch):
    """Nobody would wait for it, or cut it off: it would end with the process, as if lost."""
    reached = []
    unit = join()
    batch.batches.units[Ref(unit.id, 0)], batch.batches.ours = unit, True
    runner = PhaseRunner(batch.context, 2)
    monkeypatch.setattr(runner, "_run", reached.append)
    await batch.context.drain.run(0)
    await asyncio.wait_for(runner.run_phase("join", Ref(unit.id, 0), "me"), 5)
    assert reached == []
    assert moves(batch, "hand_back")
