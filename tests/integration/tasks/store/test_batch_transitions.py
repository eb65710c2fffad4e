"""The tables of a batch's and its units' transitions against the scripts, in whatever order."""

from __future__ import annotations

import asyncio

import pytest
from harness.stores import Clock, store_on
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run

from fallback_chain import Attempt, Verdict
from tasks.jsonl.input import Findings, LineError
from tasks.records.batches import (
    FINAL,
    TRANSITIONS,
    UNIT_TRANSITIONS,
    BatchOptions,
    BatchStatus,
    Endpoint,
    LineHistory,
    LineResult,
    NewBatch,
    Part,
    PhaseUnit,
    SliceRange,
    SliceUnit,
    new_batch_id,
    phase_unit_id,
)
from tasks.records.jobs import Ref, Status, new_token
from tasks.store import keyspace

SLICES, LINES, WINDOW = 3, 2, 2
WORKERS = st.sampled_from(["w1", "w1", "w2"])
ROWS = {row[:3] for row in TRANSITIONS}
UNIT_ROWS = {row[:3] for row in UNIT_TRANSITIONS}


class Batches(RuleBasedStateMachine):
    """One batch, all messages that were ever published for it, and who holds which unit."""

    url = ""
    seen: set

    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.store = store_on(
            self.url, self.clock, lease_seconds=1, dispatch_grace_seconds=2, batch_window=WINDOW
        )
        self.batches = self.store.batches
        self.wait(self.store.connection.client.flushall())
        self.messages: dict[str, tuple[int, str]] = {}  # the latest of each unit
        self.held: list = []
        self.id = new_batch_id()
        self.publish([(phase_unit_id(self.id, "validate"), 0, "validate", "phases")])
        self.do("create_batch", self.batches.create(self.new_batch(), []))

    def new_batch(self):
        return NewBatch(
            id=self.id,
            owner="ann",
            endpoint=Endpoint.CHAT,
            input_file_id="file-1",
            completion_window="1h",
            metadata={},
            options=BatchOptions(),
        )

    def wait(self, work):
        return self.loop.run_until_complete(work)

    def status_of(self, key, kind):
        raw = self.wait(self.store.connection.command("HGET", key, "status"))
        return kind(raw.decode()) if raw else None

    def snapshot(self):
        units = {unit: self.status_of(keyspace.job(unit), Status) for unit in self.messages}
        return self.status_of(keyspace.batch(self.id), BatchStatus), units

    def do(self, script, work):
        """Run a step; whatever it changes is in a table."""
        batch, units = self.snapshot()
        result = self.wait(work)
        if isinstance(result, list):
            self.publish(result)
        after, units_after = self.snapshot()
        if batch != after:
            assert (batch, after, script) in ROWS, f"{script}: {batch} -> {after}"
            self.seen.add((batch, after, script))
        for unit, now in units_after.items():
            row = (units.get(unit), now, script)
            if row[0] != now:
                assert row in UNIT_ROWS, f"{script}: unit {row[0]} -> {now}"
            if row in UNIT_ROWS and (row[0] != now or result):
                self.seen.add(row)
        return result

    def publish(self, dispatches):
        for name, attempt, tier, _ in dispatches:
            self.messages[name] = (attempt, tier)

    def teardown(self):
        self.bring_to_its_end()
        self.wait(self.store.close())
        self.loop.close()

    def bring_to_its_end(self):
        """Do what honest workers do: whatever happened before, the batch ends, whole."""
        for _ in range(40):
            record = self.wait(self.batches.get(self.id, "ann"))
            left = self.wait(self.store.connection.command("SCARD", keyspace.units(self.id)))
            if record.status in FINAL and not left:
                break
            self.advance(10)
            self.sweep(none_left=True)
            for unit in list(self.messages):
                self.begin_and_work(unit)
        assert record.status in FINAL
        assert not left
        if record.status is not BatchStatus.FAILED:
            assert record.completed + record.failed == record.total == SLICES * LINES

    def begin_and_work(self, name):
        unit = self.begin_named(name, "honest")
        match unit:
            case PhaseUnit(tier="validate"):
                self.start(unit, errors=False)
            case PhaseUnit():
                self.complete(unit)
                self.do("drop_unit", self.batches.drop(unit))
            case SliceUnit(tier="part"):
                self.complete_slice(unit)
            case SliceUnit():
                self.record(unit, LINES)
                if not self.complete_slice(unit):
                    self.do("drop_unit", self.batches.drop(unit))

    # What owners, workers and time do

    def begin_named(self, name, worker):
        attempt, tier = self.messages[name]
        unit = self.do("begin_unit", self.batches.begin(worker, tier, Ref(name, attempt)))
        if unit:
            self.held.append(unit)
        return unit

    @rule(number=st.integers(0, 20), worker=WORKERS)
    def begin(self, number, worker):
        names = sorted(self.messages)
        self.begin_named(names[number % len(names)], worker)

    def any_held(self, number, kind, tiers):
        fitting = [u for u in self.held if isinstance(u, kind) and (not tiers or u.tier in tiers)]
        return fitting[number % len(fitting)] if fitting else None

    @rule(number=st.integers(0, 5), errors=st.sampled_from([False, False, False, True]))
    def validated(self, number, errors):
        if unit := self.any_held(number, PhaseUnit, {"validate"}):
            self.start(unit, errors=errors)

    def start(self, unit, *, errors):
        findings = Findings(total=SLICES * LINES)
        findings.ranges += [SliceRange(i * 10, 10, LINES, 1) for i in range(SLICES)]
        if errors:
            findings.errors.append(LineError("bad", "x"))
            findings.error_count = 1
        self.do("start_batch", self.batches.start(unit, findings, "gpu"))

    @rule(number=st.integers(0, 5), lines=st.integers(1, LINES))
    def recorded(self, number, lines):
        if unit := self.any_held(number, SliceUnit, None):
            self.record(unit, lines)

    def record(self, unit, lines):
        results = [
            LineResult(i, good=i % 2 == 0, content=b"{}", counted_as="gpu:succeeded")
            for i in range(lines)
        ]
        return self.do("record_lines", self.batches.record_lines(unit, results))

    @rule(number=st.integers(0, 5))
    def part_written(self, number):
        if unit := self.any_held(number, SliceUnit, None):
            self.complete_slice(unit)

    def complete_slice(self, unit):
        part = Part(unit.slice, 3, 3)
        return self.do("complete_slice", self.batches.complete_slice(unit, part))

    @rule(number=st.integers(0, 5))
    def joined(self, number):
        if unit := self.any_held(number, PhaseUnit, {"join"}):
            self.complete(unit)

    def complete(self, unit):
        """Join what is there; what has no part is joined unanswered."""
        record = self.wait(self.batches.get(self.id, "ann"))
        parts = {part.slice for part in self.wait(self.batches.parts(self.id))}
        missing, further = 0, []
        for number in range(record.slices):
            if number not in parts:
                known = len(self.wait(self.batches.results(self.id, number)))
                missing += LINES - known
                further.append(Part(number, 1, 1))
        work = self.batches.complete(unit, unanswered=missing, parts=further, files=[])
        return self.do("complete_batch", work)

    @rule(number=st.integers(0, 5), to=st.sampled_from(["on", "back", "park", "split"]))
    def moved(self, number, to):
        unit = self.any_held(number, SliceUnit, {"gpu", "cpu"})
        if unit is not None:
            self.move(unit, to, new_token())

    def move(self, unit, to, token):
        histories = {0: LineHistory((Attempt("gpu", Verdict.FAILURE, 1.0),), 1)}
        if to == "split":
            self.messages[f"unit_{self.id}_{unit.slice}_{token}"] = (0, "cpu")
            return self.do("split_unit", self.batches.split(unit, "cpu", token, histories))
        works = {
            "on": lambda: self.batches.hand_on(unit, "cpu", token, histories),
            "back": lambda: self.batches.hand_back(unit, token),
            "park": lambda: self.batches.park(unit, token, histories, 5),
        }
        attempt = self.do("move_unit", works[to]())
        if attempt is not None:
            self.messages[unit.id] = (attempt, {"on": "cpu", "back": unit.tier}.get(to, "gpu"))
        return attempt

    @rule(number=st.integers(0, 5))
    def dropped(self, number):
        unit = self.any_held(number, SliceUnit, {"cpu"})
        if unit and not unit.open_lines:
            self.do("drop_unit", self.batches.drop(unit))

    @precondition(lambda self: len(self.held) > 3)
    @rule(owner=st.sampled_from(["bob", "bob", "bob", "ann"]))
    def cancel(self, owner):
        found = self.do("cancel_batch", self.batches.cancel(self.id, owner))
        assert (found is None) == (owner == "bob")

    @precondition(lambda self: len(self.held) > 4)
    @rule(number=st.integers(0, 5), seldom=st.sampled_from([False, False, True]))
    def input_gone(self, number, *, seldom):
        unit = self.any_held(number, SliceUnit, None)
        if unit and seldom:
            self.do("end_without_input", self.batches.end_without_input(unit, b"[]"))

    @rule(seconds=st.sampled_from([0.1, 0.9, 2, 2, 600]))
    def advance(self, seconds):
        self.clock.advance(seconds)

    @rule(none_left=st.booleans())
    def sweep(self, *, none_left):
        self.wait(self.store.connection.command("DEL", keyspace.SWEEPER))
        empty = {"batch": none_left, "phases": none_left}
        self.do("sweep", self.swept(empty))

    async def swept(self, empty):
        return [each.dispatch for each in await self.store.jobs.sweep("s", empty)]


@pytest.fixture
def machine(store_url):
    return type("BatchesHere", (Batches,), {"url": store_url, "seen": set()})


@pytest.mark.timeout(300)
def test_whatever_is_done_only_what_is_in_the_tables_happens_and_the_batch_ends_whole(machine):
    run(
        machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert len(machine.seen) > len(ROWS | UNIT_ROWS) / 3, sorted(map(str, machine.seen))


class Told:
    """A batch that is led through a story, a step a word."""

    def __init__(self, batches):
        self.batches, self.unit = batches, None

    def tell(self, story):
        for word in story.split():
            verb, _, what = word.partition(":")
            getattr(self, verb)(what)

    def begin(self, what):
        suffix = what or "validate"
        names = [name for name in sorted(self.batches.messages) if name.endswith(f"_{suffix}")]
        self.unit = self.batches.begin_named(names[-1], "w1") or self.unit

    def start(self, what):
        self.batches.start(self.unit, errors=what == "errors")

    def validate(self, _):
        self.tell("begin start")

    def record(self, what):
        self.batches.record(self.unit, int(what or LINES))

    def part(self, _):
        self.batches.complete_slice(self.unit)

    def slice(self, what):
        self.tell(f"begin:{what} record part")

    def slices(self, _):
        self.tell(" ".join(f"slice:{number}" for number in range(SLICES)))

    def move(self, what):
        self.batches.move(self.unit, what, "t1")

    def join(self, _):
        self.tell("begin:join")
        self.batches.complete(self.unit)

    def cancel(self, _):
        self.batches.cancel("ann")

    def gone(self, _):
        self.batches.do(
            "end_without_input", self.batches.batches.end_without_input(self.unit, b"[]")
        )

    def drop(self, _):
        self.batches.do("drop_unit", self.batches.batches.drop(self.unit))

    def wait(self, what):
        self.batches.advance(float(what))

    def sweep(self, _):
        self.batches.sweep(none_left=True)


# What makes each row happen.
STORIES = {
    "validate slices join drop": {
        (None, BatchStatus.VALIDATING, "create_batch"),
        (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS, "start_batch"),
        (BatchStatus.IN_PROGRESS, BatchStatus.FINALIZING, "complete_slice"),
        (BatchStatus.FINALIZING, BatchStatus.COMPLETED, "complete_batch"),
        (None, Status.QUEUED, "create_batch"),
        (None, Status.QUEUED, "start_batch"),
        (None, Status.QUEUED, "complete_slice"),
        (Status.QUEUED, Status.RUNNING, "begin_unit"),
        (Status.RUNNING, Status.RUNNING, "record_lines"),
        (Status.RUNNING, None, "start_batch"),
        (Status.RUNNING, None, "complete_slice"),
        (Status.RUNNING, None, "drop_unit"),
    },
    "begin start:errors": {(BatchStatus.VALIDATING, BatchStatus.FAILED, "start_batch")},
    "begin cancel start:errors": {
        (BatchStatus.VALIDATING, BatchStatus.CANCELLING, "cancel_batch"),
        (BatchStatus.CANCELLING, BatchStatus.FAILED, "start_batch"),
    },
    "begin wait:3600 sweep begin start:errors": {
        (BatchStatus.VALIDATING, BatchStatus.FINALIZING, "sweep"),
        (BatchStatus.FINALIZING, BatchStatus.FAILED, "start_batch"),
    },
    "validate begin:0 cancel join": {
        (BatchStatus.IN_PROGRESS, BatchStatus.CANCELLING, "cancel_batch"),
        (BatchStatus.CANCELLING, BatchStatus.CANCELLED, "complete_batch"),
        (None, Status.QUEUED, "cancel_batch"),
        (Status.QUEUED, None, "cancel_batch"),
        (Status.RUNNING, None, "cancel_batch"),
    },
    "validate wait:3599.5 begin:0 wait:0.5 sweep join": {
        (BatchStatus.IN_PROGRESS, BatchStatus.FINALIZING, "sweep"),
        (BatchStatus.FINALIZING, BatchStatus.EXPIRED, "complete_batch"),
        (None, Status.QUEUED, "sweep"),
        (Status.QUEUED, None, "sweep"),
        (Status.RUNNING, None, "sweep"),
    },
    "validate begin:0 gone": {
        (BatchStatus.IN_PROGRESS, BatchStatus.FINALIZING, "end_without_input"),
        (None, Status.QUEUED, "end_without_input"),
        (Status.QUEUED, None, "end_without_input"),
        (Status.RUNNING, None, "end_without_input"),
    },
    "validate begin:0 begin:0": {(Status.RUNNING, Status.RUNNING, "begin_unit")},
    "validate begin:0 move:split": {(None, Status.QUEUED, "split_unit")},
    "validate begin:0 move:on move:on": {
        (Status.RUNNING, Status.QUEUED, "move_unit"),
        (Status.QUEUED, Status.QUEUED, "move_unit"),
    },
    "validate begin:0 move:split record part begin:t1": {(Status.QUEUED, None, "begin_unit")},
    "validate begin:0 wait:1 sweep": {(Status.RUNNING, Status.QUEUED, "sweep")},
    "validate wait:2 sweep": {(Status.QUEUED, Status.QUEUED, "sweep")},
}


@pytest.mark.parametrize("story", STORIES)
def test_a_batch_goes_through_the_rows_of_its_story_and_ends_whole(machine, story):
    batches = machine()
    Told(batches).tell(story)
    assert STORIES[story] <= machine.seen
    batches.teardown()


def test_every_row_is_in_a_story():
    assert set().union(*STORIES.values()) == ROWS | UNIT_ROWS
