"""Values that are taken though they are odd: processes work with them."""

from __future__ import annotations

import httpx
import pytest
from harness.waiting import wait_until

from tasks.settings import HIGHEST_NUMBER, HIGHEST_SECONDS, Settings, specs_of

NUMBERS = {
    spec.name: spec
    for spec in specs_of(Settings)
    if type(spec.default) is not str and spec.name not in {"port", "worker_port"}
}


def highest(spec):
    if spec.metadata["high"] is not None:
        return spec.metadata["high"]
    return int(HIGHEST_SECONDS if spec.name.endswith("_seconds") else HIGHEST_NUMBER)


def lowest(spec):
    return spec.metadata["low"] if type(spec.default) is float else int(spec.metadata["low"])


# What is then as it says: nobody is let in, or nothing is in time.
LOWEST_STOPS = {"client_seconds", "connect_timeout_seconds", "gpu_timeout_seconds"}
LOWEST_STOPS |= {"cpu_timeout_seconds", "chat_deadline_seconds", "job_deadline_seconds"}
VALUES = {
    "the highest": {name: highest(spec) for name, spec in NUMBERS.items()},
    "the lowest": {
        name: lowest(spec) for name, spec in NUMBERS.items() if name not in LOWEST_STOPS
    },
    "as no one writes them": {
        "gpu_concurrency": " 1_0 ",
        "cpu_concurrency": "٣",
        "gpu_timeout_seconds": "+1e1",
        "drain_seconds": "-0",
        "slice_lines": "007",
        "worker_queues": ",batch,interactive,,batch",
        "degraded_message": "\x1b[31m%s {0}\n日本 \u2028",
        "gpu_model": "%s {0} 日本",
        "gpu_accepts": " Text, JSON ,tools",
        "allowed_hosts": ",,[::1], a.example",
        "cors_origins": ",HTTPS://A.example,, http://[::1]:3000",
        "no_proxy": ",*.x,10.0.0.0/8,",
        "api_keys": "",
        "files_url": "~not-a-home/./x/../$(id) ü\\",
    },
}


@pytest.mark.parametrize("kind", VALUES)
def test_odd_values_are_worked_with(fleet, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = dict(VALUES[kind])
    values["durable_replicas"] = 0  # there are none
    fleet.settings |= {f"FALLTHROUGH_{name.upper()}": str(value) for name, value in values.items()}
    api, worker = fleet.start(fleet.api(), fleet.worker())
    body = {"prompt": "Hello"}
    job = httpx.post(f"{api.url}/v1/jobs", json=body, timeout=10)
    assert job.is_success, job.text
    job = httpx.get(f"{api.url}/v1/jobs/{job.json()['id']}?wait=20", timeout=30).json()
    assert job["status"] == "succeeded", (job, worker.log)
    chat = {"messages": [{"role": "user", "content": "Hi"}]}
    assert httpx.post(f"{api.url}/v1/chat/completions", json=chat, timeout=30).is_success
    line = '{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": '
    line += '{"messages": [{"role": "user", "content": "Ho"}]}}\n'
    files = {"file": ("a.jsonl", line.encode())}
    file = httpx.post(f"{api.url}/v1/files", files=files, data={"purpose": "batch"}, timeout=30)
    assert file.is_success, file.text
    batch = {
        "input_file_id": file.json()["id"],
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    batch = httpx.post(f"{api.url}/v1/batches", json=batch, timeout=30).json()
    url = f"{api.url}/v1/batches/{batch['id']}"
    wait_until(lambda: httpx.get(url, timeout=10).json()["status"] == "completed", 30)
    assert httpx.get(f"{api.url}/health/ready", timeout=30).is_success
    assert "Traceback" not in api.log + worker.log
