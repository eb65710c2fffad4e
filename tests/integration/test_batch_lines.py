"""What a person asks of a batch: which lines failed, how fast it goes, to try again."""

from __future__ import annotations

import httpx
import openai
import pytest
from harness.batches import check_every_line_once, ended, jsonl, line, start, upload
from harness.waiting import wait_until

CALL = "/v1/chat/completions"


@pytest.fixture(scope="module")
def api(module_fleet):
    settings = {"slice_lines": 4, "gpu_timeout_seconds": 20}
    api, _ = module_fleet.start(module_fleet.api(), module_fleet.worker(**settings))
    return api


@pytest.fixture
def gpu(module_gpu):
    with module_gpu.lent() as gpu:
        yield gpu


@pytest.fixture
def sdk(api, gpu):
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
def http(api, gpu):
    with httpx.Client(base_url=f"{api.url}/v1", timeout=60) as client:
        yield client


def lines_of(number):
    return [line(f"c{n}", f"prompt {n}") for n in range(number)]


def all_errors(http, batch_id, limit):
    """Every failed line, page by page."""
    failed, after = [], "0.0"
    while True:
        params = {"after": after, "limit": limit}
        page = http.get(f"/batches/{batch_id}/errors", params=params).raise_for_status().json()
        failed += page["data"]
        if page["done"]:
            return failed
        assert len(page["data"]) <= limit
        after = page["next"]


def test_what_failed_is_told_by_line_and_only_that_is_asked_again(sdk, http, gpu):
    gpu.plan = lambda call: "400" if call.prompt.endswith("7") else "ok"
    content = b"\n" + jsonl(lines_of(30))  # a blank line counts
    file_id = upload(sdk, content, "mine.jsonl")
    fields = {"endpoint": CALL, "completion_window": "2h", "metadata": {"team": "blue"}}
    batch = ended(sdk, sdk.batches.create(input_file_id=file_id, **fields).id)
    for limit in (1, 2, 100):
        failed = all_errors(http, batch.id, limit)
        assert {each["line"] for each in failed} == {9, 19, 29}
        assert len(failed) == 3
    first = min(failed, key=lambda each: each["line"])
    assert (first["custom_id"], first["status"]) == ("c7", 400)
    assert first["message"] == "n is too large"
    assert first["attempts"][0]["tier"] == "gpu"

    shown = http.get(f"/batches/{batch.id}").json()["fallthrough"]
    assert shown["outcomes"] == {"gpu": {"succeeded": 27, "failed": 3}}
    assert (shown["lines_per_second"], shown["eta_seconds"]) == (None, None)
    buckets = http.get(f"/batches/{batch.id}/history").json()["buckets"]
    assert sum(each["lines"] for each in buckets) == 30

    gpu.plan = lambda _: "ok"
    headers = {"Idempotency-Key": "again"}
    made = http.post(f"/batches/{batch.id}/retry", headers=headers).raise_for_status().json()
    assert made["metadata"] == {"team": "blue", "fallthrough_retry_of": batch.id}
    assert made["completion_window"] == "2h"
    repeated = http.post(f"/batches/{batch.id}/retry", headers=headers).json()
    assert repeated["id"] == made["id"]
    done = ended(sdk, made["id"])
    check_every_line_once(sdk, done, ["c7", "c17", "c27"])
    assert done.request_counts.completed == 3
    files = [f for f in sdk.files.list() if f.filename == "mine-retry.jsonl"]
    assert [f.id for f in files] == [done.input_file_id], "and no copy is left of the second"
    reply = http.post(f"/batches/{done.id}/retry")
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "nothing_to_retry")


def test_degraded_lines_are_asked_again(sdk, http, gpu):
    gpu.plan = lambda _: "500"
    metadata = {"fallthrough_on_exhausted": "degraded", "fallthrough_tiers": "gpu"}
    batch = ended(sdk, start(sdk, lines_of(3), metadata=metadata).id)
    assert http.get(f"/batches/{batch.id}").json()["fallthrough"]["tiers"] == {"degraded": 3}
    gpu.plan = lambda _: "ok"
    made = http.post(f"/batches/{batch.id}/retry").raise_for_status().json()
    assert made["metadata"]["fallthrough_tiers"] == "gpu"
    assert ended(sdk, made["id"]).request_counts.total == 3


def test_a_batch_that_runs_is_not_retried_and_tells_its_rate(sdk, http, gpu):
    gpu.delay = 2.0
    batch = start(sdk, lines_of(20), metadata={"fallthrough_tiers": "gpu"})
    wait_until(lambda: gpu.calls, 20, "a line is asked")
    reply = http.post(f"/batches/{batch.id}/retry")
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "batch_not_final")
    shown = http.get(f"/batches/{batch.id}").json()["fallthrough"]
    assert (shown["lines_per_second"], shown["eta_seconds"]) == (0, None)
    gpu.delay = 0.0
    assert ended(sdk, batch.id).request_counts.completed == 20


def test_a_cancelled_batch_is_taken_up_where_it_stopped(sdk, http, gpu):
    gpu.delay = 2.0
    batch = start(sdk, lines_of(20), metadata={"fallthrough_tiers": "gpu"})
    wait_until(lambda: gpu.calls, 20, "a line is asked")
    sdk.batches.cancel(batch.id)
    gpu.delay = 0.0
    done = ended(sdk, batch.id)
    failed = all_errors(http, done.id, 7)
    assert {each["code"] for each in failed} == {"batch_cancelled"}
    assert len(failed) == done.request_counts.failed > 0
    again = ended(sdk, http.post(f"/batches/{done.id}/retry").json()["id"])
    assert again.request_counts.completed == done.request_counts.failed


def test_what_validation_finds_is_told_before_and_after(sdk, http):
    bad = [*lines_of(2), {"custom_id": "x"}]
    file_id = upload(sdk, jsonl(bad) + b"{\n" * 150)
    told = http.post("/validations", json={"input_file_id": file_id}).json()
    assert (told["lines"], told["problem_count"], len(told["problems"])) == (153, 151, 100)
    assert told["problems"][0]["line"] == 3
    assert told["problems"][1] == {
        "line": 4,
        "code": "invalid_json_line",
        "message": "this line is not parseable as valid JSON: "
        "column 2: a field's name in double quotes is missing",
        "param": None,
    }
    batch = ended(sdk, start(sdk, bad).id)
    [failed] = all_errors(http, batch.id, 1)
    assert (failed["line"], failed["custom_id"], failed["status"]) == (3, None, None)
    reply = http.post(f"/batches/{batch.id}/retry")
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "batch_never_began")


def test_a_good_file_has_no_problems_and_its_endpoint_is_found(sdk, http):
    body = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}}
    told = http.post("/validations", json={"input_file_id": upload(sdk, jsonl([body]))}).json()
    assert (told["endpoint"], told["lines"], told["problems"]) == ("/v1/completions", 1, [])


def test_the_endpoint_of_a_long_first_line_is_found(sdk, http):
    body = {"model": "gpu-model", "input": "x" * 2_000_000}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": body}
    told = http.post("/validations", json={"input_file_id": upload(sdk, jsonl([line]))}).json()
    assert (told["endpoint"], told["problems"]) == ("/v1/embeddings", [])


@pytest.mark.parametrize("name", ["file-0", "nothing", "../x"])
def test_a_file_that_is_not_there_is_told(http, name):
    reply = http.post("/validations", json={"input_file_id": name})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "input_file_id")


def test_a_batch_whose_input_was_deleted_says_so(sdk, http, gpu):
    gpu.plan = lambda _: "400"
    batch = ended(sdk, start(sdk, lines_of(2)).id)
    sdk.files.delete(batch.input_file_id)
    assert [each["line"] for each in all_errors(http, batch.id, 5)] == [None, None]
    reply = http.post(f"/batches/{batch.id}/retry")
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "file_not_found")
    assert "upload it again" in reply.json()["error"]["message"]


def test_lists_are_filtered_and_the_fleets_minutes_are_told(sdk, http, gpu):
    ids = [start(sdk, lines_of(1), metadata={"team": f"t{n}"}).id for n in range(2)]
    for each in ids:
        ended(sdk, each)
    page = http.get("/batches", params={"q": "T1", "status": "completed"}).json()
    assert [each["id"] for each in page["data"]] == [ids[1]]
    assert (page["has_more"], page["next"]) == (False, None)
    job = http.post("/jobs", json={"prompt": "x", "metadata": {"who": "Ann"}}).json()
    http.get(f"/jobs/{job['id']}", params={"wait": 10})
    found = http.get("/jobs", params={"q": "ann", "tier": "gpu", "status": "succeeded"}).json()
    assert [each["id"] for each in found["data"]] == [job["id"]]
    for query, param in (("status=x", "status"), ("tier=x", "tier"), (f"q={'x' * 201}", "q")):
        reply = http.get(f"/jobs?{query}")
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)

    minutes = http.get("/operations/history", params={"minutes": 3}).json()["minutes"]
    assert len(minutes) == 3
    assert sum(each["answers"].get("gpu", 0) for each in minutes) >= 3
    assert any(each["seconds"].get("gpu", {}).get("p95") for each in minutes)

    def sampled():
        told = http.get("/operations/history", params={"minutes": 3}).json()["minutes"]
        return [each for each in told if each["queued"] is not None]

    last = wait_until(sampled, 20, "the queue is sampled")[-1]
    assert {"max_gpu", "redis_cache"} < set(last["breakers"])
