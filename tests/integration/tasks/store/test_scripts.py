"""What every script keeps to: it is in a table, declares its keys, names its arguments first."""

from __future__ import annotations

import io
import re
from importlib.resources import files

import pytest
from harness.records import ORDER
from harness.spying import found_patterns
from harness.stores import store_on

from fallback_chain import Body, Verdict
from tasks.jsonl.input import Findings
from tasks.records import batches as batch_records
from tasks.records import jobs as job_records
from tasks.records.batches import (
    BatchOptions,
    Endpoint,
    JoinedFile,
    LineHistory,
    LineResult,
    NewBatch,
    Part,
    SliceRange,
    new_batch_id,
    phase_unit_id,
)
from tasks.records.files import NewFile
from tasks.records.idempotency import IdempotencyKey
from tasks.records.jobs import Options, Queue, Ref, Status, Submission, new_job_id, new_token
from tasks.records.outcomes import Finish
from tasks.records.streams import Addition, Entry
from tasks.records.troubles import TierReport
from tasks.store.connection import ADMITS, STATELESS, load_scripts
from tasks.store.limits import Load, Share
from tasks.store.search import Search
from tasks.store.streams import Append

TABLES = (
    job_records.TRANSITIONS,
    batch_records.TRANSITIONS,
    batch_records.UNIT_TRANSITIONS,
)
TEXTS = {
    entry.name.removesuffix(".lua"): entry.read_text()
    for entry in (files("tasks.store") / "lua").iterdir()
}
SCRIPTS = sorted(name for name in TEXTS if not name.startswith("_"))


def test_every_script_is_in_a_table_or_changes_no_status():
    in_tables = {row.script for table in TABLES for row in table}
    assert in_tables | STATELESS == set(SCRIPTS) == set(load_scripts())
    assert not in_tables & STATELESS


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_names_its_arguments_first(name):
    code = [line for line in TEXTS[name].splitlines() if line and not line.startswith("--")]
    after = [line for line in code if not re.match(r"local [a-z_, ]+ = ", line)]
    named = code[: code.index(after[0])]
    assert any("ARGV[3]" in line or "list(3)" in line for line in named)
    assert not any(re.search(r"ARGV|\b(list|rows)\(", line) for line in after)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_begins_with_what_it_does(name):
    assert re.match(r"-- [A-Z][a-z]+s? ", TEXTS[name])


def test_only_what_takes_new_work_is_refused_by_a_full_store():
    admitting = [name for name in SCRIPTS if ADMITS in TEXTS[name].splitlines()]
    assert admitting == ["begin_file", "create_batch", "create_jobs"]


def test_what_a_script_finds_has_a_reason():
    for name in SCRIPTS:
        for line in TEXTS[name].splitlines():
            if line.startswith("-- finds"):
                assert re.fullmatch(r"-- finds (\S+:\* )+[a-z].{10,}", line), name
    finding = {name for name in SCRIPTS if found_patterns(TEXTS[name])}
    assert "move_jobs" not in finding
    assert "sweep" in finding


@pytest.fixture
async def store(store_url, clock, tmp_path):
    store = store_on(store_url, clock, str(tmp_path), batch_window=1)
    yield store
    await store.close()


class Story:
    """Does once, or twice, what each script is for; a key that is not declared fails it."""

    def __init__(self, store, clock):
        self.store, self.clock = store, clock
        self.keys = [IdempotencyKey(new_token(), "d" * 32, lookup=True)]
        self.batch_id = ""

    async def jobs(self):
        jobs = self.store.jobs
        new = [self.submission() for _ in range(3)]
        await jobs.create(new, ORDER, self.keys)
        await jobs.create(new, ORDER, self.keys)
        await jobs.create([lone := self.submission()], ORDER)
        await jobs.discard("ann", [lone.id], self.keys)
        begun = await jobs.begin("me", "gpu", [Ref(job.id, 0) for job in new])
        await jobs.renew([(job.id, "me") for job in begun])
        await jobs.note_alone(begun[0])
        await jobs.hand_back(begun[0], "t")
        said = Append(begun[1].id, "me", Addition(0, Entry(1, (b"[]",), b"{", "gpu")))
        await self.store.streams.append([said])
        await self.store.streams.read(begun[1].id, 0)
        ended = Finish(status=Status.SUCCEEDED, attempts=(), answer=b"{}")
        await jobs.finish(begun[1], ended, Addition(1, Entry(2, (b"[]",), ends=True)))
        await jobs.leave(begun[2].id, "ann", [self.keys[0]._replace(own=False, once=True)])
        await jobs.cancel(begun[2].id, "ann")
        self.clock.advance(100)
        await jobs.sweep({"interactive": True})
        await self.store.fleet.gauges()
        await self.store.fleet.prune_lists()
        assert await self.store.history.may_sample(1)
        await self.store.history.sample(1, {"gpu": "open"})
        await self.store.jobs.search_jobs("ann", Search("x", (("status", "failed"),)), 1, None)
        report = TierReport()
        report.add(Verdict.MISCONFIGURED, "HTTP 401")
        await self.store.tiers.note({"gpu": report, "cpu": TierReport()}, {"gpu": "", "cpu": ""})

    @staticmethod
    def submission():
        return Submission(new_job_id(), "ann", Queue.INTERACTIVE, Body.of({}), Options(), 60.0)

    async def file(self):
        file_id, _ = await self.store.files.begin("ann", self.keys)
        new = NewFile(file_id, "ann", "a.jsonl", "batch", 3600)
        # As if copying its content took longer.
        await self.store.files._extend_claim(new, self.keys, 60)
        await self.store.files.create(new, io.BytesIO(b"{}"), self.keys)
        return file_id

    async def file_goes(self, file_id):
        await self.store.files.delete(await self.store.files.get(file_id, "ann"))
        await self.store.files.sweep()

    async def batch(self, file_id):
        keys = [self.keys[0]._replace(name=new_token())]
        new = NewBatch(
            id=new_batch_id(),
            owner="ann",
            endpoint=Endpoint.CHAT,
            input_file_id=file_id,
            completion_window="1h",
            metadata={},
            options=BatchOptions(),
        )
        await self.store.batches.create(new, keys)
        await self.store.batches.create(new, keys)
        self.batch_id = new.id
        unit = await self.begin(phase_unit_id(new.id, "validate"), "validate")
        findings = Findings(total=2)
        findings.ranges += [SliceRange(0, 1, 1, 1), SliceRange(1, 1, 1, 2)]
        return await self.store.batches.start(unit, findings, "gpu")

    async def begin(self, name, tier="gpu", attempt=0):
        return await self.store.batches.begin("me", tier, Ref(name, attempt))

    async def batch_to_its_end(self, file_id):
        batches = self.store.batches
        dispatches = await self.batch(file_id)
        while dispatches[0].tier != "join":
            unit = await self.begin(dispatches[0].id)
            result = LineResult(0, good=True, content=b"{}", counted_as="gpu:succeeded")
            assert (await batches.record_lines(unit, [result])).complete
            assert (await batches.results(unit.batch, unit.slice, 1, 0)).next == 1
            dispatches = await batches.complete_slice(unit, Part(unit.slice, 3, 0))
        unit = await self.begin(dispatches[0].id, "join")
        files = [JoinedFile("output", "file-x", 6, "x.jsonl")]
        assert await batches.complete(
            unit, slices=2, unanswered=0, parts=[Part(1, 1, 1)], files=files
        )
        await batches.drop(unit)

    async def batches_that_do_not_get_there(self, file_id):
        batches = self.store.batches
        [dispatch] = await self.batch(file_id)
        unit = await self.begin(dispatch.id)
        await batches.note_line(unit, 0, LineHistory((), 0))
        child = await batches.split(unit, "cpu", "t1", {0: LineHistory((), 0)}, most=1)
        await batches.hand_on(unit, "cpu", "t2", {})
        await batches.end_without_input(await self.begin(child.id, "cpu"), b"[]")
        await self.batch(file_id)
        await batches.cancel(self.batch_id, "ann")
        [dispatch] = await self.batch(file_id)
        unit = await self.begin(dispatch.id)
        await batches.put_off(unit, "t3", 0)
        [recalled] = await self.store.jobs.recall("gpu", 1)
        await batches.give_up(await self.begin(dispatch.id, attempt=recalled.attempt), b"[]")
        await batches.give_up(await self.begin(phase_unit_id(unit.batch, "join"), "join"), b"[]")

    async def limits(self):
        limits = self.store.limits
        await limits.take_slot("cpu", 2, "a")
        await limits.renew_slots("cpu", ["a"])
        share = Share("gpu", 1, 2)
        await limits.take_share(share, 1.0, "b")
        await limits.return_share(share, "b", Load("busy", 5))
        await limits.admit("ann", 5, 5, 15)


async def test_every_script_runs_and_touches_no_key_that_it_did_not_declare(store, clock):
    story = Story(store, clock)
    await story.jobs()
    file_id = await story.file()
    await story.batch_to_its_end(file_id)
    await story.batches_that_do_not_get_there(file_id)
    await story.limits()
    await story.file_goes(file_id)
    assert store.connection.ran == set(SCRIPTS)
