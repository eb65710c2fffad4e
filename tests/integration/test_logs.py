"""What the processes log, and as what."""

from __future__ import annotations

import json
from datetime import datetime

import httpx
import pytest
from harness.waiting import wait_until

REFUSED = {"messages": [{"role": "user", "content": "a secret prompt"}]}


def refused_job(fleet, gpu, **settings):
    """Return the id of a job that its tier refused, and its worker."""
    api, worker = fleet.start(fleet.api(**settings), fleet.worker(**settings))
    gpu.mode = "400"
    reply = httpx.post(f"{api.url}/v1/chat/completions", json=REFUSED, timeout=30)
    assert reply.status_code == 400
    return reply.headers["x-fallthrough-job-id"], worker, api


def test_a_line_is_json_and_says_which_job_at_which_tier(fleet, gpu):
    job_id, worker, api = refused_job(fleet, gpu)
    wait_until(lambda: job_id in worker.log)
    lines = [json.loads(line) for line in (worker.log + api.log).splitlines()]
    [told] = [line for line in lines if line.get("job_id") == job_id]
    assert (told["tier"], told["level"], told["part"]) == ("gpu", "WARNING", "worker")
    assert told["message"] == f"job {job_id} failed by tier gpu"
    assert datetime.fromisoformat(told["time"]).tzinfo
    assert {line["part"] for line in lines} == {"api", "worker"}


def test_what_the_caller_named_is_in_the_log_under_his_name(fleet, gpu):
    api, worker = fleet.start(fleet.api(), fleet.worker())
    gpu.mode = "400"
    headers = {"x-request-id": "trace-9"}
    for path in ("/v1/chat/completions", "/v1/jobs"):
        httpx.post(f"{api.url}{path}", json=REFUSED, headers=headers, timeout=30)
    wait_until(lambda: worker.log.count('"trace-9"') == 2)
    lines = [json.loads(line) for line in worker.log.splitlines()]
    assert {each["level"] for each in lines if each.get("request_id") == "trace-9"} == {"WARNING"}
    assert not [each for each in lines if each.get("request_id", "trace-9") != "trace-9"]


def test_text_when_asked(fleet, gpu):
    job_id, worker, _ = refused_job(fleet, gpu, log_format="text")
    wait_until(lambda: job_id in worker.log)
    assert f"failed by tier gpu job_id={job_id} tier=gpu" in worker.log
    assert "WARNING tasks.execution.jobs: job" in worker.log


@pytest.mark.parametrize("level", ["DEBUG", "ERROR"])
def test_the_level_is_a_setting_and_no_level_tells_a_prompt(fleet, gpu, level):
    job_id, worker, api = refused_job(fleet, gpu, log_level=level)
    everything = worker.log + api.log
    assert (job_id in everything) is (level == "DEBUG")
    assert "secret" not in everything
