"""What a tier makes of its server's replies: what fits, what does not, and whose fault it is."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest
from harness.upstream import completion
from harness.waiting import eventually

from circuit_breaker import CircuitBreaker, CircuitBreakerConfig, MemoryStore, Outcome
from circuit_breaker.events import CallRecorded
from fallback_chain import ChatTier, Need, Reply, TierConfig, UpstreamError, Verdict, fit_of

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}
PLAIN = {"messages": [{"role": "user", "content": "hi"}], "model": "m"}
OBJECT = {**PLAIN, "response_format": {"type": "json_object"}}
TYPED = {
    **PLAIN,
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
}
TOOLS = {**PLAIN, "tools": [{"type": "function", "function": {"name": "look"}}]}
MUST_CALL = {**TOOLS, "tool_choice": "required"}


def call(name, arguments="{}"):
    calls = [{"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}}]
    return completion(None, "tool_calls", tool_calls=calls)


class Server:
    """An HTTP client that gets one reply, or one error; models: of its list."""

    def __init__(self, reply=None, models=b'{"data": [{"id": "m"}]}') -> None:
        self.reply, self.models, self.asked = reply, models, []

    async def request(self, method, url, *, headers, content, timeout_seconds):
        if method == "GET":
            return Reply(200, {}, self.models)
        self.asked.append(msgspec.json.decode(content))
        if isinstance(self.reply, Exception):
            raise self.reply
        return Reply(200, {}, json.dumps(self.reply).encode())

    async def aclose(self):
        """There is nothing to close."""


class Stand:
    """A tier, what it asked, and how often its breaker counted a failure."""

    def __init__(self, server, **config) -> None:
        self.server, self.failures = server, 0
        fields = {"model": "m", "api_key": None, "timeout_seconds": 5.0, **config}
        breaker = CircuitBreaker("b", CircuitBreakerConfig(), MemoryStore(), on_event=self._heard)
        self.tier = ChatTier(TierConfig("cpu", "http://cpu", **fields), breaker, server)

    def _heard(self, event):
        self.failures += isinstance(event, CallRecorded) and event.outcome is Outcome.FAILURE


@pytest.mark.parametrize(
    ("body", "answer", "detail"),
    [
        (PLAIN, completion("prose"), ""),
        (OBJECT, completion('{"a": 1}'), ""),
        (OBJECT, completion("Sure! Here is some prose."), "misfit json"),
        (OBJECT, completion('{"a": 1', "length"), "misfit cut"),
        (TYPED, completion('{"n": 1}'), ""),
        (TYPED, completion('{"n": "one"}'), "misfit schema"),
        (TYPED, completion("prose"), "misfit json"),
        (TYPED, completion(None, refusal="No."), ""),
        (TOOLS, completion("prose"), ""),
        (TOOLS, call("look", '{"where": "here"}'), ""),
        (TOOLS, call("delete"), "misfit tools"),
        (TOOLS, call("look", "{"), "misfit tools"),
        (MUST_CALL, call("look"), ""),
        (MUST_CALL, completion("prose"), "misfit tools"),
        ({**OBJECT, "tool_choice": "none"}, completion("prose"), "misfit json"),
    ],
)
@pytest.mark.parametrize("checked", [True, False])
async def test_an_answer_is_held_to_what_was_asked_for(body, answer, detail, checked):
    stand = Stand(Server(answer), checked=checked)
    trial = await stand.tier.ask(body)
    passes = not (detail and checked)
    assert trial.attempt.verdict is (Verdict.ANSWERED if passes else Verdict.UNFIT)
    assert trial.attempt.detail == detail
    assert (trial.answer is not None) == passes
    assert trial.keep == (not detail) or not passes
    assert stand.failures == 0, "its server is well"


@pytest.mark.parametrize("text", ['```json\n{"n": 1}\n```', '```\n{"n": 1}```\n'])
async def test_a_fence_around_the_json_is_taken_away(text):
    trial = await Stand(Server(completion(text)), checked=True).tier.ask(TYPED)
    assert (trial.attempt.verdict, trial.attempt.detail) == (Verdict.ANSWERED, "")
    answer = json.loads(trial.answer)
    assert answer == completion('{"n": 1}')


async def test_without_its_fence_an_answer_keeps_all_else():
    answer = {**completion('```json\n{"n": 1}\n```'), "seed": 10**30}
    trial = await Stand(Server(answer), checked=True).tier.ask(TYPED)
    assert json.loads(trial.answer) == {**completion('{"n": 1}'), "seed": 10**30}


async def test_a_fence_does_not_make_it_fit():
    trial = await Stand(Server(completion('```json\n{"n": "one"}\n```')), checked=True).tier.ask(
        TYPED
    )
    assert (trial.attempt.verdict, trial.attempt.detail) == (Verdict.UNFIT, "misfit json")


async def test_a_server_whose_answers_are_not_held_to_it_keeps_its_fence():
    trial = await Stand(Server(completion('```json\n{"n": 1}\n```'))).tier.ask(TYPED)
    assert json.loads(trial.answer) == completion('```json\n{"n": 1}\n```')


async def test_what_cannot_be_checked_is_said():
    elsewhere = {"type": "json_schema", "json_schema": {"schema": {"$ref": "http://else.where/x"}}}
    stand = Stand(Server(completion("{}")), checked=True)
    trial = await stand.tier.ask({**PLAIN, "response_format": elsewhere})
    assert (trial.attempt.verdict, trial.attempt.detail) == (Verdict.ANSWERED, "unchecked")


@pytest.mark.parametrize(
    ("accepts", "body", "detail"),
    [
        (None, TYPED, ""),
        ({Need.SCHEMA}, TYPED, ""),
        ({Need.JSON}, TYPED, "lacks schema"),
        (set(), PLAIN, ""),
        (set(), OBJECT, "lacks json"),
        (set(), TOOLS, "lacks tools"),
        (set(), {**TOOLS, "n": 2, "logprobs": True}, "lacks tools, n, logprobs"),
    ],
)
async def test_a_tier_is_not_asked_for_what_it_lacks(accepts, body, detail):
    stand = Stand(
        Server(completion('{"n": 1}')), accepts=None if accepts is None else frozenset(accepts)
    )
    misfit, trial = stand.tier.misfit(body), await stand.tier.ask(body)
    assert (misfit.attempt.detail if misfit else "") == detail
    assert len(stand.server.asked) == (not detail)
    assert trial.attempt.verdict is (Verdict.UNFIT if detail else Verdict.ANSWERED)
    if detail:
        assert trial.attempt.detail == detail


@pytest.mark.parametrize("error", [ValueError("Bearer sk-secret\n"), RuntimeError(), KeyError("x")])
async def test_whatever_goes_wrong_is_the_tiers_failure_and_shows_no_key(error, caplog):
    stand = Stand(Server(error))
    trial = await stand.tier.ask(PLAIN)
    assert (trial.attempt.verdict, trial.attempt.detail) == (Verdict.FAILURE, type(error).__name__)
    assert stand.failures == 1
    assert type(error).__name__ in caplog.text
    assert "secret" not in caplog.text


async def test_what_a_server_did_is_told_as_before():
    trial = await Stand(Server(UpstreamError("reset", "reset"))).tier.ask(PLAIN)
    assert (trial.attempt.verdict, trial.attempt.detail) == (Verdict.FAILURE, "reset")


@pytest.mark.parametrize(
    ("listed", "names"),
    [
        (b'{"data": [{"id": "a"}, {"id": "b"}]}', ["a", "b"]),
        (b'[{"id": "a"}]', ["a"]),
        (b'{"data": [{"id": "a"}, {"id": 7}, {}, null, "b", {"id": ""}]}', ["a"]),
        (b'{"data": null}', []),
        (b'{"data": {"id": "a"}}', []),
        (b"null", []),
        (b"7", []),
        (b"<html>", []),
        (b'{"data": [{"id": "\xff"}]}', []),
        (b"[" * 100_000, []),
        (b"", []),
    ],
)
async def test_a_list_of_models_is_read_as_far_as_it_can_be(listed, names):
    stand = Stand(Server(completion("hi"), listed))
    assert await stand.tier.models() == names
    trial = await stand.tier.ask({**PLAIN, "model": "gpt-4"})
    assert trial.attempt.verdict is Verdict.ANSWERED
    assert stand.server.asked[-1]["model"] == "m", "the tier's own"


@pytest.mark.parametrize(("strict", "verdict"), [(True, "failure"), (False, "answered")])
async def test_a_server_that_never_says_why_it_ended_may_be_believed(strict, verdict):
    trial = await Stand(Server(completion("hi", None)), strict_finish=strict).tier.ask(PLAIN)
    assert trial.attempt.verdict == verdict


@pytest.mark.parametrize("answered", [True, False])
async def test_an_answer_that_is_here_is_kept_by_one_who_is_cut_off(answered):
    stand = Stand(Server(completion("hi") if answered else UpstreamError("reset", "reset")))
    begun, go_on = asyncio.Event(), asyncio.Event()
    record = stand.tier.breaker.record

    async def slow(*arguments):
        begun.set()
        await go_on.wait()
        return await record(*arguments)

    stand.tier.breaker.record = slow
    asking = asyncio.create_task(stand.tier.ask(PLAIN))
    await begun.wait()
    asking.cancel()
    if answered:
        assert (await asking).attempt.verdict is Verdict.ANSWERED
    else:
        with pytest.raises(asyncio.CancelledError):
            await asking
    go_on.set()
    await eventually(lambda: stand.failures == (not answered))


@pytest.mark.parametrize(
    ("verdict", "detail", "fit"),
    [
        ("answered", "misfit schema", "failed"),
        ("answered", "unchecked", "unchecked"),
        ("answered", "", None),
        ("unfit", "misfit schema", None),  # a message of ours came after it
        ("miss", "", None),
        ("", "", None),
    ],
)
def test_how_an_answer_fits_is_said_of_its_last_try(verdict, detail, fit):
    assert fit_of(verdict, detail) == fit
