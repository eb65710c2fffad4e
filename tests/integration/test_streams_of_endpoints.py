"""Streams of a tier of several servers, and of a server that takes no stream_options."""

from __future__ import annotations

import openai
import pytest
from harness.upstream import Upstream
from harness.waiting import wait_until
from openai import OpenAI

SETTINGS = {
    "breaker_failure_threshold": 10_000,
    "gpu_timeout_seconds": 20,
    "gpu_first_token_seconds": 1.5,
    "gpu_next_token_seconds": 1.5,
}


@pytest.fixture
def other():
    upstream = Upstream("other-model")
    yield upstream
    upstream.close()


@pytest.fixture
def start(fleet):
    """Start an API and a worker with some settings; return the SDK before them."""
    clients = []

    def started(**settings):
        settings = {**SETTINGS, **settings}
        api, _ = fleet.start(fleet.api(**settings), fleet.worker(**settings))
        sdk = OpenAI(base_url=f"{api.url}/v1", api_key="any", max_retries=0, timeout=30)
        clients.append(sdk)
        return sdk

    yield started
    for client in clients:
        client.close()


def asked(sdk, prompt="one two three", **fields):
    """Return the text of a stream, and the code of what broke it off."""
    said = [{"role": "user", "content": prompt}]
    stream = sdk.chat.completions.create(model="", messages=said, stream=True, **fields)
    text, code = "", None
    try:
        for chunk in stream:
            text += chunk.choices[0].delta.content or ""
    except openai.APIError as error:
        code = error.code
    return text, code


def test_what_one_server_does_not_begin_another_of_its_tier_answers(start, gpu, other, cpu):
    sdk = start(gpu_url=f"{gpu.url}, {other.url}")
    for mode in ("cut@0", "stall-silent", "500", "error-first", "only-role"):
        gpu.mode = mode
        # Each in turn is asked first.
        answers = [asked(sdk, f"{mode} {number}") for number in range(2)]
        assert answers == [(f"other-model: {mode} {number}", None) for number in range(2)]
    assert cpu.calls == []
    assert len(gpu.calls) >= 5


@pytest.mark.parametrize("mode", ["cut@2", "stall@2", "error-event@2", "reason-abort"])
def test_what_one_server_has_begun_no_other_goes_on_with(start, gpu, other, cpu, mode):
    sdk = start(gpu_url=f"{gpu.url}, {other.url}")
    gpu.mode = other.mode = mode
    text, code = asked(sdk)
    assert code == "upstream_interrupted"
    assert text
    assert len(gpu.calls) + len(other.calls) == 1
    assert cpu.calls == []


def test_a_server_that_takes_no_stream_options_is_asked_without(start, gpu, cpu):
    sdk = start()
    gpu.plan = lambda call: "no-stream-options" if "stream_options" in call.body else "ok"
    for _ in range(3):
        answer = asked(sdk, stream_options={"include_usage": True}, extra_headers=NO_CACHE)
        assert answer == ("gpu-model: one two three", None)
    assert ["stream_options" in call.body for call in gpu.calls] == [True, False, False, False]
    assert cpu.calls == []


@pytest.mark.parametrize("status", [400, 422])
def test_a_refusal_that_repeats_its_request_leaves_the_tokens_of_others_counted(start, gpu, status):
    sdk = start()
    gpu.plan = lambda call: f"echo-{status}" if call.prompt == "bad" else "ok"

    def tokens(prompt):
        said = [{"role": "user", "content": prompt}]
        counted = {"stream_options": {"include_usage": True}, "extra_headers": NO_CACHE}
        *_, last = sdk.chat.completions.create(model="", messages=said, stream=True, **counted)
        return last.usage.total_tokens

    assert tokens("good") > 0
    with pytest.raises(openai.APIStatusError) as refused:
        tokens("bad")
    assert refused.value.status_code == status
    assert tokens("good") > 0


@pytest.mark.parametrize("mode", ["cut@1", "stall@1", "error-event@1"])
def test_a_server_that_breaks_off_what_it_begins_is_left_alone(start, gpu, mode):
    sdk = start(breaker_failure_threshold=3, gpu_next_token_seconds=0.3)
    gpu.mode = mode
    codes = [asked(sdk, f"one two three {n}", extra_headers=NO_CACHE)[1] for n in range(3)]
    assert codes == ["upstream_interrupted"] * 3
    assert asked(sdk, "four", extra_headers=NO_CACHE) == ("cpu-model: four", None)
    assert len(gpu.calls) == 3


def test_who_leaves_a_stream_says_nothing_against_its_server(start, gpu):
    """It has said its first word, which ends a row of failures."""
    sdk = start(breaker_failure_threshold=2)
    said = [{"role": "user", "content": "one two three"}]
    for _ in range(3):
        gpu.mode = "500"
        assert asked(sdk, "x", extra_headers=NO_CACHE)[0] == "cpu-model: x"
        gpu.mode, gpu.pace = "ok", 0.3
        stream = sdk.chat.completions.create(
            model="", messages=said, stream=True, extra_headers=NO_CACHE
        )
        calls = len(gpu.left)
        assert next(stream).choices
        stream.close()
        wait_until(lambda calls=calls: len(gpu.left) > calls)
        gpu.pace = 0.0
    assert asked(sdk, "y", extra_headers=NO_CACHE) == ("gpu-model: y", None)


NO_CACHE = {"x-fallthrough-cache": "off"}
