"""An outage of the GPU in the middle of a batch: its lines wait, go down in turn, and come back."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import openai
import pytest
from harness.batches import check_every_line_once, ended, line, start
from harness.waiting import wait_until

from tasks.store.keyspace import PARKED, PREFIX, SENT_DOWN

if TYPE_CHECKING:
    from harness.upstream import Upstream

LINES = [line(f"c{n}", str(n)) for n in range(300)]
NAMES = [each["custom_id"] for each in LINES]
RECOVERY = 2.0  # seconds
PROMPT = 1.8  # seconds, where others are tested meanwhile; ./run bench recovery has the time itself
SETTINGS = {"slice_lines": 8, "gpu_concurrency": 8, "cpu_concurrency": 3, "lease_seconds": 3}


@pytest.fixture
def api(fleet):
    return fleet.api().start()


@pytest.fixture
def workers(fleet, api):
    settings = {**SETTINGS, "breaker_recovery_seconds": RECOVERY, "breaker_recovery_jitter": 0}
    return [fleet.worker("batch", **settings).start() for _ in range(2)]


@pytest.fixture
def sdk(api, workers):
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
def outage(sdk, gpu, cpu):
    """A batch whose GPU is away since some of its lines were answered, and whose CPU is slow."""
    gpu.delay, cpu.delay = 0.05, 0.3
    batch = start(sdk, LINES)
    wait_until(lambda: len(gpu.calls) > 40)
    gpu.vanish()
    wait_until(lambda: cpu.calls)
    return Outage(batch, gpu, cpu)


def breaker(api):
    views = httpx.get(f"{api.url}/circuit-breakers").json()["circuit_breakers"]
    return views["max_gpu"]


def opened(api, seconds=RECOVERY / 2):
    view = breaker(api)
    return view if view["retry_after_seconds"] > seconds else None


class Outage(NamedTuple):
    batch: Any
    gpu: Upstream
    cpu: Upstream


def check_whole(sdk, outage):
    """Every line has its one result, of a tier that was asked for it; return each tier's lines."""
    batch, gpu, cpu = outage
    done = ended(sdk, batch.id, 60)
    output, errors = check_every_line_once(sdk, done, NAMES)
    assert errors == []
    by = {"gpu": [], "cpu": []}
    for each in output:
        by[each["fallthrough"]["tier_used"]].append(int(each["custom_id"][1:]))
    asked = {int(prompt) for prompt in cpu.prompts()}
    assert set(by["cpu"]) <= asked
    assert set(by["gpu"]) <= {int(prompt) for prompt in gpu.prompts()}
    return by


def left(valkey):
    with valkey.client() as client:
        parked = client.zrange(f"{PREFIX}{PARKED}", 0, -1)
        # A joining is looked at again after some seconds.
        lines = [name for name in parked if not name.endswith(b"_join")]
        return client.hkeys(f"{PREFIX}{SENT_DOWN}"), lines


def nothing_is_left(valkey):
    return left(valkey) == ([], [])


def test_the_cpu_gets_what_it_takes_the_rest_waits_and_is_called_back(sdk, api, outage, valkey):
    _, gpu, cpu = outage
    began, calls = time.monotonic(), len(cpu.calls)
    time.sleep(2 * RECOVERY)
    # Of three calls at once the last is kept for lone requests.
    most = 2 * ((time.monotonic() - began) / cpu.delay + 1)
    assert len(cpu.calls) - calls <= most
    assert len(cpu.calls) - calls >= most / 4, "it is not idle either"
    with valkey.client() as client:
        down = client.hvals(f"{PREFIX}{SENT_DOWN}")
    assert sum(int(entry.rpartition(b":")[2]) for entry in down) <= 4
    gpu.listen()
    wait_until(lambda: breaker(api)["state"] == "closed", RECOVERY + 2)
    before, back = len(cpu.calls), time.monotonic()
    by = check_whole(sdk, outage)
    assert time.monotonic() - back < 8, "its lines were there at once"
    assert len(cpu.calls) - before <= 4, "what ran there ended there, and no more went down"
    assert len(by["cpu"]) == len({int(prompt) for prompt in cpu.prompts()})
    wait_until(lambda: nothing_is_left(valkey), 5, f"nothing is left of {left(valkey)}")


def test_nothing_goes_down_and_up_again_while_the_gpu_takes_more_and_more(
    fleet, api, gpu, cpu, valkey
):
    """Each that does costs a unit of its own, a message, and a look into the file."""
    cpu.delay = 0.2
    settings = {**SETTINGS, "breaker_recovery_seconds": RECOVERY, "cpu_timeout_seconds": 10}
    settings |= {"breaker_ramp_seconds": 30, "slice_lines": 32, "gpu_concurrency": 32}
    fleet.worker("batch", **settings).start()
    gpu.vanish()
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key="any", max_retries=0) as sdk:
        start(sdk, [line(f"c{n}", str(n)) for n in range(3000)])
    wait_until(lambda: cpu.calls)
    gpu.delay = 0.05
    gpu.listen()
    wait_until(lambda: breaker(api)["state"] == "closed", RECOVERY + 4)
    with valkey.client() as client, client.pubsub() as room:
        room.subscribe(f"{PREFIX}room")
        time.sleep(3)
        left = 0
        while message := room.get_message(timeout=0.1):
            left += message["type"] == "message"
    assert left <= 8, "those that were there"


def test_a_probe_that_is_due_is_tried_within_a_second(api, outage):
    for _ in range(3):
        view = wait_until(lambda: opened(api), 5)
        due = time.monotonic() + view["retry_after_seconds"]
        # Each change raises it: the probe, and its failure.
        wait_until(lambda view=view: breaker(api)["generation"] > view["generation"], RECOVERY + 2)
        assert time.monotonic() - due < PROMPT


def test_a_worker_that_dies_while_lines_wait_in_it_costs_seconds(sdk, workers, outage):
    workers[0].signal(signal.SIGKILL)
    workers[0].wait()
    time.sleep(1)
    outage.gpu.listen()
    check_whole(sdk, outage)


def test_a_worker_that_stops_hands_back_what_waits_in_it_at_once(sdk, workers, outage):
    began = time.monotonic()
    workers[0].signal(signal.SIGTERM)
    assert workers[0].wait() == 0
    assert time.monotonic() - began < 3 + outage.cpu.delay
    outage.gpu.listen()
    check_whole(sdk, outage)


def test_a_worker_that_stops_lets_calls_of_lines_that_had_waited_end(fleet, api, gpu):
    """No task of Celery's is at work any more: their unit had none while they waited."""
    settings = {**SETTINGS, "breaker_recovery_seconds": 0.5, "breaker_recovery_jitter": 0}
    settings |= {"breaker_success_threshold": 1, "breaker_ramp_seconds": 0}
    settings["gpu_timeout_seconds"] = 30
    first = fleet.worker("batch", **settings).start()
    gpu.vanish()
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key="any", max_retries=0) as sdk:
        batch = start(sdk, LINES[:8], metadata={"fallthrough_tiers": "gpu"})
        wait_until(lambda: opened(api, 0.4))
        gpu.delay = 2
        gpu.listen()
        wait_until(lambda: gpu.running > 4)
        first.signal(signal.SIGTERM)
        assert first.wait() == 0
        assert len(gpu.calls) == 8
        fleet.worker("batch", **settings).start()
        check_every_line_once(sdk, ended(sdk, batch.id), NAMES[:8])
    assert len(gpu.calls) == 8, "none is made again"


def test_lines_that_want_the_gpu_alone_wait_for_it(sdk, gpu, cpu):
    gpu.vanish()
    batch = start(sdk, LINES[:40], metadata={"fallthrough_tiers": "gpu"})
    time.sleep(2 * RECOVERY)
    assert cpu.calls == []
    gpu.listen()
    done = ended(sdk, batch.id)
    assert done.request_counts.completed == 40
    assert cpu.calls == []


def test_a_batch_that_is_cancelled_while_its_lines_wait_ends_at_once(sdk, outage, cpu, valkey):
    began = time.monotonic()
    sdk.batches.cancel(outage.batch.id)
    done = ended(sdk, outage.batch.id, 10)
    assert (done.status, time.monotonic() - began < 5) == ("cancelled", True)
    wait_until(lambda: cpu.running == 0, 1)
    check_every_line_once(sdk, done, NAMES)
    wait_until(lambda: nothing_is_left(valkey), 5, f"nothing is left of {left(valkey)}")


def test_a_line_that_only_it_fails_with_goes_down_and_ends(sdk, gpu, cpu):
    gpu.plan = lambda call: "500" if call.prompt == "7" else "ok"
    done = ended(sdk, start(sdk, LINES[:40]).id)
    output, errors = check_every_line_once(sdk, done, NAMES[:40])
    assert errors == []
    assert [o["custom_id"] for o in output if o["fallthrough"]["tier_used"] == "cpu"] == ["c7"]


def test_a_lone_job_that_waits_for_a_place_below_goes_up_once_the_gpu_is_well(fleet, api, gpu, cpu):
    settings = {"cpu_concurrency": 1, "cpu_wait_seconds": 30, "cpu_timeout_seconds": 30}
    fleet.worker("interactive", **settings).start()
    gpu.vanish()
    with httpx.Client(base_url=f"{api.url}/v1", timeout=60) as http:
        while breaker(api)["state"] == "closed":  # what failed before that stays below
            job = http.post("/jobs", json={"prompt": "before"}).json()["id"]
            http.get(f"/jobs/{job}?wait=10")
        before = len(cpu.calls)
        cpu.delay = 15
        names = [http.post("/jobs", json={"prompt": str(n)}).json()["id"] for n in range(4)]

        def job(name):
            return http.get(f"/jobs/{name}").json()

        wait_until(lambda: cpu.running == 1)
        below = names.pop(int(cpu.calls[before].prompt))
        gpu.listen()
        for name in names:
            wait_until(lambda name=name: job(name)["status"] == "succeeded", 10)
            assert job(name)["tier_used"] == "gpu"
        assert len(cpu.calls) == before + 1
        assert job(below)["status"] == "running", "what runs below ends there"
