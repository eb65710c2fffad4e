"""Real API, real worker: whose answers are wanted is the caller's to say."""

from __future__ import annotations

import time

import httpx
import openai
import pytest
from harness.batches import check_every_line_once, ended, line, start
from harness.waiting import wait_until

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def stack(fleet):
    return fleet.start(fleet.api(), fleet.worker(slice_lines=16))


@pytest.fixture
def api(stack):
    with httpx.Client(base_url=stack[0].url, timeout=30) as client:
        yield client


@pytest.fixture
def sdk(stack):
    with openai.OpenAI(base_url=f"{stack[0].url}/v1", api_key="any", max_retries=0) as client:
        yield client


def chat(api, headers=None, **fallthrough):
    body = {"messages": HELLO} | ({"fallthrough": fallthrough} if fallthrough else {})
    return api.post("/v1/chat/completions", json=body, headers=headers)


def job_of(api, reply):
    return api.get(f"/v1/jobs/{reply.headers['x-fallthrough-job-id']}").json()


def verdicts(job):
    return [(attempt["tier"], attempt["verdict"]) for attempt in job["attempts"]]


def test_whoever_wants_the_gpu_alone_gets_no_answer_of_another(api, gpu, cpu):
    """Not even the one that the cache has of the same prompt."""
    assert chat(api).headers["x-fallthrough-tier"] == "gpu"
    gpu.mode = "500"
    reply = chat(api, tiers=["gpu"], on_exhausted="fail")
    assert (reply.status_code, cpu.calls) == (503, [])
    assert verdicts(job_of(api, reply)) == [("gpu", "failure"), ("cpu", "not_allowed")]
    assert chat(api, tiers=["gpu"]).headers["x-fallthrough-tier"] == "degraded"
    assert chat(api, tiers=["gpu", "cache"]).headers["x-fallthrough-tier"] == "cache"
    assert chat(api).headers["x-fallthrough-tier"] == "cpu"


def test_a_header_says_it_too(api, gpu, cpu):
    reply = chat(api, {"x-fallthrough-tiers": "cpu, cache"})
    assert (reply.headers["x-fallthrough-tier"], gpu.calls) == ("cpu", [])
    assert verdicts(job_of(api, reply)) == [("cpu", "answered")], "it begins there"
    first = {"x-fallthrough-tiers": "cpu,cache", "x-fallthrough-cache": "first"}
    assert chat(api, first).headers["x-fallthrough-tier"] == "cache"
    for text in ("cpu,moon", ""):
        reply = chat(api, {"x-fallthrough-tiers": text})
        assert (reply.status_code, len(gpu.calls)) == (400, 0)


def test_a_header_says_it_of_jobs_too(api, gpu):
    headers = {"x-fallthrough-tiers": "cpu"}
    job = api.post("/v1/jobs", json={"prompt": "Hello"}, headers=headers).json()
    done = api.get(f"/v1/jobs/{job['id']}?wait=20").json()
    assert (done["tier_used"], gpu.calls) == ("cpu", [])
    own = api.post("/v1/jobs", json={"prompt": "Hello", "tiers": ["gpu"]}, headers=headers).json()
    assert api.get(f"/v1/jobs/{own['id']}?wait=20").json()["tier_used"] == "gpu"


def test_a_name_that_is_not_there_is_refused_with_those_that_are(own_fleet, gpu):
    own_fleet.settings["FALLTHROUGH_CPU_URL"] = ""
    api = own_fleet.api().start()
    with httpx.Client(base_url=api.url) as client:
        reply = chat(client, tiers=["gpu", "cpu"])
        names = client.get("/openapi.json").json()["components"]["schemas"]["TierName"]
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, "fallthrough.tiers")
    assert "no tier 'cpu'; there are gpu, cache" in error["message"]
    assert names == {"enum": ["gpu", "cache"]}


def test_a_job_that_waits_for_the_gpu_gets_it_and_is_no_poison(api, gpu, cpu):
    """It passes the CPU tier round after round, and its failures are the GPU's."""
    gpu.vanish()
    asked = {"prompt": "patient", "tiers": ["gpu"], "on_exhausted": "wait"}
    job = api.post("/v1/jobs", json=asked).json()
    wait_until(lambda: len(api.get(f"/v1/jobs/{job['id']}").json()["attempts"]) >= 4)
    gpu.listen()
    job = api.get(f"/v1/jobs/{job['id']}?wait=30").json()
    assert (job["tier_used"], job["text"], cpu.calls) == ("gpu", "gpu-model: patient", [])
    assert verdicts(job).count(("cpu", "not_allowed")) == 1


def test_passing_a_tier_takes_no_time_while_its_places_are_taken(api, gpu, cpu):
    cpu.mode = "hang"
    with httpx.Client(base_url=api.base_url) as client:
        asked = [{"prompt": f"slow {n}", "tiers": ["cpu"]} for n in range(8)]
        client.post("/v1/jobs", json={"requests": asked}).raise_for_status()
    wait_until(lambda: len(cpu.calls) >= 1)
    gpu.mode = "500"
    began = time.monotonic()
    assert chat(api, tiers=["gpu"], on_exhausted="fail").status_code == 503
    assert time.monotonic() - began < 2, "and not the time of those who wait there"


def test_lines_of_a_batch_wait_for_the_tiers_that_it_names(sdk, gpu, cpu):
    gpu.vanish()
    lines = [line(f"c{n}", str(n)) for n in range(40)]
    batch = start(sdk, lines, metadata={"fallthrough_tiers": "gpu"})
    free = start(sdk, [line("free", "x")])
    assert ended(sdk, free.id).status == "completed"
    assert len(cpu.calls) == 1
    assert sdk.batches.retrieve(batch.id).request_counts.completed == 0
    gpu.listen()
    done = ended(sdk, batch.id)
    output, _ = check_every_line_once(sdk, done, [each["custom_id"] for each in lines])
    assert {each["fallthrough"]["tier_used"] for each in output} == {"gpu"}
    tried = {tier for each in output for tier, _ in verdicts(each["fallthrough"])}
    assert (tried, len(cpu.calls)) == ({"gpu"}, 1), "none of them went down while there was room"


def test_lines_that_do_not_wait_end_without_the_tiers_that_their_batch_leaves_out(sdk, gpu, cpu):
    gpu.vanish()
    lines = [line(f"c{n}", str(n)) for n in range(40)]
    metadata = {"fallthrough_tiers": "gpu", "fallthrough_on_exhausted": "fail"}
    done = ended(sdk, start(sdk, lines, metadata=metadata).id)
    _, errors = check_every_line_once(sdk, done, [each["custom_id"] for each in lines])
    assert {each["response"]["status_code"] for each in errors} == {503}
    for each in errors:
        assert verdicts(each["fallthrough"])[1:] == [("cpu", "not_allowed")]
    assert cpu.calls == []


def test_lines_for_the_cpu_tier_alone_are_not_called_up(sdk, gpu, cpu):
    """The GPU tier above is well all the time, and nobody wants its answer."""
    cpu.delay = 0.1
    lines = [line(f"c{n}", str(n)) for n in range(24)]
    batch = start(sdk, lines, metadata={"fallthrough_tiers": "cpu"})
    output, _ = check_every_line_once(
        sdk, ended(sdk, batch.id), [each["custom_id"] for each in lines]
    )
    for each in output:
        assert verdicts(each["fallthrough"]) == [("cpu", "answered")]
    assert gpu.calls == []


def test_a_batch_tells_which_model_answered_how_many_lines(sdk, gpu, cpu):
    gpu.plan = lambda call: "no-choices" if int(call.prompt) % 10 == 3 else "ok"
    done = ended(sdk, start(sdk, [line(f"c{n}", str(n)) for n in range(40)]).id)
    assert done.request_counts.completed == 40
    tiers, models = (done.fallthrough[name] for name in ("tiers", "models"))
    assert set(tiers) == {"gpu", "cpu"}
    assert models == {"gpu": {"gpu-model": tiers["gpu"]}, "cpu": {"cpu-model": tiers["cpu"]}}


def test_batches_that_do_not_say_go_by_the_setting(own_fleet, gpu, cpu):
    api, _ = own_fleet.start(own_fleet.api(batch_tiers="cpu"), own_fleet.worker())
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key="any", max_retries=0) as sdk:
        silent = start(sdk, [line("a", "x")])
        told = start(sdk, [line("a", "y")], metadata={"fallthrough_tiers": "gpu,cpu"})
        tiers = [ended(sdk, batch.id).fallthrough["tiers"] for batch in (silent, told)]
    assert tiers == [{"cpu": 1}, {"gpu": 1}]
    assert httpx.post(f"{api.url}/v1/jobs", json={"prompt": "x"}).is_success
    wait_until(lambda: len(gpu.calls) == 2, what="a job goes by its own word")


def test_an_api_whose_batches_would_wait_for_nobody_does_not_start(own_fleet):
    own_fleet.settings["FALLTHROUGH_GPU_URL"] = ""
    api = own_fleet.api(batch_tiers="gpu").start(ready=False)
    assert api.wait() == 2
    said = "api: FALLTHROUGH_BATCH_TIERS: the tier gpu is not set up: there are cpu, cache"
    assert said in api.log
