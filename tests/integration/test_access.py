"""API keys: every route, name spaces, the admin role, limits."""

from __future__ import annotations

import json
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from harness.batches import jsonl, line
from harness.commands import environ, run
from harness.processes import python
from harness.stores import store_on
from harness.waiting import wait_until

import tasks.keys
from api.access import LEASE_SECONDS, RequestLimits
from tasks.background import Background
from tasks.store.keyspace import PREFIX

OPEN = {"/health", "/health/ready"}


class KeysFile:
    """A file of keys, as `fallthrough keys` writes it."""

    def __init__(self, path):
        self.path = path

    def create(self, owner):
        """Return a key of this owner's."""
        _, secret = tasks.keys.create(self.path, owner, admin=False)
        return secret

    def run(self, *arguments):
        """Run `fallthrough keys`; return what it prints."""
        done = run("keys", "--file", str(self.path), *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture
def keys(tmp_path):
    return KeysFile(tmp_path / "keys.json")


@pytest.fixture(scope="module")
def shared_keys(tmp_path_factory):
    return KeysFile(tmp_path_factory.mktemp("keys") / "keys.json")


@pytest.fixture(scope="module")
def ann_and_bob(shared_keys):
    return shared_keys.create("ann"), shared_keys.create("bob")


@pytest.fixture(scope="module")
def api(module_fleet, shared_keys, ann_and_bob):
    """One API, and no worker, for those tests that need no more: what is created stays."""
    return module_fleet.api(keys_file=shared_keys.path).start()


def client(api, secret=None, address="127.0.0.1"):
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    transport = httpx.HTTPTransport(local_address=address)
    return httpx.Client(base_url=api.url, headers=headers, timeout=30, transport=transport)


def routes(http):
    for path, operations in http.get("/openapi.json").json()["paths"].items():
        for method in operations:
            yield method.upper(), path.replace("{id}", "x").replace("{name}", "max_gpu")


def test_every_route_needs_a_key_that_is_valid_now(api, shared_keys):
    keys = shared_keys
    secret, admin = keys.run("create", "eve"), keys.run("create", "root", "--admin")
    listed = keys.run("list")
    assert secret not in listed + keys.path.read_text()
    row = next(row for row in listed.splitlines() if "eve" in row)
    key_id = row.split()[0]
    with client(api) as nobody, client(api, secret) as eve, client(api, admin) as root:
        # From elsewhere, for an address that comes with too many wrong keys is answered late.
        with client(api, secret, "127.0.0.2") as early:
            wait_until(lambda: early.get("/v1/jobs").is_success, 3)
        every = [route for route in routes(nobody) if route[1] not in OPEN]
        assert len(every) == 31
        for method, path in every:
            assert nobody.request(method, path).status_code == 401, path
            assert nobody.request(method, path, headers={"Authorization": "Bearer x"}).is_error
            if path.startswith(("/metrics", "/circuit-breakers")):
                assert eve.request(method, path).status_code == 403, path
        assert root.get("/metrics").is_success
        assert root.post("/circuit-breakers/max_gpu/reset").is_success
        keys.run("revoke", key_id)
        wait_until(lambda: eve.get("/v1/jobs").status_code == 401, 3)
        for method, path in every:
            assert eve.request(method, path).status_code == 401, path


def test_another_owners_things_are_not_there(fleet, keys):
    secret, other = keys.create("ann"), keys.create("bob")
    api, _ = fleet.start(fleet.api(keys_file=keys.path), fleet.worker())
    with client(api, secret) as ann, client(api, other) as bob:
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


def test_the_cache_of_one_owner_answers_no_other(fleet, keys, gpu, cpu):
    secret, other = keys.create("ann"), keys.create("bob")
    api, _ = fleet.start(fleet.api(keys_file=keys.path), fleet.worker())
    body = {"messages": [{"role": "user", "content": "secret plan"}]}
    with client(api, secret) as ann, client(api, other) as bob:
        ann.post("/v1/chat/completions", json=body)
        gpu.vanish()
        cpu.vanish()
        chat = "/v1/chat/completions"
        assert ann.post(chat, json=body).headers["x-fallthrough-tier"] == "cache"
        assert bob.post(chat, json=body).headers["x-fallthrough-tier"] == "degraded"


def test_limits_are_told_and_kept(fleet, keys, gpu):
    secret, other = keys.create("ann"), keys.create("bob")
    limits = {"key_requests_per_minute": 30, "key_concurrency": 4}
    api, _ = fleet.start(fleet.api(keys_file=keys.path, **limits), fleet.worker())
    # The minute is the API's own, of the store's clock; it must not end in the middle.
    wait_until(lambda: time.time() % 60 < 56, 5, "the next minute")
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
        ({"FALLTHROUGH_API_KEYS": "ann=" + 16 * "\udcff"}, "no request can carry"),  # no UTF-8
    ],
)
def test_a_server_that_anybody_could_use_does_not_start(valkey, settings, said):
    done = python("api", environ=environ(FALLTHROUGH_REDIS_URL=valkey.url, **settings))
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_keys_from_the_environment(fleet):
    api = fleet.api(api_keys="ann=0123456789abcdef,root!=fedcba9876543210", host="0.0.0.0").start()  # noqa: S104
    with client(api, "0123456789abcdef") as ann, client(api, "fedcba9876543210") as root:
        assert ann.get("/v1/jobs").is_success
        assert ann.get("/metrics").status_code == 403
        assert root.get("/metrics").is_success


@pytest.mark.parametrize("content", [None, '{"keys": []}'])
def test_a_keys_file_without_keys_lets_nobody_in(fleet, keys, content):
    if content:
        keys.path.write_text(content)
    api = fleet.api(keys_file=keys.path).start()
    assert f"there is no key in {keys.path}" in api.log
    with client(api) as nobody:
        assert nobody.get("/v1/jobs").status_code == 401
        assert nobody.get("/metrics").status_code == 401
    with client(api, keys.create("ann")) as ann:
        wait_until(lambda: ann.get("/v1/jobs").is_success, 3)


def test_a_keys_file_that_breaks_leaves_the_keys_as_they_are(fleet, keys):
    secret = keys.create("ann")
    api = fleet.api(keys_file=keys.path).start()
    with client(api, secret) as ann:
        assert ann.get("/v1/jobs").is_success
        whole = keys.path.read_text()
        for broken in ("{broken", json.dumps({"keys": [{"id": "1", "owner": "x", "hash": "é"}]})):
            keys.path.write_text(broken)
            told = api.log.count("cannot be read")

            def is_told(told=told):
                assert ann.get("/v1/jobs").is_success
                return api.log.count("cannot be read") > told

            wait_until(is_told, 5)
            keys.path.write_text(whole)  # what stays as it is is told once
            with client(api, keys.create(f"after-{told}")) as another:
                wait_until(lambda another=another: another.get("/v1/jobs").is_success, 3)
        assert "Traceback" not in api.log
        keys.path.write_text(whole)
        with client(api, keys.create("bob")) as bob:
            wait_until(lambda: bob.get("/v1/jobs").is_success, 3)


def test_a_request_holds_its_place_while_it_runs_and_not_after_a_crash(fleet, keys, valkey):
    secret = keys.create("ann")
    api = fleet.api(keys_file=keys.path, key_concurrency=1).start()
    with client(api, secret) as ann, valkey.client() as store, ThreadPoolExecutor(1) as pool:

        def lease():
            return store.pttl(f"{PREFIX}running:ann") / 1000

        job = ann.post("/v1/jobs", json={"prompt": "nobody answers"}).json()["id"]
        wait_until(lambda: store.zcard(f"{PREFIX}running:ann") == 0)
        polling = pool.submit(ann.get, f"/v1/jobs/{job}?wait=60")
        wait_until(lambda: 0 < lease() < LEASE_SECONDS - 1)
        wait_until(lambda: lease() > LEASE_SECONDS - 1, what="it is renewed")
        refused = ann.get("/v1/jobs")
        assert refused.status_code == 429
        assert (refused.headers["retry-after"], refused.headers["retry-after-ms"]) == ("1", "1000")
        assert not any(name.startswith("x-ratelimit") for name in refused.headers)
        api.signal(signal.SIGKILL)
        assert polling.exception(10)
        assert store.zcard(f"{PREFIX}running:ann") == 1
        assert lease() <= LEASE_SECONDS


@pytest.mark.parametrize("leaves", ["a long poll", "a chat", "an upload"])
def test_who_goes_away_gives_his_place_back(fleet, keys, valkey, leaves):
    secret = keys.create("ann")
    api = fleet.api(keys_file=keys.path, key_concurrency=1).start()
    with client(api, secret) as ann, valkey.client() as store:
        job = ann.post("/v1/jobs", json={"prompt": "nobody answers"}).json()["id"]
        wait_until(lambda: store.zcard(f"{PREFIX}running:ann") == 0)
        body = b'{"messages": [{"role": "user", "content": "Hi"}]}'
        head, body = {
            "a long poll": (b"GET /v1/jobs/%s?wait=60" % job.encode(), b""),
            "a chat": (b"POST /v1/chat/completions", body),
            "an upload": (b"POST /v1/files", b"--x\r\n"),
        }[leaves]
        length = len(body) + (100 if leaves == "an upload" else 0)
        with socket.create_connection(("127.0.0.1", api.port), 5) as connection:
            connection.sendall(
                head + b" HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n"
                b"Content-Type: multipart/form-data; boundary=x\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (secret.encode(), length, body)
            )
            wait_until(lambda: store.zcard(f"{PREFIX}running:ann") == 1)
        wait_until(lambda: store.zcard(f"{PREFIX}running:ann") == 0, 3)
        assert ann.get("/v1/jobs").is_success
        assert "Traceback" not in api.log


async def test_a_place_outlives_its_lease_only_while_its_request_runs(valkey):
    store, background = store_on(valkey.url), Background(lambda _: None)
    here, crashed = (RequestLimits(store.limits, lease_seconds=0.3) for _ in range(2))
    background.start("request limits", here.keep)
    admitted = await here.admit("ann", 0, 1)
    await crashed.admit("bob", 0, 1)
    while (await crashed.admit("bob", 0, 1)).full == "concurrency":
        assert (await here.admit("ann", 0, 1)).full == "concurrency"
    assert (await here.admit("ann", 0, 1)).full == "concurrency"
    await here.release(admitted.token)
    assert (await here.admit("ann", 0, 1)).full == ""
    await background.stop()
    await store.close()


def test_who_has_too_many_at_once_is_told_what_is_left_of_the_minute(fleet, keys, valkey):
    limits = {"key_requests_per_minute": 100, "key_concurrency": 1}
    secret = keys.create("ann")
    api = fleet.api(keys_file=keys.path, **limits).start()
    with client(api, secret) as ann, valkey.client() as store, ThreadPoolExecutor(1) as pool:
        job = ann.post("/v1/jobs", json={"prompt": "nobody answers"}).json()["id"]
        wait_until(lambda: store.zcard(f"{PREFIX}running:ann") == 0)
        pool.submit(ann.get, f"/v1/jobs/{job}?wait=60")
        wait_until(lambda: store.zcard(f"{PREFIX}running:ann") == 1)
        refused = ann.get("/v1/jobs")
        api.signal(signal.SIGKILL)
        assert refused.status_code == 429
        assert refused.headers["x-ratelimit-limit-requests"] == "100"
        # 98; all of them, if the minute ended since
        assert int(refused.headers["x-ratelimit-remaining-requests"]) >= 98
        assert (refused.headers["retry-after"], refused.headers["retry-after-ms"]) == ("1", "1000")


@pytest.mark.parametrize("path", ["/v1/jobs", "/", "/metrics", "/docs", "/openapi.json"])
def test_without_keys_a_name_of_another_site_reaches_nothing(fleet, path):
    """As a page does whose site has its own name resolve to loopback."""
    api = fleet.api(allowed_hosts="box, llm.example").start()
    with client(api) as http:
        for host in (
            "evil.example",
            f"evil.example:{api.port}",
            "localhost.evil.example",
            "8.8.8.8",
        ):
            refused = http.get(path, headers={"Host": host})
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "unknown_host")
            assert "FALLTHROUGH_ALLOWED_HOSTS" in refused.json()["error"]["message"]
        for host in ("localhost", f"LocalHost:{api.port}", "a.localhost", "[::1]:80", "127.9.9.9"):
            assert http.get(path, headers={"Host": host}).is_success, host
        for host in ("box:80", "LLM.example"):
            assert http.get(path, headers={"Host": host}).is_success, host


def test_a_probe_asks_by_any_name(fleet):
    """Kubernetes and load balancers ask by a pod's address: refused, they end it over and over."""
    settings = {"host": "0.0.0.0", "allow_no_keys": 1, "allowed_hosts": "llm.example"}  # noqa: S104
    with client(fleet.api(**settings).start()) as http:
        for path in ("/health", "/health/ready"):
            assert http.get(path, headers={"Host": "10.1.2.3:8000"}).is_success
        assert http.get("/health/readys", headers={"Host": "10.1.2.3:8000"}).status_code == 403


def test_with_keys_a_server_has_any_name(fleet):
    api = fleet.api(api_keys="ann=ft-0123456789abcdef").start()
    with client(api) as http:
        headers = {"Host": "evil.example", "Authorization": "Bearer ft-0123456789abcdef"}
        assert http.get("/v1/jobs", headers=headers).is_success


def test_who_serves_the_network_without_keys_has_any_name_or_those_that_are_named(fleet):
    for allowed, status in (("", 200), ("llm.example", 403)):
        api = fleet.api(host="0.0.0.0", allow_no_keys=1, allowed_hosts=allowed).start()  # noqa: S104
        with client(api) as http:
            assert http.get("/v1/jobs", headers={"Host": "box"}).status_code == status
            assert http.get("/v1/jobs", headers={"Host": "localhost"}).is_success


def test_without_keys_a_page_of_another_site_changes_nothing(fleet):
    api = fleet.api().start()
    here = f"127.0.0.1:{api.port}"
    with client(api) as http:
        for headers in (
            {"Origin": "https://evil.example"},
            {"Origin": "http://127.0.0.1:1"},
            {"Origin": "null"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site", "Origin": "http://other.localhost"},
        ):
            for method, path in (
                ("POST", "/v1/jobs"),
                ("DELETE", "/v1/files/file-0"),
                ("POST", "/circuit-breakers/max_gpu/reset"),
            ):
                refused = http.request(method, path, headers=headers, json={"prompt": "x"})
                assert refused.status_code == 403, (path, headers)
                assert refused.json()["error"]["code"] == "cross_site"
            assert http.get("/v1/jobs", headers=headers).json()["data"] == []
        for headers in (
            {},
            {"Origin": f"http://{here}"},
            {"Origin": f"http://{here}", "Sec-Fetch-Site": "same-origin"},
            {"Origin": "https://behind.a.proxy", "Sec-Fetch-Site": "same-origin"},
        ):
            assert http.post("/v1/jobs", headers=headers, json={"prompt": "x"}).is_success


def test_a_key_is_enough_for_a_page_of_another_site(api, ann_and_bob):
    with client(api, ann_and_bob[0]) as ann:
        headers = {"Origin": "https://elsewhere.example"}
        assert ann.post("/v1/jobs", headers=headers, json={"prompt": "x"}).is_success


def test_an_open_path_is_open_with_a_slash_too(api):
    with client(api) as nobody:
        for path in ("/docs/", "/health/", "/health/ready/", "/"):
            assert nobody.get(path, follow_redirects=True).is_success, path
        assert nobody.get("/v1/jobs/", follow_redirects=True).status_code == 401


def test_an_id_reaches_nothing_beside_its_own_record(api, ann_and_bob, module_valkey):
    secret, other = ann_and_bob
    with client(api, secret) as ann, client(api, other) as bob:
        files = {"file": ("in.jsonl", jsonl([line("a", "x")]))}
        file = ann.post("/v1/files", files=files, data={"purpose": "batch"}).json()["id"]
        asked = {
            "input_file_id": file,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }
        batch = ann.post("/v1/batches", json=asked).json()["id"]
        with module_valkey.client() as store:
            assert store.exists(f"{PREFIX}file:{file}:batches", f"{PREFIX}batch:{batch}:units") == 2
            store.set(f"{PREFIX}job:job_1:x", "no hash")
        for method, path in (
            ("GET", f"/v1/files/{file}:batches"),
            ("DELETE", f"/v1/files/{file}:batches"),
            ("GET", f"/v1/files/{file}:batches/content"),
            ("GET", f"/v1/batches/{batch}:units"),
            ("GET", f"/v1/batches/{batch}:units/results"),
            ("POST", f"/v1/batches/{batch}:units/cancel"),
            ("GET", "/v1/jobs/job_1:x"),
            ("POST", "/v1/jobs/job_1:x/cancel"),
        ):
            assert bob.request(method, path).status_code == 404, path
        for path in (f"/v1/files?after={file}:batches", f"/v1/batches?after={batch}:units"):
            assert bob.get(path).status_code == 400, path
        asked["input_file_id"] = f"{file}:batches"
        assert bob.post("/v1/batches", json=asked).status_code == 400


def test_a_job_sent_again_when_the_first_one_is_no_more_is_made_anew(fleet, valkey):
    headers = {"Idempotency-Key": "one"}
    with client(fleet.api().start()) as http, valkey.client() as store:
        first = http.post("/v1/jobs", json={"prompt": "x"}, headers=headers).json()["id"]
        # It goes between the look whether it is there and the one at it: nobody's is as good.
        store.hset(f"{PREFIX}job:{first}", "owner", "nobody")
        again = http.post("/v1/jobs", json={"prompt": "x"}, headers=headers)
        assert again.status_code == 202, again.text
        assert again.json()["id"] != first
        assert http.get(again.headers["location"]).json()["status"] == "queued"
