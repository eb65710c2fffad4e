"""The table of a job's transitions against the scripts: whatever is done, in whatever order."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from harness.amounts import WALKS
from harness.records import ORDER, begun_job
from harness.stores import Clock, store_on
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from hypothesis.stateful import run_state_machine_as_test as run

from fallback_chain import Attempt, Body, Verdict
from tasks.records.jobs import TRANSITIONS, Options, Queue, Ref, Status, Submission, new_job_id
from tasks.records.outcomes import Finish, HandOn, Park
from tasks.store import keyspace

LEASE, GRACE = 1.0, 2.0
MOST = 3  # jobs at once: each is to have many things done to it
OWN = "own"  # what the record says: most of what is asked fits it
TIERS = st.sampled_from([OWN, OWN, OWN, "gpu", "cpu"])
WORKERS = st.sampled_from([OWN, OWN, "w1", "w2"])
TOKENS = st.sampled_from(["t1", "t2"])
OLDER = st.sampled_from([0, 0, 0, 0, 1, -1])  # how far behind the record a message is
ENDS = st.sampled_from([Status.SUCCEEDED, Status.FAILED, Status.EXPIRED])
TARGETS = {}  # (from, script) -> the statuses that the table lets it reach
for _source, _target, _script, _ in TRANSITIONS:
    TARGETS.setdefault((_source, _script), set()).add(_target)


@dataclass
class Job:
    """What the model knows of a job; times in ms."""

    id: str
    deadline: int
    bytes: int = 0
    status: Status | None = Status.QUEUED
    tier: str = "gpu"
    queue: Queue = Queue.INTERACTIVE
    attempt: int = 0
    lease_owner: str = ""
    lease_end: int = 0
    dispatched: int = 0
    grace: int = int(GRACE * 1000)
    look: int | None = None  # when the sweeper looks whether it has begun
    due: int | None = None  # parked until then
    moved_by: str = ""
    verdicts: list[str] = field(default_factory=list)

    @property
    def open(self) -> bool:
        return self.status in {Status.QUEUED, Status.RUNNING}

    def dispatch(self, now, queue, tier=None, grace=None):
        self.queue = queue
        self.status, self.attempt = Status.QUEUED, self.attempt + 1
        self.tier = tier or self.tier
        self.grace = grace or int(GRACE * 1000)
        self.dispatched, self.look, self.due = now, now + self.grace, None
        self.lease_owner = ""

    def end(self, status):
        self.status, self.look, self.due, self.lease_owner = status, None, None, ""


class Jobs(RuleBasedStateMachine):
    """Drives the scripts, and a model of what the table says that they do."""

    url = ""
    seen: set

    jobs = Bundle("jobs")

    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.store = store_on(
            self.url,
            self.clock,
            lease_seconds=LEASE,
            dispatch_grace_seconds=GRACE,
            max_queued_jobs=MOST,  # what has ended must not keep a place
            key_queued_jobs=MOST,
        )
        self.wait(self.store.connection.client.flushall())
        self.model: dict[str, Job] = {}
        self.latest_begun = dict.fromkeys(Queue, 0)

    def teardown(self):
        self.wait(self.store.close())
        self.loop.close()

    def wait(self, work):
        return self.loop.run_until_complete(work)

    def moved(self, job, script, before, after):
        """Note that the model went from one status to another, as the table allows."""
        assert after in TARGETS[before, script], f"{script}: {before} -> {after} is in no row"
        self.seen.add((before, after, script))

    def asked(self, job_id, worker, tier, older=0):
        """Return the job, and what somebody holds, or thinks that he holds, of it."""
        job = self.model[job_id]
        mine = begun_job(
            id=job_id,
            lease_owner=(job.lease_owner or "w1") if worker == OWN else worker,
            tier=job.tier if tier == OWN else tier,
            attempt=job.attempt - older,
        )
        return job, mine

    # What clients, workers and time do

    @initialize(target=jobs)
    def create_the_first(self):
        return self.create(1000)

    @precondition(lambda self: sum(job.open for job in self.model.values()) < MOST)
    @rule(target=jobs, deadline=st.sampled_from([4, 1000]))
    def create(self, deadline):
        job_id = new_job_id()
        submission = _submission(job_id, deadline)
        self.wait(self.store.jobs.create([submission], ORDER))
        job = self.model[job_id] = Job(job_id, self.clock.ms + deadline * 1000)
        job.bytes = len(submission.body.content)
        job.dispatched, job.look = self.clock.ms, self.clock.ms + job.grace
        self.moved(job, "create_jobs", None, Status.QUEUED)
        return job_id

    @rule(job_id=jobs, worker=WORKERS, tier=TIERS, older=OLDER)
    def begin(self, job_id, worker, tier, older):
        job, mine = self.asked(job_id, worker, tier, older)
        ref = Ref(job_id, mine.attempt)
        found = self.wait(self.store.jobs.begin(mine.lease_owner, mine.tier, [ref]))
        again = job.status is Status.RUNNING and job.lease_owner == mine.lease_owner
        fits = (job.status is Status.QUEUED or again) and not older and job.tier == mine.tier
        if fits and job.deadline <= self.clock.ms:
            self.moved(job, "begin_jobs", job.status, Status.EXPIRED)
            job.end(Status.EXPIRED)
            assert not found
        elif fits:
            self.moved(job, "begin_jobs", job.status, Status.RUNNING)
            job.status, job.lease_owner, job.look = Status.RUNNING, mine.lease_owner, None
            job.lease_end = self.clock.ms + int(LEASE * 1000)
            self.latest_begun[job.queue] = max(self.latest_begun[job.queue], job.dispatched)
            assert (found[0].queue, found[0].first) == (Queue.INTERACTIVE, job.queue.is_begun)
            assert [a.verdict for a in found[0].attempts] == job.verdicts
        else:
            assert not found

    @rule(number=st.integers(0, 20), what=st.sampled_from(["finish", "on", "park", "lose"]))
    def work_on(self, number, what):
        """Do with an open job what an honest worker does: most of what happens is that."""
        open_jobs = [job for job in self.model.values() if job.open]
        if not open_jobs:
            return
        job = open_jobs[number % len(open_jobs)]
        if job.status is Status.QUEUED:
            self.begin(job.id, "w1", OWN, 0)
        elif what == "finish":
            self.finish(job.id, OWN, OWN, 0, [Status.SUCCEEDED, Status.FAILED][number % 2])
        elif what == "on":
            self.hand_on(job.id, OWN, OWN, 0, f"t{number}", "cpu")
        elif what == "park":
            self.park(job.id, OWN, OWN, f"t{number}", 0.5)
        else:
            self.advance(LEASE)
            self.sweep(none_left=False)

    @rule(job_id=jobs, worker=WORKERS)
    def renew(self, job_id, worker):
        job, mine = self.asked(job_id, worker, OWN)
        lost = self.wait(self.store.jobs.renew([(job_id, mine.lease_owner)]))
        if job.status is Status.RUNNING and job.lease_owner == mine.lease_owner:
            job.lease_end = self.clock.ms + int(LEASE * 1000)
            assert not lost
        else:
            assert lost == [job_id]

    @rule(
        job_id=jobs,
        worker=WORKERS,
        tier=TIERS,
        older=OLDER,
        token=TOKENS,
        to=st.sampled_from(["gpu", "cpu", "cache"]),
    )
    def hand_on(self, job_id, worker, tier, older, token, to):  # noqa: PLR0913, PLR0917
        job, mine = self.asked(job_id, worker, tier, older)
        attempts = (Attempt(mine.tier, Verdict.FAILURE, 1.0),)
        moving = self.store.jobs.hand_on([mine], to, token, [HandOn(attempts, 1)])
        self.check_move(job, mine, token, self.wait(moving), to, [a.verdict for a in attempts])

    @rule(job_id=jobs, worker=WORKERS, tier=TIERS, token=TOKENS, due=st.sampled_from([0.5, 3]))
    def park(self, job_id, worker, tier, token, due):
        job, mine = self.asked(job_id, worker, tier)
        fits = self.is_held(job, mine)
        self.wait(self.store.jobs.park(mine, "gpu", token, Park((), 1, due)))
        if fits:
            self.check_move(job, mine, token, [Ref(job_id, job.attempt + 1)], "gpu", [])
            job.look, job.due = None, self.clock.ms + int(due * 1000)
            job.queue = Queue.INTERACTIVE

    @staticmethod
    def is_held(job, mine):
        held = job.status is Status.RUNNING and job.lease_owner == mine.lease_owner
        return held and (job.tier, job.attempt) == (mine.tier, mine.attempt)

    def check_move(self, job, mine, token, refs, to, verdicts):  # noqa: PLR0913, PLR0917
        again = job.status is Status.QUEUED and job.moved_by == token
        if self.is_held(job, mine):
            self.moved(job, "move_jobs", Status.RUNNING, Status.QUEUED)
            job.dispatch(self.clock.ms, Queue.INTERACTIVE_BEGUN, to)
            job.moved_by, job.verdicts = token, verdicts
        elif again and job.attempt == mine.attempt + 1:
            self.moved(job, "move_jobs", Status.QUEUED, Status.QUEUED)
            job.verdicts = verdicts
        else:
            assert refs == []
            return
        assert refs == [Ref(job.id, job.attempt)]

    @rule(job_id=jobs, worker=WORKERS, tier=TIERS, older=OLDER, status=ENDS)
    def finish(self, job_id, worker, tier, older, status):
        job, mine = self.asked(job_id, worker, tier, older)
        won = self.wait(self.store.jobs.finish(mine, Finish(status=status, attempts=())))
        # Whoever holds the lease: a result is a result.
        assert won == (job.status is Status.RUNNING and job.tier == mine.tier and not older)
        if won:
            self.moved(job, "finish_job", Status.RUNNING, status)
            job.end(status)

    @rule(job_id=jobs, owner=st.sampled_from(["bob", "bob", "bob", "ann"]))
    def cancel(self, job_id, owner):
        job = self.model[job_id]
        known = self.wait(self.store.jobs.cancel(job_id, owner))
        assert known == (owner == "ann" and job.status is not None)
        if known and job.open:
            self.moved(job, "cancel_job", job.status, Status.CANCELLED)
            job.end(Status.CANCELLED)

    @rule(job_id=jobs, seldom=st.sampled_from([False, False, False, True]))
    def discard(self, job_id, *, seldom):
        job = self.model[job_id]
        if not seldom:
            return
        stayed = self.wait(self.store.jobs.discard("ann", [job_id]))
        if job.status is Status.QUEUED and job.attempt == 0:
            self.moved(job, "discard_jobs", Status.QUEUED, None)
            job.end(None)
        assert stayed == (job.status is not None)

    @rule(seconds=st.sampled_from([0.1, 0.9, 1, 2]))
    def advance(self, seconds):
        self.clock.advance(seconds)

    @rule(none_left=st.booleans())
    def sweep(self, none_left):
        self.wait(self.store.connection.command("DEL", keyspace.SWEEPER))
        empty = {"interactive": none_left, "interactive.begun": none_left}
        found = self.wait(self.store.jobs.sweep(empty))
        expected = {job.id: self.sweep_one(job, none_left) for job in self.model.values()}
        reasons = {each.dispatch.id: each.reason for each in found}
        assert reasons == {job_id: reason for job_id, reason in expected.items() if reason}
        for each in found:
            job = self.model[each.dispatch.id]
            assert each.dispatch == (job.id, job.attempt, job.tier, job.queue.value)

    @rule(tier=st.sampled_from(["gpu", "gpu", "cpu"]), most=st.sampled_from([1, 1000]))
    def recall(self, tier, most):
        found = {each.id: each for each in self.wait(self.store.jobs.recall(tier, most))}
        waits = [job for job in self.model.values() if job.due and job.status is Status.QUEUED]
        parked = [job for job in waits if job.tier == tier]
        soonest = sorted(parked, key=lambda job: (job.due, job.id))[:most]
        assert set(found) == {job.id for job in soonest}
        for job in soonest:
            self.moved(job, "recall", Status.QUEUED, Status.QUEUED)
            job.dispatch(self.clock.ms, Queue.INTERACTIVE_BEGUN)
            assert found[job.id] == (job.id, job.attempt, tier, job.queue.value)

    def sweep_one(self, job, none_left):
        now = self.clock.ms
        if not job.open:
            return None
        if job.deadline <= now:
            self.moved(job, "sweep", job.status, Status.EXPIRED)
            job.end(Status.EXPIRED)
            return None
        reason, grace, queue = None, None, job.queue
        if job.status is Status.RUNNING and job.lease_end <= now:
            reason, queue = "lease", Queue.INTERACTIVE_BEGUN
            job.verdicts = [*job.verdicts, Verdict.LOST]
        elif job.due is not None and job.due <= now:
            reason = "parked"
        elif job.look is not None and job.look <= now:
            if none_left or job.dispatched < self.latest_begun[queue]:
                reason, grace = "unbegun", min(job.grace * 2, 30_000)
                queue = Queue.INTERACTIVE_BEGUN
            else:  # a backlog is no loss
                job.look = now + job.grace
        if reason:
            self.moved(job, "sweep", job.status, Status.QUEUED)
            job.dispatch(now, queue, grace=grace)
        return reason

    # What is so after each step

    @invariant()
    def the_records_are_as_the_model_says(self):
        for job, record in self.wait(self.records()):
            if job.status is None:
                assert record is None
                continue
            seen = (record.status, record.tier, record.attempt)
            assert seen == (job.status, job.tier, job.attempt)

    async def records(self):
        jobs = list(self.model.values())
        found = await asyncio.gather(*(self.store.jobs.get(job.id, "ann") for job in jobs))
        return zip(jobs, found, strict=True)

    @invariant()
    def every_job_is_where_its_status_puts_it(self):
        indexes = {
            keyspace.DEADLINES: lambda job: job.open,
            keyspace.queued("ann"): lambda job: job.open,
            keyspace.LEASES: lambda job: job.status is Status.RUNNING,
            keyspace.PARKED: lambda job: job.due is not None,
            "dispatched:interactive": lambda job: job.look is not None and not job.queue.is_begun,
            "dispatched:interactive.begun": lambda job: job.look is not None and job.queue.is_begun,
        }
        pipeline = self.store.connection.client.pipeline(transaction=False)
        for name in indexes:
            pipeline.execute_command("ZRANGE", "{ft}:" + name, 0, -1)
        for (name, belongs), ids in zip(
            indexes.items(), self.wait(pipeline.execute()), strict=True
        ):
            expected = {job.id for job in self.model.values() if belongs(job)}
            assert {job_id.decode() for job_id in ids} == expected, name

    @invariant()
    def the_bytes_of_what_is_open_are_counted(self):
        tally = self.wait(self.store.connection.command("HGETALL", keyspace.QUEUED_BYTES))
        bodies = sum(job.bytes for job in self.model.values() if job.open)
        assert tally == (dict.fromkeys([b"", b"ann"], b"%d" % bodies) if bodies else {})


def _submission(job_id, deadline):
    body = {"messages": [], "seed": deadline}
    return Submission(job_id, "ann", Queue.INTERACTIVE, Body.of(body), Options(), deadline)


@pytest.fixture
def machine(valkey):
    """A class: Hypothesis makes an instance for each example."""
    return type("JobsHere", (Jobs,), {"url": valkey.url, "seen": set()})


@pytest.mark.timeout(300 * WALKS)
def test_whatever_is_done_only_what_is_in_the_table_happens(machine):
    run(
        machine,
        settings=settings(
            max_examples=30 * WALKS,
            stateful_step_count=50,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
    missed = {script for _, _, script, _ in TRANSITIONS} - {script for *_, script in machine.seen}
    assert len(missed) <= 1, missed


# What makes each row of the table happen: rules, and their arguments besides the job.
BEGUN = ("begin", {"worker": "w1", "tier": OWN, "older": 0})
MINE = {"worker": OWN, "tier": OWN}
HANDED_ON = ("hand_on", {**MINE, "older": 0, "token": "t1", "to": "cpu"})
LATE = ("advance", {"seconds": 2000})
SWEPT = ("sweep", {"none_left": True})
CANCELLED = ("cancel", {"owner": "ann"})
STORIES = {
    (None, "queued", "create_jobs"): [],
    ("queued", None, "discard_jobs"): [("discard", {"seldom": True})],
    ("queued", "running", "begin_jobs"): [BEGUN],
    ("running", "running", "begin_jobs"): [BEGUN, BEGUN],
    ("queued", "expired", "begin_jobs"): [LATE, BEGUN],
    ("running", "expired", "begin_jobs"): [BEGUN, LATE, BEGUN],
    ("running", "queued", "move_jobs"): [BEGUN, HANDED_ON],
    ("queued", "queued", "move_jobs"): [
        BEGUN,
        HANDED_ON,
        ("hand_on", {"worker": "w1", "tier": "gpu", "older": 1, "token": "t1", "to": "cpu"}),
    ],
    ("queued", "cancelled", "cancel_job"): [CANCELLED],
    ("running", "cancelled", "cancel_job"): [BEGUN, CANCELLED],
    ("running", "queued", "sweep"): [BEGUN, ("advance", {"seconds": 1}), SWEPT],
    ("queued", "queued", "sweep"): [("advance", {"seconds": 2}), SWEPT],
    ("queued", "queued", "recall"): [
        BEGUN,
        ("park", {**MINE, "token": "t1", "due": 3}),
        ("recall", {"tier": "gpu", "most": 1}),
    ],
    ("queued", "expired", "sweep"): [LATE, SWEPT],
    ("running", "expired", "sweep"): [BEGUN, LATE, SWEPT],
    **{
        ("running", status, "finish_job"): [
            BEGUN,
            ("finish", {**MINE, "older": 0, "status": status}),
        ]
        for status in (Status.SUCCEEDED, Status.FAILED, Status.EXPIRED)
    },
}


@pytest.mark.parametrize("row", TRANSITIONS, ids=lambda row: f"{row[0]}-{row[1]}-{row[2]}")
def test_every_row_of_the_table_happens(machine, row):
    story, jobs = STORIES[row[:3]], machine()
    job_id = jobs.create(deadline=1000)
    for step, arguments in story:
        about = {} if step in {"advance", "sweep", "recall"} else {"job_id": job_id}
        getattr(jobs, step)(**about, **arguments)
        jobs.the_records_are_as_the_model_says()
        jobs.every_job_is_where_its_status_puts_it()
    assert row[:3] in machine.seen
    jobs.teardown()
