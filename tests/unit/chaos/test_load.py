"""Callers notice every promise that an API breaks; the API here is made up."""

from __future__ import annotations

import json
import random

import httpx
import pytest
from chaos.ledger import Ledger
from chaos.load import Load

JOB = {"id": "job_1", "status": "succeeded", "tier_used": "gpu", "text": "gpu-model: a"}
COUNTS = {"total": 2, "completed": 2, "failed": 0}
BATCH = {
    "id": "batch_1",
    "status": "completed",
    "output_file_id": "file-1",
    "error_file_id": None,
    "request_counts": COUNTS,
}


def output(*lines):
    """An output file of (custom_id, answer)."""
    shown = [
        {"custom_id": name, "response": {"body": {"choices": [{"message": {"content": text}}]}}}
        for name, text in lines
    ]
    return "\n".join(json.dumps(each) for each in shown)


GOOD = [("c0", "gpu-model: a"), ("c1", "gpu-model: b")]


@pytest.fixture
async def load():
    load = Load(["http://one", "http://two"], Ledger(), "1", random.Random(1))
    await load.http.aclose()
    yield load
    await load.http.aclose()


def answer_with(load, answer):
    load.http = httpx.AsyncClient(transport=httpx.MockTransport(answer))


async def look_at(load, shown, file=""):
    """Look once at what was accepted; return the problems."""

    def answer(request):
        if request.url.path.endswith("/content"):
            return httpx.Response(200, text=file)
        return httpx.Response(200, json=shown)

    answer_with(load, answer)
    what = shown["id"].partition("_")[0]
    item = load.ledger.accept(what, shown["id"], ["a"] if what == "job" else ["a", "b"])
    await load.look(item)
    return load.ledger.problems


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, None),
        ({"tier_used": "degraded", "text": "sorry"}, None),
        ({"text": "gpu-model: b"}, "asked 'a' and was answered"),
        ({"status": "failed", "text": None}, "ended failed"),
        ({"status": "expired", "text": None}, "ended expired"),
    ],
)
async def test_a_job_has_the_answer_to_its_prompt(load, change, problem):
    problems = await look_at(load, {**JOB, **change})
    assert len(problems) == (problem is not None)
    assert not problem or problem in problems[0]


@pytest.mark.parametrize(
    ("change", "lines", "problem"),
    [
        ({}, GOOD, None),
        ({}, GOOD[:1], "too few"),
        ({}, [*GOOD, GOOD[0]], "too many"),
        ({}, [GOOD[0], ("c1", "gpu-model: a")], "asked 'b'"),
        ({"request_counts": {**COUNTS, "completed": 3}}, GOOD, "counted as"),
    ],
)
async def test_a_batch_has_every_line_once_and_is_counted_so(load, change, lines, problem):
    problems = await look_at(load, {**BATCH, **change}, output(*lines))
    assert bool(problems) == (problem is not None)
    assert not problem or any(problem in each for each in problems)


async def test_what_was_accepted_and_is_not_found_is_lost(load):
    answer_with(load, lambda request: httpx.Response(404, json={"error": {"code": "x"}}))
    item = load.ledger.accept("job", "job_1", ["a"])
    await load.look(item)
    assert item.result == "not found"
    assert any("is not found" in each for each in load.ledger.problems)


@pytest.mark.parametrize("status", [500, 502, 504])
async def test_a_server_error_that_says_nothing_is_a_broken_promise(load, monkeypatch, status):
    monkeypatch.setattr("chaos.load._delay", lambda *_: 0)
    answer_with(load, lambda request: httpx.Response(status, json={}))
    assert await load.send("POST", "/v1/jobs", json={}) is None
    assert f"POST /v1/jobs: {status}" in load.ledger.problems[0]
    assert load.ledger.given_up == {"/v1/jobs": 1}


async def test_a_create_is_sent_again_to_the_next_api_as_the_sdk_does(load, monkeypatch):
    monkeypatch.setattr("chaos.load._delay", lambda *_: 0)
    asked = []

    def answer(request):
        asked.append(request)
        if len(asked) == 1:
            raise httpx.ReadError("reset")
        return httpx.Response(503 if len(asked) == 2 else 202, json={})

    answer_with(load, answer)
    assert (await load.send("POST", "/v1/jobs", json={})).status_code == 202
    assert [request.headers["x-stainless-retry-count"] for request in asked] == ["0", "1", "2"]
    assert asked[0].url.host != asked[1].url.host
    assert len({request.headers.get("idempotency-key") for request in asked}) == 1
    assert load.ledger.problems == []
