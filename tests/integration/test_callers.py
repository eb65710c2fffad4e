"""Callers who go away, come back, or send the same words as others, without a key of their own."""

from __future__ import annotations

import json
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from harness.batches import ended, jsonl, line, start
from harness.proxy import Proxy
from harness.waiting import wait_until

from tasks.store.keyspace import PREFIX

CHAT = {"messages": [{"role": "user", "content": "Name a random town."}]}
FIRST, AGAIN = {"x-stainless-retry-count": "0"}, {"x-stainless-retry-count": "1"}


@pytest.fixture
def http(fleet):
    api, _ = fleet.start(fleet.api(), fleet.worker(gpu_timeout_seconds=30))
    with httpx.Client(base_url=f"{api.url}/v1", timeout=30) as client:
        yield client


def ask(http, headers, **fields):
    reply = http.post("/chat/completions", json=CHAT, headers=headers, **fields)
    assert reply.status_code == 200, reply.text
    return reply.headers["x-fallthrough-job-id"]


def leave(http, headers):
    with pytest.raises(httpx.ReadTimeout):
        ask(http, headers, timeout=0.5)


def test_who_comes_back_gets_the_answer_to_what_was_asked(http, gpu):
    """The SDK's own retries: its first two tries time out."""
    gpu.delay = 4
    url = str(http.base_url)
    with openai.OpenAI(base_url=url, api_key="any", timeout=1.5, max_retries=4) as sdk:
        # Who takes a degraded answer has got it by then.
        headers = {"x-fallthrough-on-exhausted": "fail"}
        answer = sdk.chat.completions.create(model="m", **CHAT, extra_headers=headers)
    assert "town" in answer.choices[0].message.content
    assert len(gpu.calls) == 1


def test_who_comes_back_after_the_answer_came_gets_it(http, gpu):
    gpu.delay = 1
    leave(http, FIRST)
    wait_until(lambda: http.get("/jobs").json()["data"][0]["status"] == "succeeded")
    ask(http, AGAIN)
    assert len(gpu.calls) == 1


def test_who_went_away_and_does_not_retry_has_his_job_cancelled(http, gpu):
    gpu.delay = 20
    leave(http, {})
    wait_until(lambda: http.get("/jobs").json()["data"][0]["status"] == "cancelled", 5)


def test_who_went_away_with_more_requests_under_way_has_his_job_cancelled(http, gpu):
    """Behind one another in a connection: the one that is answered has to hear of its end."""
    gpu.delay = 20
    body = json.dumps(CHAT).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    with socket.create_connection((http.base_url.host, http.base_url.port)) as connection:
        connection.sendall((head % len(body) + body) * 2)
        wait_until(lambda: gpu.running == 1)
    wait_until(lambda: http.get("/jobs").json()["data"][0]["status"] == "cancelled", 5)


def test_the_same_words_of_another_caller_are_a_job_of_their_own(http, gpu):
    """His first try never arrived, so that it is a retry which is seen."""
    gpu.delay = 1
    with ThreadPoolExecutor(4) as pool:
        jobs = list(pool.map(lambda headers: ask(http, headers), [FIRST, AGAIN, AGAIN, FIRST]))
    assert len(set(jobs)) == 4
    assert ask(http, AGAIN) not in jobs
    assert len(gpu.calls) == 5


def test_what_one_caller_left_is_found_by_one(http, gpu, valkey):
    gpu.delay = 3
    leave(http, FIRST)
    with valkey.client() as client:  # who retries comes back later than that
        wait_until(
            lambda: any(client.scan_iter(f"{PREFIX}once:*")), what="it is noted that he left"
        )
    with ThreadPoolExecutor(3) as pool:
        jobs = list(pool.map(lambda _: ask(http, AGAIN), range(3)))
    assert len(set(jobs)) == 3
    assert len(gpu.calls) == 3


def test_who_left_before_he_was_told_of_his_job_finds_it_when_he_comes_back(fleet, valkey):
    link = Proxy(valkey.url)
    try:
        api = fleet.api(redis_url=link.url, broker_url=valkey.url).start()
        with httpx.Client(base_url=f"{api.url}/v1", timeout=30) as http:
            link.freeze()
            with pytest.raises(httpx.ReadTimeout):
                http.post("/jobs", json={"prompt": "x"}, headers=FIRST, timeout=0.5)
            link.thaw()
            wait_until(lambda: http.get("/jobs").json()["data"])
            [job] = http.get("/jobs").json()["data"]
            time.sleep(0.5)  # who comes back is there no sooner
            again = http.post("/jobs", json={"prompt": "x"}, headers=AGAIN).json()
            assert again["id"] == job["id"]
    finally:
        link.close()


@pytest.mark.parametrize("what", ["jobs", "batches"])
def test_what_an_api_cannot_hand_over_before_it_ends_is_taken_back(fleet, valkey, what):
    """Its caller is told to ask again."""
    link = Proxy(valkey.url)
    try:
        store = {"redis_url": valkey.url}
        api = fleet.api(**store, broker_url=link.url, drain_seconds=1).start()
        other = fleet.api(**store, broker_url=valkey.url).start()
        with (
            ThreadPoolExecutor(1) as pool,
            httpx.Client(base_url=f"{api.url}/v1", timeout=30) as http,
        ):
            content = jsonl([line("a", "x")])
            form = {"files": {"file": ("in.jsonl", content)}, "data": {"purpose": "batch"}}
            file_id = http.post("/files", **form).json()["id"]
            batch = {"input_file_id": file_id, "endpoint": line("", "")["url"]}
            body = {"jobs": {"prompt": "x"}, "batches": {**batch, "completion_window": "24h"}}

            def left():
                return httpx.get(f"{other.url}/v1/{what}").json()["data"]

            link.freeze()
            asking = pool.submit(http.post, f"/{what}", json=body[what])
            wait_until(left)
            api.signal(signal.SIGTERM)
            told = asking.result(10)
            assert (told.status_code, told.json()["error"]["code"]) == (503, "stopping")
            assert [each["status"] for each in left()] in ([], ["cancelling"], ["cancelled"])
    finally:
        link.close()


def test_a_job_whose_caller_was_told_of_it_is_his(http):
    ids = [http.post("/jobs", json={"prompt": "x"}, headers=AGAIN).json()["id"] for _ in range(3)]
    assert len(set(ids)) == 3


# What is called for nobody any more is a waste of the server

PROMPT = 1.8  # seconds, where others are tested meanwhile: what is promised is one


def leave_alone(http, _):
    with pytest.raises(httpx.ReadTimeout):
        ask(http, {}, timeout=3)


def leave_with_sdk(http, _):
    headers = {"x-fallthrough-on-exhausted": "fail"}  # else it is told in time
    options = {"timeout": 3, "max_retries": 0, "default_headers": headers}
    with (
        openai.OpenAI(base_url=str(http.base_url), api_key="any", **options) as sdk,
        pytest.raises(openai.APITimeoutError),
    ):
        sdk.chat.completions.create(model="m", **CHAT)


def cancel_job(http, server):
    job = http.post("/jobs", json={"prompt": "x"}).json()["id"]
    wait_until(lambda: server.running)
    http.post(f"/jobs/{job}/cancel").raise_for_status()


@pytest.mark.parametrize("stop", [leave_alone, leave_with_sdk, cancel_job])
@pytest.mark.parametrize("tier", ["gpu", "cpu"])
@pytest.mark.parametrize("client", ["auto", "aiohttp", "httpx"])
def test_what_nobody_wants_any_more_is_called_no_longer(fleet, request, stop, tier, client):
    settings = {"gpu_timeout_seconds": 30, "cpu_timeout_seconds": 30, "http_client": client}
    api, _ = fleet.start(fleet.api(), fleet.worker(**settings))
    request.getfixturevalue("gpu").mode = "ok" if tier == "gpu" else "500"
    server = request.getfixturevalue(tier)
    server.delay = 20
    with httpx.Client(base_url=f"{api.url}/v1", timeout=30) as http:
        stop(http, server)
        gone = time.monotonic()
        wait_until(lambda: server.left, 5)
        assert server.left[0] - gone < PROMPT
        assert (len(server.calls), server.running) == (1, 0)


def test_a_batch_that_is_cancelled_is_called_no_longer(fleet, gpu):
    api, _ = fleet.start(fleet.api(), fleet.worker(gpu_timeout_seconds=30, gpu_concurrency=8))
    gpu.delay = 20
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key="any") as sdk:
        batch = start(sdk, [line(f"c{n}", "x") for n in range(20)])
        wait_until(lambda: gpu.running == 8)
        sdk.batches.cancel(batch.id)
        gone = time.monotonic()
        wait_until(lambda: len(gpu.left) == 8, 5)
        assert max(gpu.left) - gone < PROMPT
        assert ended(sdk, batch.id).status == "cancelled"
        assert len(gpu.calls) == 8
