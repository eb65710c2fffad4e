"""What a job's end leaves in its record, and which creates share a script."""

from __future__ import annotations

import asyncio

import pytest
from harness.records import ORDER
from harness.waiting import turns

from fallback_chain import Attempt, Body, Verdict
from tasks.errors import TooManyQueued
from tasks.records.idempotency import IdempotencyKey
from tasks.records.jobs import Options, Queue, Status, Submission
from tasks.records.outcomes import Finish
from tasks.settings import Settings
from tasks.store.fields import Fields
from tasks.store.jobs import JobStore, _record, _result

TRIED = (Attempt("gpu", Verdict.FAILURE, 1.0),)
KEYS = [IdempotencyKey("name", "d" * 32, lookup=True)]


def read_back(finish: Finish):
    """Return a record with the fields that a finish leaves, as Redis would give them."""
    texts = [text if isinstance(text, bytes) else str(text).encode() for text in _result(finish)]
    names = [b"id", b"owner", b"queue", b"tier", b"status"]
    values = [b"job_1", b"ann", b"batch", b"gpu", finish.status.value.encode()]
    fields = dict(zip(names, values, strict=True))
    return _record(Fields(fields | dict(zip(texts[::2], texts[1::2], strict=True))))


@pytest.mark.parametrize(
    ("finish", "fields"),
    [
        (
            Finish(
                status=Status.SUCCEEDED, attempts=TRIED, tier_used="gpu", answer=b"{}", model="m"
            ),
            {"tier_used": "gpu", "answer": b"{}", "model": "m"},
        ),
        (
            Finish(
                status=Status.SUCCEEDED,
                attempts=TRIED,
                tier_used="cache",
                answer=b"{}",
                cache_age_seconds=1.5,
            ),
            {"tier_used": "cache", "answer": b"{}", "cache_age_seconds": 1.5},
        ),
        (
            Finish(status=Status.FAILED, attempts=TRIED, error={"code": "x"}, error_status=400),
            {"error": {"code": "x"}, "error_status": 400},
        ),
        (
            Finish(status=Status.FAILED, attempts=TRIED, error={"code": "x"}),
            {"error": {"code": "x"}, "error_status": 503},
        ),
        (Finish(status=Status.EXPIRED, attempts=TRIED), {}),
    ],
)
def test_a_job_that_has_ended_reads_as_it_ended(finish, fields):
    record = read_back(finish)
    assert record.status is finish.status
    assert record.attempts == [{"tier": "gpu", "verdict": "failure", "milliseconds": 1.0}]
    usual = dict.fromkeys(
        ("tier_used", "answer", "model", "cache_age_seconds", "error", "error_status")
    )
    found = {name: getattr(record, name) for name in usual}
    if found["answer"] is not None:
        found["answer"] = bytes(found["answer"])
    assert found == usual | fields


def test_a_record_of_which_little_is_known_has_its_defaults():
    record = _record(Fields({b"id": b"job_1"}))
    assert (record.status, record.attempt, record.created_at) == (Status.QUEUED, 0, 0.0)
    assert (record.attempts, record.metadata, record.started_at) == ([], {}, None)


def test_the_model_that_answered_is_told_before_the_one_that_was_asked_for():
    fields = {b"id": b"job_1", b"model": b"asked"}
    assert _record(Fields(fields)).model == "asked"
    assert _record(Fields({**fields, b"answer_model": b"found"})).model == "found"


class FakeConnection:
    """Notes which keys a script was given; answers a create. full: who gets no more."""

    def __init__(self) -> None:
        self.scripts: list[tuple[str, list[str]]] = []
        self.full: dict[str, bytes] = {}

    async def run(self, script, keys, *args, beside=()):
        assert bool(args[9]) == bool(beside), "a letter, and the queues where it may lie"
        named = [key for key in keys if key.startswith("job:")]
        self.scripts.append((script, named))
        await asyncio.sleep(0)
        together, _, _, _, number_of_keys = args[7:12]
        limits = [self.full.get(key, b"") for key in (named[:1] if together else named)]
        queues = [b"interactive"] * len(limits)
        return 1_500, b"job_8 job_9" if number_of_keys else b"", limits, queues


@pytest.fixture
def connection():
    return FakeConnection()


@pytest.fixture
async def jobs(connection):
    return JobStore(connection, Settings(max_queued_jobs=7, key_queued_jobs=5))


def job(number):
    return Submission(f"job_{number}", "ann", Queue.INTERACTIVE, Body.of({}), Options(), 60.0)


async def test_lone_creates_at_once_share_a_script(jobs, connection):
    creates = [asyncio.create_task(jobs.create([job(n)], ORDER)) for n in range(3)]
    await turns()
    assert await asyncio.gather(*creates) == [(1.5, None, "interactive")] * 3
    assert connection.scripts == [("create_jobs", ["job:job_0", "job:job_1", "job:job_2"])]


async def test_of_lone_creates_at_once_only_those_over_a_limit_are_refused(jobs, connection):
    connection.full = {"job:job_1": b"owner", "job:job_2": b"all"}
    creates = [asyncio.create_task(jobs.create([job(n)], ORDER)) for n in range(3)]
    created, *refused = await asyncio.gather(*creates, return_exceptions=True)
    assert created == (1.5, None, "interactive")
    assert [type(error) for error in refused] == [TooManyQueued, TooManyQueued]
    assert "this key's owner may have 5 unfinished jobs" in str(refused[0])
    assert "the service takes 7 unfinished jobs" in str(refused[1])


async def test_creates_that_belong_together_are_refused_together(jobs, connection):
    connection.full = {"job:job_1": b"owner"}
    with pytest.raises(TooManyQueued):
        await jobs.create([job(1), job(2)], ORDER)


@pytest.mark.parametrize(
    ("submitted", "keys", "earlier"),
    [([1, 2], (), None), ([1], KEYS, ["job_8", "job_9"]), ([1, 2], KEYS, ["job_8", "job_9"])],
)
async def test_creates_that_belong_together_or_have_a_key_have_a_script_of_their_own(
    jobs, connection, submitted, keys, earlier
):
    others = asyncio.create_task(jobs.create([job(0)], ORDER))
    created = await jobs.create([job(n) for n in submitted], ORDER, keys)
    assert created == (1.5, earlier, "interactive")
    await others
    assert ("create_jobs", [f"job:job_{n}" for n in submitted]) in connection.scripts


class Letter:
    """One that notes how often its text was asked for."""

    def __init__(self):
        self.queue, self.asked = "", 0

    def around(self):
        self.asked += 1
        return "{", "}"


@pytest.mark.parametrize(
    ("others", "limit", "lies"), [(0, b"", "interactive"), (0, b"owner", ""), (2, b"", "")]
)
async def test_a_letter_goes_with_a_job_that_is_recorded_by_itself(
    jobs, connection, others, limit, lies
):
    letter = Letter()
    connection.full = {"job:job_0": limit}
    creating = [asyncio.create_task(jobs.create([job(0)], ORDER, (), letter))]
    creating += [asyncio.create_task(jobs.create([job(n + 1)], ORDER)) for n in range(others)]
    await asyncio.gather(*creating, return_exceptions=True)
    assert (letter.queue, letter.asked) == (lies, not others)
