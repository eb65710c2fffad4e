"""The HTTP API over a real store and broker: what it takes, refuses, and shows."""

from __future__ import annotations

import gzip
import json
import os
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urljoin

import httpx
import openai
import pytest
from harness.processes import Fleet
from harness.upstream import Upstream
from harness.waiting import wait_until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.app import create_app
from api.openapi import document
from tasks.settings import Settings

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def stack(tmp_path_factory, valkey_session):
    """One API and one worker for this whole file; its model server always answers."""
    gpu = Upstream("gpu-model")
    with valkey_session.client() as client:  # breakers, too, that a file before has opened
        client.flushall()
    environ = {
        "FALLTHROUGH_REDIS_URL": valkey_session.url,
        "FALLTHROUGH_GPU_URL": f"{gpu.url}/v1/",
        "FALLTHROUGH_MAX_BODY_BYTES": "200000",
        "FALLTHROUGH_FILES_URL": str(tmp_path_factory.mktemp("files")),
    }
    fleet = Fleet(tmp_path_factory.mktemp("api"), environ)
    api, _ = fleet.start(fleet.api(), fleet.worker())
    yield api, gpu
    fleet.stop()
    gpu.close()


@pytest.fixture
def api(stack):
    with httpx.Client(base_url=stack[0].url, timeout=30) as client:
        yield client


@pytest.fixture
def gpu(stack):
    return stack[1]


def test_who_waits_is_told_his_answer_and_no_record_is_read(api, valkey_session):
    with valkey_session.client() as client, client.monitor() as monitor:
        for path, body in (
            ("/v1/chat/completions", {"messages": HELLO}),
            ("/v1/completions", {"prompt": "Hello"}),
        ):
            assert api.post(path, json=body).is_success
        valkey_session.client().echo("no-more-of-it")
        seen = []
        while "no-more-of-it" not in (command := monitor.next_command()["command"]):
            seen.append(command)
    assert len([each for each in seen if "PUBLISH {ft}:answers:" in each]) == 2
    assert not [each for each in seen if each.startswith("HGETALL {ft}:job:")]


def error_of(reply):
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_a_job_is_accepted_polled_and_shown_whole(api):
    reply = api.post("/v1/jobs", json={"prompt": "Hello", "metadata": {"a": "b"}})
    assert reply.status_code == 202
    assert reply.headers["location"] == f"/v1/jobs/{reply.json()['id']}"
    job = api.get(reply.headers["location"], params={"wait": 10}).json()
    assert (job["status"], job["tier_used"], job["text"]) == (
        "succeeded",
        "gpu",
        "gpu-model: Hello",
    )
    assert job["answer"]["choices"][0]["message"]["content"] == "gpu-model: Hello"
    assert job["usage"] == {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    assert job["created_at"] <= job["started_at"] <= job["finished_at"]
    assert job["metadata"] == {"a": "b"}
    assert job["attempts"] == [
        {
            "tier": "gpu",
            "verdict": "answered",
            "milliseconds": job["attempts"][0]["milliseconds"],
            "began": job["attempts"][0]["began"],
            "status": 200,
        }
    ]


def test_sampling_parameters_and_unknown_fields_reach_the_upstream(api, gpu):
    fields = {"temperature": 0.1, "max_tokens": 5, "seed": 3, "top_k": 40, "chat_template": "x"}
    job = api.post("/v1/jobs", json={"prompt": "pass", "cache": "off", **fields}).json()
    api.get(f"/v1/jobs/{job['id']}?wait=10")
    sent = gpu.calls[-1].body
    assert {name: sent[name] for name in fields} == fields
    assert set(sent) == {*fields, "messages", "model"}


def test_a_long_poll_is_woken_by_the_finish(api, gpu):
    gpu.delay = 0.5
    try:
        job = api.post("/v1/jobs", json={"prompt": "slow"}).json()
        began = time.monotonic()
        assert api.get(f"/v1/jobs/{job['id']}?wait=0.1").json()["status"] == "running"
        assert api.get(f"/v1/jobs/{job['id']}?wait=20").json()["status"] == "succeeded"
        assert time.monotonic() - began < 1.5
    finally:
        gpu.delay = 0.0


def test_many_long_polls_at_once_are_all_woken(api):
    requests = [{"prompt": f"many {n}"} for n in range(100)]
    jobs = api.post("/v1/jobs", json={"requests": requests}).json()["data"]
    with ThreadPoolExecutor(50) as pool:
        done = list(pool.map(lambda job: api.get(f"/v1/jobs/{job['id']}?wait=20").json(), jobs))
    assert [job["text"] for job in done] == [f"gpu-model: many {n}" for n in range(100)]
    assert {job["queue"] for job in done} == {"batch"}


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({}, "prompt", "either prompt or messages"),
        ({"prompt": "x", "messages": HELLO}, "prompt", "either"),
        ({"prompt": ""}, "prompt", "not be empty"),
        ({"prompt": 7}, "prompt", "must be a text or null"),
        ({"messages": []}, "messages", "not be empty"),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "is required"),
        ({"prompt": "x", "temperature": 3}, "temperature", "at most 2"),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens", "at least 1"),
        ({"prompt": "x", "stream": "yes"}, "stream", "true or false"),
        ({"prompt": "x", "cache": "maybe"}, "cache", "one of fallback, first, off; not 'maybe'"),
        ({"prompt": "x", "on_exhausted": 1}, "on_exhausted", "a text"),
        ({"prompt": "x", "tiers": []}, "tiers", "not be empty"),
        ({"prompt": "x", "tiers": "gpu"}, "tiers", "a list"),
        ({"prompt": "x", "tiers": ["gpu", "moon"]}, "tiers", "'moon'; there are gpu, cache"),
        (
            {"requests": [{"prompt": "x"}, {"prompt": "x", "tiers": ["degraded"]}]},
            "requests[1].tiers",
            "there are gpu, cache",
        ),
        ({"prompt": "x", "deadline_seconds": 0}, "deadline_seconds", "greater than 0"),
        ({"prompt": "x", "deadline_seconds": 1e9}, "deadline_seconds", "at most 604800"),
        ({"prompt": "x", "metadata": {"k": 1}}, "metadata[...]", "a text"),
        ({"requests": []}, "requests", "1 to 1000"),
        ({"requests": [{"prompt": "x"}] * 1001}, "requests", "1 to 1000"),
        ({"requests": [{"prompt": "x"}, {}]}, "requests[1].prompt", "either"),
        ({"requests": [{"prompt": "x"}, {"prompt": 1}]}, "requests[1].prompt", "a text"),
        ({"requests": [{"prompt": "x"}], "model": "m"}, "model", "belongs into a request"),
        ([], None, "object"),
    ],
)
def test_a_field_that_does_not_fit_is_named(api, body, param, said):
    before = api.get("/v1/jobs?limit=1").json()["first_id"]
    reply = api.post("/v1/jobs", json=body)
    assert reply.status_code == 400
    error = error_of(reply)
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert said in error["message"]
    assert api.get("/v1/jobs?limit=1").json()["first_id"] == before, "nothing was accepted"


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b'{"prompt": }', "line 1, column 12: a value"),
        (b"", "column 1: a value"),
        (b"\xff", "no UTF-8: see byte 1"),
        (b'{"prompt": "x"', "column 15: a comma"),
    ],
)
def test_malformed_json_is_told_with_its_place(api, content, place):
    for path in ("/v1/jobs", "/v1/chat/completions"):
        reply = api.post(path, content=content)
        assert reply.status_code == 400
        assert error_of(reply)["code"] == "invalid_json"
        assert place in error_of(reply)["message"]


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "deflate, GZIP"])
@pytest.mark.parametrize("size", [10, 100_000])
def test_a_packed_body_is_refused_and_says_so(api, size, coding):
    content = gzip.compress(os.urandom(size))
    kinds = {"/v1/files": "multipart/form-data; boundary=x"}
    for path in ("/v1/jobs", "/v1/chat/completions", "/v1/batches", "/v1/files"):
        headers = {"content-encoding": coding, "content-type": kinds.get(path, "application/json")}
        reply = api.post(path, content=content, headers=headers)
        assert (reply.status_code, reply.headers["accept-encoding"]) == (415, "identity")
        assert error_of(reply)["code"] == "unsupported_content_encoding"


@pytest.mark.parametrize("coding", ["identity", "utf-8", "", "gzip"])
def test_a_body_that_is_not_packed_is_taken_whatever_it_is_said_to_be(api, coding):
    headers = {"content-encoding": coding}
    assert api.post("/v1/jobs", json={"prompt": "x"}, headers=headers).status_code == 202
    assert api.post("/circuit-breakers/max_gpu/reset", headers=headers).status_code == 200


def test_a_body_over_the_limit_is_refused_announced_or_not(api):
    large = json.dumps({"prompt": "x" * 300_000}).encode()
    reply = api.post("/v1/jobs", content=large)
    assert (reply.status_code, error_of(reply)["code"]) == (413, "body_too_large")
    reply = api.post("/v1/jobs", content=iter([large[:150_000], large[150_000:]]))
    assert (reply.status_code, error_of(reply)["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/jobs/job_unknown", 404, "job_not_found"),
        ("POST", "/v1/jobs/job_unknown/cancel", 404, "job_not_found"),
        ("POST", "/circuit-breakers/nobody/reset", 404, "circuit_breaker_not_found"),
        ("GET", "/nowhere", 404, None),
        ("DELETE", "/v1/jobs", 405, None),
        ("GET", "/v1/jobs?limit=0", 400, None),
        ("GET", "/v1/jobs?limit=x", 400, None),
        ("GET", "/v1/jobs?after=job_unknown", 400, None),
        ("GET", "/v1/jobs/job_unknown?wait=nan", 400, None),
    ],
)
def test_errors_come_in_the_envelope(api, method, path, status, code):
    reply = api.request(method, path)
    assert reply.status_code == status
    assert error_of(reply)["code"] == code


def test_jobs_are_listed_page_by_page_newest_first(api):
    requests = [{"prompt": f"page {n}"} for n in range(5)]
    jobs = api.post("/v1/jobs", json={"requests": requests}).json()["data"]
    first = api.get("/v1/jobs?limit=3").json()
    second = api.get(f"/v1/jobs?limit=2&after={first['last_id']}").json()
    seen = [job["id"] for job in first["data"] + second["data"]]
    assert sorted(seen) == sorted(job["id"] for job in jobs)
    assert first["has_more"]


def test_metrics_are_json_for_curl_and_text_for_prometheus(stack, api):
    shown = api.get("/metrics", headers={"accept": "*/*"}).json()["metrics"]
    assert {"p50_latency_ms", "p95_latency_ms", "p99_latency_ms", "jobs", "by_status"} <= set(shown)
    assert shown["p50_latency_ms"] <= shown["p95_latency_ms"]
    without = httpx.Request("GET", f"{stack[0].url}/metrics")
    assert "accept" not in without.headers
    assert "metrics" in api.send(without).json()
    text = api.get("/metrics", headers={"accept": "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"})
    assert text.headers["content-type"].startswith("text/plain")
    assert 'circuit_breaker_state{name="max_gpu"} 0.0' in text.text
    assert 'fallthrough_jobs_total{status="succeeded",tier="gpu"}' in text.text
    openmetrics = api.get("/metrics", headers={"accept": "application/openmetrics-text"})
    assert openmetrics.text.endswith("# EOF\n")


@pytest.mark.parametrize(
    ("accept", "is_json"),
    [
        ("application/json, text/plain, */*", True),  # axios, Angular
        ("text/plain;q=0, application/json", True),
        ("text/plain;q=0.5, application/json;q=0.9", True),
        ("text/plain;q=0", True),
        ("text/plain, application/json;q=0.9", False),
        ("text/plain, application/json;q=0", False),
        ("TEXT/*", False),
        ("application/openmetrics-text;version=1.0.0;q=0.6,text/plain;q=0.4,*/*;q=0.3", False),
        ("text/plain;q=x", False),
    ],
)
def test_metrics_are_what_is_wanted_most(api, accept, is_json):
    reply = api.get("/metrics", headers={"accept": accept})
    assert (reply.headers["content-type"] == "application/json") is is_json


@pytest.mark.parametrize(
    ("method", "path", "to"),
    [
        ("POST", "/v1/jobs/", "/v1/jobs"),
        ("GET", "/v1/batches/?limit=2", "/v1/batches?limit=2"),
        ("GET", "/docs/", "/docs"),
        ("GET", "/health/ready/", "/health/ready"),
        ("GET", "/v1/jobs/a%2Fb%20c/", None),
        ("GET", "/v1/jobs/a%20%3F/", "/v1/jobs/a%20%3F"),
        ("GET", "/nothing/", None),
        ("GET", "/docs//", None),
    ],
)
def test_a_slash_too_many_leads_back_by_the_same_scheme_and_proxy(api, method, path, to):
    reply = api.request(method, path)
    if to is None:
        assert reply.status_code == 404
        return
    assert reply.status_code == 307
    proxied = f"https://llm.example/beneath{path}"
    assert urljoin(proxied, reply.headers["location"]) == f"https://llm.example/beneath{to}"
    assert api.request(method, path, follow_redirects=True).status_code != 307


def test_breakers_are_shown_and_reset(api):
    shown = api.get("/circuit-breakers").json()["circuit_breakers"]
    assert {name: b["configured"] for name, b in shown.items()} == {
        "max_gpu": True,
        "ollama_cpu": False,
        "redis_cache": True,
    }
    assert shown["max_gpu"]["state"] == "closed"
    reset = api.post("/circuit-breakers/max_gpu/reset").json()
    assert (reset["name"], reset["state"]) == ("max_gpu", "closed")


def test_a_breaker_is_opened_and_disabled_by_hand_and_says_who_and_why(api, stack):
    path = "/circuit-breakers/redis_cache"
    forced = api.post(f"{path}/open", json={"why": "a new disk"}).json()
    assert (forced["state"], forced["override"], forced["share"]) == ("open", "open", 0)
    shown = api.get("/circuit-breakers").json()["circuit_breakers"]["redis_cache"]
    assert shown["changed"]["by"] == "anonymous"
    assert shown["changed"]["why"] == "a new disk"
    assert abs(shown["changed"]["at"] - time.time()) < 60
    assert "breaker redis_cache: open by anonymous: a new disk" in stack[0].log
    disabled = api.post(f"{path}/disable").json()
    assert (disabled["state"], disabled["override"]) == ("closed", "disabled")
    assert api.post(f"{path}/auto").json()["override"] is None
    assert api.post(f"{path}/reset", json={}).json()["state"] == "closed"


@pytest.mark.parametrize("body", [{"why": 7}, {"why": "w" * 501}, {"because": "of that"}, []])
def test_what_says_why_a_breaker_is_changed_is_a_text(api, body):
    reply = api.post("/circuit-breakers/redis_cache/open", json=body)
    assert reply.status_code == 400
    shown = api.get("/circuit-breakers").json()["circuit_breakers"]["redis_cache"]
    assert shown["override"] is None


def test_the_document_and_its_page_are_served(api):
    assert api.get("/openapi.json").json() == document(create_app(Settings(gpu_url="http://gpu")))
    page = api.get("/docs")
    assert page.status_code == 200
    assert "swagger" in page.text.lower()
    assert "//cdn" not in page.text, "the page needs no network"


@pytest.fixture
def sdk(stack):
    with openai.OpenAI(base_url=f"{stack[0].url}/v1", api_key="any", max_retries=0) as client:
        yield client


def test_the_openai_sdk_chats(sdk):
    raw = sdk.chat.completions.with_raw_response.create(model="any", messages=HELLO)
    assert raw.headers["x-fallthrough-tier"] == "gpu"
    assert raw.headers["x-fallthrough-job-id"].startswith("job_")
    answer = raw.parse()
    assert answer.choices[0].message.content == "gpu-model: Hello"
    assert (answer.model, answer.usage.total_tokens) == ("gpu-model", 3)


def test_the_openai_sdk_lists_models_and_reads_errors(sdk):
    assert [model.id for model in sdk.models.list()] == ["gpu-model"]
    with pytest.raises(openai.BadRequestError) as error:
        sdk.chat.completions.create(model="any", messages=HELLO, temperature=3)
    assert error.value.param == "temperature"


def test_a_connection_that_sends_half_a_request_harms_nobody(stack, api):
    with socket.create_connection(("127.0.0.1", stack[0].port)) as half:
        half.sendall(b"POST /v1/jobs HTTP/1.1\r\ncontent-length: 100\r\n\r\n{")
    assert api.get("/health").is_success
    assert "Traceback" not in stack[0].log


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["prompt", "messages", "role", "content", "n", "metadata", "requests"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(body=anything, path=st.sampled_from(["/v1/jobs", "/v1/chat/completions"]))
def test_no_body_makes_the_server_fail(api, body, path):
    content = json.dumps(body).encode("utf-8", "surrogatepass")
    reply = api.post(path, content=content)
    assert reply.status_code in {200, 202, 400}, reply.text


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("trace-7", True),
        ("!" * 128, True),
        ("x" * 129, False),
        ("", False),
        ("two words", False),
        (b"\xff", False),
        (None, False),
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/jobs"),
        ("GET", "/v1/jobs/job_0"),
        ("GET", "/nowhere"),
        ("PUT", "/v1/jobs"),
        ("GET", "/health"),
        ("GET", "/"),
    ],
)
def test_every_answer_has_a_request_id_its_callers_or_its_own(api, method, path, given, taken):
    headers = {} if given is None else {"x-request-id": given}
    content = {"json": {"messages": HELLO}} if method == "POST" else {}
    reply = api.request(method, path, headers=headers, **content)
    [told] = reply.headers.get_list("x-request-id")
    assert (told == given) == taken
    assert taken or re.fullmatch("req_[0-9a-f]{32}", told)


def test_a_head_that_is_refused_has_a_request_id(stack):
    with socket.create_connection(("127.0.0.1", stack[0].port), 10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nx: " + b"y" * 70_000)
        assert b"x-request-id: req_" in connection.recv(4000)


def test_the_sdk_shows_the_request_id(sdk):
    reply = sdk.chat.completions.with_raw_response.create(model="m", messages=HELLO)
    assert reply.parse()._request_id == reply.headers["x-request-id"]


def test_each_call_upstream_has_an_id_of_its_own_that_names_its_job(api, gpu):
    prompt = [{"role": "user", "content": "named"}]
    for _ in range(2):
        reply = api.post(
            "/v1/chat/completions",
            json={"messages": prompt},
            headers={"x-request-id": "trace-8", "x-fallthrough-cache": "off"},
        )
        [call] = [each for each in gpu.calls if each.body.get("messages") == prompt]
        gpu.calls.clear()
        assert call.headers["x-request-id"] == reply.headers["x-fallthrough-job-id"] + "-0"


def test_what_is_polled_says_when_to_look_again_until_it_is_final(api, gpu):
    gpu.delay = 0.5
    try:
        reply = api.post("/v1/jobs", json={"prompt": "polled", "cache": "off"})
        assert int(reply.headers["openai-poll-after-ms"]) > 0
        listed = api.post("/v1/jobs", json={"requests": [{"prompt": "polled", "cache": "off"}]})
        assert int(listed.headers["openai-poll-after-ms"]) > 0
        where = reply.headers["location"]
        assert int(api.get(where).headers["openai-poll-after-ms"]) > 0
        assert "openai-poll-after-ms" not in api.get(where, params={"wait": 30}).headers
    finally:
        gpu.delay = 0.0
    content = b'{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": '
    content += b'{"messages": [{"role": "user", "content": "Hi"}]}}\n'
    form = {"purpose": (None, "batch"), "file": ("a.jsonl", content)}
    file_id = api.post("/v1/files", files=form).json()["id"]
    batch = {
        "input_file_id": file_id,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    reply = api.post("/v1/batches", json=batch)
    assert int(reply.headers["openai-poll-after-ms"]) > 0
    where = f"/v1/batches/{reply.json()['id']}"
    wait_until(lambda: api.get(where).json()["status"] == "completed")
    assert "openai-poll-after-ms" not in api.get(where).headers
