"""What a try at a tier comes to for its job: by the tier, and by what the job asked for."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from typing import get_args

import pytest
from harness.records import begun_job
from harness.waiting import eventually

from circuit_breaker import CircuitBreaker, CircuitBreakerConfig, Outcome
from fallback_chain import Attempt, Tokens, Trial, Verdict
from tasks.records.jobs import Options, Status
from tasks.records.losses import lost
from tasks.records.outcomes import Finish, HandOn, HandUp, Park
from tasks.records.policies import CachePolicy, ExhaustedPolicy
from tasks.settings import TierSettings
from tasks.tiers.answerer import PARK_SECONDS, POISON_FAILURES
from tasks.tiers.gate import Word
from tasks.tiers.slots import LocalSlots

BEFORE = Attempt("gpu", Verdict.FAILURE, 1.0)
WORDS = {"message": "too long", "type": "x", "param": None, "code": "context_length_exceeded"}


def job(tier="gpu", cache="fallback", on_exhausted="degraded", **fields):
    return begun_job(tier=tier, options=Options(cache, on_exhausted), **fields)


def at_cache(on_exhausted="degraded", cache="off", attempts=(BEFORE,), **fields):
    return job("cache", cache, on_exhausted, attempts=attempts, **fields)


def tried(attempts):
    return [(attempt.tier, str(attempt.verdict)) for attempt in attempts]


def unfit(tier, **fields):
    return Attempt(tier, Verdict.UNFIT, 1.0, status=400, error={**WORDS, **fields})


# At a model's tier


async def test_an_answer_ends_the_job(bench):
    finish = await bench.answer(job("cpu", attempts=(BEFORE,), failures=1))
    assert isinstance(finish, Finish)
    assert (finish.status, finish.tier_used, finish.model) == (Status.SUCCEEDED, "cpu", "m")
    assert json.loads(finish.answer)["choices"][0]["message"]["content"] == "Hi"
    assert (finish.tokens, finish.cache_age_seconds, finish.error) == (Tokens(1, 2), None, None)
    assert tried(finish.attempts) == [("gpu", "failure"), ("cpu", "answered")]
    assert bench.servers.asked == ["cpu/v1/chat/completions"]
    assert bench.observer.events == [("tried", "cpu", Verdict.ANSWERED)]


async def test_a_request_that_is_itself_at_fault_ends_in_the_servers_words(bench):
    bench.servers.mode = "400"
    finish = await bench.answer(job(attempts=(BEFORE,), failures=1))
    assert (finish.status, finish.tier_used, finish.error_status) == (Status.FAILED, "gpu", 400)
    assert (finish.error["message"], finish.error["code"]) == ("n is too large", "bad_n")
    assert (finish.answer, tried(finish.attempts)[-1]) == (None, ("gpu", "refused"))


@pytest.mark.parametrize(
    ("mode", "verdict", "failures"),
    [
        ("500", "failure", 1),
        ("reset", "failure", 1),
        ("hang", "failure", 1),
        ("no-choices", "failure", 1),
        ("429", "saturated", 0),
        ("busy", "saturated", 0),
        ("401", "misconfigured", 0),
        ("too-long", "unfit", 0),
        ("no-model", "unfit", 0),
    ],
)
async def test_what_the_tier_could_not_answer_goes_on_with_its_own_failures(
    bench, mode, verdict, failures
):
    bench.servers.mode = mode
    left = await bench.answer(job("cpu", attempts=(BEFORE,), failures=1, deadline=float("inf")))
    assert isinstance(left, HandOn)
    assert tried(left.attempts) == [("gpu", "failure"), ("cpu", verdict)]
    assert left.failures == 1 + failures
    assert bench.observer.events == [("tried", "cpu", Verdict(verdict))]
    assert (left.attempts[-1].error is not None) is (verdict == "unfit")


async def test_a_tier_that_a_job_does_not_fit_is_not_asked_again(bench):
    left = await bench.answer(job("cpu", attempts=(unfit("cpu"),), failures=1))
    assert left == HandOn((unfit("cpu"),), 1)
    assert bench.servers.asked == []


async def test_a_failure_that_opens_the_breaker_is_the_tiers(bench):
    await bench.fail("gpu", times=2)
    bench.servers.mode = "500"
    left = await bench.answer(job(failures=1))
    assert (tried(left.attempts), left.failures) == ([("gpu", "failure")], 1)


async def test_an_open_breaker_is_not_asked(bench):
    await bench.fail("gpu")
    left = await bench.answer(job(failures=1))
    assert left == HandOn((Attempt("gpu", Verdict.REJECTED, left.attempts[0].milliseconds),), 1)
    assert bench.servers.asked == []
    assert bench.observer.events == [("tried", "gpu", Verdict.REJECTED)]


async def test_while_another_call_probes_the_tier_a_job_goes_on(bench):
    await bench.fail("gpu")
    bench.now_ms += 12_000
    assert await bench.breakers["gpu"].acquire(), "the one probe of the whole fleet"
    left = await bench.answer(job(failures=1))
    assert (tried(left.attempts), left.failures) == ([("gpu", "rejected")], 1)
    assert bench.servers.asked == []


async def test_past_its_deadline_a_job_is_not_called(bench):
    finish = await bench.answer(job(attempts=(BEFORE,), deadline=time.monotonic()))
    assert finish == Finish(status=Status.EXPIRED, attempts=(BEFORE,))
    assert bench.servers.asked == []


async def test_a_call_that_its_deadline_ended_is_told(bench):
    bench.servers.mode = "hang"
    begun = job(attempts=(BEFORE,), deadline=time.monotonic() + 30, on_exhausted="fail")
    finish = await bench.answer(begun)
    assert (finish.status, finish.tier_used, finish.error) == (Status.EXPIRED, "", None)
    assert tried(finish.attempts) == [("gpu", "failure"), ("gpu", "expired")]


async def test_the_timer_of_a_deadline_may_be_a_little_early(bench, monkeypatch):
    """A stream that was shown in part ends by it: nobody else can go on with it."""
    begun = job()

    async def ask(*_):
        monkeypatch.setattr(time, "monotonic", lambda: begun.deadline - 0.001)
        return Trial(Attempt("gpu", Verdict.EXPIRED, 1.0, "deadline"))

    monkeypatch.setattr(bench.models["gpu"], "ask", ask)
    finish = await bench.answerer.answer(begun)
    monkeypatch.undo()
    assert isinstance(finish, Finish)
    assert finish.status is Status.EXPIRED


async def test_who_wants_an_answer_in_any_case_gets_ours_before_its_deadline(bench):
    bench.servers.mode = "hang"
    left = await bench.answer(job(deadline=time.monotonic() + 0.5))
    assert tried(left.attempts) == [("gpu", "expired")]
    left = await bench.answer(job("cpu", deadline=time.monotonic(), attempts=left.attempts))
    assert left == Finish(status=Status.EXPIRED, attempts=left.attempts), "too late for any"
    now = time.monotonic()
    begun = {"created": now - 10.0, "deadline": now + 0.9}  # less than a second, no model's
    left = await bench.answer(job("cpu", **begun))
    assert tried(left.attempts) == [("cpu", "no_permit")]
    finish = await bench.answer(job("cache", **begun, attempts=left.attempts))
    assert (finish.status, finish.tier_used) == (Status.SUCCEEDED, "degraded")


# The cache


@pytest.mark.parametrize(
    ("policy", "tier", "used"),
    [
        ("first", "gpu", "cache"),
        ("first", "cpu", "cpu"),  # it was asked at the job's first tier
        ("fallback", "gpu", "gpu"),
        ("off", "gpu", "gpu"),
        ("first", "cache", "cache"),
        ("fallback", "cache", "cache"),
        ("off", "cache", "degraded"),
    ],
)
async def test_the_policy_says_when_the_cache_is_asked(bench, policy, tier, used):
    mine = job(tier, policy)
    await bench.remember(mine)
    finish = await bench.answer(mine)
    assert (finish.status, finish.tier_used) == (Status.SUCCEEDED, used)
    asked = [event for event in bench.observer.events if event[1] == "cache"]
    assert asked == [("tried", "cache", Verdict.ANSWERED)] * (used == "cache")


async def test_an_answer_from_the_cache_tells_its_age_and_model(bench):
    mine = at_cache(cache="fallback")
    await bench.remember(mine, b"{}", "gpu-model")
    finish = await bench.answer(mine)
    assert (finish.answer, finish.model) == (b"{}", "gpu-model")
    assert 0 <= finish.cache_age_seconds < 5
    assert tried(finish.attempts) == [("gpu", "failure"), ("cache", "answered")]


async def test_a_job_that_asks_the_cache_first_does_not_tell_a_miss(bench):
    finish = await bench.answer(job(cache="first"))
    assert (finish.tier_used, tried(finish.attempts)) == ("gpu", [("gpu", "answered")])
    assert ("tried", "cache", Verdict.MISS) in bench.observer.events


async def test_nobody_gets_what_another_owner_was_answered(bench):
    await bench.remember(job("cache", owner="bob"))
    finish = await bench.answer(at_cache(cache="fallback"))
    assert (finish.tier_used, tried(finish.attempts)[-1]) == ("degraded", ("cache", "miss"))


@pytest.mark.parametrize("policy", get_args(CachePolicy))
@pytest.mark.parametrize("tier_used", ["gpu", "cpu", "cache", "degraded"])
async def test_only_a_models_answer_is_kept_and_only_if_the_job_lets_it(bench, policy, tier_used):
    mine = job(cache=policy)
    answer = Finish(status=Status.SUCCEEDED, attempts=(), tier_used=tier_used, answer=b"{}")
    await bench.answerer.keep(mine, answer)
    kept = tier_used in {"gpu", "cpu"} and policy != "off"
    assert await bench.remembered(mine) == ([b"{}"] if kept else [])


async def test_without_an_answer_there_is_nothing_to_keep(bench):
    await bench.answerer.keep(job(), Finish(status=Status.EXPIRED, attempts=(), tier_used="gpu"))
    assert await bench.remembered(job()) == []


# When every tier has failed


async def test_who_does_not_wait_is_told_honestly(bench):
    finish = await bench.answer(at_cache(failures=9))
    assert (finish.status, finish.tier_used) == (Status.SUCCEEDED, "degraded")
    answer = json.loads(finish.answer)
    assert answer["choices"][0]["message"]["content"] == "Sorry."
    assert (answer["id"], answer["object"]) == ("chatcmpl-job_1", "chat.completion")
    assert finish.attempts == (BEFORE,)


async def test_a_legacy_completion_is_told_in_its_own_form(bench):
    finish = await bench.answer(at_cache(endpoint="/v1/completions", body={"model": "m"}))
    answer = json.loads(finish.answer)
    assert (answer["choices"][0]["text"], answer["model"]) == ("Sorry.", "m")
    assert (answer["id"], answer["object"]) == ("cmpl-job_1", "text_completion")


@pytest.mark.parametrize("policy", ["degraded", "fail"])
async def test_no_message_of_ours_stands_for_vectors(bench, policy):
    body = {"model": "m", "input": "x"}
    finish = await bench.answer(at_cache(policy, endpoint="/v1/embeddings", body=body))
    assert (finish.status, finish.error_status, finish.answer) == (Status.FAILED, 503, None)
    assert finish.error["code"] == "tiers_exhausted"


async def test_who_would_rather_have_an_error_has_one_that_names_the_last_tries(bench):
    attempts = (BEFORE, Attempt("cpu", Verdict.REJECTED, 0.1))
    finish = await bench.answer(at_cache("fail", cache="fallback", attempts=attempts))
    assert (finish.status, finish.tier_used, finish.error_status) == (Status.FAILED, "", 503)
    said = "no tier could answer: gpu failure, cpu rejected, cache miss"
    assert (finish.error["message"], finish.error["code"]) == (said, "tiers_exhausted")


@pytest.mark.parametrize("failures", range(POISON_FAILURES + 2))
async def test_a_job_that_waits_is_given_up_after_three_failures_of_its_own(bench, failures):
    outcome = await bench.answer(at_cache("wait", failures=failures))
    if failures < POISON_FAILURES:
        assert outcome == Park((BEFORE,), failures, PARK_SECONDS[0])
    else:
        assert (outcome.status, outcome.error["code"]) == (Status.FAILED, "tiers_exhausted")


@pytest.mark.parametrize(
    ("tiers", "broken", "later", "due"),
    [
        (("gpu", "cpu"), (), 0, 1.0),
        (("gpu", "cpu"), ("gpu",), 0, 1.0),
        (("gpu", "cpu"), ("gpu", "cpu"), 0, 12.0),
        (("gpu",), ("gpu",), 5_000, 7.0),
        (("gpu",), ("gpu",), 11_500, 1.0),
        (("gpu",), ("gpu",), -60_000, 30.0),
        ((), (), 0, 30.0),
    ],
)
async def test_a_job_waits_until_a_tier_is_due_for_a_probe(make_bench, tiers, broken, later, due):
    bench = make_bench(tiers=tiers)
    for tier in broken:
        await bench.fail(tier)
    bench.now_ms += later
    assert await bench.answer(at_cache("wait")) == Park((BEFORE,), 0, due)


def stream_that_waits(seconds):
    """A stream at the last tier, which is to begin in so many seconds."""
    options = Options("off", "wait", stream=True, answer_by=60.0 + seconds)
    created = time.monotonic() - 60
    return begun_job(tier="cache", options=options, created=created, attempts=(BEFORE,))


async def test_a_stream_waits_for_a_tier_until_it_should_have_begun(bench):
    await bench.fail("gpu")
    await bench.fail("cpu")
    left = await bench.answer(stream_that_waits(5))
    assert isinstance(left, Park)
    assert 4 < left.due_seconds <= 5 < await bench.models["gpu"].due_seconds()
    finish = await bench.answer(stream_that_waits(0))
    assert isinstance(finish, Finish)
    assert (finish.status, finish.attempts) == (Status.EXPIRED, (BEFORE,))


@pytest.mark.parametrize("policy", get_args(ExhaustedPolicy))
@pytest.mark.parametrize(
    ("attempts", "told"),
    [
        ((unfit("gpu"), unfit("cpu", message="longer")), "longer"),
        ((unfit("gpu"),), None),  # the CPU tier may take it when it is back
        ((unfit("gpu"), Attempt("cpu", Verdict.LOST, 0.0)), None),
        ((unfit("gpu"), Attempt("cpu", Verdict.FAILURE, 1.0)), None),
        (
            (unfit("gpu"), Attempt("cpu", Verdict.UNFIT, 1.0, "lacks tools")),
            "no tier can take this request: gpu: too long; cpu: lacks tools",
        ),
        ((Attempt("gpu", Verdict.LOST, 0.0),), None),
        ((), None),
    ],
)
async def test_what_fits_no_model_ends_in_the_last_ones_words(bench, policy, attempts, told):
    outcome = await bench.answer(at_cache(policy, cache="fallback", attempts=attempts))
    if told is None:
        assert isinstance(outcome, Park) or outcome.error_status in {None, 503}
    else:
        assert (outcome.status, outcome.error_status) == (Status.FAILED, 400)
        assert outcome.error["message"] == told
        assert tried(outcome.attempts)[-1] == ("cache", "miss")


# Where only some tiers may answer


def only(*tiers, cache="fallback", on_exhausted="fail", **fields):
    return begun_job(options=Options(cache, on_exhausted, tiers=tiers), **fields)


@pytest.mark.parametrize(
    ("tiers", "cache", "asked"),
    [
        (("gpu",), "fallback", False),
        (("gpu", "cpu"), "first", False),
        (("gpu", "cache"), "fallback", True),
        (("cache",), "first", True),
        (("cache",), "off", False),
        ((), "fallback", True),
    ],
)
async def test_the_cache_answers_where_list_and_policy_have_it(bench, tiers, cache, asked):
    finish = await bench.answer(only(*tiers, cache=cache, tier="cache", attempts=(BEFORE,)))
    assert (("cache", "miss") in tried(finish.attempts)) is asked


@pytest.mark.parametrize(
    ("tiers", "tier", "asked"),
    [
        ((), "gpu", True),
        ((), "cpu", False),
        (("cpu", "cache"), "cpu", True),
        (("gpu", "cpu", "cache"), "cpu", False),
        (("gpu", "cpu"), "gpu", False),
    ],
)
async def test_the_cache_is_asked_first_at_the_first_tier_that_may_answer(
    bench, tiers, tier, asked
):
    await bench.answer(only(*tiers, cache="first", tier=tier))
    assert (("tried", "cache", Verdict.MISS) in bench.observer.events) is asked


@pytest.mark.parametrize("tiers", [("gpu",), ("gpu", "cache")])
async def test_a_job_that_was_lost_stays_where_no_other_tier_may_answer(bench, tiers):
    """Else it would never be called alone, and never be found guilty."""
    lost_twice = (lost("gpu"), lost("gpu"))
    finish = await bench.answer(only(*tiers, attempts=lost_twice))
    assert (finish.status, finish.tier_used) == (Status.SUCCEEDED, "gpu")


async def test_a_job_that_does_not_fit_the_tiers_that_may_answer_ends(bench):
    """The CPU tier might take it, but nobody wants its answer."""
    passed = Attempt("cpu", Verdict.NOT_ALLOWED, 0.0)
    left = only("gpu", on_exhausted="wait", tier="cache", attempts=(unfit("gpu"), passed))
    finish = await bench.answer(left)
    assert (finish.status, finish.error["message"]) == (Status.FAILED, "too long")


@pytest.mark.parametrize(("tiers", "due"), [(("gpu",), 12.0), ((), 1.0), (("cache",), 30.0)])
async def test_a_job_waits_for_the_tiers_that_may_answer_it(bench, tiers, due):
    await bench.fail("gpu")
    left = only(*tiers, cache="off", on_exhausted="wait", tier="cache", attempts=(BEFORE,))
    assert await bench.answer(left) == Park((BEFORE,), 0, due)


@pytest.mark.parametrize(("tiers", "longest"), [(("cpu",), 60.0), ((), 10.0)])
def test_who_may_go_nowhere_else_waits_longer_for_a_place_at_the_cpu_tier(bench, tiers, longest):
    until = bench.answerer.worth_until(only(*tiers, tier="cpu"))
    assert until - time.monotonic() == pytest.approx(longest, abs=1)


# What a tier above had refused


REFUSED = Attempt("gpu", Verdict.REJECTED, 1.0, "open")


async def test_what_waits_below_goes_up_again_once_the_tier_above_is_well(bench):
    waits = job("cpu", attempts=(REFUSED,))
    assert await bench.answer(waits) == HandUp("gpu")
    await bench.fail("gpu")
    assert tried((await bench.answer(waits)).attempts)[-1] == ("cpu", "answered")


@pytest.mark.parametrize(
    ("attempts", "fields"),
    [
        ((), {}),  # it was never asked there
        ((BEFORE,), {"failures": 1}),  # it failed there, and the tier was well
        ((REFUSED, unfit("gpu")), {}),
        ((REFUSED,) * 3, {}),  # it was sent up twice, in vain
        ((REFUSED,), {"options": Options(tiers=("cpu",))}),
        ((REFUSED, lost("gpu"), lost("gpu")), {}),
    ],
)
async def test_what_the_tier_above_may_not_take_stays(bench, attempts, fields):
    waits = begun_job(tier="cpu", attempts=attempts, **{"options": Options(), **fields})
    assert isinstance(await bench.answer(waits), Finish)
    assert bench.servers.asked == ["cpu/v1/chat/completions"]


@pytest.mark.parametrize("called", [False, True])
async def test_who_waits_for_a_slot_below_is_called_back(make_bench, called, monkeypatch):
    monkeypatch.setattr("tasks.tiers.answerer.LOOK_SECONDS", 0.0)
    bench = make_bench()
    await bench.fail("gpu")
    token = bench.slots.try_acquire()
    waits = asyncio.create_task(bench.answer(job("cpu", attempts=(REFUSED,), id="job_1")))
    await eventually(lambda: bench.answerer.works_below("gpu"))
    await asyncio.sleep(0.02)
    assert not waits.done()
    if called:  # one of them, as the tier is due
        assert bench.answerer.call_up("gpu")
    else:  # all, as it is well
        await bench.breakers["gpu"].areset()
    assert await waits == HandUp("gpu")
    assert not bench.answerer.works_below("gpu")
    assert not bench.answerer.call_up("gpu")
    await bench.slots.release(token)


async def test_who_was_called_up_and_dropped_is_called_up_no_more(make_bench):
    bench = make_bench(cpu_wait_seconds=0.01)
    await bench.fail("gpu")
    token, waits = bench.slots.try_acquire(), job("cpu", attempts=(REFUSED,), id="job_1")
    dropped = asyncio.create_task(bench.answer(waits))
    await eventually(lambda: bench.answerer.call_up("gpu"))
    dropped.cancel()
    await asyncio.gather(dropped, return_exceptions=True)
    assert tried((await bench.answer(waits)).attempts)[-1] == ("cpu", "no_permit")
    await bench.slots.release(token)


async def test_what_runs_below_is_known_as_long_as_it_runs(bench):
    await bench.fail("gpu")
    bench.servers.mode = "slow"
    running = asyncio.create_task(bench.answer(job("cpu", attempts=(REFUSED,))))
    await eventually(lambda: bench.answerer.works_below("gpu"))
    assert not bench.answerer.works_below("cpu")
    bench.servers.go.set()
    await running
    assert not bench.answerer.works_below("gpu")


# Lines that wait for their tier


def refusal(verdict, *before):
    return HandOn((*before, Attempt("gpu", verdict, 1.0)), 0)


@pytest.mark.parametrize(
    ("outcome", "fields", "waits"),
    [
        (refusal(Verdict.REJECTED), {}, True),
        (refusal(Verdict.SATURATED), {}, True),
        (refusal(Verdict.MISCONFIGURED), {}, True),
        (refusal(Verdict.FAILURE), {}, True),
        (refusal(Verdict.UNFIT), {}, False),
        (refusal(Verdict.NOT_CONFIGURED), {}, False),
        (refusal(Verdict.REJECTED), {"on_exhausted": "degraded"}, False),
        (refusal(Verdict.REJECTED), {"on_exhausted": "fail"}, False),
        (refusal(Verdict.REJECTED), {"tier": "cpu"}, False),
        (refusal(Verdict.REJECTED), {"tier": "cpu", "tiers": ("cpu",)}, True),
        (refusal(Verdict.FAILURE, lost("gpu"), lost("gpu")), {}, False),
        (HandOn((BEFORE,), POISON_FAILURES), {}, False),
        (HandOn((BEFORE,), POISON_FAILURES - 1), {}, True),
    ],
)
async def test_what_says_something_of_the_tier_has_its_line_wait(bench, outcome, fields, waits):
    fields = {"tier": "gpu", "on_exhausted": "wait", "tiers": (), **fields}
    options = Options(on_exhausted=fields["on_exhausted"], tiers=fields["tiers"])
    line = begun_job(tier=fields["tier"], options=options)
    assert bench.answerer.waits(line, outcome) == waits


async def test_a_line_that_failed_by_itself_comes_later_than_one_that_was_refused(bench):
    line = begun_job(options=Options(on_exhausted="wait"))
    refused, failed = (
        bench.answerer.line_up(line, HandOn((BEFORE,), failures)) for failures in (0, 1)
    )
    assert await asyncio.wait_for(refused, 5) is Word.ASK
    assert not failed.done()
    failed.cancel()


async def test_while_one_line_probes_its_tier_the_others_do_not_ask_in_vain(bench, monkeypatch):
    monkeypatch.setattr("tasks.tiers.gate.LOOK_SECONDS", 100)
    await bench.fail("gpu")
    bench.now_ms += 12_000
    bench.servers.mode = "slow"
    line = job(on_exhausted="wait", attempts=(REFUSED,))
    first, second = (bench.answerer.line_up(line, HandOn((REFUSED,), 0)) for _ in range(2))
    await eventually(first.done)
    probing = asyncio.create_task(bench.answer(line))
    await asyncio.sleep(0.3)
    assert not second.done()
    bench.servers.go.set()
    await probing
    await eventually(second.done)  # the next probe is due: told at once
    assert bench.observer.events == [("tried", "gpu", Verdict.ANSWERED)]


async def test_a_tier_below_has_room_for_some_seconds_work_unless_it_refuses(make_bench):
    bench = make_bench(slots=LocalSlots(3))
    assert [await bench.answerer.room_at(tier) for tier in ("cpu", "cache")] == [6, 0]
    assert await bench.answerer.has_room_below("gpu")
    assert not await bench.answerer.has_room_below("cpu")
    await bench.fail("cpu")
    assert await bench.answerer.room_at("cpu") == 0
    assert not await bench.answerer.has_room_below("gpu")
    bench.now_ms += 12_000
    assert await bench.answerer.room_at("cpu") == 1, "for its probe"


@pytest.mark.parametrize(
    ("fields", "takes"),
    [
        ({}, True),
        ({"attempts": (unfit("cpu"), REFUSED)}, False),
        ({"attempts": (lost("cpu"), lost("cpu"), REFUSED)}, False),
        ({"options": Options(tiers=("gpu",))}, False),
    ],
)
async def test_a_line_goes_down_only_to_a_tier_that_may_take_it(bench, fields, takes):
    await bench.fail("gpu")
    line = begun_job(**{"attempts": (REFUSED,), **fields})
    assert bench.answerer.may_take("cpu", line) == takes


async def test_a_line_that_its_tier_refused_stays_once_that_is_well_and_one_that_failed_goes(bench):
    assert not bench.answerer.may_take("cpu", begun_job(attempts=(BEFORE, REFUSED)))
    assert bench.answerer.may_take("cpu", begun_job(attempts=(REFUSED, BEFORE)))


async def test_who_was_one_too_many_as_the_tier_above_ramped_up_stays_until_it_takes_all(bench):
    bench.models["gpu"].breaker = ramping = CircuitBreaker(
        "ramping", CircuitBreakerConfig(failure_threshold=1, success_threshold=1, ramp_seconds=60)
    )
    ramping.force_open("ann", "so that it is probed")
    ramping.auto("ann", "so that it is probed")
    await ramping.record(await ramping.acquire(), Outcome.SUCCESS)
    too_many = Attempt("gpu", Verdict.REJECTED, 1.0, "ramping")
    assert isinstance(await bench.answer(job("cpu", attempts=(too_many,))), Finish)
    assert await bench.answer(job("cpu", attempts=(REFUSED,))) == HandUp("gpu")
    ramping.reset()
    assert await bench.answer(job("cpu", attempts=(too_many,))) == HandUp("gpu")


@pytest.mark.parametrize(("policy", "found"), [("off", False), ("fallback", True)])
async def test_a_line_that_would_wait_has_a_kept_answer_if_it_may(bench, policy, found):
    line = job(cache=policy, on_exhausted="wait")
    await bench.remember(line)
    kept = await bench.answerer.cached(line)
    assert (kept is not None) == found
    assert kept is None or kept.tier_used == "cache"


async def test_what_makes_room_for_others_stays_away_until_it_is_called_back(bench):
    """Sooner it would find the tier as it left it, and others waiting: for nothing."""
    line = job(on_exhausted="wait", attempts=(REFUSED,))
    assert bench.answerer.parked(line) == Park((REFUSED,), 0, 1.0)
    permit = await bench.breakers["gpu"].acquire()
    await bench.breakers["gpu"].record(permit, Outcome.SATURATED, 7.0)
    assert bench.answerer.parked(line) == Park((REFUSED,), 0, 7.0)
    await bench.fail("cpu")
    options = Options(on_exhausted="wait", tiers=("cpu",))
    alone = begun_job(tier="cpu", options=options, attempts=(REFUSED,))
    assert bench.answerer.parked(alone) == Park((REFUSED,), 0, 30.0)


@pytest.mark.parametrize(
    ("modes", "tried", "failures"),
    [
        (["reset", "ok"], [("failure", 1), ("answered", 2)], None),
        (["reset", "500"], [("failure", 1), ("failure", 2)], 1),
        (["429", "reset"], [("saturated", 1), ("failure", 2)], 1),
        (["400", "ok"], [("refused", 1)], None),
    ],
)
async def test_of_a_tier_of_several_servers_every_try_is_told(make_bench, modes, tried, failures):
    bench = make_bench(tiers=("gpu",), servers=2)
    bench.servers.modes = dict(zip(["gpu", "gpu2"], modes, strict=True))
    outcome = await bench.answer(begun_job())
    assert [(a.verdict, a.endpoint) for a in outcome.attempts] == tried
    assert getattr(outcome, "failures", None) == failures
    told = [event for event in bench.observer.events if event[0] == "tried"]
    assert told == [("tried", "gpu", verdict) for verdict, _ in tried]


def adapt(bench, *, adapts=True):
    tier = bench.models["gpu"]
    tier.config = dataclasses.replace(tier.config, adapts=adapts)


@pytest.mark.parametrize(
    ("adapts", "mode", "asked"),
    [(True, "too-many", 3), (False, "too-many", 1), (True, "429", 1)],  # "429" says for how long
)
async def test_where_the_limit_adapts_one_call_too_many_is_made_again(bench, adapts, mode, asked):
    adapt(bench, adapts=adapts)
    bench.servers.mode = mode
    outcome = await bench.answer(begun_job())
    assert outcome.attempts[-1].verdict is Verdict.SATURATED
    assert len(bench.servers.asked) == asked
    assert bench.slots.taken == 0


async def test_what_was_one_call_too_many_is_answered_where_it_stands(bench, monkeypatch):
    adapt(bench)
    names, request = [], bench.servers.request

    async def once_busy(*args, headers, **options):
        names.append(headers["x-request-id"])
        bench.servers.mode = "ok" if len(names) > 1 else "too-many"
        return await request(*args, headers=headers, **options)

    monkeypatch.setattr(bench.servers, "request", once_busy)
    outcome = await bench.answer(begun_job())
    assert (outcome.status, outcome.tier_used) == (Status.SUCCEEDED, "gpu")
    assert len(set(names)) == 2, "some servers go by it"


# More than two tiers

THREE = ("h100", "l4", "cpu")


def refused_by(*tiers):
    return tuple(Attempt(tier, Verdict.REJECTED, 1.0, "open") for tier in tiers)


@pytest.fixture
def three(make_bench):
    return make_bench(tiers=THREE)


@pytest.mark.parametrize(
    ("sick", "up"), [((), "h100"), (("h100",), "l4"), (("h100", "l4"), None), (("l4",), "h100")]
)
async def test_what_waits_goes_up_to_the_first_of_those_above_that_is_well(three, sick, up):
    for tier in sick:
        await three.fail(tier)
    outcome = await three.answer(job("cpu", attempts=refused_by("h100", "l4")))
    assert outcome == HandUp(up) if up else tried(outcome.attempts)[-1] == ("cpu", "answered")


async def test_the_tier_that_is_due_calls_up_what_waits_for_a_slot_at_any_below(three):
    for tier in THREE[:2]:
        await three.fail(tier)
    token = three.slots.try_acquire()
    line = job("cpu", attempts=refused_by("h100", "l4"), id="job_1")
    waits = asyncio.create_task(three.answer(line))
    await eventually(lambda: three.answerer.works_below("l4"))
    assert three.answerer.works_below("h100")
    assert not three.answerer.works_below("cpu")
    assert three.answerer.call_up("l4")
    assert await waits == HandUp("l4")
    await three.slots.release(token)


@pytest.mark.parametrize(
    ("tier", "seconds"), [("h100", 10.0), ("l4", 3.0), ("cpu", 2.0), ("cache", 10.0)]
)
def test_below_its_first_tier_a_job_waits_for_a_place_as_long_as_is_set(make_bench, tier, seconds):
    more = (("l4", TierSettings(wait_seconds=3.0)),)
    bench, now = make_bench(tiers=THREE, more_tiers=more, cpu_wait_seconds=2.0), time.monotonic()
    fails = Options(on_exhausted="fail")
    waits = begun_job(tier=tier, created=now, deadline=now + 10, options=fails)
    assert bench.answerer.worth_until(waits) == pytest.approx(now + seconds, abs=0.5)


@pytest.mark.parametrize(
    ("tier", "verdict", "fields", "home"),
    [
        ("l4", Verdict.REJECTED, {}, True),
        ("l4", Verdict.FAILURE, {}, True),
        ("l4", Verdict.NO_PERMIT, {}, True),
        ("l4", Verdict.UNFIT, {}, False),  # a tier below may take it
        ("h100", Verdict.REJECTED, {}, False),  # it waits there
        ("l4", Verdict.REJECTED, {"tiers": ("l4", "cpu")}, False),
        ("cpu", Verdict.REJECTED, {}, False),  # no model is below
        ("l4", Verdict.REJECTED, {"tiers": ("h100", "l4")}, False),
        ("l4", Verdict.REJECTED, {"on_exhausted": "degraded"}, False),
        ("l4", Verdict.FAILURE, {"failures": POISON_FAILURES}, False),
    ],
)
async def test_a_line_that_a_tier_between_did_not_answer_goes_home(
    three, tier, verdict, fields, home
):
    """Else all that was sent there would stand before the next one, whatever room it has."""
    options = Options(
        on_exhausted=fields.get("on_exhausted", "wait"), tiers=fields.get("tiers", ())
    )
    line = begun_job(tier=tier, options=options)
    outcome = HandOn((Attempt(tier, verdict, 1.0),), fields.get("failures", 0))
    assert three.answerer.goes_home(line, outcome) == home


async def test_it_comes_there_in_a_moment_as_it_may_be_sent_down_then(three):
    await three.fail("h100")
    line = job("l4", on_exhausted="wait", attempts=refused_by("h100", "l4"))
    assert three.answerer.sent_home(line) == Park(line.attempts, 0, 1.0)
