"""The stack as `fallthrough up` starts it, with the real model and Flower; and the demo."""

from __future__ import annotations

import base64
import json
import os
import signal
import time
from pathlib import Path

import httpx
import openai
import pytest
from harness.commands import Up, run
from harness.waiting import free_port, wait_until

PRIVATE = "xyzzy-plugh"  # stands for what a user would not want to find anywhere else


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    up = Up(tmp_path_factory.mktemp("stack") / "data", FALLTHROUGH_BREAKER_FAILURE_THRESHOLD="1")
    yield up
    up.stop()


@pytest.fixture
def sdk(up):
    with openai.OpenAI(base_url=f"{up.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def ask(sdk, prompt, **fields):
    return sdk.chat.completions.with_raw_response.create(
        model="any", messages=[{"role": "user", "content": prompt}], max_tokens=16, **fields
    )


def test_the_openai_sdk_gets_a_real_answer_from_the_real_model(sdk):
    raw = ask(sdk, "What is the capital of France?", temperature=0)
    assert raw.headers["x-fallthrough-tier"] == "cpu"
    answer = raw.parse()
    assert answer.choices[0].message.content.strip()
    assert answer.usage.completion_tokens > 0
    assert "SmolLM2" in answer.model
    assert sdk.models.list().data[0].id == answer.model


def test_flower_shows_workers_and_tasks_by_tier_and_no_prompt(up, sdk):
    ask(sdk, f"Say {PRIVATE}.")
    flower = up.told["flower_url"]

    def workers():
        return httpx.get(f"{flower}/api/workers?refresh=1", timeout=30).json()

    wait_until(lambda: len(workers()) == 2, what="both workers are known")

    def tasks():
        return httpx.get(f"{flower}/api/tasks", timeout=30).json()

    found = wait_until(lambda: [t for t in tasks().values() if t["state"] == "SUCCESS"])
    assert {task["name"] for task in found} == {"tasks.cpu"}
    assert all("job_" in task["args"] for task in found)
    pages = [f"{flower}/tasks", f"{flower}/task/{found[0]['uuid']}", f"{flower}/workers"]
    for text in [json.dumps(tasks()), *(httpx.get(page, timeout=30).text for page in pages)]:
        assert PRIVATE not in text


def test_no_log_holds_a_prompt_or_an_answer(up, sdk):
    answer = ask(sdk, f"Repeat: {PRIVATE}").parse().choices[0].message.content
    for log in (Path(up.told["data_dir"]) / "logs").iterdir():
        text = log.read_text(errors="replace")
        assert PRIVATE not in text, log
        assert answer not in text, log


def test_the_model_tells_nothing_of_each_request(up, sdk):
    log = Path(up.told["data_dir"]) / "logs" / "model.log"
    before = log.read_text()
    for n in range(3):
        ask(sdk, f"Count to {n}.")
    assert log.read_text() == before


def test_the_broker_holds_ids_alone(fleet, valkey):
    api = fleet.api().start()  # and no worker: the messages stay where they are
    httpx.post(f"{api.url}/v1/jobs", json={"prompt": PRIVATE}).raise_for_status()
    httpx.post(f"{api.url}/v1/jobs", json={"requests": [{"prompt": PRIVATE}] * 3})
    with valkey.client() as client:
        messages = [m for queue in ("interactive", "batch") for m in client.lrange(queue, 0, -1)]
    assert len(messages) == 2
    for message in messages:
        body = base64.b64decode(json.loads(message)["body"]).decode()
        assert "job_" in body
        assert PRIVATE not in body + message.decode()


def test_with_the_model_dead_an_honest_answer_within_a_second(up, sdk):
    os.kill(up.pids["model"], signal.SIGKILL)
    assert ask(sdk, "trip the breaker").headers["x-fallthrough-tier"] == "degraded"
    began = time.monotonic()
    raw = ask(sdk, "never asked before")
    assert time.monotonic() - began < 1
    assert raw.headers["x-fallthrough-degraded"] == "true"
    assert "temporarily unable" in raw.parse().choices[0].message.content
    assert (
        ask(sdk, "What is the capital of France?", temperature=0).headers["x-fallthrough-tier"]
        == "cache"
    )
    wait_until(lambda: "model restarted" in up.said)


def test_the_demo_shows_what_it_claims_whatever_keys_its_user_has():
    done = run("demo", api_keys="ann!=ft-0123456789abcdef")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All of it was seen." in done.stdout


def test_the_small_model_answers_for_a_gpu_server_that_is_away_if_it_is_asked_for(tmp_path):
    nobody = f"http://127.0.0.1:{free_port()}"
    up = Up(tmp_path / "data", "--cpu", "embedded", FALLTHROUGH_GPU_URL=nobody)
    try:
        with openai.OpenAI(base_url=f"{up.url}/v1", api_key="any", max_retries=0) as sdk:
            raw = ask(sdk, "Hello")
        assert raw.headers["x-fallthrough-tier"] == "cpu"
        assert "SmolLM2" in raw.parse().model
    finally:
        up.stop()
