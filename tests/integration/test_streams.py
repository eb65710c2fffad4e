"""Answers as they come, through the chain to the stock SDK, whatever the servers' streams are."""

from __future__ import annotations

import asyncio
import json
import time
from typing import NamedTuple

import httpx
import openai
import pydantic
import pytest
from harness.processes import close_breakers
from harness.upstream import completion
from harness.upstream_streams import BAD, GOOD, HUGE, UNICODE
from openai import AsyncOpenAI, OpenAI

LIMIT = 1.5  # seconds until a token: the first one, and each further one
QUIET = {
    "breaker_failure_threshold": 10_000,
    "breaker_minimum_calls": 10_000,
    "gpu_timeout_seconds": 20,
    "gpu_first_token_seconds": LIMIT,
    "gpu_next_token_seconds": LIMIT,
}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
FORM = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA, "strict": True}}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
    for name in ("weather", "time")
]


class Place(pydantic.BaseModel):
    """What the SDK is to parse."""

    model_config = pydantic.ConfigDict(extra="forbid")
    city: str


@pytest.fixture(scope="module")
def stack(module_fleet):
    return module_fleet.start(module_fleet.api(), module_fleet.worker(**QUIET))


@pytest.fixture
def gpu(module_gpu, stack):
    with module_gpu.lent():
        yield module_gpu
    close_breakers(stack[0].url)


@pytest.fixture
def cpu(module_cpu):
    with module_cpu.lent():
        yield module_cpu


@pytest.fixture
def url(stack, gpu, cpu):
    return f"{stack[0].url}/v1"


@pytest.fixture
def sdk(url):
    with OpenAI(base_url=url, api_key="any", max_retries=0, timeout=30) as client:
        yield client


@pytest.fixture
def http(url):
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client


@pytest.fixture
def prompt():
    """A prompt that nobody has asked before."""
    return f"one two {UNICODE} {time.monotonic_ns()}"


class Got(NamedTuple):
    """What a client got: chunks, headers, and what was raised at their end."""

    chunks: list
    headers: httpx.Headers
    error: openai.APIError | None

    @property
    def text(self):
        return text_of(self.chunks)

    @property
    def tier(self):
        return self.headers.get("x-fallthrough-tier")


def text_of(chunks, index=0):
    choices = (choice for chunk in chunks for choice in chunk.choices if choice.index == index)
    return "".join(choice.delta.content or "" for choice in choices)


def reasons(chunks):
    return [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason]


def asked(sdk, prompt, **fields):
    """Return what a chat that is streamed comes to."""
    said = [{"role": "user", "content": prompt}]
    more = {"model": "", "messages": said, "stream": True, **fields}
    reply = sdk.chat.completions.with_raw_response.create(**more)
    chunks, error = [], None
    try:
        chunks.extend(reply.parse())
    except openai.APIError as raised:
        error = raised
    return Got(chunks, reply.headers, error)


def job(http, got):
    return http.get(f"/jobs/{got.headers['x-fallthrough-job-id']}").json()


def failures(http):
    """Return how many failures in a row the GPU tier's breaker has counted."""
    views = http.get(str(http.base_url).replace("/v1/", "/circuit-breakers")).json()
    return views["circuit_breakers"]["max_gpu"]["consecutive_failures"]


@pytest.fixture
def got_of(sdk, gpu, prompt):
    """What a client gets of a mode of the GPU server's, and what he asks."""

    def got(mode, **fields):
        gpu.mode = mode
        return asked(sdk, prompt, **fields), prompt

    return got


# --- streams of a server's that say all ------------------------------------------------------


@pytest.mark.parametrize("mode", ["ok", *sorted(GOOD)])
def test_a_good_stream_is_shown_as_it_is(sdk, gpu, cpu, prompt, mode):
    gpu.mode = mode
    got = asked(sdk, prompt)
    said = f"gpu-model: {prompt}"
    if mode == "huge-chunk":
        said = said.replace(":", f":{HUGE}", 1)
    assert (got.error, got.text, got.tier) == (None, said, "gpu")
    assert reasons(got.chunks) == ["stop"]
    assert all(len(chunk.choices) == 1 for chunk in got.chunks)
    assert got.chunks[0].choices[0].delta.role == "assistant"
    assert {(c.id, c.object) for c in got.chunks} == {(got.chunks[0].id, "chat.completion.chunk")}
    assert (len(gpu.calls), cpu.calls) == (1, [])


def test_each_word_comes_while_the_next_is_made(sdk, gpu):
    gpu.pace, gpu.words = 0.2, 6
    said = [{"role": "user", "content": f"words-{time.monotonic_ns()}"}]
    came = [
        time.monotonic()
        for chunk in sdk.chat.completions.create(model="", messages=said, stream=True)
        if chunk.choices[0].delta.content
    ]
    assert len(came) == 6
    assert came[-1] - came[0] > 0.7


def test_a_stream_is_cached_as_its_answer_would_be(sdk, prompt):
    first = asked(sdk, prompt)
    again = asked(sdk, prompt, extra_headers={"x-fallthrough-cache": "first"})
    assert (first.tier, again.tier) == ("gpu", "cache")
    assert again.text == first.text
    assert float(again.headers["x-fallthrough-cache-age"]) >= 0
    said = [{"role": "user", "content": prompt}]
    plain = sdk.chat.completions.create(
        model="", messages=said, extra_headers={"x-fallthrough-cache": "first"}
    )
    assert plain.choices[0].message.content == first.text
    assert plain.usage.total_tokens == 3


# --- streams of a server's that end too early, or are none -----------------------------------

BEFORE = {"stall-silent", "error-first", "done-at-once", "ended-at-once", "only-role"}
AFTER = {"reason-abort", "reason-error", "reason-null", "reason-missing", "unfinished"}
AT_ANY_PLACE = set(BAD) - BEFORE - AFTER
FIRST = {"401": "misconfigured", "no-model": "unfit"}  # what the first tier's try comes to
REFUSALS = {"500", "401", "no-model", "garbage", "half", "reset", "no-choices"}


@pytest.mark.parametrize(
    "mode", sorted({*BEFORE, *(f"{mode}@0" for mode in AT_ANY_PLACE), *REFUSALS})
)
def test_what_breaks_off_before_the_first_word_is_answered_by_the_next_tier(
    http, cpu, got_of, mode
):
    got, prompt = got_of(mode)
    assert (got.error, got.text, got.tier) == (None, f"cpu-model: {prompt}", "cpu")
    assert reasons(got.chunks) == ["stop"]
    known = job(http, got)
    assert (known["status"], known["tier_used"]) == ("succeeded", "cpu")
    first, second = known["attempts"]
    assert (first["tier"], second["tier"]) == ("gpu", "cpu")
    assert first["verdict"] == FIRST.get(mode, "failure")
    assert len(cpu.calls) == 1


DETAILS = {
    "cut": "reset",
    "cut-reset": "reset",
    "stall": "stalled",
    "garbage-event": "unshowable",
    "no-json-event": "unshowable",
}


@pytest.mark.parametrize("mode", sorted({*AFTER, *(f"{mode}@2" for mode in AT_ANY_PLACE)}))
def test_what_breaks_off_later_is_never_taken_for_whole(http, cpu, got_of, mode):
    before = failures(http)
    got, prompt = got_of(mode)
    assert got.text
    assert f"gpu-model: {prompt}".startswith(got.text)
    assert got.tier == "gpu"
    assert reasons(got.chunks) == []
    assert type(got.error) is openai.APIError
    assert (got.error.code, got.error.type) == ("upstream_interrupted", "server_error")
    assert "broke off" in got.error.message
    known = job(http, got)
    assert (known["status"], known["error"]["code"]) == ("failed", "upstream_interrupted")
    [attempt] = known["attempts"]
    detail = DETAILS.get(mode.partition("@")[0], "interrupted")
    assert (attempt["verdict"], attempt["detail"]) == ("failure", detail)
    assert cpu.calls == []
    assert failures(http) == before + 1
    again, _ = got_of("ok", extra_headers={"x-fallthrough-cache": "first"})
    assert (again.tier, again.error) == ("gpu", None), "nothing of it was cached"


def test_one_of_several_choices_that_breaks_off_breaks_them_all(sdk, gpu, prompt):
    gpu.mode = "unfinished"
    got = asked(sdk, prompt, n=2)
    assert text_of(got.chunks, 0) == text_of(got.chunks, 1) == f"gpu-model: {prompt}"
    assert got.error.code == "upstream_interrupted"


@pytest.mark.parametrize("mode", ["stall@0", "stall-silent", "hang"])
def test_a_first_token_that_does_not_come_is_waited_for_so_long(sdk, gpu, prompt, mode):
    gpu.mode = mode
    began = time.monotonic()
    assert asked(sdk, prompt).tier == "cpu"
    assert LIMIT * 0.9 < time.monotonic() - began < LIMIT + 2


def test_a_next_token_that_does_not_come_is_waited_for_so_long(sdk, gpu, prompt):
    gpu.mode = "stall@3"
    began = time.monotonic()
    assert asked(sdk, prompt).error
    assert LIMIT * 0.9 < time.monotonic() - began < LIMIT + 2


def test_a_stream_may_take_longer_than_the_limit_of_its_tokens(sdk, gpu):
    gpu.pace, gpu.words = LIMIT / 2, 6
    began = time.monotonic()
    got = asked(sdk, f"words-{time.monotonic_ns()}")
    assert (got.error, got.tier) == (None, "gpu")
    assert time.monotonic() - began > LIMIT * 2


def test_the_deadline_of_a_stream_is_not_its_servers_fault(sdk, http, gpu):
    gpu.pace, gpu.words = LIMIT / 3, 50
    got = asked(
        sdk,
        f"words-{time.monotonic_ns()}",
        extra_headers={"x-fallthrough-deadline-seconds": str(LIMIT * 1.5)},
    )
    assert (got.error.code, got.tier) == ("deadline_exceeded", "gpu")
    assert len(got.chunks) > 1
    assert job(http, got)["status"] == "expired"
    assert failures(http) == 0


def test_what_is_refused_is_refused_with_the_status_of_a_plain_request(sdk, gpu, cpu, prompt):
    gpu.mode = cpu.mode = "400"
    with pytest.raises(openai.BadRequestError) as raised:
        asked(sdk, prompt)
    assert raised.value.code == "bad_n"
    gpu.mode = cpu.mode = "500"
    with pytest.raises(openai.InternalServerError) as raised:
        asked(sdk, prompt, extra_headers={"x-fallthrough-on-exhausted": "fail"})
    assert (raised.value.status_code, raised.value.code) == (503, "tiers_exhausted")


# --- the tiers that have their answer as a whole ----------------------------------------------


@pytest.fixture(params=["cache", "degraded", "plain-json"])
def whole(request, sdk, gpu, cpu, prompt):
    """The tier that answers as a whole."""
    if request.param == "cache":
        asked(sdk, prompt)
    gpu.mode = cpu.mode = "plain-json" if request.param == "plain-json" else "500"
    return "gpu" if request.param == "plain-json" else request.param


@pytest.mark.parametrize("usage", [True, False])
def test_a_whole_answer_is_one_chunk_and_its_end(http, prompt, whole, usage):
    said = [{"role": "user", "content": prompt}]
    body = {"model": "", "messages": said, "stream": True}
    body["stream_options"] = {"include_usage": usage}
    reply = http.post("/chat/completions", json=body)
    assert reply.headers["x-fallthrough-tier"] == whole
    assert reply.headers.get("x-fallthrough-degraded") == ("true" if whole == "degraded" else None)
    assert ("x-fallthrough-cache-age" in reply.headers) is (whole == "cache")
    *events, done, rest = reply.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    first, last, *counted = [json.loads(event.removeprefix("data: ")) for event in events]
    assert first["choices"][0]["delta"]["role"] == "assistant"
    text = first["choices"][0]["delta"]["content"]
    assert (text == f"gpu-model: {prompt}") is (whole != "degraded")
    assert first["choices"][0]["finish_reason"] is None
    end = {"index": 0, "delta": {}, "finish_reason": "stop", "logprobs": None}
    assert last["choices"] == [end]
    if usage:
        assert (first["usage"], last["usage"]) == (None, None)
        [chunk] = counted
        assert chunk["choices"] == []
        assert chunk["usage"].keys() >= {"prompt_tokens", "completion_tokens", "total_tokens"}
    else:
        assert counted == []
        assert "usage" not in first | last


def test_the_sdks_helper_reads_a_whole_answer(sdk, prompt, whole):
    said = [{"role": "user", "content": prompt}]
    with sdk.chat.completions.stream(model="", messages=said) as stream:
        final = stream.get_final_completion()
    [choice] = final.choices
    assert choice.finish_reason == "stop"
    assert (choice.message.content == f"gpu-model: {prompt}") is (whole != "degraded")


# --- what is asked for ------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["ok", "usage-in-finish", "usage-in-every", "no-done"])
def test_usage_is_shown_to_who_asks_for_it_alone_and_at_the_end(sdk, gpu, prompt, mode):
    gpu.mode = mode
    *others, last = asked(sdk, prompt, stream_options={"include_usage": True}).chunks
    assert (last.choices, last.usage.total_tokens) == ([], 3)
    assert all("usage" in c.model_fields_set and c.usage is None for c in others)
    assert {chunk.id for chunk in others} == {last.id}
    chunks = asked(sdk, prompt).chunks
    assert all(chunk.choices and "usage" not in chunk.model_fields_set for chunk in chunks)
    assert all(call.wants_usage for call in gpu.calls), "for the metrics"


ASKED_FOR = {
    "text": {},
    "choices": {"n": 3},
    "logprobs": {"logprobs": True, "n": 1},
    "tools": {"tools": TOOLS},
    "tools twice": {"tools": TOOLS, "n": 2},
}


def final(completion):
    """Return what a completion says, without what is empty, and what the helper adds."""

    def bare(value):
        if isinstance(value, dict):
            dropped = {"parsed", "parsed_arguments", "index", "top_logprobs"}
            return {k: bare(v) for k, v in value.items() if v and k not in dropped}
        return [bare(each) for each in value] if isinstance(value, list) else value

    found = bare(completion.model_dump(mode="json"))
    return [*found["choices"], found["usage"], found["model"]]


@pytest.mark.parametrize("name", sorted(ASKED_FOR))
def test_the_helper_puts_a_stream_together_to_the_plain_answer(sdk, gpu, prompt, name):
    gpu.mode = "tools" if "tools" in name else "ok"
    asked_for = {"model": "", "messages": [{"role": "user", "content": prompt}], **ASKED_FOR[name]}
    plain = sdk.chat.completions.create(**asked_for)
    counted = {"stream_options": {"include_usage": True}}
    with sdk.chat.completions.stream(**asked_for, **counted) as stream:
        events = [event.type for event in stream]
        streamed = stream.get_final_completion()
    assert final(streamed) == final(plain)
    assert events.count("chunk") > 5


@pytest.mark.parametrize("name", sorted(ASKED_FOR))
def test_the_helper_of_the_async_sdk_does_too(url, gpu, prompt, name):
    gpu.mode = "tools" if "tools" in name else "ok"
    asked_for = {"model": "", "messages": [{"role": "user", "content": prompt}], **ASKED_FOR[name]}

    async def run():
        async with AsyncOpenAI(base_url=url, api_key="any", max_retries=0) as sdk:
            plain = await sdk.chat.completions.create(**asked_for)
            counted = {"stream_options": {"include_usage": True}}
            async with sdk.chat.completions.stream(**asked_for, **counted) as stream:
                return plain, await stream.get_final_completion()

    plain, streamed = asyncio.run(run())
    assert final(streamed) == final(plain)


def test_the_async_sdk_gets_each_word_and_what_broke_off(url, gpu, prompt):
    said = [{"role": "user", "content": prompt}]

    async def run():
        async with AsyncOpenAI(base_url=url, api_key="any", max_retries=0) as sdk:
            chunks = []
            stream = await sdk.chat.completions.create(model="", messages=said, stream=True)

            async def read():
                async for chunk in stream:
                    chunks.append(chunk)  # noqa: PERF401 - those before the error are kept

            with pytest.raises(openai.APIError) as raised:
                await read()
            return chunks, raised.value

    gpu.mode = "cut@2"
    chunks, error = asyncio.run(run())
    assert text_of(chunks) == "gpu-model: one"
    assert error.code == "upstream_interrupted"


def test_a_prompt_is_completed_as_it_comes(sdk, gpu, prompt):
    asked_for = {"model": "", "prompt": prompt, "logprobs": 1}
    plain = sdk.completions.create(**asked_for)
    chunks = list(sdk.completions.create(**asked_for, stream=True))
    assert "".join(c.choices[0].text for c in chunks) == plain.choices[0].text
    assert {chunk.object for chunk in chunks} == {"text_completion"}
    told = [chunk.choices[0].logprobs for chunk in chunks]
    tokens = [token for each in told if each for token in each.tokens]
    assert tokens == plain.choices[0].logprobs.tokens
    assert [c.choices[0].finish_reason for c in chunks][-2:] == [None, "stop"]


# --- a form that is asked for ------------------------------------------------------------------


def says(upstream, text):
    upstream.__dict__["_completion"] = lambda call: completion(text)


def test_a_tier_that_is_not_checked_shows_a_form_word_by_word(sdk, gpu, prompt):
    says(gpu, '{"city": "Ulm an der Donau"}')
    gpu.pace = 0.1
    got = asked(sdk, prompt, response_format=FORM)
    assert (got.tier, json.loads(got.text)) == ("gpu", {"city": "Ulm an der Donau"})
    assert len(got.chunks) > 3


def test_a_tier_that_is_checked_shows_what_fits_and_that_at_once(sdk, gpu, cpu, prompt):
    gpu.mode = "500"
    says(cpu, '{"city": "Ulm an der Donau"}')
    cpu.pace = 0.1
    said = [{"role": "user", "content": prompt}]
    with sdk.chat.completions.stream(model="", messages=said, response_format=Place) as stream:
        came = [time.monotonic() for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert final.choices[0].message.parsed == Place(city="Ulm an der Donau")
    assert cpu.calls[0].body["stream"] is True
    assert came[-1] - came[0] < 0.1


def test_a_fence_around_it_is_taken_off(sdk, gpu, cpu, prompt):
    gpu.mode = "500"
    says(cpu, '```json\n{"city": "Ulm"}\n```')
    got = asked(sdk, prompt, response_format=FORM)
    assert (got.tier, got.text) == ("cpu", '{"city": "Ulm"}')


def test_what_does_not_fit_is_not_shown(sdk, gpu, cpu, prompt):
    gpu.mode = "500"
    says(cpu, "Ulm is a fine city.")
    with pytest.raises(openai.InternalServerError) as raised:
        asked(sdk, prompt, response_format=FORM)
    assert raised.value.status_code == 503
    assert "fine" not in str(raised.value.body)
