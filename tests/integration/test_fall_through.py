"""Real API, real worker, real Valkey; a GPU server that fails on cue."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
from harness.waiting import wait_until

from circuit_breaker import CircuitBreaker, CircuitBreakerConfig, RedisStore


@pytest.fixture
def stack(fleet):
    return fleet.start(fleet.api(), fleet.worker())


@pytest.fixture
def api(stack):
    with httpx.Client(base_url=stack[0].url, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def module_stack(module_fleet):
    """One API and one worker, for those tests that leave every tier as well as they found it."""
    return module_fleet.start(module_fleet.api(), module_fleet.worker())


@pytest.fixture
def shared(module_stack, module_gpu, module_cpu):
    """A client of the API that tests share, with their model servers."""
    api, _ = module_stack
    with (
        module_gpu.lent() as gpu,
        module_cpu.lent() as cpu,
        httpx.Client(base_url=api.url, timeout=30) as client,
    ):
        yield client, gpu, cpu
        for name in ("max_gpu", "ollama_cpu"):
            view = breaker(client, name)
            assert (view["state"], view["held"]) == ("closed", False)
            assert view["consecutive_failures"] == 0


def chat(api, prompt="Hello", **fields):
    body = {"messages": [{"role": "user", "content": prompt}], **fields}
    return api.post("/v1/chat/completions", json=body)


def breaker(api, name="max_gpu"):
    return api.get("/circuit-breakers").json()["circuit_breakers"][name]


def job_of(api, reply):
    return api.get(f"/v1/jobs/{reply.headers['x-fallthrough-job-id']}").json()


def test_the_gpu_tier_answers_first(shared):
    api, gpu, cpu = shared
    reply = chat(api, temperature=0.5, tools=[{"type": "x"}])
    assert reply.json()["choices"][0]["message"]["content"] == "gpu-model: Hello"
    assert reply.headers["x-fallthrough-tier"] == "gpu"
    assert gpu.calls[0].body["tools"] == [{"type": "x"}]
    assert cpu.calls == []


@pytest.mark.parametrize(
    "mode", ["500", "hang", "reset", "garbage", "half", "no-choices", "absent"]
)
def test_a_gpu_server_that_fails_is_left_alone_after_three_times_until_the_probe(shared, mode):
    api, gpu, _ = shared
    if mode == "absent":
        gpu.vanish()
    gpu.mode = mode
    for number in range(3):
        reply = chat(api, f"prompt {number}")
        assert reply.headers["x-fallthrough-tier"] == "cpu"
        assert job_of(api, reply)["attempts"][0]["verdict"] == "failure"
    assert breaker(api)["state"] == "open"
    calls = len(gpu.calls)
    reply = chat(api, "one more")
    assert reply.headers["x-fallthrough-tier"] == "cpu"
    assert job_of(api, reply)["attempts"][0]["verdict"] == "rejected"
    assert len(gpu.calls) == calls == (0 if mode == "absent" else 3)
    gpu.mode = "ok"
    if mode == "absent":
        gpu.listen()
    wait_until(lambda: breaker(api)["retry_after_seconds"] == 0, 5)
    for _ in range(2):
        assert chat(api, "probe").headers["x-fallthrough-tier"] == "gpu"
    assert breaker(api)["state"] == "closed"


def test_the_requests_own_fault_is_shown_and_counts_for_nothing(shared):
    api, gpu, cpu = shared
    gpu.mode = "400"
    for _ in range(4):
        reply = chat(api)
        assert reply.status_code == 400
        assert reply.json()["error"]["code"] == "bad_n"
        assert reply.json()["error"]["message"] == "n is too large"
    assert breaker(api)["state"] == "closed"
    assert breaker(api)["consecutive_failures"] == 0
    assert cpu.calls == []


def test_a_refused_key_fails_no_job_and_is_seen_by_the_operator(api, gpu, stack):
    gpu.mode = "401"
    for number in range(3):
        assert chat(api, f"prompt {number}").headers["x-fallthrough-tier"] == "cpu"
    assert len(gpu.calls) == 1
    view = breaker(api)
    assert (view["state"], view["held"], view["hold_reason"]) == ("closed", True, "misconfigured")
    assert "misconfigured" in stack[1].log


@pytest.mark.parametrize("mode", ["429", "busy"])
def test_a_busy_gpu_server_is_left_alone_without_a_failure(api, gpu, mode):
    gpu.mode = mode
    reply = chat(api)
    assert reply.headers["x-fallthrough-tier"] == "cpu"
    view = breaker(api)
    assert (view["state"], view["hold_reason"]) == ("closed", "saturated")
    if mode == "429":
        assert 5 < view["retry_after_seconds"] <= 7


def test_a_program_without_an_event_loop_changes_the_breaker_of_a_running_fleet(
    api, gpu, stack, valkey
):
    assert chat(api).headers["x-fallthrough-tier"] == "gpu"
    with valkey.client() as client:
        shared = CircuitBreaker("max_gpu", CircuitBreakerConfig(), RedisStore(client))
        shared.force_open("ann", "a new model")
        wait_until(lambda: "opened by hand, ann: a new model" in stack[1].log, 0.5)
        assert chat(api, "meanwhile").headers["x-fallthrough-tier"] == "cpu"
        shared.reset("ann", "it is there")
        wait_until(lambda: "no longer overridden, ann: it is there" in stack[1].log, 0.5)
        assert chat(api, "again").headers["x-fallthrough-tier"] == "gpu"
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                shared.call_sync(lambda: 1 / 0)
        wait_until(lambda: "max_gpu: closed -> open" in stack[1].log.rpartition("ann")[2], 0.5)
        assert chat(api, "down").headers["x-fallthrough-tier"] == "cpu"
    assert gpu.prompts() == ["Hello", "again"]


def test_what_no_model_can_take_ends_with_the_models_own_words(api, gpu, cpu):
    gpu.mode = cpu.mode = "too-long"
    reply = chat(api)
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "context_length_exceeded"


def test_a_model_that_is_gone_is_found_again(api, gpu):
    assert chat(api).json()["model"] == "gpu-model"
    gpu.models = ["new-model"]
    gpu.plan = lambda call: "ok" if call.body["model"] == "new-model" else "no-model"
    assert chat(api, "again").json()["model"] == "new-model"


def test_a_request_gets_the_model_that_it_names_if_it_is_served(api, gpu):
    gpu.models = ["a", "b"]
    assert chat(api, model="b").json()["model"] == "b"
    assert chat(api, "other", model="unheard-of").json()["model"] == "a"


def test_the_cache_answers_when_the_models_are_away_then_the_degraded_message(api, gpu, cpu):
    first = chat(api)
    gpu.vanish()
    cpu.vanish()
    second = chat(api)
    assert second.json() == first.json()
    assert second.headers["x-fallthrough-tier"] == "cache"
    third = chat(api, "never asked")
    assert third.headers["x-fallthrough-tier"] == "degraded"
    assert third.json()["fallthrough"] == {"degraded": True}
    for number in range(3):
        chat(api, f"trip {number}")
    began = time.monotonic()
    assert chat(api, "fast now").headers["x-fallthrough-tier"] == "degraded"
    assert time.monotonic() - began < 1


def test_cache_first_and_cache_off(api, gpu, cpu):
    chat(api)
    assert chat(api, fallthrough={"cache": "first"}).headers["x-fallthrough-tier"] == "cache"
    assert len(gpu.calls) == 1
    gpu.vanish()
    cpu.vanish()
    off = chat(api, fallthrough={"cache": "off"})
    assert off.headers["x-fallthrough-tier"] == "degraded"


def test_a_job_may_fail_instead_of_being_answered_degraded(api, gpu, cpu):
    gpu.vanish()
    cpu.vanish()
    reply = chat(api, fallthrough={"on_exhausted": "fail"})
    assert reply.status_code == 503
    assert reply.json()["error"]["code"] == "tiers_exhausted"
    assert 1 <= int(reply.headers["Retry-After"]) <= 5
    assert reply.headers["retry-after-ms"] == f"{reply.headers['Retry-After']}000"


def test_who_is_told_to_come_again_comes_when_a_tier_that_he_takes_may_be_asked(api, gpu):
    api.post("/circuit-breakers/ollama_cpu/open")  # of which the next look is in five seconds
    gpu.mode = "429"  # for seven

    def told():
        reply = chat(api, fallthrough={"on_exhausted": "fail", "tiers": ["gpu"]})
        assert reply.status_code == 503
        return reply.headers["Retry-After"]

    assert told() in {"6", "7"}
    wait_until(lambda: told() in {"2", "3"})
    assert len(gpu.calls) == 1


def test_who_is_told_to_come_again_waits_for_no_tier_while_another_takes_calls(api, gpu, cpu):
    gpu.mode = "429"  # for seven seconds
    cpu.mode = "500"
    reply = chat(api, fallthrough={"on_exhausted": "fail"})
    assert (reply.status_code, reply.headers["Retry-After"]) == (503, "5")


def test_a_job_may_wait_until_a_tier_is_back(api, gpu, cpu):
    gpu.vanish()
    cpu.vanish()
    job = api.post("/v1/jobs", json={"prompt": "patient", "on_exhausted": "wait"}).json()
    wait_until(lambda: api.get("/metrics").json()["metrics"]["parked"] == 1)
    assert api.get(f"/v1/jobs/{job['id']}").json()["status"] == "queued"
    gpu.listen()
    done = api.get(f"/v1/jobs/{job['id']}?wait=30").json()
    assert (done["status"], done["tier_used"]) == ("succeeded", "gpu")


def test_an_impatient_sdk_gets_an_honest_answer_before_it_gives_up(api, gpu, cpu):
    patience = 4
    with openai.OpenAI(base_url=f"{api.base_url}/v1", api_key="x", max_retries=0) as sdk:

        def ask(prompt):
            began = time.monotonic()
            reply = sdk.chat.completions.with_raw_response.create(
                model="m", messages=[{"role": "user", "content": prompt}], timeout=patience
            )
            assert time.monotonic() - began < patience
            return reply.headers["x-fallthrough-tier"]

        assert ask("kept") == "gpu"
        gpu.mode = cpu.mode = "hang"
        assert ask("kept") == "cache"
        assert ask("new") == "degraded"


def test_so_does_the_sdk_of_another_language(api, gpu, cpu):
    """JavaScript's and Go's say how long they wait in another header than Python's."""
    gpu.mode = cpu.mode = "hang"
    body = {"messages": [{"role": "user", "content": "new"}]}
    reply = api.post("/v1/chat/completions", json=body, headers={"x-stainless-timeout": "3"})
    assert reply.headers["x-fallthrough-tier"] == "degraded"
    assert reply.elapsed.total_seconds() < 3


@pytest.mark.parametrize("name", ["x-stainless-read-timeout", "x-stainless-timeout"])
@pytest.mark.parametrize("told", ["", "NOT_GIVEN", "nan", "-1", "0", "inf"])
def test_a_patience_that_is_none_changes_nothing(api, name, told):
    headers = {name: told}
    body = {"messages": [{"role": "user", "content": "Hello"}]}
    reply = api.post("/v1/chat/completions", json=body, headers=headers)
    assert reply.headers["x-fallthrough-tier"] == "gpu"


def test_a_job_past_its_deadline_is_expired(shared):
    api, gpu, cpu = shared
    gpu.mode = cpu.mode = "hang"
    asked = {"prompt": "slow", "deadline_seconds": 0.6}  # a try may last 1 s here
    for policy, status in (("fail", "expired"), ("degraded", "succeeded")):
        job = api.post("/v1/jobs", json={**asked, "on_exhausted": policy}).json()
        done = api.get(f"/v1/jobs/{job['id']}?wait=10").json()
        assert (done["status"], done["degraded"]) == (status, policy == "degraded")
    assert done["finished_at"] <= done["deadline_at"]
    assert breaker(api)["consecutive_failures"] == 0


def test_a_cancelled_job_lets_its_upstream_call_go(shared):
    api, gpu, _ = shared
    gpu.mode = "hang"
    job = api.post("/v1/jobs", json={"prompt": "never mind"}).json()
    wait_until(lambda: gpu.running == 1)
    done = api.post(f"/v1/jobs/{job['id']}/cancel").json()
    assert done["status"] == "cancelled"
    assert api.post(f"/v1/jobs/{job['id']}/cancel").json()["status"] == "cancelled"


def test_a_client_that_goes_away_cancels_its_job(shared):
    api, gpu, _ = shared
    gpu.delay = 0.8
    with pytest.raises(httpx.ReadTimeout):
        api.post(
            "/v1/chat/completions",
            json={"messages": [{"role": "user", "content": "Hello"}]},
            timeout=0.3,
        )
    latest = api.get("/v1/jobs?limit=1").json()["data"][0]
    assert api.get(f"/v1/jobs/{latest['id']}?wait=5").json()["status"] == "cancelled"


def test_what_failed_moves_on_while_its_slice_mates_still_run(api, gpu, cpu):
    gpu.delay = 0.7
    gpu.plan = lambda call: "ok" if call.prompt != "bad" else "no-choices"
    real = gpu._answer

    async def quick_if_bad(call, writer):
        gpu.delay = 0.0 if call.prompt == "bad" else 0.7
        return await real(call, writer)

    gpu._answer = quick_if_bad
    requests = [{"prompt": f"good {n}"} for n in range(15)]
    requests.insert(7, {"prompt": "bad"})
    jobs = api.post("/v1/jobs", json={"requests": requests}).json()["data"]
    done = api.get(f"/v1/jobs/{jobs[7]['id']}?wait=10").json()
    assert done["tier_used"] == "cpu"
    failed = next(call for call in gpu.calls if call.prompt == "bad")
    assert cpu.calls[0].at - failed.at < 0.5
    others = [api.get(f"/v1/jobs/{job['id']}").json() for job in jobs if job != jobs[7]]
    assert any(job["status"] == "running" for job in others)


def test_the_cpu_tier_is_not_drowned_however_many_workers_there_are(fleet, gpu, cpu):
    gpu.vanish()
    cpu.delay = 0.05
    workers = (fleet.worker(cpu_concurrency=3, cpu_wait_seconds=30) for _ in range(2))
    api, *_ = fleet.start(fleet.api(), *workers)
    with httpx.Client(base_url=api.url, timeout=30) as client:
        requests = [{"prompt": f"prompt {n}"} for n in range(40)]
        jobs = client.post("/v1/jobs", json={"requests": requests}).json()["data"]
        done = [client.get(f"/v1/jobs/{job['id']}?wait=30").json() for job in jobs]
    assert {job["tier_used"] for job in done} == {"cpu"}
    assert cpu.most_running == 2, "the last place is kept for lone requests"


def test_a_batch_leaves_lone_requests_a_place_at_the_cpu_tier(fleet, gpu, cpu):
    gpu.vanish()
    cpu.delay = 0.2
    api, _ = fleet.start(fleet.api(), fleet.worker(cpu_concurrency=2, cpu_wait_seconds=30))
    with httpx.Client(base_url=api.url, timeout=30) as client:
        requests = [{"prompt": f"bulk {n}"} for n in range(60)]
        client.post("/v1/jobs", json={"requests": requests}).raise_for_status()
        wait_until(lambda: cpu.running == 1)
        for n in range(3):
            began = time.monotonic()
            assert chat(client, f"lone {n}").headers["x-fallthrough-tier"] == "cpu"
            assert time.monotonic() - began < 1


def test_a_worker_that_hands_on_much_at_once_keeps_few_connections(fleet, valkey, gpu, cpu):
    """Each would stay open, and be closed by the other side one day, for as long as it lives."""
    api, worker = fleet.start(fleet.api(), fleet.worker())
    with httpx.Client(base_url=api.url, timeout=60) as http, ThreadPoolExecutor(32) as pool:
        chat(http)
        before = sockets_of(worker)
        gpu.delay, gpu.mode = 0.3, "500"
        replies = pool.map(lambda number: chat(http, f"{number}"), range(200))
        assert {reply.status_code for reply in replies} == {200}
    # To the model servers: as many as were called at once.
    assert sockets_of(worker) - before < 8
    assert len(cpu.calls) > 100


def sockets_of(process):
    """How many connections to the store and the broker a process has."""
    port = int(process.environ["FALLTHROUGH_REDIS_URL"].rpartition(":")[2].partition("/")[0])
    own = set()
    for file in Path(f"/proc/{process.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            own.add(str(file.readlink()))
    lines = Path(f"/proc/{process.process.pid}/net/tcp").read_text().splitlines()[1:]
    remote = {
        f"socket:[{line.split()[9]}]" for line in lines if line.split()[2].endswith(f":{port:04X}")
    }
    return len(own & remote)
