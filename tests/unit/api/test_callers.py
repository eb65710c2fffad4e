"""What is done with the job of a caller who went away."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from harness.waiting import eventually, turns

from api.callers import Caller, Callers
from tasks.errors import StoreUnavailable
from tasks.records.idempotency import IdempotencyKey

OWN = IdempotencyKey("key", "d" * 32, lookup=True)
UNCHOSEN = IdempotencyKey("body", "d" * 32, lookup=False, own=False, once=True)


class FakeJobs:
    """Says whether nobody else waits."""

    def __init__(self):
        self.moves, self.alone, self.away = [], True, False

    async def leave(self, *left):
        if self.away:
            raise StoreUnavailable
        self.moves.append(("leave", *left))
        return self.alone

    async def cancel(self, job_id, owner, *, unless_told):
        self.moves.append(("cancel", job_id, owner, unless_told))


@pytest.fixture
def jobs():
    return FakeJobs()


@pytest.fixture
async def callers(jobs):
    callers = Callers(SimpleNamespace(jobs=jobs))
    yield callers
    await callers.stop()


async def test_who_cannot_come_back_has_his_job_cancelled_at_once(callers, jobs):
    callers.leave(Caller("job_1", "ann", []))
    await eventually(lambda: len(jobs.moves) == 2)
    assert jobs.moves == [("leave", "job_1", "ann", []), ("cancel", "job_1", "ann", True)]


@pytest.mark.parametrize(("keys", "left"), [([UNCHOSEN], [UNCHOSEN]), ([OWN], [])])
async def test_who_may_come_back_has_the_time_to(callers, jobs, keys, left):
    callers.leave(Caller("job_1", "ann", keys))
    await turns(20)
    assert jobs.moves == [("leave", "job_1", "ann", left)]
    callers.leave(Caller("job_2", "ann", keys, back_seconds=0.01))
    await eventually(lambda: len(jobs.moves) == 3)
    assert jobs.moves[-1] == ("cancel", "job_2", "ann", True)


async def test_for_whom_others_wait_nothing_is_cancelled(callers, jobs):
    jobs.alone = False
    callers.leave(Caller("job_1", "ann", []))
    await turns(20)
    assert jobs.moves == [("leave", "job_1", "ann", [])]


async def test_a_store_that_is_away_leaves_it_to_the_deadline(callers, jobs, caplog):
    jobs.away = True
    callers.leave(Caller("job_1", "ann", []))
    await turns(20)
    assert jobs.moves == []
    assert caplog.text == ""
