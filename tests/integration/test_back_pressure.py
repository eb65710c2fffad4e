"""What is more than may be, or than the store holds: refused honestly, and the rest goes on."""

from __future__ import annotations

import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from harness.batches import check_every_line_once, ended, line, start, upload
from harness.waiting import wait_until

CHAT = {"messages": [{"role": "user", "content": "x"}]}


def sdk_of(api, **options):
    return openai.OpenAI(base_url=f"{api.url}/v1", api_key="any", **options)


def turned_away(api):
    text = httpx.get(f"{api.url}/metrics", headers={"accept": "text/plain"}).text
    name = "fallthrough_requests_turned_away_total"
    samples = (
        text.removeprefix(name).split() for text in text.splitlines() if text.startswith(name)
    )
    return {labels: float(value) for labels, value in samples if float(value)}


def test_no_more_is_taken_than_may_be_unfinished_however_many_ask(fleet):
    apis = fleet.start(*(fleet.api(max_queued_jobs=20) for _ in range(2)))
    with ThreadPoolExecutor(16) as pool:
        asked = [
            pool.submit(httpx.post, f"{api.url}/v1/jobs", json={"prompt": f"{n}"}, timeout=30)
            for n in range(40)
            for api in apis
        ]
        replies = [each.result() for each in asked]
    assert Counter(reply.status_code for reply in replies) == {202: 20, 429: 60}
    refused = next(reply for reply in replies if reply.status_code == 429)
    assert refused.json()["error"]["code"] == "too_many_queued"
    assert int(refused.headers["retry-after"]) > 0
    counted = Counter()
    for api in apis:
        counted.update(turned_away(api))
    assert counted == {'{code="too_many_queued"}': 60}
    # One that ends makes room for one, and no more.
    job = next(reply.json()["id"] for reply in replies if reply.status_code == 202)
    httpx.post(f"{apis[0].url}/v1/jobs/{job}/cancel")
    two = {"requests": [{"prompt": "a"}, {"prompt": "b"}]}
    assert httpx.post(f"{apis[1].url}/v1/jobs", json=two).status_code == 429
    assert httpx.post(f"{apis[1].url}/v1/jobs", json={"prompt": "a"}).status_code == 202
    assert httpx.post(f"{apis[0].url}/v1/jobs", json={"prompt": "a"}).status_code == 429


def test_a_client_that_comes_while_it_is_full_is_answered_by_its_own_retries(fleet):
    api = fleet.api(max_queued_jobs=2).start()
    jobs = [httpx.post(f"{api.url}/v1/jobs", json={"prompt": f"{n}"}).json() for n in range(2)]
    with sdk_of(api) as sdk, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(sdk.chat.completions.create, model="gpu-model", **CHAT)
        wait_until(lambda: turned_away(api) == {'{code="too_many_queued"}': 1})
        httpx.post(f"{api.url}/v1/jobs/{jobs[0]['id']}/cancel").raise_for_status()
        fleet.worker().start()
        assert asked.result().choices[0].message.content == "gpu-model: x"
    assert turned_away(api) == {'{code="too_many_queued"}': 1}


def test_a_batch_over_the_limit_is_refused_until_one_has_ended(fleet, gpu):
    api, _ = fleet.start(fleet.api(max_batches=1), fleet.worker())
    gpu.delay = 0.5
    with sdk_of(api, max_retries=0) as sdk:
        first = start(sdk, [line("a", "x")])
        with pytest.raises(openai.RateLimitError) as refused:
            start(sdk, [line("b", "x")])
        assert refused.value.code == "too_many_queued"
        ended(sdk, first.id)
        start(sdk, [line("b", "x")])


def test_bytes_of_what_is_unfinished_are_limited_as_jobs_are(fleet):
    api = fleet.api(max_queued_bytes=1000).start()

    def submit(words):
        return httpx.post(f"{api.url}/v1/jobs", json={"prompt": "word " * words})

    job = submit(150).json()["id"]
    refused = submit(150)
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "too_many_queued"
    assert "1000 bytes of unfinished jobs" in refused.json()["error"]["message"]
    assert int(refused.headers["retry-after"]) > 0
    httpx.post(f"{api.url}/v1/jobs/{job}/cancel").raise_for_status()
    assert submit(150).status_code == 202


def test_an_upload_over_the_limit_is_refused_at_once_and_results_are_kept_all_the_same(fleet):
    api, _ = fleet.start(fleet.api(max_files=1), fleet.worker(max_files=1))
    with sdk_of(api) as sdk:
        batch = ended(sdk, start(sdk, [line("a", "x")]).id)
        check_every_line_once(sdk, batch, ["a"])
        with pytest.raises(openai.RateLimitError, match="1 files at most, and has 2: del") as error:
            upload(sdk, b"{}\n")
        assert error.value.code == "too_many_files"
        assert turned_away(api) == {'{code="too_many_files"}': 1}, "the SDK did not ask again"
        sdk.files.delete(batch.input_file_id)
        sdk.files.delete(batch.output_file_id)
        upload(sdk, b"{}\n")


def test_an_upload_of_too_many_bytes_is_refused_before_its_content_is_stored(fleet, tmp_path):
    api = fleet.api(max_stored_bytes=1000, files_url=str(tmp_path / "stored")).start()
    with sdk_of(api) as sdk:
        kept = upload(sdk, b"x" * 600)
        with pytest.raises(openai.RateLimitError, match="1000 bytes of files at most, and has 600"):
            upload(sdk, b"x" * 401)
        stored = [each for each in (tmp_path / "stored").rglob("*") if each.is_file()]
        assert [each.stat().st_size for each in stored] == [600]
        upload(sdk, b"x" * 400)
        sdk.files.delete(kept)
        upload(sdk, b"x" * 600)


def lines_of(number):
    return [line(f"c{n}", f"{n} " + "words " * 100) for n in range(number)]


def done(sdk, batch):
    return sdk.batches.retrieve(batch.id).request_counts.completed


@pytest.fixture
def full(own_valkey):
    """A function that has the store be at its memory limit, until it is told otherwise."""
    with own_valkey.client() as client:
        yield lambda: client.config_set("maxmemory", client.info("memory")["used_memory"] // 2)


@pytest.fixture
def stack(own_fleet, gpu):
    """An API, and two workers of whose leases nobody waits long; half of the calls fall through."""
    gpu.plan = lambda call: "500" if call.prompt.split()[0].endswith(tuple("13579")) else "ok"
    gpu.delay = 0.1
    own_fleet.settings |= {"FALLTHROUGH_BREAKER_FAILURE_THRESHOLD": "100000"}
    short = {"slice_lines": 16, "lease_seconds": 1, "gpu_concurrency": 8}
    return own_fleet.start(own_fleet.api(), *(own_fleet.worker(**short) for _ in range(2)))


def test_at_its_memory_limit_the_store_finishes_what_it_has_and_takes_nothing_new(
    stack, own_valkey, full, gpu
):
    api, *workers = stack
    with sdk_of(api, max_retries=0) as sdk, httpx.Client(base_url=api.url, timeout=30) as http:
        unused = upload(sdk, b"{}\n")
        batch = start(sdk, lines_of(400))
        jobs = [http.post("/v1/jobs", json={"prompt": f"{n}"}).json()["id"] for n in range(20)]
        wait_until(lambda: done(sdk, batch) > 50)
        full()
        # What was lost is swept, published and begun by the other one.
        workers[0].signal(signal.SIGKILL)
        for refused in (
            http.post("/v1/jobs", json={"prompt": "x"}),
            http.post("/v1/chat/completions", json=CHAT),
            http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("a.jsonl", b"{}")}),
        ):
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "store_full"
            assert refused.headers["retry-after"]
        assert http.delete(f"/v1/files/{unused}").status_code == 200
        assert http.get("/health/ready").status_code == 200, "what is there is told"
        finished = ended(sdk, batch.id)
        assert (finished.status, finished.request_counts.completed) == ("completed", 400)
        answers = [http.get(f"/v1/jobs/{job}", params={"wait": 30}).json() for job in jobs]
        assert {job["status"] for job in answers} == {"succeeded"}
        assert {job["tier_used"] for job in answers} == {"gpu", "cpu"}
        with own_valkey.client() as client:
            memory = client.info("memory")
            assert memory["used_memory"] > memory["maxmemory"], "all of this was at the limit"
            client.config_set("maxmemory", 0)
        freed = time.monotonic()
        wait_until(lambda: http.post("/v1/jobs", json={"prompt": "x"}).status_code == 202)
        assert time.monotonic() - freed < 3
        check_every_line_once(sdk, finished, [f"c{n}" for n in range(400)])
    assert "Unrecoverable" not in workers[1].log
    assert workers[1].process.poll() is None, workers[1].log
