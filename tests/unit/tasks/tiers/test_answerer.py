"""What a try at a tier comes to for its job: by the tier, and by what the job asked for."""

from __future__ import annotations

import json
import time
from typing import get_args

import pytest
from harness.records import begun_job

from fallback_chain import Attempt, Tokens, Verdict
from tasks.records.jobs import Options, Status
from tasks.records.outcomes import Finish, HandOn, Park
from tasks.records.policies import CachePolicy, ExhaustedPolicy
from tasks.tiers.answerer import PARK_SECONDS, POISON_FAILURES

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
    finish = await bench.answer(job("cpu", attempts=(BEFORE,)))
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


async def test_a_tier_that_is_not_set_up_is_passed_over(make_bench):
    bench = make_bench(tiers=("gpu",))
    left = await bench.answer(job("cpu", attempts=(BEFORE,), failures=1))
    assert left == HandOn((BEFORE, Attempt("cpu", Verdict.NOT_CONFIGURED, 0.0)), 1)


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
