"""The tables of a batch's and its units' transitions against the scripts, in whatever order."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

import pytest
from harness.amounts import WALKS
from harness.stores import Clock, kept_file, store_on
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from hypothesis.stateful import run_state_machine_as_test as run

from fallback_chain import Attempt, Tokens, Verdict
from tasks.jsonl.input import Findings, LineError
from tasks.records.batches import (
    FINAL,
    PHASES,
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
    slice_unit_id,
)
from tasks.records.files import FILE_SECONDS
from tasks.records.jobs import Queue, Ref, Status, new_token
from tasks.records.losses import broke_off, is_poison, is_suspect, lost
from tasks.records.pace import LinesAt
from tasks.store import keyspace
from tasks.store.batches import Split

SLICES, LINES, WINDOW = 3, 2, 2
ERRORS = b'{"data":[]}'
NUMBERS = st.integers(0, 40)  # picks what a step is done to
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
        # The model: the first result of each line, slices with a part, lines that left their unit.
        self.results: dict[tuple[int, int], bytes] = {}
        self.written: set[int] = set()
        self.moved_to: dict[int, dict[int, str]] = {}
        self.tokens_used: set[str] = set()
        self.id = new_batch_id()
        self.file_id = self.wait(kept_file(self.store))
        self.publish([(phase_unit_id(self.id, "validate"), 0, "validate", "phases")])
        self.do("create_batch", self.batches.create(self.new_batch(), []))

    def new_batch(self):
        return NewBatch(
            id=self.id,
            owner="ann",
            endpoint=Endpoint.CHAT,
            input_file_id=self.file_id,
            completion_window="1h",
            metadata={},
            options=BatchOptions(),
        )

    def wait(self, work):
        return self.loop.run_until_complete(work)

    def status_of(self, key, kind):
        raw = self.wait(self.store.connection.command("HGET", key, "status"))
        return kind(raw.decode()) if raw else None

    def together(self, commands):
        """Run commands in one exchange."""
        pipeline = self.store.connection.client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return self.wait(pipeline.execute())

    def snapshot(self):
        keys = [keyspace.batch(self.id), *map(keyspace.job, self.messages)]
        found = self.together([("HGET", "{ft}:" + key, "status") for key in keys])
        batch, *units = [(raw or b"").decode() for raw in found]
        statuses = [Status(raw) if raw else None for raw in units]
        return BatchStatus(batch) if batch else None, dict(
            zip(self.messages, statuses, strict=True)
        )

    def everything(self):
        """All that the store holds, but for what the broker and the clock change."""
        keys = sorted(self.wait(self.store.connection.client.keys("*")))
        return dict(zip(keys, self.together([("DUMP", key) for key in keys]), strict=True))

    def is_held(self, unit, *, moving=False):
        """Whether a unit is what its holder thinks: leased by it, where it was begun."""
        names = ("status", "lease_owner", "tier", "attempt")
        raw = self.wait(self.store.connection.command("HMGET", keyspace.job(unit.id), *names))
        status, owner, tier, attempt = ((value or b"").decode() for value in raw)
        held = status == "running" and owner == unit.lease_owner
        return held and (not moving or (tier, attempt) == (unit.tier, str(unit.attempt)))

    def do_held(self, script, work, unit, *, moving=False):
        """Run a step of a unit's holder; one that holds it no more changes nothing at all."""
        if self.is_held(unit, moving=moving):
            return self.do(script, work)
        before = self.everything()
        result = self.wait(work)
        assert not result, script
        assert self.everything() == before, f"{script} by one who had lost the lease"
        return result

    def do(self, script, work):
        """Run a step; whatever it changes is in a table."""
        batch, units = self.snapshot()
        result = self.wait(work)
        if isinstance(result, list):
            self.publish(result)
        after, units_after = self.snapshot()
        self.check_is_counted(after)
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

    def check_is_counted(self, status):
        """A batch counts as unfinished, and has a deadline, as long as lines are to be answered."""
        counts = status in {BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS}
        indexes = (keyspace.DEADLINES, keyspace.OPEN_BATCHES, keyspace.open_batches("ann"))
        found = self.together([("ZSCORE", "{ft}:" + index, self.id) for index in indexes])
        assert [score is not None for score in found] == [counts] * len(indexes), status

    def publish(self, dispatches):
        for name, attempt, tier, _ in dispatches:
            self.messages[name] = (attempt, tier)

    def teardown(self):
        self.bring_to_its_end()
        self.close()

    def close(self):
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
                self.do_held("drop_unit", self.batches.drop(unit), unit)
            case SliceUnit(tier="part"):
                self.complete_slice(unit)
            case SliceUnit():
                self.work_on(unit)

    def work_on(self, unit):
        """Do with a slice at a tier what a runner does whose every call is answered."""
        recorded = self.record(unit, unit.open_lines) if unit.open_lines else None
        if unit.complete and not (recorded and recorded.complete):
            recorded = self.record(unit, [])  # somebody else recorded the last one
        if recorded and recorded.complete:
            self.complete_slice(unit)
        else:
            self.do_held("drop_unit", self.batches.drop(unit), unit)

    # What owners, workers and time do

    def begin_named(self, name, worker, older=0, tier=None):
        attempt, at = self.messages[name]
        ref, tier = Ref(name, attempt - older), tier or at
        expected = self.may_begin(ref, tier, worker)
        unit = self.do("begin_unit", self.batches.begin(worker, tier, ref))
        assert (unit is not None) == expected
        if unit:
            self.held.append(unit)
            self.check_progress(unit)
        return unit

    def may_begin(self, ref, tier, worker):
        names = ("status", "lease_owner", "tier", "attempt", "slice")
        raw = self.wait(self.store.connection.command("HMGET", keyspace.job(ref.id), *names))
        status, owner, at, attempt, number = ((value or b"").decode() for value in raw)
        mine = status == "queued" or (status == "running" and owner == worker)
        return (
            mine and (at, attempt) == (tier, str(ref.attempt)) and int(number) not in self.written
        )

    def check_progress(self, unit):
        """What a holder is told of its slice is what was recorded of it."""
        if isinstance(unit, SliceUnit):
            known = {i for number, i in self.results if number == unit.slice}
            assert unit.results == known
            assert unit.moved_to == self.moved_to.get(unit.slice, {})

    @rule(
        number=NUMBERS,
        worker=WORKERS,
        older=st.sampled_from([0, 0, 0, 0, 1]),
        tier=st.sampled_from([None, None, None, None, "cache"]),
    )
    def begin(self, number, worker, older, tier):
        names = sorted(self.messages)
        queued = [n for n in names if self.status_of(keyspace.job(n), Status) is Status.QUEUED]
        pool = queued if queued and number % 4 else names  # most messages are no surprise
        self.begin_named(pool[number % len(pool)], worker, older, tier)

    def any_held(self, number, kind, tiers):
        fitting = [u for u in self.held if isinstance(u, kind) and (not tiers or u.tier in tiers)]
        held = [unit for unit in fitting if self.is_held(unit)]
        pool = held if held and number % 4 else fitting  # some have lost what they think they hold
        return pool[number % len(pool)] if pool else None

    @initialize(slices=st.sampled_from([None, 0, 1, 2]))
    def get_there(self, slices):
        """Begin where most happens: its lines are known, and some slices begun."""
        if slices is not None:
            self.start(self.begin_named(phase_unit_id(self.id, "validate"), "w1"), errors=False)
            for number in range(slices):
                self.begin_named(slice_unit_id(self.id, number), "w1")

    @rule(number=NUMBERS, errors=st.sampled_from([False, False, False, True]))
    def validated(self, number, errors):
        if unit := self.any_held(number, PhaseUnit, {"validate"}):
            self.start(unit, errors=errors)

    def start(self, unit, *, errors):
        findings = Findings(total=SLICES * LINES)
        findings.ranges += [SliceRange(i * 10, 10, LINES, 1) for i in range(SLICES)]
        if errors:
            findings.errors.append(LineError("bad", "x"))
            findings.error_count = 1
        self.do_held("start_batch", self.batches.start(unit, findings, "gpu"), unit)

    @rule(number=NUMBERS, lines=st.integers(1, LINES))
    def recorded(self, number, lines):
        unit = self.any_held(number, SliceUnit, None)
        if unit and unit.open_lines:
            self.record(unit, unit.open_lines[:lines])

    def record(self, unit, lines):
        results = [
            LineResult(
                line=i,
                good=i % 2 == 0,
                content=new_token().encode(),
                counted_as="gpu:succeeded",
                tokens=Tokens(3, 2, 1, 1),
                model="a:b" if i % 2 == 0 else "",
            )
            for i in lines
        ]
        takes = self.status_of(keyspace.batch(self.id), BatchStatus) is BatchStatus.IN_PROGRESS
        takes = takes and unit.slice not in self.written
        held = self.is_held(unit)
        recorded = self.do("record_lines", self.batches.record_lines(unit, results))
        if not takes:
            assert recorded == (-1, False)
            return recorded
        new = [r for r in results if (unit.slice, r.line) not in self.results]
        self.results |= {(unit.slice, r.line): r.stored for r in new}
        unit.results.update(r.line for r in results)
        known = sum(number == unit.slice for number, _ in self.results)
        assert recorded == (len(new), known == LINES and held)
        self.check_counts()
        return recorded

    def check_counts(self):
        record = self.wait(self.batches.get(self.id, "ann"))
        good = sum(stored[:1] == b"o" for stored in self.results.values())
        assert (record.completed, record.failed) == (good, len(self.results) - good)
        assert record.by_tier.get("gpu", 0) == len(self.results)
        assert record.by_model == ({"gpu": {"a:b": good}} if good else {})
        assert record.tokens == tuple(n * len(self.results) for n in (3, 2, 1, 1))
        assert sum(each.lines for each in self.wait(self.batches.times(self.id))) == len(
            self.results
        )
        for number in range(SLICES):
            if number not in self.written:
                kept = {i: s for (n, i), s in self.results.items() if n == number}
                assert self.results_of(number) == kept
                assert self.wait(self.batches.answered(self.id, number)) == set(kept)

    def results_of(self, number):
        return self.wait(self.batches.results(self.id, number, LINES, 0)).results

    @rule(number=NUMBERS)
    def part_written(self, number):
        if unit := self.any_held(number, SliceUnit, None):
            self.complete_slice(unit)

    def complete_slice(self, unit):
        part, before = Part(unit.slice, 3, 3), self.wait(self.batches.parts(self.id))
        if self.is_held(unit) and not self.is_at(unit, "part"):
            assert not self.do("complete_slice", self.batches.complete_slice(unit, part))
            assert self.is_held(unit), "it is at its tier still"
            return False
        takes = self.status_of(keyspace.batch(self.id), BatchStatus) is BatchStatus.IN_PROGRESS
        held = self.is_held(unit)
        self.do_held("complete_slice", self.batches.complete_slice(unit, part), unit)
        written = held and takes and unit.slice not in self.written
        assert self.wait(self.batches.parts(self.id)) == [*before, *[part] * written]
        if written:
            self.written.add(unit.slice)
        return written

    def is_at(self, unit, tier):
        key = keyspace.job(unit.id)
        return self.wait(self.store.connection.command("HGET", key, "tier")) == tier.encode()

    @rule(number=NUMBERS)
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
                known = len(self.wait(self.batches.answered(self.id, number)))
                missing += LINES - known
                further.append(Part(number, 1, 1))
        work = self.batches.complete(
            unit, slices=record.slices, unanswered=missing, parts=further, files=[]
        )
        ended = self.do_held("complete_batch", work, unit)
        if ended and record.status not in FINAL:
            expected = [*self.wait(self.batches.parts(self.id))]
            assert {part.slice for part in expected} == set(range(record.slices))
            for number in range(record.slices):
                assert not self.wait(self.batches.answered(self.id, number))
        return ended

    @rule(number=NUMBERS, to=st.sampled_from(["split", "split", "on", "back", "park"]))
    def moved(self, number, to):
        unit = self.any_held(number, SliceUnit, {"gpu", "cpu"})
        if unit is not None:
            self.move(unit, to, new_token())

    def move(self, unit, to, token):
        tried = LineHistory((Attempt("gpu", Verdict.FAILURE, 1.0),), 1)
        histories = dict.fromkeys(unit.open_lines[:1], tried)
        if to == "split":
            if not histories:
                return None
            return self.split(unit, token, histories)
        works = {
            "on": lambda: self.batches.hand_on(unit, "cpu", token, histories),
            "back": lambda: self.batches.hand_back(unit, token),
            "park": lambda: self.batches.park(unit, "gpu", token, histories, 5),
        }
        again = token in self.tokens_used and self.is_where(unit, token)
        do = self.do if again else partial(self.do_held, unit=unit, moving=True)
        attempt = do("move_unit", works[to]())
        self.tokens_used.add(token)
        if attempt is not None:
            self.messages[unit.id] = (attempt, {"on": "cpu", "back": unit.tier}.get(to, "gpu"))
        return attempt

    def is_where(self, unit, token):
        """Whether a unit is where a move with this token took it: then it may be asked again."""
        key = keyspace.job(unit.id)
        names = ("status", "moved_by", "attempt")
        raw = self.wait(self.store.connection.command("HMGET", key, *names))
        return raw == [b"queued", token.encode(), str(unit.attempt + 1).encode()]

    def split(self, unit, token, histories):
        child = Split(f"unit_{self.id}_{unit.slice}_{token}", list(histories))
        work = self.batches.split(unit, "cpu", token, histories)
        if not self.is_held(unit):
            return self.do_held("split_unit", work, unit)
        self.messages[child.id] = (0, "cpu")
        assert self.do("split_unit", work) == child
        self.moved_to.setdefault(unit.slice, {}).update(dict.fromkeys(histories, child.id))
        unit.moved_to.update(dict.fromkeys(histories, child.id))
        before = self.everything()
        assert self.wait(self.batches.split(unit, "cpu", token, histories)) == child
        assert self.everything() == before, "asked again, it is the same unit"
        return child

    @rule(number=NUMBERS)
    def dropped(self, number):
        unit = self.any_held(number, SliceUnit, {"cpu"})
        if unit and not unit.open_lines:
            self.do_held("drop_unit", self.batches.drop(unit), unit)

    @rule(owner=st.sampled_from(["bob"] * 7 + ["ann"]))
    def cancel(self, owner):
        before = self.everything()
        found = self.do("cancel_batch", self.batches.cancel(self.id, owner))
        assert (found is None) == (owner == "bob")
        assert owner == "ann" or self.everything() == before

    @rule(number=NUMBERS, seldom=st.sampled_from([False] * 5 + [True]))
    def input_gone(self, number, *, seldom):
        unit = self.any_held(number, SliceUnit, None)
        if unit and seldom:
            work = self.batches.end_without_input(unit, b"[]")
            self.do_held("end_without_input", work, unit)

    @rule(number=NUMBERS, seldom=st.sampled_from([False] * 5 + [True]))
    def poison(self, number, *, seldom):
        held = [unit for unit in self.held if unit.tier in PHASES or self.is_at(unit, "part")]
        if held and seldom:
            self.give_up(held[number % len(held)])

    def give_up(self, unit):
        self.do_held("give_up", self.batches.give_up(unit, ERRORS), unit)

    @rule(seconds=st.sampled_from([0.1, 0.1, 0.9, 2, 600]))
    def advance(self, seconds):
        self.clock.advance(seconds)

    @rule(number=NUMBERS)
    def put_off(self, number):
        if unit := self.any_held(number, (PhaseUnit, SliceUnit), None):
            self.wait_a_little(unit, new_token())

    def wait_a_little(self, unit, token):
        work = self.batches.put_off(unit, token, 5)
        held = self.is_held(unit, moving=True)
        self.do_held("move_unit", work, unit, moving=True)
        if held:
            self.messages[unit.id] = (unit.attempt + 1, unit.tier)

    @rule(none_left=st.booleans(), tier=st.sampled_from([*[None] * 5, "gpu"]))
    def sweep_or_recall(self, *, none_left, tier):
        if tier:
            self.recall(tier)
        else:
            self.sweep(none_left=none_left)

    def sweep(self, *, none_left):
        self.wait(self.store.connection.command("DEL", keyspace.SWEEPER))
        empty = {queue.value: none_left for queue in Queue}
        self.do("sweep", self.swept(empty))

    def recall(self, tier):
        self.do("recall", self.store.jobs.recall(tier, 1000))

    async def swept(self, empty):
        return [each.dispatch for each in await self.store.jobs.sweep(empty)]


@pytest.fixture
def machine(valkey):
    return type("BatchesHere", (Batches,), {"url": valkey.url, "seen": set()})


@pytest.mark.timeout(300 * WALKS)
def test_whatever_is_done_only_what_is_in_the_tables_happens_and_the_batch_ends_whole(machine):
    run(
        machine,
        settings=settings(
            max_examples=40 * WALKS,
            stateful_step_count=60,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
    seen = {script for _, _, script in machine.seen}
    missed = {script for _, _, script in ROWS | UNIT_ROWS} - seen
    assert len(missed) <= 3, missed


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
        self.batches.record(self.unit, range(int(what or LINES)))

    def part(self, _):
        self.batches.complete_slice(self.unit)

    def slice(self, what):
        self.tell(f"begin:{what} record part")

    def slices(self, _):
        self.tell(" ".join(f"slice:{number}" for number in range(SLICES)))

    def move(self, what):
        self.batches.move(self.unit, what, "t1")

    def join(self, _):
        self.tell("begin:join complete")

    def complete(self, _):
        self.batches.complete(self.unit)

    def cancel(self, _):
        self.batches.cancel("ann")

    def give(self, _):
        self.batches.give_up(self.unit)

    def off(self, _):
        self.batches.wait_a_little(self.unit, "t2")

    def gone(self, _):
        work = self.batches.batches.end_without_input(self.unit, b"[]")
        self.batches.do_held("end_without_input", work, self.unit)

    def note(self, _):
        work = self.batches.batches.note_line(self.unit, 1, LineHistory(()))
        self.batches.do_held("note_line", work, self.unit)

    def drop(self, _):
        self.batches.do_held("drop_unit", self.batches.batches.drop(self.unit), self.unit)

    def wait(self, what):
        self.batches.advance(float(what))

    def sweep(self, _):
        self.batches.sweep(none_left=True)

    def recall(self, what):
        self.batches.recall(what)


def led(machine, story):
    """Lead a new batch through a story; return it, and who can go on."""
    batches = machine()
    told = Told(batches)
    told.tell(story)
    return batches, told


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
    "begin give": {
        (BatchStatus.VALIDATING, BatchStatus.FAILED, "give_up"),
        (Status.RUNNING, None, "give_up"),
    },
    "validate begin:0 record give join drop": {
        (BatchStatus.IN_PROGRESS, BatchStatus.FINALIZING, "give_up"),
        (BatchStatus.FINALIZING, BatchStatus.FAILED, "complete_batch"),
        (None, Status.QUEUED, "give_up"),
        (Status.QUEUED, None, "give_up"),
        (Status.RUNNING, None, "give_up"),
    },
    "validate slices begin:join give": {(BatchStatus.FINALIZING, BatchStatus.FAILED, "give_up")},
    "validate begin:0 cancel begin:join give": {
        (BatchStatus.CANCELLING, BatchStatus.FAILED, "give_up")
    },
    "validate begin:0 begin:0": {(Status.RUNNING, Status.RUNNING, "begin_unit")},
    "validate begin:0 move:split": {(None, Status.QUEUED, "split_unit")},
    "validate begin:0 move:on move:on": {
        (Status.RUNNING, Status.QUEUED, "move_unit"),
        (Status.QUEUED, Status.QUEUED, "move_unit"),
    },
    "validate begin:0 move:split record part": {(Status.QUEUED, None, "complete_slice")},
    "validate begin:0 wait:1 sweep": {(Status.RUNNING, Status.QUEUED, "sweep")},
    "validate begin:0 move:park recall:gpu": {(Status.QUEUED, Status.QUEUED, "recall")},
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


# How a unit comes to where a step of its holder would be taken, and that step.
STEPS = {
    "start": "begin",
    "part": "validate begin:0 record",
    "complete": "validate slices begin:join",
    "gone": "validate begin:0",
    "give": "validate begin:0 record",
    "off": "begin",
    "move:split": "validate begin:0",
    "move:on": "validate begin:0",
    "move:back": "validate begin:0",
    "move:park": "validate begin:0",
    "drop": "validate begin:0",
    "note": "validate begin:0",
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("taken", [False, True])
def test_a_step_by_one_who_has_lost_the_lease_changes_nothing(machine, step, taken):
    batches, told = led(machine, STEPS[step])
    lost = told.unit
    told.tell("wait:1 sweep")
    assert not batches.is_held(lost)
    if taken:  # another has it now
        batches.begin_named(lost.id, "another")
    told.unit = lost
    told.tell(step)  # do_held looks at everything that the store holds
    batches.teardown()


@pytest.mark.parametrize("lost", ["a result", "a unit that some lines left for"])
def test_a_unit_that_the_store_has_forgotten_something_of_is_not_dropped(machine, lost):
    batches, told = led(machine, "validate begin:0")
    unit = told.unit
    before = batches.everything()
    if lost == "a result":
        batches.record(unit, [0, 1])
    else:
        batches.record(unit, [0])
        batches.wait(batches.batches.split(unit, "cpu", "token", {1: LineHistory(())}))
    client = batches.store.connection.client
    batches.wait(client.flushall())
    for key, value in before.items():
        batches.wait(client.restore(key, 0, value))
    batches.results.clear()
    assert batches.wait(batches.batches.drop(unit))
    assert batches.is_held(unit)
    unit.results.clear()
    unit.moved_to.clear()
    batches.teardown()


async def hear(store, number):
    """Return a task that listens; it returns so many names of which who has them is to stop."""
    events = store.connection.events("cancelled")
    assert await anext(events) is None  # it is subscribed

    async def names():
        return {(await anext(events))[1] for _ in range(number)}

    return asyncio.create_task(names())


@pytest.mark.parametrize("is_last", [False, True])
def test_what_else_there_is_of_a_written_slice_is_dropped_and_who_has_it_is_told(machine, is_last):
    """It would be asked for an answer for as long as its batch might have lasted."""
    batches, told = led(machine, "validate begin:0")
    whole, store = told.unit, batches.store
    if is_last:
        told.tell(" ".join(f"slice:{number}" for number in range(1, SLICES)))
    parked = batches.split(whole, "t1", {0: LineHistory(())})
    batches.move(batches.begin_named(parked.id, "w2"), "park", "t2")
    running = batches.begin_named(batches.split(whole, "t3", {1: LineHistory(())}).id, "w2")
    others = {whole.id, parked.id}
    hearing = batches.wait(hear(store, len(others)))
    batches.record(running, range(LINES))
    assert batches.complete_slice(running)
    assert batches.wait(asyncio.wait_for(hearing, 5)) == others
    units = batches.wait(store.connection.command("SMEMBERS", keyspace.units(batches.id)))
    assert not {name.encode() for name in (*others, running.id)} & set(units)
    assert (phase_unit_id(batches.id, "join") in batches.messages) == is_last
    assert batches.wait(store.jobs.recall("gpu", 1000)) == []
    batches.teardown()


@pytest.mark.parametrize("of", ["a slice that is written", "a batch that has ended"])
def test_a_unit_that_an_older_release_left_behind_is_not_begun(machine, of):
    """Its results are gone: each of its lines would be asked for again, and again."""
    batches, told = led(machine, "validate")
    command, key = batches.store.connection.command, keyspace.job(slice_unit_id(batches.id, 0))
    record = batches.wait(command("DUMP", key))
    told.tell("slice:0")
    if of == "a batch that has ended":
        told.tell(" ".join(f"slice:{number}" for number in range(1, SLICES)) + " join")
    batches.wait(command("RESTORE", key, 0, record))
    ref = Ref(slice_unit_id(batches.id, 0), 0)
    assert batches.wait(batches.batches.begin("w3", "gpu", ref)) is None
    assert not batches.wait(command("EXISTS", key))
    batches.close()


def test_a_unit_is_dropped_once_each_of_its_lines_has_a_result_or_left(machine):
    batches, told = led(machine, "validate begin:0")
    unit = told.unit
    batches.record(unit, [0])
    assert batches.wait(batches.batches.split(unit, "cpu", "token", {1: LineHistory(())}))
    assert not batches.wait(batches.batches.drop(unit)), "it has nothing left to do"
    assert not batches.is_held(unit)
    assert not batches.wait(batches.store.connection.command("EXISTS", keyspace.job(unit.id)))
    batches.close()


def test_lines_are_sent_down_as_far_as_there_is_room(machine):
    """Room is left by what is answered, goes elsewhere, is dropped with its batch, or is lost."""
    batches, told = led(machine, "validate begin:0")
    unit, store, command = told.unit, batches.batches, batches.store.connection.command

    def down(lines, most=1, unit=unit, to="cpu"):
        histories = dict.fromkeys(lines, LineHistory(()))
        split = batches.wait(store.split(unit, to, new_token(), histories, most))
        if split:
            batches.messages[split.id] = (0, to)
            gone = dict.fromkeys(split.lines, split.id)
            unit.moved_to.update(gone)
            batches.moved_to.setdefault(unit.slice, {}).update(gone)
        return split

    first = down([0, 1])
    assert first.lines == [0], "the first of them"
    assert down([1]) is None
    assert down([1], to="other").lines == [1], "each tier has its own room"
    below = batches.begin_named(first.id, "w2")
    again = batches.wait(store.hand_back(below, new_token()))
    assert down([1], most=1) is None, "handed back it is still there"
    batches.messages[first.id] = (again, "cpu")
    below = batches.begin_named(first.id, "w2")
    batches.wait(store.hand_on(below, "cache", new_token(), {}))
    batches.messages[first.id] = (again + 1, "cache")
    told.tell("begin:1")
    third = down([0], unit=told.unit)
    assert third, "handed on it has left"
    batches.record(batches.begin_named(third.id, "w2"), [0])
    batches.wait(store.drop(batches.begin_named(third.id, "w2") or told.unit))
    batches.wait(command("DEL", keyspace.job(third.id)))
    assert down([1], unit=told.unit), "who is lost has left"
    assert batches.wait(command("HLEN", keyspace.SENT_DOWN)) == 2
    batches.cancel("ann")
    assert not batches.wait(command("EXISTS", keyspace.SENT_DOWN))
    batches.close()


def test_each_line_that_leaves_a_unit_below_leaves_room(machine):
    """One slow line must not keep the others' places."""
    batches, told = led(machine, "validate begin:0")
    unit, store, command = told.unit, batches.batches, batches.store.connection.command
    histories = {0: LineHistory(()), 1: LineHistory(())}
    split = batches.wait(store.split(unit, "cpu", new_token(), histories, 2))

    def room():
        found = batches.wait(command("HGET", keyspace.SENT_DOWN, split.id))
        return found and found.decode()

    assert room() == "cpu:2"
    batches.messages[split.id] = (0, "cpu")
    gone = dict.fromkeys(split.lines, split.id)
    unit.moved_to.update(gone)
    batches.moved_to.setdefault(0, {}).update(gone)
    child = batches.begin_named(split.id, "w2")
    batches.record(child, [0])
    assert room() == "cpu:1"
    up = batches.split(child, "t9", {1: LineHistory(())})
    assert (up.lines, room()) == ([1], None)
    batches.teardown()


def test_who_recalls_leaves_what_waits_for_another_tier_or_for_its_time(machine):
    batches, told = led(machine, "validate begin:0 off")
    assert batches.wait(batches.store.jobs.recall("cpu", 1000)) == []
    found = batches.wait(batches.store.jobs.recall("gpu", 1000))
    assert [each.id for each in found] == [told.unit.id]
    batches.publish(found)
    batches.teardown()


@pytest.mark.parametrize("late", ["hand on", "split", "note"])
def test_nothing_is_noted_of_a_line_once_its_batch_has_ended(machine, late):
    """A unit may be there still: its lines were answered elsewhere. Nobody would clear it away."""
    batches, told = led(machine, "validate begin:0")
    store, unit, history = batches.batches, told.unit, LineHistory(())
    command = batches.store.connection.command
    key, part = keyspace.batch(batches.id), keyspace.results(batches.id, 0)
    batches.wait(command("HSET", key, "status", "completed"))
    if late == "hand on":
        assert batches.wait(store.hand_on(unit, "cpu", "token", {1: history})) == 1
    elif late == "split":
        assert batches.wait(store.split(unit, "cpu", "token", {1: history})) is None
    else:
        assert not batches.wait(store.note_line(unit, 1, history))
    assert not batches.wait(command("EXISTS", part))
    batches.wait(command("HSET", key, "status", "in_progress"))
    batches.teardown()


def test_lines_that_come_after_their_slice_was_written_change_nothing(machine):
    """Of a worker that was paused: they would count twice, and nobody would clear them away."""
    batches, told = led(machine, "validate begin:0")
    late = told.unit
    told.tell("wait:1 sweep begin:0 record part")
    before = batches.everything()
    batches.record(late, [0, 1])
    assert batches.everything() == before
    batches.teardown()


def test_the_last_lines_of_one_who_has_lost_the_lease_count_and_leave_the_unit_as_it_is(machine):
    """It is queued by then; who begins it finds every line answered, and writes the part."""
    batches, told = led(machine, "validate begin:0")
    late = told.unit
    told.tell("wait:1 sweep")
    [key] = [key for key in batches.everything() if key.endswith(keyspace.job(late.id).encode())]
    before = batches.everything()[key]
    assert batches.record(late, [0, 1]) == (LINES, False)
    assert batches.everything()[key] == before
    told.tell("begin:0 record part")
    assert batches.written == {0}
    batches.teardown()


def test_lines_whose_answer_was_lost_are_recorded_again_and_change_nothing(machine):
    batches, told = led(machine, "validate begin:0 record")
    before = batches.everything()
    assert batches.record(told.unit, [0, 1]) == (0, True)
    assert batches.everything() == before
    batches.teardown()


def test_the_last_line_renews_the_lease_of_who_is_to_write_the_part(machine):
    batches, told = led(machine, "validate begin:0 wait:0.9 record wait:0.9 sweep")
    assert batches.is_held(told.unit)
    told.tell("part")
    assert batches.written == {0}
    batches.teardown()


@pytest.mark.parametrize(
    ("story", "step"),
    [
        ("begin", "start"),
        ("begin", "start:errors"),
        ("validate begin:0", "record"),
        ("validate begin:0", "move:split"),
        ("validate begin:0", "move:on"),
        ("validate begin:0 record", "part"),
        ("validate begin:0", "gone"),
        ("begin", "give"),
        ("validate begin:0 record", "give"),
        ("validate slices begin:join", "give"),
        ("validate slices begin:join", "complete"),
    ],
)
def test_a_batch_whose_record_somebody_deleted_does_not_come_back(machine, story, step):
    batches, told = led(machine, story)
    store, unit, key = batches.batches, told.unit, keyspace.batch(batches.id)
    batches.wait(batches.store.connection.command("DEL", key))
    findings = Findings(total=LINES, ranges=[SliceRange(0, 10, LINES, 1)])
    history = {0: LineHistory(())}
    result = LineResult(line=0, good=True, content=b"x", counted_as="gpu:succeeded")
    findings.errors += [LineError("bad", "x")] if step == "start:errors" else []
    works = {
        "start": lambda: store.start(unit, findings, "gpu"),
        "start:errors": lambda: store.start(unit, findings, "gpu"),
        "record": lambda: store.record_lines(unit, [result]),
        "move:split": lambda: store.split(unit, "cpu", "token", history),
        "move:on": lambda: store.hand_on(unit, "cpu", "token", history),
        "part": lambda: store.complete_slice(unit, Part(0, 3, 3)),
        "gone": lambda: store.end_without_input(unit, b"[]"),
        "give": lambda: store.give_up(unit, ERRORS),
        "complete": lambda: store.complete(unit, slices=1, unanswered=0, parts=[], files=[]),
    }
    batches.wait(works[step]())
    assert not batches.wait(batches.store.connection.command("EXISTS", key))
    batches.close()


@pytest.mark.parametrize("story", ["begin", "validate begin:0"])
def test_a_batch_whose_record_somebody_deleted_is_forgotten_after_its_window(machine, story):
    batches = machine()
    Told(batches).tell(story)
    command = batches.store.connection.command
    batches.wait(command("DEL", keyspace.batch(batches.id)))
    batches.advance(3600)
    batches.wait(batches.swept({queue.value: False for queue in Queue}))
    for index in (keyspace.DEADLINES, keyspace.OPEN_BATCHES):
        assert batches.wait(command("ZSCORE", index, batches.id)) is None
    assert batches.wait(batches.batches.cancel(batches.id, "ann")) is None
    batches.close()


def test_a_batch_whose_input_is_gone_says_so(machine):
    batches = machine()
    Told(batches).tell("validate begin:0 gone")
    assert bytes(batches.wait(batches.batches.get(batches.id, "ann")).errors) == b"[]"
    batches.teardown()


@pytest.mark.parametrize(
    "story",
    ["begin give", "validate begin:0 record give", "validate slices begin:join give"],
)
def test_a_batch_that_is_given_up_says_so(machine, story):
    batches = machine()
    Told(batches).tell(story)
    assert bytes(batches.wait(batches.batches.get(batches.id, "ann")).errors) == ERRORS
    batches.teardown()


@pytest.mark.parametrize(
    "story", ["begin give", "validate slice:0 begin:1 record cancel begin:join give"]
)
def test_what_is_given_up_keeps_its_parts_for_its_time_and_nothing_else(machine, story):
    batches, _ = led(machine, story)
    left = batches.everything()
    assert not [key for key in left if b":part:" in key or b":written" in key]
    parts = batches.wait(batches.batches.parts(batches.id))
    assert len(parts) == ("slice:0" in story)
    command = batches.store.connection.command
    of_lines = [f(batches.id) for f in (keyspace.parts, keyspace.times, keyspace.slices)]
    for key in [keyspace.batch(batches.id), *of_lines * len(parts)]:
        assert 0 < batches.wait(command("PTTL", key)) <= FILE_SECONDS * 1000
    due = batches.wait(command("ZSCORE", keyspace.FILE_EXPIRY, batches.id))
    assert float(due) == batches.clock.ms + FILE_SECONDS * 1000
    batches.teardown()


def test_a_line_is_counted_once_when_it_comes_and_not_when_its_slice_ends(machine):
    batches, told = led(machine, "validate begin:0 record:1 record:1")
    began = batches.clock.ms // 1000
    batches.clock.advance(1)
    told.tell("record")
    batches.clock.advance(1)
    told.tell("part")
    times = batches.wait(batches.batches.times(batches.id))
    assert times == [LinesAt(began, 1), LinesAt(began + 1, 1)]
    batches.teardown()


@pytest.mark.parametrize(
    ("minutes", "seconds"), [(0, 1), (15, 1), (16, 2), (31, 2), (32, 4), (24 * 60, 128)]
)
def test_the_longer_a_batch_runs_the_longer_are_the_times_that_it_is_counted_in(
    machine, minutes, seconds
):
    batches, told = led(machine, "validate begin:0")
    batches.clock.advance(minutes * 60)
    told.tell("record")
    [counted] = batches.wait(batches.batches.times(batches.id))
    assert (counted.at, counted.lines) == (batches.clock.ms // 1000 // seconds * seconds, LINES)
    batches.teardown()


def test_a_join_that_is_given_up_as_it_clears_leaves_its_batch_as_it_ended(machine):
    batches, told = led(machine, "validate slices begin:join complete")
    command, key = batches.store.connection.command, keyspace.batch(batches.id)
    before = batches.wait(command("DUMP", key))
    told.tell("give")
    assert batches.wait(command("DUMP", key)) == before
    assert not batches.wait(command("SCARD", keyspace.units(batches.id)))
    batches.teardown()


def test_a_part_that_is_given_up_takes_nothing_from_what_is_answered(machine):
    batches, told = led(machine, "validate slice:0 begin:1 record give begin:join")
    assert batches.results_of(1) == {
        line: stored for (number, line), stored in batches.results.items() if number == 1
    }
    told.tell("complete")
    record = batches.wait(batches.batches.get(batches.id, "ann"))
    assert (record.status, record.total) == (BatchStatus.FAILED, SLICES * LINES)
    assert (record.completed, record.failed) == (2, 4)
    batches.teardown()


def test_a_unit_that_is_put_off_comes_to_its_own_tier_again_with_what_was_tried(machine):
    batches, told = led(machine, "validate begin:0 record wait:1 sweep begin:0")
    unit, broken = told.unit, broke_off("part")
    assert (unit.tier, unit.attempts) == ("part", (lost("part"),))
    told.unit = replace(unit, attempts=(*unit.attempts, broken))
    told.tell("off wait:4 sweep")
    assert batches.status_of(keyspace.job(unit.id), Status) is Status.QUEUED
    told.tell("wait:1 sweep begin:0")
    assert (told.unit.tier, told.unit.attempts) == ("part", (lost("part"), broken))
    batches.teardown()


def test_a_phase_whose_worker_dies_three_times_is_poison_and_its_batch_knows_it(machine):
    batches, told = led(machine, "begin")
    for alone in (False, False, True):
        assert not is_poison(told.unit.attempts)
        assert is_suspect(told.unit.attempts) == alone
        assert not alone or batches.wait(batches.store.jobs.note_alone(told.unit))
        told.tell("wait:1 sweep begin")
    assert is_poison(told.unit.attempts)
    batches.teardown()


def test_of_many_models_a_batch_tells_the_first_fifty_apart(machine):
    batches, told = led(machine, "validate begin:0")
    lines, store = [("gpu", n % 49) for n in range(98)], batches.batches
    # Each call may bring new names; who is known by then is counted as before.
    lines += [("cpu", n) for n in range(4)] + [("gpu", 0), ("gpu", 49)]
    for start in range(0, len(lines), 10):
        some = list(enumerate(lines))[start : start + 10]
        results = [
            LineResult(i, good=True, content=b"x", counted_as=f"{tier}:succeeded", model=f"m{n}")
            for i, (tier, n) in some
        ]
        batches.wait(store.record_lines(told.unit, results))
    record = batches.wait(store.get(batches.id, "ann"))
    assert sum(len(models) for models in record.by_model.values()) == 50 + 2
    assert record.by_model["gpu"] == {f"m{n}": 2 for n in range(49)} | {"m0": 3, "other": 1}
    assert sum(record.by_model["cpu"].values()) == 4
    assert record.by_model["cpu"]["other"] == 3
    batches.close()


@pytest.mark.parametrize(
    ("room", "portions"),
    [(2, [{0: b"oAA"}, {1: b"eB"}]), (4, [{0: b"oAA"}, {1: b"eB"}]), (5, [{0: b"oAA", 1: b"eB"}])],
)
def test_results_are_read_in_portions_that_have_room(machine, monkeypatch, room, portions):
    batches, told = led(machine, "validate begin:0")
    monkeypatch.setattr("tasks.store.batches.PORTION_BYTES", room)
    for line, content in enumerate((b"AA", b"B")):
        result = LineResult(line, good=not line, content=content, counted_as="gpu:succeeded")
        batches.wait(batches.batches.record_lines(told.unit, [result]))
    read, line = [], 0
    while line < LINES:
        found, line = batches.wait(batches.batches.results(batches.id, 0, LINES, line))
        read.append(found)
    assert read == portions
    batches.close()


def test_a_line_without_a_result_is_in_no_portion(machine):
    batches, _ = led(machine, "validate begin:0 record:1 note")
    assert batches.wait(batches.batches.results(batches.id, 0, LINES, 0)).next == LINES
    assert list(batches.results_of(0)) == [0]
    assert batches.wait(batches.batches.results(batches.id, 0, LINES, 1)) == ({}, LINES)
    assert batches.wait(batches.batches.answered(batches.id, 0)) == {0}
    batches.teardown()


def test_who_works_on_a_batch_hears_of_its_end(machine):
    batches = machine()
    Told(batches).tell("validate begin:0")

    async def heard():
        listening = batches.store.connection.events("cancelled")
        assert await anext(listening) is None
        batches.publish(await batches.batches.cancel(batches.id, "ann"))
        async with asyncio.timeout(5):
            event = await anext(listening)
        await listening.aclose()
        return event

    assert batches.wait(heard()) == ("cancelled", batches.id)
    batches.teardown()


def test_a_batch_that_failed_is_kept_for_its_time(machine):
    batches = machine()
    Told(batches).tell("begin start:errors")
    left = batches.wait(batches.store.connection.command("PTTL", keyspace.batch(batches.id)))
    assert 0 < left <= FILE_SECONDS * 1000
    batches.teardown()


def test_a_split_whose_answer_was_lost_is_asked_again_and_takes_nothing_from_who_began_it(machine):
    batches, told = led(machine, "validate begin:0")
    unit = told.unit
    child = batches.split(unit, "t1", {0: LineHistory(())})
    batches.begin_named(child.id, "another")
    before = batches.everything()
    work = batches.batches.split(unit, "cpu", "t1", {0: LineHistory(())})
    assert batches.wait(work) == child
    assert batches.everything() == before
    batches.teardown()


def test_what_is_noted_of_a_line_is_known_to_who_has_its_unit_next(machine):
    batches, told = led(machine, "validate begin:0")
    tried = LineHistory((Attempt("gpu", Verdict.FAILURE, 1.0),), 1)
    assert batches.wait(batches.batches.note_line(told.unit, 1, tried))
    told.tell("wait:1 sweep begin:0")
    assert told.unit.histories == {1: tried}
    batches.teardown()


@pytest.mark.parametrize("to", ["on", "park"])
def test_what_was_tried_of_a_line_goes_along_with_its_unit(machine, to):
    batches, told = led(machine, "validate begin:0")
    tried = LineHistory((Attempt("gpu", Verdict.FAILURE, 1.0),), 1)
    told.tell(f"move:{to} wait:5 sweep begin:0")
    assert told.unit.histories == {0: tried}
    batches.teardown()


def test_an_end_whose_answer_was_lost_is_asked_again_and_counts_once(machine):
    batches, told = led(machine, "validate begin:0 record:1 cancel begin:join")
    parts = [Part(number, 1, 1) for number in range(SLICES)]

    def complete():
        work = batches.batches.complete(
            told.unit, slices=SLICES, unanswered=5, parts=parts, files=[]
        )
        return batches.wait(work)

    assert complete()
    ended = batches.everything()
    assert complete()
    assert batches.everything() == ended
    batches.teardown()


def test_what_a_batch_leaves_in_the_store_goes_with_its_end_and_its_end_is_once(machine):
    batches, told = led(machine, "validate begin:0 record:1 cancel begin:join complete")
    ended = batches.everything()
    assert not [key for key in ended if b":part:" in key or b":written" in key]
    told.tell("complete")
    assert batches.everything() == ended
    batches.teardown()


def test_results_of_a_slice_of_any_number_of_lines_are_read(machine):
    batches, _ = led(machine, "validate begin:0")
    lines = 10_000
    key, command = keyspace.results(batches.id, 0), batches.store.connection.command
    for first in range(0, lines, 1000):
        stored = [item for i in range(first, first + 1000) for item in (i, b"oA")]
        batches.wait(command("HSET", key, *stored))
    read = batches.wait(batches.batches.results(batches.id, 0, lines, 0))
    assert (len(read.results), read.next) == (lines, lines)
    batches.close()
