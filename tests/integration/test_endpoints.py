"""A GPU tier of two servers, of which one dies and comes back under load."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from harness.batches import check_every_line_once, ended, line, start
from harness.upstream import Upstream
from harness.waiting import wait_until


@pytest.fixture
def other():
    upstream = Upstream("other-model")
    yield upstream
    upstream.close()


@pytest.fixture
def stack(fleet, gpu, other):
    settings = {"gpu_url": f"{gpu.url}, {other.url}/v1", "gpu_timeout_seconds": 5}
    workers = [fleet.worker(**settings) for _ in range(2)]
    return fleet.start(fleet.api(**settings), *workers)


@pytest.fixture
def api(stack):
    with httpx.Client(base_url=stack[0].url, timeout=30) as client:
        yield client


def job(api, prompt):
    made = api.post("/v1/jobs", json={"prompt": prompt}).json()
    return api.get(f"/v1/jobs/{made['id']}?wait=20").json()


def breaker(api, name):
    return api.get("/circuit-breakers").json()["circuit_breakers"][name]


class Load:
    """Jobs, a few at a time, until it is stopped."""

    def __init__(self, api) -> None:
        self.jobs: list[dict] = []
        self._api, self._stopped = api, threading.Event()
        self._pool = ThreadPoolExecutor(4)
        self._callers = [self._pool.submit(self._call, number) for number in range(4)]

    def _call(self, caller):
        number = 0
        while not self._stopped.is_set():
            number += 1
            self.jobs.append(job(self._api, f"{caller}.{number}"))

    def more(self, number):
        have = len(self.jobs)
        wait_until(lambda: len(self.jobs) >= have + number, 20)

    def stop(self):
        self._stopped.set()
        for caller in self._callers:
            caller.result(30)
        self._pool.shutdown()


def test_one_that_dies_and_comes_back_costs_nobody_his_answer(api, stack, gpu, other, cpu):
    gpu.delay = other.delay = 0.02
    load = Load(api)
    load.more(40)
    well = len(gpu.calls), len(other.calls)
    other.vanish()
    gone = len(other.calls)
    wait_until(lambda: breaker(api, "max_gpu:2")["state"] == "open", 10)
    assert breaker(api, "max_gpu")["state"] == "closed", "the tier is not out of service"
    load.more(40)
    while_away = len(other.calls)
    other.listen()
    wait_until(lambda: breaker(api, "max_gpu:2")["state"] == "closed", 10)
    back = len(gpu.calls), len(other.calls)
    load.more(40)
    load.stop()
    assert {(each["status"], each["tier_used"]) for each in load.jobs} == {("succeeded", "gpu")}
    assert cpu.calls == []
    assert min(well) > 0.3 * sum(well), f"the load spreads: {well}"
    assert while_away <= gone + 4, "nobody was there"
    after = len(gpu.calls) - back[0], len(other.calls) - back[1]
    assert min(after) > 0.3 * sum(after), f"and spreads again: {after}"
    tries = [each["attempts"] for each in load.jobs]
    assert all(attempt["endpoint"] in {1, 2} for attempts in tries for attempt in attempts)
    moved = [[(a["endpoint"], a["verdict"]) for a in attempts] for attempts in tries]
    assert [(2, "failure"), (1, "answered")] in moved
    assert max(map(len, moved)) == 2
    text = api.get("/metrics", headers={"accept": "text/plain"}).text
    assert 'circuit_breaker_configured{name="max_gpu:2"} 1.0' in text
    for worker in stack[1:]:
        told = httpx.get(f"{worker.url}/metrics").text
        assert 'circuit_breaker_failures_total{name="max_gpu:2"}' in told


def test_a_batch_whose_server_dies_is_answered_by_the_other(api, gpu, other, cpu):
    gpu.delay = other.delay = 0.05
    names = [f"l{number}" for number in range(300)]
    with openai.OpenAI(base_url=str(api.base_url.join("/v1")), api_key="any") as sdk:
        made = start(sdk, [line(name, name) for name in names])
        wait_until(lambda: len(gpu.calls) > 20 and len(other.calls) > 20, 20)
        gpu.vanish()
        output, errors = check_every_line_once(sdk, ended(sdk, made.id), names)
    assert errors == []
    assert {each["fallthrough"]["tier_used"] for each in output} == {"gpu"}
    assert cpu.calls == []


def test_when_both_are_away_the_next_tier_answers(api, gpu, other, cpu):
    gpu.vanish()
    other.vanish()
    first = job(api, "one")
    assert first["tier_used"] == "cpu"
    tried = [(a["tier"], a.get("endpoint"), a["verdict"]) for a in first["attempts"]]
    assert sorted(tried[:2]) == [("gpu", 1, "failure"), ("gpu", 2, "failure")]
    assert tried[2] == ("cpu", None, "answered")
    began = time.monotonic()
    while (
        breaker(api, "max_gpu:2")["state"] != "open" or breaker(api, "max_gpu")["state"] != "open"
    ):
        assert job(api, "more")["tier_used"] in {"cpu", "cache"}
        assert time.monotonic() < began + 10


def test_each_breaker_can_be_closed_and_the_models_of_both_are_listed(api, gpu, other):
    names = {model["id"] for model in api.get("/v1/models").json()["data"]}
    assert {"gpu-model", "other-model"} <= names
    reply = api.post("/circuit-breakers/max_gpu:2/reset")
    assert (reply.status_code, reply.json()["name"]) == (200, "max_gpu:2")
    assert api.post("/circuit-breakers/max_gpu:3/reset").status_code == 404
    assert "max_gpu:2" in api.get("/metrics").json()["metrics"]["circuit_breakers"]
