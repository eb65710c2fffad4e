"""What each odd reply comes to: for a chat, a job, a batch's line, the breaker and the cache."""

from __future__ import annotations

import httpx
import openai
import pytest
from harness.batches import check_every_line_once, ended, line, start
from harness.waiting import wait_until
from prometheus_client.parser import text_string_to_metric_families as families

BREAKER = "max_gpu"
# The reply's mode -> verdict and detail of the try at the GPU tier, what its breaker counts, who
# answers when the CPU tier is well ("" for nobody: the request ends as failed), and the status that
# a chat gets.
FAILED = "failures"
ROWS = {
    "ok": ("answered", "", None, "gpu", 200),
    "thinking": ("answered", "", None, "gpu", 200),
    "null-part": ("answered", "", None, "gpu", 200),
    "message-null": ("answered", "", None, "gpu", 200),
    "cut-without-a-word": ("answered", "", None, "gpu", 200),
    "abort": ("failure", "interrupted", FAILED, "cpu", 200),
    "load": ("failure", "interrupted", FAILED, "cpu", 200),
    "no-reason": ("failure", "interrupted", FAILED, "cpu", 200),
    "one-of-two-aborted": ("failure", "interrupted", FAILED, "cpu", 200),
    "error-beside": ("failure", "interrupted", FAILED, "cpu", 200),
    "error-alone": ("failure", "HTTP 500", FAILED, "cpu", 200),
    "error-in-a-choice": ("failure", "interrupted", FAILED, "cpu", 200),
    "no-choices": ("failure", "empty", FAILED, "cpu", 200),
    "garbage": ("failure", "unshowable", FAILED, "cpu", 200),
    "beyond-a-double": ("failure", "unshowable", FAILED, "cpu", 200),
    "deep": ("failure", "unshowable", FAILED, "cpu", 200),
    "content-is-an-object": ("failure", "unshowable", FAILED, "cpu", 200),
    "half": ("failure", "reset", FAILED, "cpu", 200),
    "reset": ("failure", "reset", FAILED, "cpu", 200),
    "500": ("failure", "HTTP 500", FAILED, "cpu", 200),
    "409": ("failure", "HTTP 409", FAILED, "cpu", 200),
    "424": ("failure", "HTTP 424", FAILED, "cpu", 200),
    "dead-engine": ("failure", "HTTP 400", FAILED, "cpu", 200),
    "dead-inside": ("failure", "HTTP 400", FAILED, "cpu", 200),
    "page": ("failure", "HTTP 400", FAILED, "cpu", 200),
    "429": ("saturated", "HTTP 429", "saturated", "cpu", 200),
    "busy": ("saturated", "HTTP 503", "saturated", "cpu", 200),
    "401": ("misconfigured", "HTTP 401", "misconfigured", "cpu", 200),
    "402": ("misconfigured", "HTTP 402", "misconfigured", "cpu", 200),
    "no-model": ("unfit", "HTTP 404 no such model", None, "cpu", 200),
    "too-long": ("unfit", "HTTP 400 context too long", None, "cpu", 200),
    "no-tools": ("unfit", "HTTP 400 not supported", None, "cpu", 200),
    "one-choice": ("unfit", "HTTP 400 not supported", None, "cpu", 200),
    "400": ("refused", "HTTP 400", None, "", 400),
    "413": ("refused", "HTTP 413", None, "", 413),
    "422": ("refused", "HTTP 422", None, "", 422),
}
# What is given, and not kept for who asks the same.
NOT_KEPT = {"thinking", "cut-without-a-word"}


@pytest.fixture(scope="module")
def stack(module_fleet):
    fleet = module_fleet
    return fleet.start(fleet.api(), fleet.worker(breaker_failure_threshold=1000))


@pytest.fixture(scope="module")
def http(stack):
    with httpx.Client(base_url=stack[0].url, timeout=30) as client:
        yield client


@pytest.fixture
def gpu(module_gpu, module_cpu, http):
    """The GPU server, its breaker closed."""
    module_gpu.mode = module_cpu.mode = "ok"
    http.post(f"/circuit-breakers/{BREAKER}/reset")
    # A worker that held it looks again after a moment.
    wait_until(lambda: ask(http, "is it there?").headers["x-fallthrough-tier"] == "gpu", 5)
    yield module_gpu
    module_gpu.mode = module_cpu.mode = "ok"


def ask(http, prompt):
    body = {"messages": [{"role": "user", "content": prompt}]}
    return http.post("/v1/chat/completions", json=body)


def outcomes(worker):
    """What the worker's breaker of the GPU tier has counted."""
    samples = [
        sample
        for family in families(httpx.get(f"{worker.url}/metrics").text)
        for sample in family.samples
        if sample.labels.get("name") == BREAKER
    ]
    failed = sum(s.value for s in samples if s.name == "circuit_breaker_failures_total")
    held = (s for s in samples if s.name == "circuit_breaker_holds_total")
    return {FAILED: failed} | {sample.labels["reason"]: sample.value for sample in held}


def rises(worker, before):
    after = outcomes(worker)
    return {kind for kind, number in after.items() if number > before.get(kind, 0)}


@pytest.mark.parametrize("mode", ROWS)
def test_a_chat(mode, gpu, http, stack):
    _, _, told, by, status = ROWS[mode]
    before = outcomes(stack[1])
    gpu.mode = mode
    reply = ask(http, f"chat {mode}")
    assert (reply.status_code, reply.headers.get("x-fallthrough-tier")) == (status, by or "gpu")
    # What is held is told a moment later.
    wait_until(lambda: rises(stack[1], before) == ({told} if told else set()), 3)


@pytest.mark.parametrize("mode", ROWS)
def test_a_job(mode, gpu, http, stack):
    verdict, detail, told, by, _ = ROWS[mode]
    before = outcomes(stack[1])
    gpu.mode = mode
    body = {"prompt": f"job {mode}"}
    job = http.post("/v1/jobs", json=body).json()
    job = http.get(f"/v1/jobs/{job['id']}?wait=20").json()
    first = job["attempts"][0]
    assert (first["tier"], first["verdict"], first.get("detail", "")) == ("gpu", verdict, detail)
    assert (job["status"], job["tier_used"]) == ("succeeded" if by else "failed", by or "gpu")
    listed = http.get("/v1/jobs?limit=1").json()["data"][0]
    assert listed == {**job, "request": None}, "and the list shows all but what was asked"
    wait_until(lambda: rises(stack[1], before) == ({told} if told else set()), 3)
    # Whoever asks the same when nobody is there gets what was kept.
    gpu.mode = "500"
    http.post(f"/circuit-breakers/{BREAKER}/reset")
    again = http.post("/v1/jobs", json={**body, "cache": "first"}).json()
    again = http.get(f"/v1/jobs/{again['id']}?wait=20").json()
    kept = by and mode not in NOT_KEPT
    assert (again["tier_used"] == "cache") == bool(kept)
    if kept:
        assert again["text"] == job["text"]


@pytest.mark.parametrize("mode", ROWS)
def test_a_line_of_a_batch(mode, gpu, stack):
    verdict, detail, told, by, _ = ROWS[mode]
    before = outcomes(stack[1])
    gpu.mode = mode
    with openai.OpenAI(base_url=f"{stack[0].url}/v1", api_key="any") as sdk:
        made = start(sdk, [line(mode, f"line {mode}")])
        output, errors = check_every_line_once(sdk, ended(sdk, made.id), [mode])
    [told_of] = [each["fallthrough"] for each in output + errors]
    assert bool(output) == bool(by)
    first = told_of["attempts"][0]
    assert (first["tier"], first["verdict"], first.get("detail", "")) == ("gpu", verdict, detail)
    assert told_of["tier_used"] == (by or "gpu")
    wait_until(lambda: rises(stack[1], before) == ({told} if told else set()), 3)
    # What resets a connection that was used before may not have seen the request: it gets it again.
    times = [call.prompt for call in gpu.calls].count(f"line {mode}")
    assert times == 1 or (mode, times) == ("reset", 2)


def test_lines_of_one_batch_do_not_mix(gpu, stack):
    """A line for each mode, its prompt says which."""
    gpu.plan = lambda call: call.prompt.removeprefix("line ")
    # What holds the breaker would send all later lines to the CPU tier.
    modes = [mode for mode, row in ROWS.items() if row[2] not in {"saturated", "misconfigured"}]
    try:
        with openai.OpenAI(base_url=f"{stack[0].url}/v1", api_key="any") as sdk:
            made = start(sdk, [line(mode, f"line {mode}") for mode in modes])
            done = ended(sdk, made.id)
            output, errors = check_every_line_once(sdk, done, modes)
    finally:
        gpu.plan = None
    assert {each["custom_id"] for each in errors} == {m for m in modes if not ROWS[m][3]}
    by = {each["custom_id"]: each["fallthrough"]["tier_used"] for each in output}
    assert by == {mode: ROWS[mode][3] for mode in modes if ROWS[mode][3]}
