"""A job's own page: what was asked, what each tier said, and when."""

from __future__ import annotations

import httpx
import pytest


@pytest.fixture(scope="module")
def api(module_fleet):
    settings = {"breaker_failure_threshold": 1000}
    api, _ = module_fleet.start(module_fleet.api(), module_fleet.worker(**settings))
    return api


@pytest.fixture
def http(api):
    with httpx.Client(base_url=f"{api.url}/v1", timeout=60) as client:
        yield client


def ended(http, **body):
    job = http.post("/jobs", json=body).raise_for_status().json()
    return http.get(f"/jobs/{job['id']}", params={"wait": 20}).json()


def test_each_try_says_when_it_began_and_the_request_is_shown(http, module_gpu):
    with module_gpu.lent() as gpu:
        gpu.mode = "500"
        job = ended(http, prompt="Why?", temperature=0.5)
    assert job["tier_used"] == "cpu"
    assert job["tier"] is None
    assert job["request"]["messages"] == [{"role": "user", "content": "Why?"}]
    assert job["request"]["temperature"] == 0.5
    assert [each["tier"] for each in job["attempts"]] == ["gpu", "cpu"]
    times = [each["began"] for each in job["attempts"]]
    assert job["created_at"] - 0.1 <= times[0] <= times[1] <= job["finished_at"]
    [listed, *_] = http.get("/jobs").json()["data"]
    assert (listed["id"], listed["request"]) == (job["id"], None)


def test_a_large_request_is_not_kept(http, module_gpu):
    with module_gpu.lent():
        job = ended(http, prompt="x" * 20_000)
    assert (job["status"], job["request"]) == ("succeeded", None)


def test_a_stream_says_when_it_began_to_speak(http, module_gpu):
    with module_gpu.lent():
        job = http.post("/jobs", json={"prompt": "Hello", "stream": True}).json()
        assert http.get(f"/jobs/{job['id']}/stream").status_code == 200
        job = http.get(f"/jobs/{job['id']}", params={"wait": 20}).json()
    assert job["streamed"]
    assert job["started_at"] <= job["first_token_at"] <= job["finished_at"]
