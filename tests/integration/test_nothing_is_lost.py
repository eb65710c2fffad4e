"""Whatever is killed, every accepted job ends in exactly one visible result."""

from __future__ import annotations

import signal
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
from harness.batches import CHAT, jsonl, line
from harness.reader import Reader
from harness.waiting import wait_until

FINAL = {"succeeded", "failed", "cancelled", "expired"}


@contextmanager
def three_workers(fleet, **settings):
    """Start them beside an API; yield a client of it, and the workers."""
    workers = [fleet.worker(gpu_concurrency=4, **settings) for _ in range(3)]
    api, *_ = fleet.start(fleet.api(), *workers)
    with httpx.Client(base_url=api.url, timeout=60) as client:
        yield client, workers


# A machine that stands still for a second fails no call.
PATIENT = {"gpu_timeout_seconds": 10, "connect_timeout_seconds": 5}


def submit(client, number, label, **fields):
    jobs = []
    for start in range(0, number, 100):
        count = min(100, number - start)
        requests = [{"prompt": f"{label} {start + n}", **fields} for n in range(count)]
        reply = client.post("/v1/jobs", json={"requests": requests})
        assert reply.status_code == 202, reply.text
        jobs += [job["id"] for job in reply.json()["data"]]
    return jobs


def submit_batch(client, number, label):
    lines = jsonl([line(str(n), f"{label} {n}") for n in range(number)])
    form = {"purpose": "batch"}
    file = client.post("/v1/files", files={"file": ("in.jsonl", lines)}, data=form).json()
    body = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"}
    assert client.post("/v1/batches", json=body).is_success


def finish(client, ids, seconds=60):
    until = time.monotonic() + seconds
    done = []
    for job_id in ids:
        left = max(until - time.monotonic(), 0)
        job = client.get(f"/v1/jobs/{job_id}", params={"wait": min(left, 60)}).json()
        assert job["status"] in FINAL, (job, len(done))
        done.append(job)
    return done


def counted(client):
    return client.get("/metrics").json()["metrics"]["total"]


def test_sigterm_to_each_worker_in_turn_loses_nothing_and_runs_nothing_twice(fleet, gpu):
    gpu.delay = 0.05
    ids = []
    with three_workers(fleet, **PATIENT) as (client, workers):
        for n, worker in enumerate(workers):
            done = len(gpu.calls)
            ids += submit(client, 100, f"term {n}")
            wait_until(lambda done=done: len(gpu.calls) > done + 20)
            worker.signal(signal.SIGTERM)
            assert worker.wait(30) == 0, worker.log
            worker.start()
        jobs = finish(client, ids)
        assert {job["status"] for job in jobs} == {"succeeded"}
        assert [job["attempts"] for job in jobs if job["tier_used"] != "gpu"] == []
        assert max(Counter(gpu.prompts()).values()) == 1
        assert counted(client) == 300


def test_kill_9_to_each_worker_in_turn_loses_nothing_and_counts_nothing_twice(fleet, gpu, cpu):
    gpu.delay = 0.05
    ids = []
    with three_workers(fleet, lease_seconds=2, gpu_timeout_seconds=20) as (client, workers):
        for n, worker in enumerate(workers):
            done = len(gpu.calls)
            ids += submit(client, 100, f"kill {n}")
            wait_until(lambda done=done: len(gpu.calls) > done + 20)
            worker.signal(signal.SIGKILL)
            worker.wait()
            worker.start()
        jobs = finish(client, ids)
        assert {job["status"] for job in jobs} == {"succeeded"}
        # What two of the killed workers held is the next tier's, though it did not kill them.
        asked = {*gpu.prompts(), *cpu.prompts()}
        assert asked == {f"kill {n} {i}" for n in range(3) for i in range(100)}
        assert counted(client) == 300


def test_after_kill_9_a_workers_jobs_are_done_elsewhere_within_20_seconds(fleet, gpu):
    api, first = fleet.start(fleet.api(), fleet.worker(gpu_timeout_seconds=120))
    gpu.mode = "hang"
    with httpx.Client(base_url=api.url, timeout=60) as client:
        ids = submit(client, 10, "stuck")
        wait_until(lambda: gpu.running == 10)
        fleet.worker().start()
        gpu.mode = "ok"
        first.signal(signal.SIGKILL)
        killed = time.monotonic()
        jobs = finish(client, ids, 25)
        assert time.monotonic() - killed < 20
        assert {job["status"] for job in jobs} == {"succeeded"}
        assert jobs[0]["attempts"][0]["verdict"] == "lost"
        assert counted(client) == 10


@pytest.mark.parametrize("kind", ["jobs", "lines"])
def test_what_a_killed_worker_had_begun_comes_before_a_whole_backlog(fleet, gpu, kind):
    """The backlog takes 50 s; all of it is begun, or waits, when the lost work comes again."""
    gpu.plan = lambda call: "hang" if gpu.prompts().count(call.prompt) == 1 else "ok"
    create = {"jobs": submit, "lines": submit_batch}[kind]
    api, first = fleet.start(fleet.api(), fleet.worker(slice_lines=32))
    with httpx.Client(base_url=api.url, timeout=60) as client:
        create(client, 10, "stuck")
        wait_until(lambda: gpu.running == 10)
        first.signal(signal.SIGKILL)
        killed = time.monotonic()
        gpu.plan, gpu.delay = None, 0.25
        create(client, 400, "waiting")
        fleet.worker(gpu_concurrency=2, slice_lines=32).start()
        wait_until(lambda: gpu.prompts().count("waiting 0"))
        stuck = {f"stuck {n}" for n in range(10)}
        wait_until(lambda: stuck <= set(gpu.prompts()[10:]), 30, "lost work runs again")
        assert time.monotonic() - killed < 15
        assert gpu.prompts().count("waiting 399") == 0


def test_what_cannot_finish_in_the_drain_time_is_cut_off_and_handed_over(fleet, gpu):
    drain = 2
    api, first = fleet.start(
        fleet.api(),
        fleet.worker(drain_seconds=drain, gpu_timeout_seconds=120, gpu_concurrency=4),
    )
    gpu.mode = "hang"
    with httpx.Client(base_url=api.url, timeout=60) as client:
        ids = submit(client, 20, "long")
        wait_until(lambda: gpu.running == 4)
        fleet.worker().start()
        gpu.mode = "ok"
        first.signal(signal.SIGTERM)
        asked = time.monotonic()
        # What was begun but not called is answered elsewhere before the drain is over.
        wait_until(lambda: len(gpu.calls) > 10, 1, "waiting jobs are handed back at once")
        assert first.wait(30) == 0, first.log
        assert time.monotonic() - asked < drain + 5 + 2
        jobs = finish(client, ids, 10)
        assert {job["status"] for job in jobs} == {"succeeded"}
        calls = Counter(gpu.prompts())
        assert sorted(calls.values()) == [1] * 16 + [2] * 4


def test_a_restarted_broker_and_store_costs_nothing(own_fleet, own_valkey, gpu):
    gpu.delay = 0.05
    api, worker = own_fleet.start(own_fleet.api(), own_fleet.worker(gpu_concurrency=4))
    with httpx.Client(base_url=api.url, timeout=60) as client:
        ids = submit(client, 200, "restart")
        wait_until(lambda: len(gpu.calls) > 20)
        own_valkey.kill()
        own_valkey.start()
        jobs = finish(client, ids)
        assert {job["status"] for job in jobs} == {"succeeded"}
        assert counted(client) == 200
        wait_until(worker.ready, 20, "the worker consumes again")


def test_who_waits_for_a_job_that_the_store_has_lost_is_told_to_send_it_again(
    own_fleet, own_valkey, gpu
):
    gpu.mode = "hang"
    api, _ = own_fleet.start(own_fleet.api(), own_fleet.worker(gpu_timeout_seconds=60))
    chat = {"messages": [{"role": "user", "content": "lost"}]}
    with ThreadPoolExecutor() as pool, httpx.Client(base_url=api.url, timeout=60) as client:
        reply = pool.submit(client.post, "/v1/chat/completions", json=chat)
        wait_until(lambda: gpu.running == 1)
        with own_valkey.client() as redis:
            assert redis.delete(*redis.keys("{ft}:job:*")) == 1
        error = reply.result().json()["error"]
        assert (reply.result().status_code, error["code"]) == (503, "job_lost")


def test_a_message_that_the_broker_lost_is_found(own_fleet, own_valkey, gpu):
    own_fleet.settings["FALLTHROUGH_DISPATCH_GRACE_SECONDS"] = "1"
    api = own_fleet.api().start()
    with httpx.Client(base_url=api.url, timeout=60) as client:
        ids = submit(client, 3, "lost")
        with own_valkey.client() as redis:
            wait_until(lambda: redis.delete("batch"))  # their one message
        own_fleet.worker().start()
        jobs = finish(client, ids, 20)
        assert {job["status"] for job in jobs} == {"succeeded"}


def test_while_the_store_is_away_nothing_is_accepted_and_nothing_hangs(own_fleet, own_valkey):
    api = own_fleet.api().start()
    with httpx.Client(base_url=api.url, timeout=15) as client:
        own_valkey.kill()
        for path in ("/v1/jobs", "/v1/chat/completions"):
            body = {"messages": [{"role": "user", "content": "x"}]}
            reply = client.post(path, json=body)
            assert reply.status_code == 503
            assert reply.headers["retry-after"]
        assert client.get("/health").status_code == 200
        assert client.get("/health/ready").status_code == 503
        own_valkey.start()
        wait_until(lambda: client.get("/health/ready").is_success)
        assert client.post("/v1/jobs", json={"prompt": "x"}).status_code == 202


def test_kill_9_of_the_api_loses_no_accepted_job(fleet, gpu):
    api = fleet.api().start()
    with httpx.Client(base_url=api.url, timeout=30) as client:
        ids = submit(client, 50, "api")
    api.signal(signal.SIGKILL)
    api.wait()
    fleet.start(api, fleet.worker())
    with httpx.Client(base_url=api.url, timeout=30) as client:
        assert {job["status"] for job in finish(client, ids)} == {"succeeded"}


def test_sigterm_lets_the_api_finish_what_it_was_asked(fleet, gpu):
    gpu.delay = 0.8
    api, _ = fleet.start(fleet.api(), fleet.worker())
    body = {"messages": [{"role": "user", "content": "x"}]}
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(httpx.post, f"{api.url}/v1/chat/completions", json=body, timeout=20)
        wait_until(lambda: gpu.running == 1)
        api.signal(signal.SIGTERM)
        assert asked.result().status_code == 200
    assert api.wait(10) == 0


def test_a_worker_that_is_asked_twice_still_hands_over_what_it_has(fleet, gpu):
    first = fleet.worker(drain_seconds=2, gpu_timeout_seconds=120)
    api, _ = fleet.start(fleet.api(), first)
    gpu.mode = "hang"
    with httpx.Client(base_url=api.url, timeout=60) as client:
        ids = submit(client, 3, "twice")
        wait_until(lambda: gpu.running == 3)
        first.signal(signal.SIGTERM)
        wait_until(lambda: not first.ready(), what="it says that it drains")
        first.signal(signal.SIGTERM)
        gpu.mode = "ok"
        fleet.worker().start()
        assert first.wait(30) == 0, first.log
        jobs = finish(client, ids, 20)
        assert {job["status"] for job in jobs} == {"succeeded"}


def test_a_download_that_lasts_longer_than_its_api_may_is_cut_off_and_no_fault_of_its_own(fleet):
    api = fleet.api(drain_seconds=1).start()
    content, form = b"x" * 50_000_000, {"purpose": "batch"}
    sent = httpx.post(f"{api.url}/v1/files", files={"file": ("in.jsonl", content)}, data=form)
    with Reader(api.url, path=f"/v1/files/{sent.json()['id']}/content", buffer=4096) as reader:
        reader.take(5)
        api.signal(signal.SIGTERM)
        assert api.wait(10) == 0
        reader.to_the_end(10)
        assert len(reader.raw) < len(content)
    assert "Traceback" not in api.log


def test_ctrl_c_ends_a_worker_as_well_as_sigterm(fleet):
    worker = fleet.worker().start()
    worker.signal(signal.SIGINT)
    assert worker.wait(10) == 0, worker.log


def test_a_second_ctrl_c_ends_an_api_that_somebody_waits_for(fleet, gpu):
    api, _ = fleet.start(fleet.api(drain_seconds=60), fleet.worker(gpu_timeout_seconds=60))
    gpu.mode = "hang"
    body = {"messages": [{"role": "user", "content": "long"}]}
    with ThreadPoolExecutor(1) as pool:
        chat = pool.submit(httpx.post, f"{api.url}/v1/chat/completions", json=body, timeout=20)
        wait_until(lambda: gpu.running == 1)
        api.signal(signal.SIGINT)
        wait_until(lambda: not api.ready(), what="it takes no more")
        api.signal(signal.SIGINT)
        assert api.wait(5) == 0, api.log
        told = chat.result(5)
        assert (told.status_code, told.json()["error"]["code"]) == (503, "stopping")
        assert told.headers["x-fallthrough-job-id"]


@pytest.mark.parametrize("stops", [[signal.SIGINT] * 2, [signal.SIGQUIT]])
def test_who_cannot_wait_has_the_calls_of_a_worker_cut_off_and_handed_over(fleet, gpu, stops):
    first = fleet.worker(drain_seconds=60, gpu_timeout_seconds=120)
    api, _ = fleet.start(fleet.api(), first)
    gpu.mode = "hang"
    with httpx.Client(base_url=api.url, timeout=60) as client:
        ids = submit(client, 3, "now")
        wait_until(lambda: gpu.running == 3)
        for stop in stops:
            first.signal(stop)
            wait_until(lambda: not first.ready(), what="it says that it drains")
        assert first.wait(5) == 0, first.log
        assert "Traceback" not in first.log
        gpu.mode = "ok"
        fleet.worker().start()
        assert {job["status"] for job in finish(client, ids, 5)} == {"succeeded"}


def test_who_still_waits_when_the_api_stops_is_told_where_the_job_goes_on(fleet, gpu):
    api, _ = fleet.start(fleet.api(drain_seconds=2), fleet.worker(gpu_timeout_seconds=60))
    gpu.mode = "hang"
    body = {"messages": [{"role": "user", "content": "long"}]}
    with ThreadPoolExecutor() as threads, httpx.Client(base_url=api.url, timeout=30) as client:
        job_id = submit(client, 1, "polled")[0]
        chat = threads.submit(client.post, "/v1/chat/completions", json=body)
        poll = threads.submit(client.get, f"/v1/jobs/{job_id}", params={"wait": 60})
        wait_until(lambda: gpu.running == 2)
        api.signal(signal.SIGTERM)
        told, polled = chat.result(20), poll.result(20)
        assert (told.status_code, told.json()["error"]["code"]) == (503, "stopping")
        assert told.headers["retry-after"]
        assert (polled.status_code, polled.json()["status"]) == (200, "running")
        assert api.wait(20) == 0
    other = fleet.api().start()
    job_id = told.headers["x-fallthrough-job-id"]
    assert httpx.get(f"{other.url}/v1/jobs/{job_id}").json()["status"] == "running"


@pytest.mark.parametrize("part", ["api", "worker"])
def test_who_is_told_to_stop_before_he_is_ready_ends_at_once_and_well(fleet, monkeypatch, part):
    """By a handler: as the first process of a container he has none of the system's."""
    with socket.create_server(("127.0.0.1", 0)) as mute:  # a store that takes connections only
        url = f"redis://127.0.0.1:{mute.getsockname()[1]}/0"
        process = {"api": fleet.api, "worker": fleet.worker}[part](redis_url=url)
        monkeypatch.setattr("harness.processes.nurseries", None)  # by `python -m`, as it is started
        process.start(ready=False)
        asking, _ = mute.accept()
        with asking:
            process.signal(signal.SIGTERM)
            assert process.wait(2) == 0
