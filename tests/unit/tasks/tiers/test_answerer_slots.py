"""Who waits for a slot, who no longer does, and that every slot comes back."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
from harness.records import begun_job
from harness.waiting import eventually, turns

from circuit_breaker import CircuitBreaker, CircuitBreakerConfig
from circuit_breaker.events import CallRejected
from fallback_chain import Verdict
from tasks.records.jobs import Options, Queue, Status
from tasks.records.outcomes import Finish, HandBack, HandOn
from tasks.tiers.slots import FleetSlots, LocalSlots


class Waiting:
    """A job that waits for the only slot, which somebody else has."""

    def __init__(self, bench, **fields) -> None:
        self._slots = bench.slots
        self._token = self._slots.try_acquire()
        self.answer = asyncio.create_task(bench.answer(begun_job(**fields)))

    async def lines_up(self):
        await turns()
        assert not self.answer.done()
        return self

    async def slot_comes(self):
        await self._slots.release(self._token)

    async def outcome_without_a_slot(self):
        outcome = await self.answer
        await self.slot_comes()
        return outcome


def verdicts(outcome):
    return [(attempt.tier, str(attempt.verdict)) for attempt in outcome.attempts]


async def test_a_job_that_waits_is_answered_when_its_slot_comes(bench):
    waiting = await Waiting(bench).lines_up()
    await waiting.slot_comes()
    assert (await waiting.answer).status is Status.SUCCEEDED


async def test_the_first_that_waits_is_called_first(bench):
    waiting = await Waiting(bench, id="job_1").lines_up()
    second = asyncio.create_task(bench.answer(begun_job(id="job_2")))
    await turns()
    bench.servers.mode = "slow"
    await waiting.slot_comes()
    await eventually(lambda: bench.servers.asked)
    await turns()
    assert len(bench.servers.asked) == 1
    bench.servers.go.set()
    assert {(await waiting.answer).status, (await second).status} == {Status.SUCCEEDED}


@pytest.mark.parametrize("mode", ["ok", "400", "500", "429", "401", "reset", "hang", "too-long"])
async def test_a_slot_comes_back_whatever_the_call_came_to(bench, mode):
    bench.servers.mode = mode
    for _ in range(2):
        await bench.answer(begun_job())
    assert bench.slots.taken == 0


async def test_a_slot_comes_back_from_a_call_that_is_cut_off(bench):
    bench.servers.mode = "slow"
    answer = asyncio.create_task(bench.answer(begun_job()))
    await eventually(lambda: bench.servers.asked)
    assert bench.slots.taken == 1
    answer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answer
    assert bench.slots.taken == 0


# Stopping


async def test_a_worker_that_stops_calls_nothing_more(bench):
    bench.drain.started = True
    assert await bench.answer(begun_job()) == HandBack()
    assert bench.servers.asked == []


async def test_a_worker_that_stops_lines_nobody_up(bench, monkeypatch):
    monkeypatch.setattr("tasks.tiers.answerer.LOOK_AGAIN_SECONDS", 60.0)
    bench.drain.started = True
    assert await Waiting(bench).outcome_without_a_slot() == HandBack()


async def test_a_worker_that_stops_has_those_that_wait_handed_back(bench):
    waiting = await Waiting(bench).lines_up()
    bench.drain.started = True
    assert await waiting.outcome_without_a_slot() == HandBack()


async def test_a_slot_that_comes_as_the_worker_stops_goes_back(bench):
    waiting = await Waiting(bench).lines_up()
    await waiting.slot_comes()
    bench.drain.started = True
    assert await waiting.answer == HandBack()
    assert bench.servers.asked == []


async def test_a_worker_that_stops_still_answers_from_the_cache(bench):
    bench.drain.started = True
    mine = begun_job(tier="cache")
    await bench.remember(mine)
    assert (await bench.answer(mine)).tier_used == "cache"


# Waiting in vain


async def test_a_breaker_that_opens_ends_the_waiting(bench):
    waiting = await Waiting(bench, failures=1).lines_up()
    await bench.fail("gpu")
    left = await waiting.outcome_without_a_slot()
    assert (verdicts(left), left.failures) == ([("gpu", "rejected")], 1)
    assert bench.observer.events == [("tried", "gpu", Verdict.REJECTED)]


async def test_a_refusal_without_a_call_is_counted_as_the_breakers(make_bench):
    bench, heard = make_bench(tiers=("gpu",)), []
    breaker = CircuitBreaker("gpu", CircuitBreakerConfig(), on_event=heard.append)
    bench.models["gpu"].breaker = bench.breakers["gpu"] = breaker
    await bench.fail("gpu")
    heard.clear()
    await bench.answer(begun_job())
    assert heard == [CallRejected("gpu", "open")]


async def test_no_slot_in_time_at_the_cpu_sends_a_job_on(make_bench):
    bench = make_bench(cpu_wait_seconds=0.0)
    waiting = await Waiting(bench, tier="cpu", failures=1).lines_up()
    left = await waiting.outcome_without_a_slot()
    assert isinstance(left, HandOn)
    assert (verdicts(left), left.failures) == ([("cpu", "no_permit")], 1)
    assert bench.observer.events == [("tried", "cpu", Verdict.NO_PERMIT)]


@pytest.mark.parametrize(("tier", "tiers"), [("gpu", ("gpu", "cpu")), ("cpu", ("cpu",))])
async def test_where_no_faster_tier_is_a_job_waits_on(make_bench, tier, tiers):
    bench = make_bench(tiers=tiers, cpu_wait_seconds=0.0)
    waiting = await Waiting(bench, tier=tier).lines_up()
    looks, refusal = [], bench.breakers[tier].refusal
    bench.breakers[tier].refusal = lambda: looks.append(1) or refusal()
    await eventually(lambda: len(looks) > 3)
    assert not waiting.answer.done()
    await waiting.slot_comes()
    assert (await waiting.answer).status is Status.SUCCEEDED


@pytest.mark.parametrize("wait", [0.02, 60.0])
async def test_a_deadline_that_comes_while_it_waits_ends_a_job(make_bench, wait):
    bench = make_bench(cpu_wait_seconds=wait)
    soon = {"deadline": time.monotonic() + 0.01, "options": Options(on_exhausted="fail")}
    waiting = await Waiting(bench, tier="cpu", **soon).lines_up()
    finish = await waiting.outcome_without_a_slot()
    assert finish == Finish(status=Status.EXPIRED, attempts=())
    assert bench.observer.events == []


async def test_how_long_a_job_waited_in_vain_is_told(make_bench, monkeypatch):
    bench, times = make_bench(cpu_wait_seconds=3.0), [0.0]
    clock = SimpleNamespace(monotonic=lambda: times[0])
    monkeypatch.setattr("tasks.tiers.answerer.time", clock)
    waiting = await Waiting(bench, tier="cpu", deadline=60.0).lines_up()
    times[0] = 2.9
    await turns(20)
    assert not waiting.answer.done()
    times[0] = 3.5
    left = await waiting.outcome_without_a_slot()
    assert left.attempts[0].milliseconds == 3500


async def test_one_look_is_for_all_that_wait_and_ends_with_them(bench):
    waiting = await Waiting(bench).lines_up()
    looking = bench.answerer._looking
    others = [asyncio.create_task(bench.answer(begun_job())) for _ in range(3)]
    await turns()
    assert bench.answerer._looking is looking
    await bench.fail("gpu")
    outcomes = [await waiting.outcome_without_a_slot(), *[await other for other in others]]
    assert [verdicts(left) for left in outcomes] == [[("gpu", "rejected")]] * 4
    await eventually(looking.done)
    assert bench.answerer._looking is None


async def test_who_waits_later_is_looked_after_too(bench):
    for _ in range(2):
        waiting = await Waiting(bench).lines_up()
        bench.drain.started = True
        assert await waiting.outcome_without_a_slot() == HandBack()
        await eventually(lambda: bench.answerer._looking is None)
        bench.drain.started = False


# Cancelled


async def test_who_is_cancelled_leaves_the_line(bench):
    waiting = await Waiting(bench).lines_up()
    waiting.answer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting.answer
    await waiting.slot_comes()
    assert bench.slots.taken == 0
    assert bench.answerer._waiting == {}


async def test_a_slot_that_comes_in_the_moment_of_the_cancel_goes_back(bench):
    waiting = await Waiting(bench).lines_up()
    await waiting.slot_comes()
    assert bench.slots.taken == 1
    waiting.answer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting.answer
    assert (bench.slots.taken, bench.servers.asked) == (0, [])


async def test_a_cancel_in_the_moment_of_giving_up_gives_nothing_back(bench):
    waiting = await Waiting(bench).lines_up()
    [turn] = bench.answerer._waiting
    turn.set_result(None)
    waiting.answer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting.answer
    assert bench.slots.taken == 1
    await waiting.slot_comes()


@pytest.mark.parametrize("answered", [True, False])
async def test_a_slot_of_the_fleet_goes_back_in_the_moment_of_the_cancel(
    make_bench, limits, answered
):
    limits.open.clear()
    bench = make_bench(slots=FleetSlots(limits, "gpu", 1))
    answer = asyncio.create_task(bench.answer(begun_job()))
    await eventually(lambda: limits.held)
    if answered:
        limits.open.set()
    answer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answer
    limits.open.set()
    await eventually(lambda: not limits.held)
    assert bench.slots.taken == 0


async def test_jobs_of_a_batch_wait_behind_lone_ones(make_bench):
    slots = LocalSlots(1)
    bench = make_bench(slots=slots)
    bulk = make_bench(slots=slots.batch_lane)
    waiting = await Waiting(bulk).lines_up()
    lone = asyncio.create_task(bench.answer(begun_job()))
    await turns()
    bench.servers.mode = "slow"
    await waiting.slot_comes()
    await eventually(lambda: bench.servers.asked)
    assert bulk.servers.asked == []
    bench.servers.go.set()
    assert (await lone).status is (await waiting.answer).status is Status.SUCCEEDED


async def test_who_is_cut_off_as_his_slot_goes_back_keeps_his_answer(make_bench):
    released, go_on = asyncio.Event(), asyncio.Event()
    slots = LocalSlots(1)
    release = slots.release

    async def give_back(token):
        released.set()
        await go_on.wait()
        await release(token)

    async def slow(token, attempt=None):
        await asyncio.shield(give_back(token))

    slots.release = slow
    bench = make_bench(slots=slots)
    asking = asyncio.create_task(bench.answer(begun_job(tier="gpu")))
    await released.wait()
    asking.cancel()
    assert (await asking).status is Status.SUCCEEDED
    go_on.set()
    await eventually(lambda: slots.taken == 0)


# Room for what a call takes is waited for as a slot is


@pytest.mark.parametrize(
    ("tier", "tiers", "seconds"),
    [
        ("gpu", ("gpu", "cpu"), 9.0),
        ("cpu", ("gpu", "cpu"), 3.0),
        ("cpu", ("cpu",), 9.0),
        ("cache", ("gpu", "cpu"), 10.0),
    ],
)
def test_room_is_waited_for_as_long_as_a_slot_is(make_bench, tier, tiers, seconds):
    bench, now = make_bench(tiers=tiers, cpu_wait_seconds=3.0), time.monotonic()
    job = begun_job(tier=tier, created=now, deadline=now + 10)
    assert bench.answerer.worth_until(job) == pytest.approx(now + seconds, abs=0.5)


def test_what_finds_no_room_goes_on(bench):
    left = bench.answerer.no_room(begun_job(tier="gpu"), time.monotonic())
    assert isinstance(left, HandOn)
    assert (verdicts(left), left.failures) == ([("gpu", "no_permit")], 0)


def test_what_finds_no_room_at_the_last_tier_has_expired(bench):
    finish = bench.answerer.no_room(begun_job(tier="cache"), time.monotonic())
    assert finish == Finish(status=Status.EXPIRED, attempts=())


def test_what_finds_no_room_as_the_worker_stops_is_handed_back(bench):
    bench.drain.started = True
    assert bench.answerer.no_room(begun_job(), time.monotonic()) == HandBack()


# While a tier takes a share of calls after an outage


@pytest.fixture
async def ramping(make_bench):
    """A bench of ten slots whose GPU takes half of the calls; whoever asks its breaker gets one."""
    bench = make_bench(slots=LocalSlots(10), breaker_ramp_seconds=90)
    await bench.fail("gpu")
    await bench.close("gpu")
    bench.now_ms += 40_000
    assert bench.models["gpu"].share == pytest.approx(0.5)
    return bench


@asynccontextmanager
async def others(bench, number):
    """Have so many slots taken by others."""
    tokens = [bench.slots.try_acquire() for _ in range(number)]
    yield
    for token in tokens:
        await bench.slots.release(token)


async def test_lines_of_batches_have_a_ramping_tiers_share_of_its_slots_and_no_more(ramping):
    line = begun_job(queue=Queue.BATCH)
    async with others(ramping, 4):
        assert (await ramping.answer(line)).tier_used == "gpu"
    asked = len(ramping.servers.asked)
    async with others(ramping, 6):
        refused = await ramping.answer(line)
    assert (refused.attempts[-1].verdict, refused.attempts[-1].detail) == ("rejected", "ramping")
    assert len(ramping.servers.asked) == asked
    assert ramping.answerer.waits(begun_job(options=Options(on_exhausted="wait")), refused)


async def test_lone_calls_have_what_its_breaker_lets_through(ramping):
    async with others(ramping, 9):
        assert (await ramping.answer(begun_job())).tier_used == "gpu"


async def test_a_probe_is_no_share_of_anything(make_bench):
    bench = make_bench(slots=LocalSlots(10), breaker_ramp_seconds=90)
    await bench.fail("gpu")
    bench.now_ms += 12_000
    async with others(bench, 9):
        assert (await bench.answer(begun_job(queue=Queue.BATCH))).tier_used == "gpu"
