"""Completions of a prompt, and the models, with the stock openai SDK over real processes."""

from __future__ import annotations

import httpx
import openai
import pytest
from harness.processes import close_breakers

PROMPT = {"model": "any", "prompt": "Hello"}


@pytest.fixture(scope="module")
def url(module_fleet):
    api, _ = module_fleet.start(module_fleet.api(), module_fleet.worker())
    return f"{api.url}/v1"


@pytest.fixture
def gpu(module_gpu):
    with module_gpu.lent() as gpu:
        yield gpu


@pytest.fixture
def cpu(module_cpu):
    with module_cpu.lent() as cpu:
        yield cpu


@pytest.fixture
def sdk(url, gpu, cpu):
    with openai.OpenAI(base_url=url, api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
def http(url, gpu, cpu):
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client
        base = url.removesuffix("/v1")
        views = client.get(f"{base}/circuit-breakers").json()["circuit_breakers"]
        assert not any(view["held"] for view in views.values())
        close_breakers(base)


def tier_of(reply):
    return reply.headers["x-fallthrough-tier"]


@pytest.mark.parametrize("prompt", ["Hello", ["Hello"]])
def test_a_prompt_is_completed_as_the_legacy_form_has_it(sdk, gpu, prompt):
    done = sdk.completions.create(**{**PROMPT, "prompt": prompt}, temperature=0.1, echo=True)
    assert (done.object, done.choices[0].text) == ("text_completion", "gpu-model: Hello")
    assert done.usage.total_tokens == 3
    [call] = gpu.calls
    assert call.body == {"model": "gpu-model", "prompt": "Hello", "temperature": 0.1, "echo": True}


async def test_so_it_is_for_who_does_not_block(url, gpu, cpu):
    async with openai.AsyncOpenAI(base_url=url, api_key="any") as client:
        done = await client.completions.create(**PROMPT)
    assert done.choices[0].text == "gpu-model: Hello"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [1, 2, 3]}, "prompt"),
        ({"prompt": [1]}, "prompt[0]"),
        ({"prompt": [[1, 2]]}, "prompt[0]"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"messages": [{"role": "user", "content": "x"}]}, "prompt"),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "x", "fallthrough": {"cache": "maybe"}}, "fallthrough.cache"),
        ({"prompt": "x", "fallthrough": {"tiers": ["moon"]}}, "fallthrough.tiers"),
    ],
)
def test_what_does_not_fit_is_named(http, gpu, body, param):
    reply = http.post("/completions", json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
    assert gpu.calls == []


def test_it_falls_through_to_an_honest_answer_of_the_same_form(http, gpu, cpu):
    assert tier_of(http.post("/completions", json=PROMPT)) == "gpu"
    gpu.mode = "500"
    reply = http.post("/completions", json=PROMPT)
    assert (tier_of(reply), reply.json()["choices"][0]["text"]) == ("cpu", "cpu-model: Hello")
    cpu.mode = "500"
    reply = http.post("/completions", json=PROMPT)
    assert (tier_of(reply), reply.json()["choices"][0]["text"]) == ("cache", "cpu-model: Hello")
    assert float(reply.headers["x-fallthrough-cache-age"]) >= 0
    reply = http.post("/completions", json=PROMPT, headers={"x-fallthrough-cache": "off"})
    answer = reply.json()
    assert (tier_of(reply), reply.headers["x-fallthrough-degraded"]) == ("degraded", "true")
    assert (answer["object"], answer["choices"][0]["finish_reason"]) == ("text_completion", "stop")
    assert answer["fallthrough"] == {"degraded": True}
    assert answer["choices"][0]["text"].startswith("The service is temporarily unable")


def test_a_chat_of_the_same_words_gets_no_answer_of_the_other_form(http):
    body = {**PROMPT, "prompt": "both", "messages": [{"role": "user", "content": "both"}]}
    first = {"x-fallthrough-cache": "first"}
    for path in ("/completions", "/chat/completions") * 2:
        reply = http.post(path, json=body, headers=first)
        assert ("text" in reply.json()["choices"][0]) == (path == "/completions")
    assert tier_of(reply) == "cache"


def test_a_server_that_only_chats_is_passed_and_chats_on(http, gpu):
    gpu.plan = lambda call: "no-path" if "prompt" in call.body else "ok"
    for number in range(3):
        reply = http.post("/completions", json={**PROMPT, "prompt": f"at the other {number}"})
        assert tier_of(reply) == "cpu"
    chat = {"model": "any", "messages": [{"role": "user", "content": "Hi"}]}
    assert tier_of(http.post("/chat/completions", json=chat)) == "gpu"


def test_it_is_sent_again_by_its_key_and_answered_once(http, gpu):
    headers = {"Idempotency-Key": "completion-1"}
    replies = [http.post("/completions", json=PROMPT, headers=headers) for _ in range(2)]
    assert len({reply.headers["x-fallthrough-job-id"] for reply in replies}) == 1
    assert len(gpu.calls) == 1
    other = http.post("/completions", json={**PROMPT, "prompt": "Other"}, headers=headers)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")


def test_its_deadline_is_kept(http, cpu):
    cpu.mode = "hang"
    deadline = {"deadline_seconds": 0.5, "on_exhausted": "fail", "tiers": ["cpu"]}
    reply = http.post("/completions", json={**PROMPT, "prompt": "slow", "fallthrough": deadline})
    assert (reply.status_code, reply.json()["error"]["code"]) == (504, "deadline_exceeded")


def test_its_job_is_shown_as_every_other(http):
    reply = http.post("/completions", json=PROMPT)
    job = http.get(f"/jobs/{reply.headers['x-fallthrough-job-id']}").json()
    assert (job["status"], job["text"]) == ("succeeded", "gpu-model: Hello")
    assert job["answer"] == reply.json()


# Models


def test_every_model_of_the_list_is_described_also_one_with_slashes(sdk, gpu):
    gpu.models = ["Qwen/Qwen2.5-7B", "a b", "gpu-model"]
    listed = list(sdk.models.list())
    assert [each.id for each in listed] == [*gpu.models, "cpu-model"]
    for each in listed:
        one = sdk.models.retrieve(each.id)
        assert (one.id, one.object, one.owned_by) == (each.id, "model", each.owned_by)


def test_a_model_that_nobody_has_is_not_found(sdk, http):
    with pytest.raises(openai.NotFoundError) as error:
        sdk.models.retrieve("moon/moon-7B")
    assert error.value.code == "model_not_found"
    assert "moon/moon-7B" in error.value.message


@pytest.mark.parametrize("path", ["/models/Qwen/Qwen2.5-7B", "/models/Qwen%2FQwen2.5-7B"])
def test_a_slash_may_be_written_in_both_ways(http, gpu, path):
    gpu.models = ["Qwen/Qwen2.5-7B"]
    assert http.get(path).json()["id"] == "Qwen/Qwen2.5-7B"


def test_models_that_end_in_a_slash_are_all_of_them(http):
    listed = http.get("/models/").json()["data"]
    assert [each["id"] for each in listed] == ["gpu-model", "cpu-model"]
