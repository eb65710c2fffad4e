"""What a tier makes of its server's replies: what fits, what does not, and whose fault it is."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest
from harness.upstream import completion
from harness.waiting import eventually

from circuit_breaker import (
    CircuitBreaker,
    CircuitBreakerConfig,
    CircuitState,
    MemoryStore,
    Outcome,
)
from circuit_breaker.events import CallRecorded, CallRejected
from fallback_chain import (
    ChatTier,
    Endpoint,
    Need,
    Needs,
    Reply,
    TierConfig,
    UpstreamError,
    Verdict,
    fit_of,
)
from fallback_chain.tier import MODELS_SECONDS

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

    def __init__(self, reply=None, models=b'{"data": [{"id": "m"}]}', status=200) -> None:
        self.reply, self.models, self.status, self.asked = reply, models, status, []

    async def request(self, method, url, *, headers, content, timeout_seconds):
        if method == "GET":
            return Reply(200, {}, self.models)
        self.asked.append(msgspec.json.decode(content))
        if isinstance(self.reply, Exception):
            raise self.reply
        return Reply(self.status, {}, json.dumps(self.reply).encode())

    async def aclose(self):
        """There is nothing to close."""


class Stand:
    """A tier, what it asked, and how often its breaker counted a failure, and refused."""

    def __init__(self, server, **config) -> None:
        self.server, self.failures, self.rejections = server, 0, 0
        fields = {"model": "m", "api_key": None, "timeout_seconds": 5.0, **config}
        breaker = CircuitBreaker("b", CircuitBreakerConfig(), MemoryStore(), on_event=self._heard)
        self.tier = ChatTier(TierConfig("cpu", "http://cpu", **fields), breaker, server)

    def _heard(self, event):
        self.failures += isinstance(event, CallRecorded) and event.outcome is Outcome.FAILURE
        self.rejections += isinstance(event, CallRejected)


@pytest.mark.parametrize(
    ("adapts", "headers", "held"),
    [
        (False, {}, True),
        (True, {}, False),
        (True, {"retry-after": "7"}, True),
    ],
)
async def test_where_the_limit_adapts_a_busy_server_is_held_for_no_longer_than_it_says(
    adapts, headers, held
):
    server = Server()
    server.request = lambda *_, **__: _given(Reply(429, headers, b'{"error": "slow down"}'))
    tier = Stand(server, adapts=adapts).tier
    assert (await tier.ask(PLAIN)).attempt.verdict is Verdict.SATURATED
    assert (tier.refusal() is not None) is held


async def _given(reply):
    return reply


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
    misfit, trial = stand.tier.misfit(Needs.of(body)), await stand.tier.ask(body)
    assert (misfit.attempt.detail if misfit else "") == detail
    assert len(stand.server.asked) == (not detail)
    assert trial.attempt.verdict is (Verdict.UNFIT if detail else Verdict.ANSWERED)
    if detail:
        assert trial.attempt.detail == detail


PICTURE = {"type": "image_url", "image_url": {"url": "https://example.com/expired.png"}}
SEEING = {"messages": [{"role": "user", "content": [PICTURE]}], "model": "m"}


@pytest.mark.parametrize(
    ("body", "status", "said", "failures"),
    [
        (SEEING, 500, {"error": {"message": "404, message='Not Found', url='x'"}}, 0),
        (SEEING, 500, {"detail": "Internal Server Error"}, 0),
        (SEEING, 500, {"error": {"message": "CUDA out of memory"}}, 3),
        (SEEING, 500, {"error": "EngineDeadError"}, 3),
        (SEEING, 502, {}, 3),
        (PLAIN, 500, {"detail": "Internal Server Error"}, 3),
    ],
)
async def test_a_500_to_a_picture_says_nothing_of_its_server(body, status, said, failures):
    """vLLM, SGLang and LiteLLM were seen to give it for a picture that could not be fetched."""
    stand = Stand(Server(said, status=status))
    for _ in range(3):
        trial = await stand.tier.ask(body)
        assert (trial.attempt.verdict, trial.attempt.status) == (Verdict.FAILURE, status)
    assert (stand.failures, stand.tier.closed) == (failures, not failures)


async def test_of_a_probe_it_does():
    now = [0]
    breaker = CircuitBreaker("b", CircuitBreakerConfig(), MemoryStore(lambda: now[0]))
    stand = Stand(Server({"detail": "Internal Server Error"}, status=500))
    stand.tier.breaker = breaker
    for body in (PLAIN, PLAIN, PLAIN):
        await stand.tier.ask(body)
    now[0] += 40_000
    await stand.tier.ask(SEEING)
    assert breaker.state is CircuitState.OPEN
    assert len(stand.server.asked) == 4


@pytest.mark.parametrize(
    ("status", "said", "verdict"),
    [
        (400, "Unexpected message role: {}", Verdict.REFUSED),
        (400, "Unexpected message role: {}. Budget has been exceeded!", Verdict.MISCONFIGURED),
        (429, "too many requests of {}", Verdict.SATURATED),
    ],
)
@pytest.mark.parametrize(
    "word", ["budget_exceeded", "Budget_Exceeded", "insufficient_quota invalid host header"]
)
async def test_a_server_that_repeats_a_word_of_the_request_says_nothing_of_itself(
    status, said, verdict, word
):
    """Else any caller could have the tier held for all."""
    stand = Stand(Server({"error": {"message": said.format(word)}}, status=status))
    body = {**PLAIN, "messages": [{"role": word, "content": "hi"}]}
    assert (await stand.tier.ask(body)).attempt.verdict is verdict


EMBED = {"model": "m", "input": ["a", "b"]}
VECTORS = {"data": [{"index": n, "embedding": [0.5]} for n in range(2)], "model": "m"}


async def embed(stand, body=EMBED):
    return await stand.tier.ask(body, endpoint=Endpoint.EMBEDDINGS)


@pytest.mark.parametrize(
    ("own", "models", "asked"),
    [
        ("m", b'{"data": []}', 1),
        (None, b'{"data": [{"id": "other"}, {"id": "m"}]}', 1),
        ("other", b'{"data": [{"id": "other"}, {"id": "m"}]}', 1),
        ("other", b'{"data": [{"id": "other"}]}', 0),
        (None, b'{"data": [{"id": "other"}]}', 0),
        (None, b'{"data": []}', 0),
    ],
    ids=["its own", "listed", "beside its own", "another's own", "another", "none known"],
)
async def test_only_the_very_model_that_is_named_embeds(own, models, asked):
    stand = Stand(Server(VECTORS, models), model=own)
    trial = await embed(stand)
    assert [body["model"] for body in stand.server.asked] == ["m"] * asked
    if asked:
        assert trial.attempt.verdict is Verdict.ANSWERED
        assert json.loads(trial.answer) == VECTORS
    else:
        assert (trial.attempt.verdict, trial.attempt.detail) == (Verdict.UNFIT, "no such model")
        assert trial.error["code"] == "model_not_found"
        assert stand.failures == 0


async def test_a_model_that_a_server_was_given_since_is_found():
    server = Server(VECTORS, b'{"data": [{"id": "other"}]}')
    stand = Stand(server, model=None)
    assert (await embed(stand)).attempt.verdict is Verdict.UNFIT
    server.models = b'{"data": [{"id": "m"}]}'
    assert (await embed(stand)).attempt.verdict is Verdict.ANSWERED


async def test_a_server_that_was_started_with_another_model_is_found_out():
    """It answers to any name, as llama.cpp does."""
    server = Server(VECTORS, b'{"data": [{"id": "m"}]}')
    stand = Stand(server, model=None)
    assert (await embed(stand)).attempt.verdict is Verdict.ANSWERED
    server.models = b'{"data": [{"id": "other"}]}'
    assert (await embed(stand)).attempt.verdict is Verdict.ANSWERED, "its list is believed"
    stand.tier._models_until -= MODELS_SECONDS
    assert (await embed(stand)).attempt.detail == "no such model"
    assert len(server.asked) == 2


async def test_a_list_that_is_empty_for_a_while_takes_no_model_away():
    """So a router lists the models of servers that start; what fits no tier would end at once."""
    server = Server(VECTORS)
    stand = Stand(server, model=None)
    await embed(stand)
    server.models = b'{"data": []}'
    stand.tier._models_until -= MODELS_SECONDS
    for trial in await asyncio.gather(*(embed(stand) for _ in range(2))):
        assert trial.attempt.verdict is Verdict.ANSWERED
    assert (await embed(stand)).attempt.verdict is Verdict.ANSWERED
    server.models = b'{"data": [{"id": "other"}]}'
    stand.tier._models_until -= MODELS_SECONDS
    assert (await embed(stand)).attempt.detail == "no such model"


async def test_a_model_that_a_server_has_lost_is_replaced_by_no_other():
    server = Server({"error": {"message": "The model `m` does not exist."}}, status=404)
    stand = Stand(server, model=None)
    await stand.tier.models()
    trial = await embed(stand)
    assert (trial.attempt.verdict, len(server.asked)) == (Verdict.UNFIT, 1)
    server.models = b'{"data": [{"id": "other"}]}'
    assert (await embed(stand)).attempt.detail == "no such model"
    assert len(server.asked) == 1


@pytest.mark.parametrize("reply", [completion("x"), {"data": VECTORS["data"][:1]}, []])
async def test_a_reply_without_a_vector_for_each_input_is_the_tiers_failure(reply):
    stand = Stand(Server(reply))
    trial = await embed(stand)
    assert (trial.attempt.verdict, trial.attempt.detail) == (Verdict.FAILURE, "no embeddings")
    assert stand.failures == 1


async def test_vectors_that_are_too_many_bytes_are_no_fault_of_the_server():
    stand = Stand(Server(UpstreamError("more than 9 bytes", "too large")))
    trial = await embed(stand)
    assert (trial.attempt.verdict, trial.attempt.detail) == (Verdict.UNFIT, "answer too large")
    assert stand.failures == 0
    assert (await stand.tier.ask(PLAIN)).attempt.verdict is Verdict.FAILURE


@pytest.mark.parametrize("error", [ValueError("Bearer sk-secret\n"), RuntimeError(), KeyError("x")])
async def test_whatever_goes_wrong_is_the_tiers_failure_and_shows_no_key(error, caplog):
    stand = Stand(Server(error))
    trial = await stand.tier.ask(PLAIN)
    assert (trial.attempt.verdict, trial.attempt.detail) == (Verdict.FAILURE, type(error).__name__)
    assert stand.failures == 1
    assert type(error).__name__ in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (UpstreamError("ReadError", "reset"), "reset"),
        (UpstreamError("refused", "connect"), "connect"),
        (UpstreamError("wrong host name", "tls"), "tls: wrong host name"),
    ],
)
async def test_what_a_server_did_is_told_as_before(error, detail):
    trial = await Stand(Server(error)).tier.ask(PLAIN)
    assert (trial.attempt.verdict, trial.attempt.detail) == (Verdict.FAILURE, detail)


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

    async def slow(*arguments, **options):
        begun.set()
        await go_on.wait()
        return await record(*arguments, **options)

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


async def test_what_its_breaker_says_is_the_tiers_to_tell():
    stand = Stand(Server(UpstreamError("reset", "reset")))
    assert (stand.tier.refusal(), stand.tier.reject(), stand.tier.closed) == (None, None, True)
    assert await stand.tier.due_seconds() == 0
    for _ in range(3):
        await stand.tier.ask(PLAIN)
    assert not stand.tier.closed
    assert stand.tier.refusal().reason == stand.tier.reject().reason == "open"
    assert 29 < await stand.tier.due_seconds() <= 30
    assert stand.rejections == 1


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


@pytest.mark.parametrize(
    ("own", "listed", "detail"),
    [
        ("m", '{"data": [{"id": "other"}]}', "HTTP 404 no such model"),
        ("m", '{"data": []}', "HTTP 404 no such model"),
        (None, '{"data": [{"id": "m"}]}', "HTTP 404 no such model"),
        (None, '{"data": [{"id": "other"}]}', "HTTP 404 no such model"),
        (None, '{"data": []}', "HTTP 404 no such model, as it was named"),
    ],
)
async def test_a_model_that_only_the_caller_named_is_told_apart_from_the_tiers(own, listed, detail):
    missing = {"error": {"code": "model_not_found"}}
    stand = Stand(Server(missing, listed.encode(), status=404), model=own)
    trial = await stand.tier.ask(PLAIN)
    assert (trial.attempt.verdict, trial.attempt.detail) == (Verdict.UNFIT, detail)
