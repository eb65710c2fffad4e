"""Several API processes behind one port are one API to everybody outside."""

from __future__ import annotations

import os
import re
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from harness.commands import alive
from harness.waiting import wait_until

PROCESSES = 3


def processes(api):
    pid = api.process.pid
    told = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(each) for each in told.split()]


@contextmanager
def several(fleet):
    api, worker = fleet.api(api_processes=PROCESSES), fleet.worker()
    fleet.start(api, worker)
    wait_until(lambda: api.log.count("listening on") == PROCESSES)
    yield api
    api.stop()


@pytest.fixture
def api(fleet):
    with several(fleet) as api:
        yield api


def ask(api, prompt):
    body = {"model": "auto", "messages": [{"role": "user", "content": prompt}]}
    # A connection for each: the next one is whose turn it is.
    return httpx.post(f"{api.url}/v1/chat/completions", json=body, timeout=30)


def count(api, name):
    told = httpx.get(f"{api.url}/metrics", headers={"Accept": "text/plain"}).text
    lines = re.findall(rf"^{name}(?:{{.*}})? (.+)$", told, re.MULTILINE)
    return sum(map(float, lines))


CHATS = 'fallthrough_http_requests_total{method="POST",route="/v1/chat/completions",status="200"}'


def chats(api):
    return count(api, re.escape(CHATS))


def test_all_of_them_answer_and_any_of_them_counts_for_all(api):
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda number: ask(api, f"p{number}"), range(96)))
    assert {each.status_code for each in answers} == {200}
    assert {chats(api) for _ in range(12)} == {96}
    assert {count(api, "fallthrough_http_streams_in_flight") for _ in range(6)} == {0}
    one = int(Path(f"/proc/{processes(api)[0]}/statm").read_text().split()[1]) * 4096
    assert count(api, "process_resident_memory_bytes") > 2 * one
    assert len([line for line in api.log.splitlines() if "ERROR" in line]) == 0


def test_what_they_count_lies_in_memory(api):
    """On a disk that is full, who writes into a mapped file is killed: SIGBUS."""
    for pid in processes(api):
        maps = Path(f"/proc/{pid}/maps").read_text()
        counts = re.findall(r"\S*/fallthrough-api-\S+\.db", maps)
        assert counts
        assert all(path.startswith("/dev/shm/") for path in counts)  # noqa: S108 - Linux's own


def test_a_job_of_one_is_followed_at_any_other(api, gpu):
    gpu.delay = 0.3
    submitted = httpx.post(f"{api.url}/v1/jobs", json={"prompt": "hello"}).json()
    for _ in range(6):
        job = httpx.get(f"{api.url}/v1/jobs/{submitted['id']}", params={"wait": 10}).json()
        assert job["status"] == "succeeded"


def test_one_that_dies_is_started_again_and_goes_on_counting(api):
    for number in range(24):
        assert ask(api, f"p{number}").status_code == 200
    dies, *others = processes(api)
    os.kill(dies, signal.SIGKILL)
    wait_until(lambda: len(set(processes(api)) - {dies}) == PROCESSES)
    assert set(others) < set(processes(api))
    assert f"ended ({-signal.SIGKILL}) and is started again" in api.log
    wait_until(lambda: api.log.count("listening on") == PROCESSES + 1)
    for number in range(24):
        assert ask(api, f"q{number}").status_code == 200
    assert {chats(api) for _ in range(12)} == {48}


def test_told_to_stop_they_answer_who_still_waits(api, gpu):
    gpu.delay = 0.6
    each = processes(api)
    with ThreadPoolExecutor(12) as pool:
        answers = [pool.submit(ask, api, f"p{number}") for number in range(12)]
        wait_until(lambda: len(gpu.calls) == 12)
        api.signal(signal.SIGTERM)
        assert {each.result().status_code for each in answers} == {200}
    assert api.wait(10) == 0
    assert not any(alive(pid) for pid in each)


def test_told_to_stop_before_the_first_serves_they_end_at_once(fleet):
    with socket.create_server(("127.0.0.1", 0)) as mute:  # a store that takes connections only
        url = f"redis://127.0.0.1:{mute.getsockname()[1]}/0"
        api = fleet.api(api_processes=PROCESSES, redis_url=url)
        api.start(ready=False)
        asking, _ = mute.accept()
        with asking:
            api.signal(signal.SIGTERM)
            assert api.wait(2) == 0


def test_none_of_them_outlives_the_one_that_started_them(api):
    each = processes(api)
    api.signal(signal.SIGKILL)
    wait_until(lambda: not any(alive(pid) for pid in each))


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"redis_url": "redis://127.0.0.1:1/0"}, "api: "),
        ({"api_processes": 0}, "api: FALLTHROUGH_API_PROCESSES: "),
    ],
    ids=["no store", "no process"],
)
def test_where_they_cannot_start_one_line_says_so(fleet, setting, says):
    api = fleet.api(**{"api_processes": PROCESSES, **setting})
    api.start(ready=False)
    assert api.wait(30) == 2
    [line] = api.log.splitlines()
    assert line.startswith(says)
