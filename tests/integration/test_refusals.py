"""A store and a broker that answer with errors: they are away, and nothing ends or breaks."""

from __future__ import annotations

import time

import httpx
import pytest
from harness.proxy import Proxy
from harness.waiting import wait_until

ERRORS = {
    "full": "OOM command not allowed when used memory > 'maxmemory'.",
    "replica": "READONLY You can't write against a read only replica.",
    "without replicas": "NOREPLICAS Not enough good replicas to write.",
    "loading": "LOADING Redis is loading the dataset in memory",
    "disk": "MISCONF Errors writing to the AOF file: No space left on device",
    "cluster": "CLUSTERDOWN The cluster is down",
    "without master": "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to "
    "'no'.",
    "password": "NOAUTH Authentication required.",
    "clients": "ERR max number of clients reached",
}
REFUSED_SECONDS = 1.0  # several sweeps, pulses and polls
GOES_ON_SECONDS = 10


@pytest.fixture(scope="module")
def links(module_valkey):
    """The ways to the store and to the broker, which are one server."""
    links = {part: Proxy(module_valkey.url) for part in ("store", "broker")}
    yield links
    for link in links.values():
        link.close()


@pytest.fixture(scope="module")
def running(module_fleet, links):
    """An API and two workers, one of which only takes batches."""
    module_fleet.settings |= {
        "FALLTHROUGH_REDIS_URL": links["store"].url,
        "FALLTHROUGH_BROKER_URL": links["broker"].url,
    }
    return module_fleet.start(
        module_fleet.api(), module_fleet.worker("interactive"), module_fleet.worker("batch")
    )


@pytest.fixture
def http(running, module_gpu):
    with httpx.Client(base_url=running[0].url, timeout=30) as http:
        wait_until(lambda: http.get("/health/ready").is_success, 20)
        module_gpu.delay = 0.3
        yield http


def submit(http, number=10):
    requests = [{"prompt": f"job {n}", "cache": "off"} for n in range(number)]
    reply = http.post("/v1/jobs", json={"requests": requests})
    assert reply.status_code == 202, reply.text
    return [job["id"] for job in reply.json()["data"]]


def ask_everything(http, job):
    """Return what each kind of request gets."""
    chat = {"messages": [{"role": "user", "content": "x"}]}
    replies = [
        http.post("/v1/jobs", json={"prompt": "x"}),
        http.post("/v1/chat/completions", json=chat),
        http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("a.jsonl", b"{}")}),
        *(http.get(path) for path in (f"/v1/jobs/{job}", "/v1/jobs", "/v1/batches", "/v1/files")),
        *(http.get(path) for path in ("/metrics", "/circuit-breakers", "/health/ready")),
        http.get("/metrics", headers={"accept": "text/plain"}),
    ]
    return {f"{reply.request.method} {reply.request.url}": reply.status_code for reply in replies}


def await_all(http, jobs):
    until = time.monotonic() + GOES_ON_SECONDS
    for job in jobs:
        wait = {"wait": max(until - time.monotonic(), 0)}
        assert http.get(f"/v1/jobs/{job}", params=wait).json()["status"] == "succeeded"


def assert_sound(processes):
    for process in processes:
        assert process.process.poll() is None, process.log
        for trouble in ("Unrecoverable", "broke off", "the loop "):
            assert trouble not in process.log, process.log


@pytest.mark.parametrize(
    ("part", "error"),
    [
        *(("store", error) for error in ERRORS),
        # One of each class that the client makes of them; Celery waits two seconds after each.
        *(("broker", error) for error in ("replica", "disk", "loading", "password", "clients")),
    ],
)
def test_an_error_reply_is_an_outage(running, links, http, error, part):
    jobs = submit(http)
    links[part].answer_with(ERRORS[error])
    until, seen = time.monotonic() + REFUSED_SECONDS, {}
    while time.monotonic() < until:
        if part == "store":
            seen |= ask_everything(http, jobs[0])
        assert http.get("/health").status_code == 200
        assert http.get("/health/ready").status_code == 503
        time.sleep(0.1)
    links[part].answer_with("")
    assert set(seen.values()) <= {200, 429, 503}, seen
    await_all(http, jobs)
    assert_sound(running)


# How a real server is brought to refuse, and back.
REPLICA, PRIMARY = ("REPLICAOF", "127.0.0.1", "9"), ("REPLICAOF", "NO", "ONE")
KILL = ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
STATES = {
    "replica": ([REPLICA], [PRIMARY]),
    "stale replica": (
        [("CONFIG", "SET", "replica-serve-stale-data", "no"), REPLICA],
        [PRIMARY, ("CONFIG", "SET", "replica-serve-stale-data", "yes")],
    ),
    "without replicas": (
        [("CONFIG", "SET", "min-replicas-to-write", "1")],
        [("CONFIG", "SET", "min-replicas-to-write", "0")],
    ),
    "password": (
        [("CONFIG", "SET", "requirepass", "other"), KILL],
        [("CONFIG", "SET", "requirepass", "")],
    ),
    "clients": (
        [("CONFIG", "SET", "maxclients", "1"), KILL],
        [("CONFIG", "SET", "maxclients", "10000")],
    ),
}


@pytest.fixture(scope="module")
def on_its_own(module_valkey, running, module_fleet):
    """An API and a worker that reach store and broker, one server, without a link."""
    module_fleet.settings |= {
        "FALLTHROUGH_REDIS_URL": module_valkey.url,
        "FALLTHROUGH_BROKER_URL": module_valkey.url,
    }
    for process in running:
        process.stop()
    return module_fleet.start(module_fleet.api(), module_fleet.worker())


@pytest.mark.parametrize("state", STATES)
def test_a_server_that_refuses_for_a_while_costs_that_while(
    on_its_own, module_valkey, module_gpu, state
):
    module_gpu.delay = 0.3
    refuse, relent = STATES[state]
    with (
        httpx.Client(base_url=on_its_own[0].url, timeout=30) as http,
        module_valkey.client() as server,
    ):
        wait_until(lambda: http.get("/health/ready").is_success, 20)
        jobs = submit(http)
        for command in refuse:
            server.execute_command(*command)
        until, seen = time.monotonic() + REFUSED_SECONDS, {}
        while time.monotonic() < until:
            seen |= ask_everything(http, jobs[0])
            assert http.get("/health/ready").status_code == 503
        for command in relent:
            server.execute_command(*command)
        assert set(seen.values()) <= {200, 429, 503}, seen
        await_all(http, jobs)
    assert_sound(on_its_own)
