"""A fleet whose GPU server dies under load and comes back: four worker processes.

`./run prove fleet` has twenty (FLEET_WORKERS).
"""

from __future__ import annotations

import json
import math
import signal
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import httpx
import openai
import pytest
from harness.amounts import FLEET_WORKERS
from harness.batches import check_every_line_once, ended, line, start
from harness.waiting import wait_until

LINES = [line(f"c{n}", f"line-{n}") for n in range(150 * FLEET_WORKERS)]
SLOTS, GPU_SECONDS = 40, 0.5  # of the fleet: calls at once, and what each takes
CPU_SLOTS, CPU_SECONDS = 4, 0.2
CHATS_AT_ONCE = 3
RECOVERY, RAMP = 1.0, 4.0  # seconds
# In which every process knows that a breaker opened, where all of them share a busy core or two.
TELL_SECONDS = 0.2 * FLEET_WORKERS
DOWN = TELL_SECONDS + 2.8  # so that a probe is due in the rest
LONGEST_SECONDS = 10 * FLEET_WORKERS  # that something may take on a busy machine
PARTS = 4  # of the ramp
LEAST_SHARE = 0.1  # of the calls, right after closing

SETTINGS = {
    "gpu_concurrency": SLOTS // FLEET_WORKERS,
    "gpu_timeout_seconds": 10,
    "cpu_concurrency": CPU_SLOTS,
    "slice_lines": 10,
    "lease_seconds": 3,
    "breaker_recovery_seconds": RECOVERY,
    "breaker_recovery_jitter": 0,
    "breaker_ramp_seconds": RAMP,
}


class Outage(NamedTuple):
    """When it died, when its breaker was seen to be open, when it was well, and its breaker closed.

    All in seconds of the monotonic clock.
    """

    died: float
    opened: float
    well: float
    closed: float


def most_at_once(upstream):
    """Count the calls that run at once from now on, of lines and of chats; the most of each."""
    running, most, answer = Counter(), Counter(), upstream._answer

    async def counted(call, writer):
        kinds = (call.prompt.partition("-")[0], "all")
        for kind in kinds:
            running[kind] += 1
            most[kind] = max(most[kind], running[kind])
        try:
            return await answer(call, writer)
        finally:
            running.subtract(kinds)

    upstream._answer = counted
    return most


@contextmanager
def chats(api):
    """Ask for one after the other, some at once; yield the replies: (prompt, reply)."""
    replies, over = [], threading.Event()

    def ask(number):
        with httpx.Client(base_url=api.url, timeout=60) as client:
            while not over.is_set():
                prompt = f"chat-{number}-{len(replies)}"
                body = {"messages": [{"role": "user", "content": prompt}]}
                replies.append((prompt, client.post("/v1/chat/completions", json=body)))

    with ThreadPoolExecutor(CHATS_AT_ONCE) as pool:
        asking = [pool.submit(ask, number) for number in range(CHATS_AT_ONCE)]
        try:
            yield replies
        finally:
            over.set()
    for each in asking:
        each.result()


def state(api):
    views = httpx.get(f"{api.url}/circuit-breakers").json()["circuit_breakers"]
    return views["max_gpu"]["state"]


def outage(api, gpu, in_the_middle):
    """Have the GPU's server die: its connections break off, and so does every call that comes."""
    gpu.mode, died = "reset", time.monotonic()
    gpu.cut()
    wait_until(lambda: state(api) == "open", LONGEST_SECONDS, "its breaker opens")
    opened = time.monotonic()
    in_the_middle()
    time.sleep(max(opened + DOWN - time.monotonic(), 0))
    gpu.mode, well = "ok", time.monotonic()
    wait_until(lambda: state(api) == "closed", LONGEST_SECONDS, "its breaker closes")
    return Outage(died, opened, well, time.monotonic())


def calls_between(upstream, begin, end):
    return sum(begin <= call.at < end for call in upstream.calls)


def most_probes(seconds):
    """Return how many probes a dead server may see meanwhile: one fails, the next is due later."""
    return 1 + math.floor(seconds / (GPU_SECONDS + RECOVERY))


def check_few_calls_reach_it_while_it_is_down(gpu, seen):
    settled = seen.opened + TELL_SECONDS
    probes = calls_between(gpu, settled, seen.well)
    assert probes <= most_probes(seen.well - settled)
    # And what was called before its process knew: each place of the fleet once.
    assert calls_between(gpu, seen.died, settled) <= SLOTS + most_probes(settled - seen.died)
    return {"calls_while_down": calls_between(gpu, seen.died, seen.well), "probes": probes}


def check_its_load_grows_as_its_share(gpu, seen):
    """Check each part of the ramp: no more begins than the share at its end of what it can."""
    length, all_it_can = RAMP / PARTS, SLOTS / GPU_SECONDS * RAMP / PARTS
    begins = [seen.closed + part * length for part in range(PARTS + 1)]
    parts = [calls_between(gpu, begin, begin + length) for begin in begins]
    shares = [LEAST_SHARE + (1 - LEAST_SHARE) * (part + 1) / PARTS for part in range(PARTS)]
    # Chats have what the breaker lets through, beside it.
    for part, share in zip(parts, shares, strict=False):
        assert part <= 1.25 * share * all_it_can, (parts, shares)
    assert parts[0] < parts[2], parts
    assert 1.5 * parts[0] < parts[4], parts
    return {"calls_per_ramp_part": parts, "full": all_it_can}


@pytest.mark.timeout(120 * math.ceil(FLEET_WORKERS / 4))
@pytest.mark.parametrize("killed", [False, True], ids=["all live", "one is killed"])
def test_a_gpu_dies_and_comes_back_under_load(fleet, gpu, cpu, killed):
    gpu.delay, cpu.delay = GPU_SECONDS, CPU_SECONDS
    most = most_at_once(cpu)
    workers = [fleet.worker(**SETTINGS) for _ in range(FLEET_WORKERS)]
    for some in range(0, FLEET_WORKERS, 5):
        fleet.start(*workers[some : some + 5])
    api = fleet.api().start()

    def in_the_middle():
        if killed:
            workers[0].signal(signal.SIGKILL)
            workers[0].wait()

    with openai.OpenAI(base_url=f"{api.url}/v1", api_key="any", max_retries=0) as sdk:
        with chats(api) as replies:
            batch = start(sdk, LINES)
            much = lambda: gpu.running >= SLOTS * 0.8  # noqa: E731
            wait_until(much, LONGEST_SECONDS, "the GPU has much to do")
            seen = outage(api, gpu, in_the_middle)
            done = ended(sdk, batch.id, 60 + len(LINES) / 20)
        output, errors = check_every_line_once(sdk, done, [each["custom_id"] for each in LINES])

    figures = {
        **check_few_calls_reach_it_while_it_is_down(gpu, seen),
        **check_its_load_grows_as_its_share(gpu, seen),
    }
    assert errors == []
    for prompt, reply in replies:
        assert reply.status_code == 200, reply.text
        assert reply.json()["choices"][0]["message"]["content"].endswith(f"-model: {prompt}")
    total = httpx.get(f"{api.url}/metrics").json()["metrics"]["total"]
    assert total == len(LINES) + len(replies), "each ended once"
    assert most["all"] <= CPU_SLOTS
    assert 1 <= most["line"] < CPU_SLOTS, "the last is kept for chats"
    tiers = Counter(each["fallthrough"]["tier_used"] for each in output)
    told = {**figures, "cpu_at_once": most, "lines": tiers, "chats": len(replies)}
    sys.stdout.write(json.dumps(told) + "\n")
