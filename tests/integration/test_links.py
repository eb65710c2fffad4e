"""Links to the store that end badly, or die without a word."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from harness.proxy import Proxy
from harness.reader import Reader
from harness.waiting import wait_until


@pytest.fixture
def link(valkey):
    link = Proxy(valkey.url)
    yield link
    link.close()


@pytest.fixture
def linked(fleet, link, valkey):
    """A fleet that reaches its store through a link, and its broker without one."""
    fleet.settings |= {
        "FALLTHROUGH_REDIS_URL": link.url,
        "FALLTHROUGH_BROKER_URL": valkey.url,
    }
    return fleet


def chat(http, prompt):
    return http.post(
        "/v1/chat/completions", json={"messages": [{"role": "user", "content": prompt}]}
    )


def test_a_store_whose_connections_are_reset_costs_no_process_and_no_answer(linked, link, gpu):
    api, workers = linked.api().start(), [linked.worker().start() for _ in range(2)]
    gpu.delay = 0.05
    with httpx.Client(base_url=api.url, timeout=60) as http, ThreadPoolExecutor(8) as pool:
        for round_ in range(6):
            answers = [pool.submit(chat, http, f"{round_}-{n}") for n in range(8)]
            time.sleep(0.04)  # the reset comes at whatever moment of their way
            link.reset()
            statuses = {answer.result().status_code for answer in answers}
            assert statuses <= {200, 503}, "a create that met the reset may be sent again"
            wait_until(lambda: chat(http, "after").status_code == 200, 5)
    for process in (api, *workers):
        assert process.process.poll() is None, process.log
        assert "RuntimeError" not in process.log


def test_routes_that_are_lost_without_a_word_are_noticed_and_waiters_are_answered(
    linked, link, valkey, gpu
):
    api = linked.api().start()
    # The worker is on the store itself: only the API has lost it.
    linked.worker(redis_url=valkey.url).start()
    gpu.delay = 1.0
    with httpx.Client(base_url=api.url, timeout=60) as http, ThreadPoolExecutor(1) as pool:
        job = http.post("/v1/jobs", json={"prompt": "waited for"}).json()["id"]
        polling = pool.submit(http.get, f"/v1/jobs/{job}?wait=40")
        wait_until(lambda: gpu.running == 1)
        link.forget()
        began = time.monotonic()
        assert polling.result().json()["status"] == "succeeded"
        assert time.monotonic() - began < 15
        # The subscription is there again: who waits is woken, not found by looking.
        wait_until(lambda: seconds_of(chat, http, "woken") < 3, 20)


def test_a_worker_whose_route_to_the_broker_is_lost_without_a_word_works_again_soon(
    fleet, valkey, gpu
):
    link = Proxy(valkey.url)
    try:
        api, _ = fleet.start(fleet.api(), fleet.worker(broker_url=link.url))
        with httpx.Client(base_url=api.url, timeout=60) as http:
            assert chat(http, "before").status_code == 200
            link.forget()
            assert seconds_of(chat, http, "after") < 12
    finally:
        link.close()


def seconds_of(work, *arguments):
    began = time.monotonic()
    assert work(*arguments).status_code == 200
    return time.monotonic() - began


@pytest.mark.parametrize("part", ["worker", "api"])
def test_a_process_that_is_told_to_stop_while_the_store_hangs_ends_in_time(linked, link, gpu, part):
    gpu.mode = "hang"
    api, worker = linked.api(drain_seconds=1).start(), linked.worker(drain_seconds=1).start()
    with httpx.Client(base_url=api.url, timeout=60) as http, ThreadPoolExecutor(1) as pool:
        job = http.post("/v1/jobs", json={"prompt": "x"}).json()["id"]
        polling = pool.submit(http.get, f"/v1/jobs/{job}?wait=30")
        wait_until(lambda: gpu.running == 1)
        link.freeze()
        began = time.monotonic()
        process = {"worker": worker, "api": api}[part]
        process.signal(signal.SIGTERM)
        process.wait(30)
        assert time.monotonic() - began < 1 + 4 + 1, "the drain, four seconds, and a busy machine"
        link.thaw()
        api.stop()
        assert polling.exception() or polling.result()


def open_files(process):
    return len(list(Path(f"/proc/{process.process.pid}/fd").iterdir()))


def test_an_api_that_is_told_to_stop_while_store_and_broker_hang_tells_everybody_and_ends_in_time(
    fleet, link
):
    fleet.settings["FALLTHROUGH_REDIS_URL"] = link.url
    api = fleet.api(drain_seconds=1).start()
    with httpx.Client(base_url=api.url, timeout=60) as http, ThreadPoolExecutor(16) as pool:
        job = http.post("/v1/jobs", json={"prompt": "x"}).json()["id"]
        link.freeze()
        before = open_files(api)
        asked = [
            *(pool.submit(http.post, "/v1/jobs", json={"prompt": "y"}) for _ in range(4)),
            *(pool.submit(chat, http, "z") for _ in range(4)),
            *(pool.submit(http.get, f"/v1/jobs/{job}?wait=30") for _ in range(3)),
            *(pool.submit(http.get, path) for path in ("/v1/jobs", "/health/ready", "/metrics")),
        ]
        wait_until(lambda: open_files(api) >= before + len(asked) - 1, 10, "all of them are there")
        began = time.monotonic()
        api.signal(signal.SIGTERM)
        api.wait(60)
        took = time.monotonic() - began
        # Whose request had not come yet when it closed may send it again, to another.
        assert {each.result().status_code for each in asked if not each.exception()} == {503}
    assert took < 1 + 4 + 1, "the drain, four seconds, and a busy machine"


def test_whose_job_goes_on_is_told_so_by_an_api_that_ends_while_its_store_hangs(linked, link, gpu):
    """Who is told to ask again, and no more, has it answered twice."""
    api = linked.api(drain_seconds=1).start()
    linked.worker(redis_url=linked.settings["FALLTHROUGH_BROKER_URL"]).start()
    gpu.words, gpu.pace = 1000, 0.02
    body = {"messages": [{"role": "user", "content": "w"}]}
    with Reader(api.url, {**body, "stream": True}) as reading:
        reading.words(5)
        gpu.mode = "hang"
        with Reader(api.url, body) as waiting, Reader(api.url, {**body, "stream": True}) as early:
            wait_until(lambda: gpu.running == 3)
            link.freeze()
            api.signal(signal.SIGTERM)
            for reader in (waiting, early):
                reader.to_the_end(10)
                assert (reader.status, reader.error) == (503, "stopping")
                assert reader.header("x-fallthrough-job-id").startswith("job_")
            reading.to_the_end(10)
            assert reading.broke_off
            assert reading.error == "stopping"
    api.wait(10)
