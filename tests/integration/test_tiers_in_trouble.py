"""A tier that answers nothing is seen while its breaker is closed: view, metrics, log."""

from __future__ import annotations

import json
import re

import httpx
import pytest
from harness.commands import run
from harness.waiting import wait_until
from prometheus_client.parser import text_string_to_metric_families as families

KEY = "sk-0123456789abcdef-secret"
SILENT_SECONDS = 2


@pytest.fixture
def api(fleet, gpu):
    """An API before two workers, whose GPU server is behind a URL with a password."""
    fleet.settings |= {
        "FALLTHROUGH_GPU_URL": gpu.url.replace("http://", "http://user:hunter2@"),
        "FALLTHROUGH_CPU_API_KEY": KEY,
        "FALLTHROUGH_SILENT_TIER_SECONDS": str(SILENT_SECONDS),
        "FALLTHROUGH_LOG_FORMAT": "json",
    }
    api, *_ = fleet.start(fleet.api(), fleet.worker(), fleet.worker())
    return api


def ask(api, prompt="private-prompt"):
    body = {"messages": [{"role": "user", "content": prompt}], "fallthrough": {"cache": "off"}}
    reply = httpx.post(f"{api.url}/v1/chat/completions", json=body, timeout=30)
    assert reply.is_success, reply.text
    return reply.headers["x-fallthrough-tier"]


def view(api, name="max_gpu"):
    return httpx.get(f"{api.url}/circuit-breakers").json()["circuit_breakers"][name]


def troubles(api, name="max_gpu"):
    return {each["trouble"]: each for each in view(api, name)["troubles"]}


def levels(api, metric="fallthrough_tier_trouble"):
    text = httpx.get(f"{api.url}/metrics", headers={"Accept": "text/plain"}).text
    return {
        (sample.labels["name"], sample.labels["trouble"]): sample.value
        for family in families(text)
        if family.name == metric
        for sample in family.samples
    }


def said(fleet, words):
    """Return what the fleet's logs say with these words: (level, message)."""
    records = [
        json.loads(row)
        for process in fleet.processes
        for row in process.log.splitlines()
        if row.startswith("{")
    ]
    return [(r["level"], r["message"]) for r in records if words in r["message"]]


def test_from_the_start_no_tier_is_in_trouble(api):
    kinds = ("no_such_model", "misconfigured", "silent")
    assert levels(api) == {(name, kind): 0 for name in ("max_gpu", "ollama_cpu") for kind in kinds}
    assert view(api)["troubles"] == view(api, "ollama_cpu")["troubles"] == []
    assert "troubles" not in view(api, "redis_cache")


def test_a_model_that_the_tier_does_not_have_is_seen_though_its_breaker_is_closed(api, fleet, gpu):
    gpu.mode = "no-model"
    for _ in range(4):
        assert ask(api) == "cpu"
    seen = wait_until(lambda: troubles(api).get("no_such_model"))
    assert view(api)["state"] == "closed"
    assert (seen["host"], seen["reason"]) == (f"127.0.0.1:{gpu.port}", "HTTP 404 no such model")
    wait_until(lambda: troubles(api)["no_such_model"]["count"] == 4)
    shown = run("breakers", "--url", api.url, COLUMNS="200").stdout
    assert f"no_such_model at 127.0.0.1:{gpu.port}: HTTP 404 no such model" in shown
    assert levels(api)["max_gpu", "no_such_model"] == 1
    assert levels(api)["ollama_cpu", "no_such_model"] == 0

    # Soon it is silent as well: it was asked all the time, and another answered.
    wait_until(lambda: ask(api) == "cpu" and "silent" in troubles(api), 20)
    assert levels(api)["max_gpu", "silent"] == 1
    assert "unfit: HTTP 404 no such model" in troubles(api)["silent"]["reason"]
    where = f"max_gpu at 127.0.0.1:{gpu.port}"
    wait_until(lambda: said(fleet, "answers nothing"))
    assert said(fleet, "does not have the model") == [
        ("ERROR", f"{where} does not have the model that it is asked for (HTTP 404 no such model)")
    ], "once, by one of two workers"

    gpu.mode = "ok"
    assert ask(api) == "gpu"
    wait_until(lambda: troubles(api) == {})
    assert set(levels(api).values()) == {0}
    wait_until(lambda: said(fleet, "answers again") == [("WARNING", f"{where} answers again")])
    for process in fleet.processes:
        assert not re.search(f"hunter2|{KEY}|private-prompt", process.log)


def test_a_refused_key_is_seen_while_it_is_held_and_names_no_key(api, fleet, gpu):
    gpu.mode = "401"
    assert ask(api) == "cpu"
    seen = wait_until(lambda: troubles(api).get("misconfigured"))
    assert seen["host"] == f"127.0.0.1:{gpu.port}"
    assert (seen["reason"], seen["count"]) == ("HTTP 401", 1)
    assert levels(api)["max_gpu", "misconfigured"] == 1
    assert ask(api) == "cpu", "it is held, and not asked"
    assert troubles(api)["misconfigured"]["count"] == 1
    [(level, message)] = wait_until(lambda: said(fleet, "refuses our key or path"))
    assert (level, "(HTTP 401)" in message) == ("ERROR", True)
    shown = httpx.get(f"{api.url}/circuit-breakers").text + httpx.get(f"{api.url}/metrics").text
    assert not re.search(f"hunter2|{KEY}", shown)


def test_a_tier_that_fails_for_long_is_silent_only_while_another_answers(api, fleet, gpu, cpu):
    gpu.mode = cpu.mode = "500"
    for _ in range(6):
        assert ask(api) == "degraded"

    def asked_for_long():
        assert ask(api) == "degraded"
        found = httpx.get(f"{api.url}/metrics").json()["metrics"]["circuit_breakers"]
        return found["max_gpu"] != "closed" and found["ollama_cpu"] != "closed"

    wait_until(asked_for_long, 20)
    assert troubles(api) == troubles(api, "ollama_cpu") == {}
    why = {"host": f"127.0.0.1:{gpu.port}", "last": "failure: HTTP 500"}
    assert wait_until(lambda: view(api)["unanswered"]).items() > why.items()
    shown = run("breakers", "--url", api.url).stdout
    assert f"max_gpu: {why['host']} does not answer (failure: HTTP 500)" in shown.splitlines()
    words = f"max_gpu at {why['host']} does not answer (failure: HTTP 500)"
    wait_until(lambda: said(fleet, words) == [("WARNING", words)])
    cpu.mode = "ok"
    wait_until(lambda: ask(api) == "cpu" and "silent" in troubles(api), 30)
    assert troubles(api, "ollama_cpu") == {}
    wait_until(lambda: view(api, "ollama_cpu")["unanswered"] is None)


def test_of_several_servers_the_one_in_trouble_is_named(fleet, gpu, cpu):
    fleet.settings["FALLTHROUGH_GPU_URL"] = f"{gpu.url},{cpu.url}"
    fleet.settings["FALLTHROUGH_CPU_URL"] = ""
    cpu.mode = "no-model"
    api, _ = fleet.start(fleet.api(), fleet.worker())

    def second_is_in_trouble():
        assert ask(api) == "gpu"
        return "no_such_model" in troubles(api, "max_gpu:2")

    wait_until(second_is_in_trouble, 20)
    seen = troubles(api, "max_gpu:2")["no_such_model"]
    assert (seen["host"], troubles(api)) == (f"127.0.0.1:{cpu.port}", {})
    assert levels(api)["max_gpu:2", "no_such_model"] == 1
    assert levels(api)["max_gpu", "no_such_model"] == 0
    assert len(said(fleet, f"max_gpu:2 at 127.0.0.1:{cpu.port} does not have the model")) == 1


def test_with_the_store_away_the_view_says_that_it_does_not_know(own_fleet, own_valkey):
    api = own_fleet.api().start()
    assert view(api)["troubles"] == []
    own_valkey.kill()
    reply = httpx.get(f"{api.url}/circuit-breakers", timeout=30)
    assert reply.status_code == 200
    seen = reply.json()["circuit_breakers"]["max_gpu"]
    assert seen["troubles"] is seen["unanswered"] is None
