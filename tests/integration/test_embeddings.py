"""Embeddings with the stock openai SDK over real processes: of the very model that is named."""

from __future__ import annotations

import json

import httpx
import openai
import pytest
from harness.batches import check_every_line_once, ended, start
from harness.processes import close_breakers
from harness.upstream_answers import embeddings

# Both tiers serve "shared", each its own model besides.
SHARED = {"model": "shared", "input": "Hello"}
PATH = "/v1/embeddings"


@pytest.fixture(scope="module")
def url(module_fleet):
    settings = {"slice_lines": 16, "gpu_timeout_seconds": 20}
    api, _ = module_fleet.start(module_fleet.api(), module_fleet.worker(**settings))
    return f"{api.url}/v1"


@pytest.fixture(autouse=True)
def _breakers(url):
    """Each test leaves the breakers as it found them."""
    yield
    close_breakers(url.removesuffix("/v1"))


@pytest.fixture
def gpu(module_gpu, _breakers):
    with module_gpu.lent() as gpu:
        gpu.models = ["gpu-model", "shared"]
        yield gpu


@pytest.fixture
def cpu(module_cpu, _breakers):
    with module_cpu.lent() as cpu:
        cpu.models = ["cpu-model", "shared"]
        yield cpu


@pytest.fixture
def sdk(url, gpu, cpu):
    with openai.OpenAI(base_url=url, api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
def http(url, gpu, cpu):
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client


def embed(http, headers=None, **body):
    return http.post("/embeddings", json={**SHARED, **body}, headers=headers)


def tier_of(reply):
    return reply.headers["x-fallthrough-tier"]


def error_of(reply):
    return reply.status_code, reply.json()["error"]["code"]


def numbers(model, *texts):
    """What the stub gives for texts, as numbers."""
    data = embeddings({"model": model, "input": list(texts)})["data"]
    return [pytest.approx(each["embedding"]) for each in data]


@pytest.mark.parametrize(
    "chosen", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}]
)
def test_the_sdk_gets_a_vector_for_each_text_in_the_form_that_it_asked_for(sdk, gpu, chosen):
    done = sdk.embeddings.create(model="shared", input=["a", "b"], **chosen)
    assert (done.object, done.model, done.usage.total_tokens) == ("list", "shared", 2)
    assert [each.index for each in done.data] == [0, 1]
    [call] = gpu.calls
    # The SDK asks for base64 by itself, and decodes it.
    assert call.body["encoding_format"] == chosen.get("encoding_format", "base64")
    if chosen.get("encoding_format") != "base64":
        assert [each.embedding for each in done.data] == numbers("shared", "a", "b")
    else:
        assert isinstance(done.data[0].embedding, str)


@pytest.mark.parametrize(
    ("given", "vectors"), [("a", 1), (["a"], 1), ([1, 2, 3], 1), ([[1, 2], [3]], 2)]
)
async def test_every_kind_of_input_reaches_the_server_as_it_is(url, gpu, cpu, given, vectors):
    async with openai.AsyncOpenAI(base_url=url, api_key="any") as client:
        done = await client.embeddings.create(model="shared", input=given, dimensions=4, user="u")
    assert len(done.data) == vectors
    assert len(done.data[0].embedding) == 4
    sent = {"model": "shared", "input": given, "dimensions": 4, "user": "u"}
    assert gpu.calls[0].body == {**sent, "encoding_format": "base64"}
    assert gpu.calls[0].path == PATH


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"input": None}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ["a"] * 2049}, "input"),
        ({"dimensions": 0}, "dimensions"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"fallthrough": {"on_exhausted": "maybe"}}, "fallthrough.on_exhausted"),
    ],
)
def test_what_does_not_fit_is_named(http, gpu, body, param):
    reply = embed(http, **body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
    assert gpu.calls == []


def test_two_thousand_and_forty_eight_texts_are_one_request(sdk, gpu):
    done = sdk.embeddings.create(model="shared", input=[f"text {n}" for n in range(2048)])
    assert [each.index for each in done.data] == list(range(2048))
    assert len(gpu.calls) == 1


def test_another_tier_embeds_only_if_it_serves_the_same_model(http, gpu, cpu):
    gpu.mode = "500"
    reply = embed(http)
    assert (tier_of(reply), reply.json()["model"]) == ("cpu", "shared")
    reply = embed(http, model="gpu-model")
    assert error_of(reply) == (503, "tiers_exhausted")
    assert "x-fallthrough-degraded" not in reply.headers
    assert {call.body["model"] for call in cpu.calls} == {"shared"}
    gpu.mode = "ok"
    reply = embed(http, model="cpu-model")
    assert (tier_of(reply), reply.json()["model"]) == ("cpu", "cpu-model")
    assert {call.body["model"] for call in gpu.calls} == {"shared", "gpu-model"}


@pytest.mark.parametrize("policy", ["degraded", "fail"])
def test_nobody_gets_a_message_instead_of_a_vector(http, gpu, cpu, policy):
    gpu.mode = cpu.mode = "500"
    reply = embed(http, input=f"new {policy}", fallthrough={"on_exhausted": policy})
    assert error_of(reply) == (503, "tiers_exhausted")


def test_who_waits_gets_it_when_a_tier_is_well_again(http, gpu, cpu):
    gpu.plan = lambda call: "500" if len(gpu.calls) == 1 else "ok"
    waits = {"on_exhausted": "wait", "tiers": ["gpu"], "deadline_seconds": 20}
    reply = embed(http, model="gpu-model", input="later", fallthrough=waits)
    assert (reply.status_code, tier_of(reply), len(gpu.calls)) == (200, "gpu", 2)


def test_a_model_that_nobody_serves_is_not_found(sdk, gpu, cpu):
    with pytest.raises(openai.NotFoundError) as error:
        sdk.embeddings.create(model="moon", input="a")
    assert error.value.code == "model_not_found"
    assert gpu.calls == cpu.calls == []


@pytest.mark.parametrize("mode", ["garbage", "no-choices", "hang-up"])
def test_a_reply_without_vectors_is_its_tiers_failure(http, gpu, mode):
    gpu.mode = "reset" if mode == "hang-up" else mode
    reply = embed(http, input=f"after {mode}")
    assert tier_of(reply) == "cpu"
    job = http.get(f"/jobs/{reply.headers['x-fallthrough-job-id']}").json()
    assert [attempt["verdict"] for attempt in job["attempts"]] == ["failure", "answered"]


def test_the_cache_has_it_of_the_same_model_size_and_form_alone(http, gpu, cpu):
    first = {"x-fallthrough-cache": "first"}
    asked = [
        {},
        {"model": "gpu-model"},
        {"dimensions": 4},
        {"encoding_format": "float"},
        {"encoding_format": "base64"},
        {"input": ["cached"]},
    ]
    replies = [embed(http, headers=first, **{"input": "cached", **each}) for each in asked]
    assert {tier_of(reply) for reply in replies} == {"gpu"}
    gpu.vanish()
    cpu.vanish()
    again = [embed(http, headers=first, **{"input": "cached", **each}) for each in asked]
    assert {tier_of(reply) for reply in again} == {"cache"}
    assert [reply.content for reply in again] == [reply.content for reply in replies]
    gpu.listen()


def test_a_server_that_cannot_embed_goes_on_to_chat(http, gpu):
    gpu.plan = lambda call: "no-path" if call.path == PATH else "ok"
    for number in range(3):
        assert tier_of(embed(http, input=f"text {number}")) == "cpu"
    reply = embed(http, model="gpu-model")
    assert error_of(reply) == (400, "no_tier_fits")
    chat = {"model": "gpu-model", "messages": [{"role": "user", "content": "Hi"}]}
    assert tier_of(http.post("/chat/completions", json=chat)) == "gpu"


def test_it_is_sent_again_by_its_key_and_asked_once(http, gpu):
    headers = {"Idempotency-Key": "embedding-1"}
    replies = [embed(http, headers=headers) for _ in range(2)]
    assert len({reply.headers["x-fallthrough-job-id"] for reply in replies}) == 1
    assert len(gpu.calls) == 1
    assert error_of(embed(http, headers=headers, input="Other")) == (422, "idempotency_key_reused")


def test_its_job_is_shown_with_its_vectors_and_no_text(http):
    reply = embed(http)
    job = http.get(f"/jobs/{reply.headers['x-fallthrough-job-id']}").json()
    assert (job["status"], job["text"], job["answer"]) == ("succeeded", None, reply.json())
    assert job["usage"] == {"prompt_tokens": 1, "total_tokens": 1}


# Batches


def line(custom_id, **body):
    return {"custom_id": custom_id, "method": "POST", "url": PATH, "body": {**SHARED, **body}}


def test_a_batch_of_embeddings_comes_back_each_line_once(sdk, gpu):
    gpu.plan = lambda call: "500" if call.prompt.endswith("7") else "ok"  # another tier's, then
    lines = [line(f"c{n}", input=f"text {n}") for n in range(60)]
    lines.append(line("many", input=["x", "y"], encoding_format="base64"))
    done = ended(sdk, start(sdk, lines, endpoint=PATH).id)
    assert (done.status, done.endpoint, done.usage.input_tokens) == ("completed", PATH, 62)
    output, errors = check_every_line_once(sdk, done, [each["custom_id"] for each in lines])
    assert errors == []
    by_id = {each["custom_id"]: each["response"]["body"] for each in output}
    for number in range(60):
        [entry] = by_id[f"c{number}"]["data"]
        assert [entry["embedding"]] == numbers("shared", f"text {number}")
    assert [type(each["embedding"]) for each in by_id["many"]["data"]] == [str, str]


def test_a_batch_of_a_model_that_only_one_tier_has_is_embedded_by_that_one(sdk, gpu, cpu):
    lines = [line(f"c{n}", model="cpu-model", input=f"text {n}") for n in range(20)]
    done = ended(sdk, start(sdk, lines, endpoint=PATH).id)
    output, _ = check_every_line_once(sdk, done, [each["custom_id"] for each in lines])
    assert {each["fallthrough"]["tier_used"] for each in output} == {"cpu"}
    assert gpu.calls == []


def test_a_batch_of_too_many_inputs_is_refused(sdk, gpu):
    lines = [line(f"c{n}", input=["x"] * 2000) for n in range(26)]
    done = ended(sdk, start(sdk, lines, endpoint=PATH).id)
    assert (done.status, [e.code for e in done.errors.data]) == ("failed", ["too_many_inputs"])
    assert "50000" in json.dumps(done.errors.data[0].message)
    assert gpu.calls == []


# A tier that embeds, and does nothing else


def test_no_chat_comes_to_a_tier_that_only_embeds(fleet, gpu, cpu):
    gpu.models = ["gpu-model"]
    cpu.models, cpu.plan = ["bge"], lambda call: "ok" if call.path == PATH else "no-path"
    fleet.settings |= {
        "FALLTHROUGH_GPU_URL": gpu.url,
        "FALLTHROUGH_TIERS": "gpu,embed",
        "FALLTHROUGH_EMBED_URL": cpu.url,
        "FALLTHROUGH_EMBED_ACCEPTS": "embeddings",
    }
    del fleet.settings["FALLTHROUGH_CPU_URL"]
    api, _ = fleet.start(fleet.api(), fleet.worker())
    chat = {"messages": [{"role": "user", "content": "Hi"}]}
    with httpx.Client(base_url=f"{api.url}/v1", timeout=30) as http:
        gpu.mode = "500"
        assert tier_of(http.post("/chat/completions", json=chat)) == "degraded"
        reply = http.post("/embeddings", json={"model": "bge", "input": "Hello"})
        assert (tier_of(reply), {call.path for call in cpu.calls}) == ("embed", {PATH})
        gpu.mode = "too-long"
        reply = http.post("/chat/completions", json=chat)
        assert error_of(reply) == (400, "context_length_exceeded")
        assert error_of(http.post("/embeddings", json=SHARED)) == (404, "model_not_found")
