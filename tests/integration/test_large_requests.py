"""What callers send as large as they may: a worker holds little of it at once."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import msgspec
import pytest
from harness.processes import peak_mb
from harness.waiting import wait_until

MEBI = 1024 * 1024
NUMBER = 16
BEGINNING = b'{"prompt": "x", "cache": "off", "padding": '
BODIES = {
    # Decoded, each takes twenty megabytes.
    "nested": BEGINNING + b"[" + b"[]," * (MEBI // 3) + b"[]]}",
    "text": BEGINNING + b'"' + b"x" * (4 * MEBI - 100) + b'"}',
}
PEAK = 240  # MB, of a worker that has 70


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_large_requests_at_once_are_all_answered_and_the_worker_stays_small(own_fleet, gpu, body):
    seen = []

    def note(call):  # and forget: this process would hold them all
        seen.append(len(call.body.pop("padding", "")))
        return "ok"

    gpu.plan = note
    api = own_fleet.api().start()
    with httpx.Client(base_url=api.url, timeout=60) as http, ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: http.post("/v1/jobs", content=body), range(NUMBER)))
        jobs = [reply.raise_for_status().json()["id"] for reply in made]
        # All of them wait for it. It decodes a lot: that is no reason to miss a server.
        settings = {"gpu_timeout_seconds": "60", "connect_timeout_seconds": "5"}
        worker = own_fleet.worker(**settings).start()

        def ended():
            shown = [http.get(f"/v1/jobs/{job}").json() for job in jobs]
            return all(job["finished_at"] for job in shown) and shown

        assert {job["tier_used"] for job in wait_until(ended, 100)} == {"gpu"}
    assert seen == [len(msgspec.json.decode(body)["padding"])] * NUMBER
    assert peak_mb(worker) < PEAK


@pytest.mark.parametrize("size", [60_000, 100_000])
def test_a_chat_is_answered_in_time_while_large_jobs_of_others_take_long(own_fleet, gpu, size):
    gpu.plan = lambda call: "hang" if call.body.pop("padding", "") else "ok"
    api, _ = own_fleet.start(own_fleet.api(), own_fleet.worker(gpu_timeout_seconds="60"))
    chat = {"messages": [{"role": "user", "content": "x" * size}]}
    with httpx.Client(base_url=api.url, timeout=60) as http:
        for _ in range(8):
            http.post("/v1/jobs", content=BODIES["text"]).raise_for_status()
        wait_until(lambda: len(gpu.calls) >= 7)
        began = time.monotonic()
        headers = {"x-fallthrough-deadline-seconds": "5"}
        reply = http.post("/v1/chat/completions", json=chat, headers=headers)
    assert reply.status_code == 200, reply.text
    assert time.monotonic() - began < 5
