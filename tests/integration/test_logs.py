"""What the processes log, and as what."""

from __future__ import annotations

import json
from datetime import datetime
from functools import partial

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


def test_requests_that_a_store_which_is_away_refuses_are_no_line_each(own_fleet, own_valkey):
    api = own_fleet.api().start()
    own_valkey.kill()
    with httpx.Client(base_url=api.url, timeout=20) as client:
        for _ in range(30):
            assert client.post("/v1/jobs", json={"prompt": "one"}).status_code == 503
    assert 1 <= api.log.count("request refused") < 10


def test_a_broker_that_was_away_has_nobody_told_to_let_running_jobs_be_lost(own_fleet, own_valkey):
    """Celery says at each loss how it could be set to cancel them."""
    worker = own_fleet.worker().start()
    wait_until(lambda: " ready." in worker.log)
    own_valkey.kill()
    wait_until(lambda: "Connection to broker lost" in worker.log)
    own_valkey.start()
    wait_until(lambda: worker.log.count("Connected to redis") >= 2)
    assert "worker_cancel_long_running_tasks_on_connection_loss" not in worker.log


SECRET = "never-shown"  # noqa: S105 - it is looked for
FOLDER = "where-files-lie"


def fail_in_every_way(gpu, ask, reset):
    """Ask a server that fails in each way; reset: what it did keeps nobody from the next."""
    modes, met = ("ok", "401", "500", "garbage", "reset", "400", "no-model", "too-long"), set()
    gpu.plan = lambda _: met.add(gpu.mode) or gpu.mode
    for gpu.mode in modes:
        ask()
        reset()
    assert met == set(modes)
    gpu.vanish()
    ask()
    gpu.listen()


def test_no_secret_and_no_path_is_told_whatever_fails(own_fleet, own_valkey, gpu, tmp_path):
    """At DEBUG: keys, passwords, prompts and answers in no log; and in no reply where files lie."""
    with own_valkey.client() as store:
        store.execute_command("ACL", "SETUSER", "ft", "on", f">{SECRET}-store", "~*", "&*", "+@all")
    files = tmp_path / FOLDER
    ann = f"{SECRET}-key-of-ann"
    own_fleet.settings |= {
        "FALLTHROUGH_LOG_LEVEL": "DEBUG",
        "FALLTHROUGH_REDIS_URL": f"redis://ft:{SECRET}-store@127.0.0.1:{own_valkey.port}/0",
        "FALLTHROUGH_GPU_URL": f"http://me:{SECRET}-url@127.0.0.1:{gpu.port}",
        "FALLTHROUGH_CPU_API_KEY": f"{SECRET}-cpu",
        "FALLTHROUGH_API_KEYS": f"ann={ann},ops!={SECRET}-of-an-admin",
        "FALLTHROUGH_FILES_URL": str(files),
    }
    api, worker = own_fleet.start(own_fleet.api(), own_fleet.worker())
    told = []

    def ask(method, path, key=ann, **content):
        headers = {"Authorization": f"Bearer {key}", **content.pop("headers", {})}
        try:
            reply = httpx.request(
                method, f"{api.url}{path}", headers=headers, timeout=10, **content
            )
        except httpx.HTTPError as error:
            return pytest.fail(f"{path}: {error!r}")
        told.append(f"{reply.headers} {reply.text}")
        return reply

    def reset():
        ask("POST", "/circuit-breakers/max_gpu/reset", key=f"{SECRET}-of-an-admin")

    prompt = "never-logged"
    chat = {"messages": [{"role": "user", "content": prompt}], "max_tokens": 5}
    fail_in_every_way(gpu, partial(ask, "POST", "/v1/chat/completions", json=chat), reset)
    ask("GET", "/v1/models", key=f"{SECRET}-wrong-key")
    ask("GET", "/metrics")
    ask("GET", f"/nowhere?api_key={SECRET}-in-a-query")
    form = {"purpose": (None, "batch"), "file": ("a.jsonl", b'{"custom_id": 1}\n')}
    kept = ask("POST", "/v1/files", files=form).json()["id"]
    batch = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
    ask("POST", "/v1/batches", json={"input_file_id": kept, **batch})
    # The storage goes: a file stands where its folder was.
    files.rename(tmp_path / "elsewhere")
    files.write_text("")
    ask("GET", f"/v1/files/{kept}/content")
    ask("POST", "/v1/files", files=form)
    started = ask("POST", "/v1/batches", json={"input_file_id": kept, **batch}).json()["id"]
    wait_until(lambda: started in worker.log, what="its validation broke off")
    ask("DELETE", f"/v1/files/{kept}")
    # The store refuses us, and is away.
    with own_valkey.client() as store:
        store.execute_command("ACL", "SETUSER", "ft", "off")
        store.execute_command("CLIENT", "KILL", "USER", "ft")
    ask("POST", "/v1/jobs", json={"prompt": prompt})
    ask("GET", "/health/ready")
    own_valkey.kill()
    ask("POST", "/v1/jobs", json={"prompt": prompt})
    ask("GET", "/health/ready")
    replies = "\n".join(told)
    for name, text in {"the API's log": api.log, "the worker's": worker.log}.items():
        found = [line for line in text.splitlines() if SECRET in line or prompt in line]
        assert not found, (name, found[:3])
    assert SECRET not in replies
    assert FOLDER not in replies
