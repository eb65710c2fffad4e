"""Callers who go away, come back, or send the same words as others, without a key of their own."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from harness.waiting import wait_until

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


def test_what_one_caller_left_is_found_by_one(http, gpu):
    gpu.delay = 2
    leave(http, FIRST)
    with ThreadPoolExecutor(3) as pool:
        jobs = list(pool.map(lambda _: ask(http, AGAIN), range(3)))
    assert len(set(jobs)) == 3
    assert len(gpu.calls) == 3


def test_a_job_whose_caller_was_told_of_it_is_his(http):
    ids = [http.post("/jobs", json={"prompt": "x"}, headers=AGAIN).json()["id"] for _ in range(3)]
    assert len(set(ids)) == 3
