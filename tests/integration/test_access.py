"""API keys: every route, name spaces, the admin role, limits."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from harness.batches import jsonl, line
from harness.commands import environ, run
from harness.waiting import wait_until

OPEN = {"/health", "/health/ready"}


@pytest.fixture
def keys(tmp_path):
    file = tmp_path / "keys.json"

    def create(owner, *options):
        done = run("keys", "--file", str(file), "create", owner, *options)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    create.file = file
    return create


@pytest.fixture
def api(fleet, keys):
    keys("first")
    return fleet.api(keys_file=keys.file).start()


def client(api, secret=None):
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    return httpx.Client(base_url=api.url, headers=headers, timeout=30)


def routes(http):
    for path, operations in http.get("/openapi.json").json()["paths"].items():
        for method in operations:
            yield method.upper(), path.replace("{id}", "x").replace("{name}", "max_gpu")


def test_every_route_needs_a_key_that_is_valid_now(api, keys):
    secret, admin = keys("ann"), keys("root", "--admin")
    listed = run("keys", "--file", str(keys.file), "list").stdout
    assert secret not in listed + keys.file.read_text()
    row = next(row for row in listed.splitlines() if "ann" in row)
    key_id = row.split()[1]
    with client(api) as nobody, client(api, secret) as ann, client(api, admin) as root:
        wait_until(lambda: ann.get("/v1/jobs").is_success, 3)
        every = [route for route in routes(nobody) if route[1] not in OPEN]
        assert len(every) == 19
        for method, path in every:
            assert nobody.request(method, path).status_code == 401, path
            assert nobody.request(method, path, headers={"Authorization": "Bearer x"}).is_error
            if path.startswith(("/metrics", "/circuit-breakers")):
                assert ann.request(method, path).status_code == 403, path
        assert root.get("/metrics").is_success
        assert root.post("/circuit-breakers/max_gpu/reset").is_success
        assert run("keys", "--file", str(keys.file), "revoke", key_id).returncode == 0
        wait_until(lambda: ann.get("/v1/jobs").status_code == 401, 3)
        for method, path in every:
            assert ann.request(method, path).status_code == 401, path


def test_another_owners_things_are_not_there(api, keys, fleet):
    fleet.worker().start()
    with client(api, keys("ann")) as ann, client(api, keys("bob")) as bob:
        wait_until(lambda: bob.get("/v1/jobs").is_success, 3)
        job = ann.post("/v1/jobs", json={"prompt": "private"}).json()["id"]
        files = {"file": ("in.jsonl", jsonl([line("a", "x")]))}
        file = ann.post("/v1/files", files=files, data={"purpose": "batch"}).json()["id"]
        asked = {
            "input_file_id": file,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }
        batch = ann.post("/v1/batches", json=asked).json()["id"]
        wait_until(lambda: ann.get(f"/v1/batches/{batch}").json()["status"] == "completed")
        output = ann.get(f"/v1/batches/{batch}").json()["output_file_id"]
        for method, path in (
            ("GET", f"/v1/jobs/{job}"),
            ("POST", f"/v1/jobs/{job}/cancel"),
            ("GET", f"/v1/files/{file}"),
            ("GET", f"/v1/files/{file}/content"),
            ("GET", f"/v1/files/{output}/content"),
            ("DELETE", f"/v1/files/{file}"),
            ("GET", f"/v1/batches/{batch}"),
            ("GET", f"/v1/batches/{batch}/results"),
            ("POST", f"/v1/batches/{batch}/cancel"),
        ):
            assert bob.request(method, path).status_code == 404, path
        assert bob.post("/v1/batches", json=asked).status_code == 400
        for path in ("/v1/jobs", "/v1/files", "/v1/batches"):
            assert bob.get(path).json()["data"] == []
            assert ann.get(path).json()["data"]


def test_the_cache_of_one_owner_answers_no_other(api, keys, fleet, gpu, cpu):
    fleet.worker().start()
    body = {"messages": [{"role": "user", "content": "secret plan"}]}
    with client(api, keys("ann")) as ann, client(api, keys("bob")) as bob:
        wait_until(lambda: bob.get("/v1/jobs").is_success, 3)
        ann.post("/v1/chat/completions", json=body)
        gpu.vanish()
        cpu.vanish()
        chat = "/v1/chat/completions"
        assert ann.post(chat, json=body).headers["x-fallthrough-tier"] == "cache"
        assert bob.post(chat, json=body).headers["x-fallthrough-tier"] == "degraded"


def test_limits_are_told_and_kept(fleet, keys, gpu):
    secret, other = keys("ann"), keys("bob")
    limits = {"key_requests_per_minute": 30, "key_concurrency": 4}
    api = fleet.api(keys_file=keys.file, **limits).start()
    fleet.worker().start()
    if time.time() % 60 > 50:
        time.sleep(61 - time.time() % 60)  # the minute must not end in the middle
    with client(api, secret) as ann, client(api, other) as bob:
        first = ann.get("/v1/jobs")
        assert first.headers["x-ratelimit-limit-requests"] == "30"
        assert first.headers["x-ratelimit-remaining-requests"] == "29"
        gpu.delay = 0.8
        body = {"messages": [{"role": "user", "content": "x"}]}
        with ThreadPoolExecutor(6) as pool:
            asked = [pool.submit(ann.post, "/v1/chat/completions", json=body) for _ in range(6)]
            statuses = sorted(each.result().status_code for each in asked)
        assert statuses == [200, 200, 200, 200, 429, 429]
        while (reply := ann.get("/v1/jobs")).is_success:
            pass
        assert reply.status_code == 429
        assert reply.json()["error"]["code"] == "rate_limit_exceeded"
        assert 0 < int(reply.headers["retry-after"]) <= 60
        assert reply.headers["x-ratelimit-remaining-requests"] == "0"
        assert bob.get("/v1/jobs").is_success


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"FALLTHROUGH_HOST": "0.0.0.0"}, "fallthrough keys create"),  # noqa: S104
        ({"FALLTHROUGH_API_KEYS": "ann=short"}, "entry 1"),
    ],
)
def test_a_server_that_anybody_could_use_does_not_start(valkey, settings, said):
    done = subprocess.run(
        [sys.executable, "-m", "api"],
        env=environ(FALLTHROUGH_REDIS_URL=valkey.url, **settings),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_keys_from_the_environment(fleet):
    api = fleet.api(api_keys="ann=0123456789abcdef,root!=fedcba9876543210", host="0.0.0.0").start()  # noqa: S104
    with client(api, "0123456789abcdef") as ann, client(api, "fedcba9876543210") as root:
        assert ann.get("/v1/jobs").is_success
        assert ann.get("/metrics").status_code == 403
        assert root.get("/metrics").is_success
