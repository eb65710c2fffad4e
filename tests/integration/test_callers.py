"""Callers who go away, come back, or send the same words as others, without a key of their own."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from harness.stores import store_on
from harness.waiting import wait_until

from tasks.records.idempotency import IdempotencyKey
from tasks.records.jobs import Options, Queue, Ref, Status, Submission, new_job_id

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


# The store


@pytest.fixture
async def jobs(valkey):
    store = store_on(valkey.url)
    yield store.jobs
    await store.close()


def key(**fields):
    return IdempotencyKey(
        **{"name": "n", "digest": "d" * 32, "lookup": True, "own": False, **fields}
    )


async def create(jobs, *keys):
    job = Submission(new_job_id(), "ann", Queue.INTERACTIVE, {}, Options(), 60.0)
    _, earlier = await jobs.create([job], "gpu", keys)
    return earlier[0] if earlier else job.id


async def status(jobs, job_id):
    return (await jobs.get(job_id, "ann")).status


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("others", [1, 2])
async def test_only_the_last_who_leaves_cancels(jobs, begun, others):
    job_id = await create(jobs, key(own=True))
    if begun:
        await jobs.begin("me", "gpu", [Ref(job_id, 0)])
    for _ in range(others):
        assert await create(jobs, key(own=True)) == job_id
    for _ in range(others):
        assert not await jobs.leave(job_id, "ann", [])
    assert await jobs.leave(job_id, "ann", [])
    assert await create(jobs, key(own=True)) == job_id
    assert await jobs.cancel(job_id, "ann", unless_told=True)
    assert not (await status(jobs, job_id)).final
    assert await jobs.leave(job_id, "ann", [])
    assert await jobs.cancel(job_id, "ann", unless_told=True)
    assert await status(jobs, job_id) is Status.CANCELLED


async def test_what_is_left_once_is_found_once(jobs):
    left, once = await create(jobs), key(once=True)
    assert await create(jobs, once) != left
    assert await jobs.leave(left, "ann", [once])
    assert await create(jobs, once._replace(digest="e" * 32, name="other")) != left
    assert await create(jobs, once) == left
    assert await create(jobs, once) != left


async def test_what_was_made_is_forgotten_by_who_made_it(jobs):
    first = await create(jobs, key())
    await jobs.forget("ann", ["another"], [key()])
    assert await create(jobs, key()) == first
    await jobs.forget("ann", [first], [key()])
    assert await create(jobs, key()) != first
