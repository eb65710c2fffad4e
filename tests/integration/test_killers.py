"""What kills the workers that ask for it goes on to the next tier, and ends; the rest lives."""

from __future__ import annotations

import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from harness.batches import check_every_line_once, line, start
from harness.waiting import wait_until

FINAL = {"completed", "failed", "expired", "cancelled"}
PROMPTS = [f"good {n}" for n in range(20)] + ["killer"] + [f"fine {n}" for n in range(20)]


@pytest.fixture
def fleet_with_a_killer(fleet, gpu, cpu):
    """An API, and a worker that dies whenever a tier of it is asked one prompt."""
    worker = fleet.worker(lease_seconds=1, slice_lines=64)
    api, _ = fleet.start(fleet.api(), worker)

    def answer(call):
        if call.prompt != "killer":
            return "ok"
        worker.signal(signal.SIGKILL)
        return "hang"

    gpu.plan = cpu.plan = answer
    gpu.delay = cpu.delay = 0.05  # its neighbours are called when it kills
    return api, worker


def keep_alive(worker):
    """Start the worker again if it has died, as whoever watches over it does."""
    if worker.process.poll() is not None:
        worker.start(ready=False)


def deaths(gpu, cpu):
    return Counter(gpu.prompts())["killer"], Counter(cpu.prompts())["killer"]


def test_a_job_that_kills_its_workers_is_given_up_after_three(fleet_with_a_killer, gpu, cpu):
    api, worker = fleet_with_a_killer
    with httpx.Client(base_url=api.url, timeout=30) as client:
        requests = [{"prompt": prompt, "cache": "off"} for prompt in PROMPTS]
        created = client.post("/v1/jobs", json={"requests": requests}).json()["data"]
        ids = dict(zip(PROMPTS, (job["id"] for job in created), strict=True))

        def ended():
            keep_alive(worker)
            jobs = {p: client.get(f"/v1/jobs/{job_id}").json() for p, job_id in ids.items()}
            return all(job["finished_at"] for job in jobs.values()) and jobs

        jobs = wait_until(ended, 60, "all have ended")
    killer = jobs.pop("killer")
    assert (killer["status"], killer["error"]["code"]) == ("failed", "worker_lost")
    assert [(a["tier"], a["verdict"]) for a in killer["attempts"]] == [
        *[("gpu", "lost")] * 2,
        ("cpu", "lost"),
    ]
    assert deaths(gpu, cpu) == (2, 1)
    assert {job["status"] for job in jobs.values()} == {"succeeded"}
    assert {job["tier_used"] for job in jobs.values()} <= {"gpu", "cpu"}


def test_a_line_that_kills_its_workers_takes_no_other_with_it(fleet_with_a_killer, gpu, cpu):
    api, worker = fleet_with_a_killer
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key="any", max_retries=5) as sdk:
        batch = start(sdk, [line(prompt, prompt) for prompt in PROMPTS])

        def ended():
            keep_alive(worker)
            now = sdk.batches.retrieve(batch.id)
            return now if now.status in FINAL else None

        batch = wait_until(ended, 90, "the batch ends")
        output, errors = check_every_line_once(sdk, batch, PROMPTS)
    assert [each["custom_id"] for each in errors] == ["killer"]
    assert errors[0]["response"]["body"]["error"]["code"] == "worker_lost"
    assert {each["fallthrough"]["tier_used"] for each in output} <= {"gpu", "cpu"}
    assert deaths(gpu, cpu) == (3, 1), "two of them before it is known which line it is"


def test_the_sdk_does_not_send_again_what_killed_its_workers(fleet_with_a_killer, gpu, cpu):
    api, worker = fleet_with_a_killer
    said = [{"role": "user", "content": "killer"}]
    with (
        openai.OpenAI(base_url=f"{api.url}/v1", api_key="any", timeout=60) as sdk,
        ThreadPoolExecutor(1) as pool,
    ):
        asked = pool.submit(sdk.chat.completions.create, model="", messages=said)

        def ended():
            keep_alive(worker)
            return asked.done()

        wait_until(ended, 60, "it is given up")
        error = asked.exception()
    assert isinstance(error, openai.InternalServerError)
    assert error.code == "worker_lost"
    assert deaths(gpu, cpu) == (2, 1)
