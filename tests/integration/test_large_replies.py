"""What a server sends without measure: its call fails, and no process grows with it."""

from __future__ import annotations

import asyncio
import gzip
import json

import httpx
import openai
import pytest
from harness.batches import ended, line, start
from harness.processes import peak_mb
from harness.upstream import completion

MEBI = 1024 * 1024
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
ZEROS = bytes(MEBI)
BOMB = gzip.compress(bytes(300 * MEBI), 9)
PACKED = b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(BOMB)
LARGEST_GROWTH = 160  # MB: a reply of 32 MB, as it is read and put together


def sends(upstream, *pieces, after=0.0):
    """Have a server send these, whatever it is asked, until its client goes away."""

    async def answer(call, writer):
        await asyncio.sleep(after)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        return False

    upstream.__dict__["_answer"] = answer


def ask(http, prompt):
    made = http.post("/v1/jobs", json={"prompt": prompt, "on_exhausted": "fail"}).json()
    return http.get(f"/v1/jobs/{made['id']}?wait=30").json()


@pytest.mark.parametrize(
    "pieces",
    [
        (HEAD + PACKED + BOMB,),
        (HEAD + b"content-length: %d\r\n\r\n" % (600 * MEBI), *[ZEROS] * 600),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n", *[b"100000\r\n" + ZEROS + b"\r\n"] * 600),
    ],
    ids=["a bomb of 300 MB", "600 MB", "without end"],
)
def test_an_answer_without_measure_ends_its_call_and_no_process_grows(pieces, own_fleet, gpu):
    api, worker = own_fleet.start(own_fleet.api(), own_fleet.worker())
    with httpx.Client(base_url=api.url, timeout=60) as http:
        assert ask(http, "warm")["tier_used"] == "gpu"
        before = peak_mb(worker), peak_mb(api)
        sends(gpu, *pieces)
        job = ask(http, "large")
        first = job["attempts"][0]
        assert (first["tier"], first["verdict"], first["detail"]) == ("gpu", "failure", "too large")
        assert (job["status"], job["tier_used"]) == ("succeeded", "cpu")
    assert peak_mb(worker) - before[0] < LARGEST_GROWTH
    assert peak_mb(api) - before[1] < 20


def test_a_slice_of_large_answers_is_never_whole_in_a_worker(own_fleet, gpu, cpu):
    """They lie in the store until the slice's part is written, from which they are read in turn."""
    number, size = 40, 4 * MEBI
    api, worker = own_fleet.start(
        own_fleet.api(), own_fleet.worker("batch", gpu_concurrency=2, gpu_timeout_seconds=30)
    )
    before = peak_mb(worker)
    body = json.dumps(completion("x" * size)).encode()
    head = HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
    for upstream in (gpu, cpu):
        sends(upstream, head, body, after=0.4)  # no faster than a busy store takes them
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key="any", max_retries=5) as sdk:
        batch = start(sdk, [line(f"c{n}", str(n)) for n in range(number)])
        batch = ended(sdk, batch.id, 120)
        assert (batch.status, batch.request_counts.completed) == ("completed", number)
        assert sdk.files.retrieve(batch.output_file_id).bytes > number * size
    grown = peak_mb(worker) - before
    assert grown < LARGEST_GROWTH, f"{grown:.0f} MB"


def test_of_an_error_without_measure_its_beginning_is_read(own_fleet, gpu):
    api, worker = own_fleet.start(own_fleet.api(), own_fleet.worker())
    with httpx.Client(base_url=api.url, timeout=60) as http:
        assert ask(http, "warm")["tier_used"] == "gpu"
        before = peak_mb(worker)
        text = b'{"error": {"message": "' + b"x" * MEBI
        head = HEAD.replace(b"200 OK", b"400 X") + b"content-length: 629145600\r\n\r\n"
        sends(gpu, head + text, *[b"x" * MEBI] * 599)
        job = ask(http, "large")
        assert (job["status"], job["attempts"][0]["verdict"]) == ("failed", "refused")
        assert len(job["error"]["message"]) < 100_000
    assert peak_mb(worker) - before < 40


def test_what_is_larger_than_the_store_takes_ends_with_an_error_and_is_asked_once(
    own_fleet, own_valkey, gpu
):
    with own_valkey.client() as client:
        client.config_set("proto-max-bulk-len", MEBI)
    gpu.plan = lambda call: "huge" if call.prompt == "huge" else "ok"
    api, worker = own_fleet.start(own_fleet.api(), own_fleet.worker())
    with httpx.Client(base_url=api.url, timeout=30) as http:
        job = ask(http, "huge")
        first = job["attempts"][0]
        assert (first["tier"], first["verdict"], first["detail"]) == ("gpu", "failure", "too large")
        assert (job["status"], job["tier_used"]) == ("succeeded", "cpu")
        assert gpu.prompts() == ["huge"]
        refused = http.post("/v1/jobs", json={"prompt": "x" * MEBI})
        assert (refused.status_code, refused.json()["error"]["code"]) == (413, "body_too_large")
        assert ask(http, "and then?")["tier_used"] == "gpu"
    assert worker.process.poll() is None
