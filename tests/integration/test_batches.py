"""Files and batches with the stock openai SDK, over real processes."""

from __future__ import annotations

import signal
import time

import httpx
import msgspec
import openai
import pytest
from harness.batches import check_every_line_once, ended, jsonl, line, read, start, upload
from harness.records import slice_unit
from harness.stores import store_on
from harness.waiting import wait_until

from fallback_chain import Tokens
from tasks.records.batches import LineResult
from tasks.store.keyspace import PREFIX


@pytest.fixture
def api(fleet):
    return fleet.api().start()


@pytest.fixture
def worker(fleet, api):
    return fleet.worker(slice_lines=16).start()


@pytest.fixture
def sdk(api):
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def test_a_thousand_lines_come_back_each_once(sdk, worker, gpu):
    gpu.plan = lambda call: "400" if call.prompt.endswith("7") else "ok"
    lines = [line(f"c{n}", f"prompt {n}") for n in range(1000)]
    batch = start(sdk, lines, metadata={"team": "blue"})
    assert batch.status in {"validating", "in_progress"}
    done = ended(sdk, batch.id)
    assert done.status == "completed"
    output, errors = check_every_line_once(sdk, done, [each["custom_id"] for each in lines])
    assert len(errors) == 100
    assert {each["response"]["status_code"] for each in errors} == {400}
    assert errors[0]["response"]["body"]["error"]["message"] == "n is too large"
    first = next(each for each in output if each["custom_id"] == "c0")
    assert first["response"]["body"]["choices"][0]["message"]["content"] == "gpu-model: prompt 0"
    assert first["fallthrough"]["tier_used"] == "gpu"
    assert first["fallthrough"]["attempts"][0]["verdict"] == "answered"
    assert done.usage.output_tokens == 1800
    assert done.metadata == {"team": "blue"}
    assert len(gpu.calls) == 1000
    assert None not in {done.in_progress_at, done.finalizing_at, done.completed_at}
    assert done.expires_at == pytest.approx(done.created_at + 86_400, abs=1)


def test_legacy_completions(sdk, worker):
    lines = [
        {"custom_id": f"c{n}", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}}
        for n in range(3)
    ]
    done = ended(sdk, start(sdk, lines, endpoint="/v1/completions").id)
    output, _ = check_every_line_once(sdk, done, ["c0", "c1", "c2"])
    assert output[0]["response"]["body"]["choices"][0]["text"] == "gpu-model: x"


def test_files_are_uploaded_listed_read_and_deleted(sdk):
    content = jsonl([line("a", "x")])
    file = sdk.files.create(
        file=("in.jsonl", content),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 7200},
    )
    assert (file.bytes, file.filename, file.purpose) == (len(content), "in.jsonl", "batch")
    assert file.expires_at == file.created_at + 7200
    assert [each.id for each in sdk.files.list()] == [file.id]
    assert sdk.files.retrieve(file.id) == file
    assert sdk.files.content(file.id).content == content
    assert sdk.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        sdk.files.retrieve(file.id)
    assert list(sdk.files.list()) == []


def test_a_failed_validation_names_every_line(sdk, worker):
    lines = [line("a", "x"), line("a", "y"), {"custom_id": "b"}, "text"]
    done = ended(sdk, start(sdk, lines).id)
    assert done.status == "failed"
    assert [(e.code, e.line) for e in done.errors.data] == [
        ("duplicate_custom_id", 2),
        ("missing_required_parameter", 3),
        ("invalid_request", 4),
    ]
    assert done.output_file_id is None


def test_cancelling_keeps_what_is_finished_and_names_the_rest(sdk, worker, gpu):
    gpu.delay = 0.1
    lines = [line(f"c{n}", f"prompt {n}") for n in range(2000)]
    batch = start(sdk, lines)
    wait_until(lambda: sdk.batches.retrieve(batch.id).request_counts.completed > 50)
    asked = time.monotonic()
    assert sdk.batches.cancel(batch.id).status == "cancelling"
    done = ended(sdk, batch.id)
    assert time.monotonic() - asked < 3
    assert done.status == "cancelled"
    output, errors = check_every_line_once(sdk, done, [each["custom_id"] for each in lines])
    assert len(output) > 50
    assert {each["error"]["code"] for each in errors} == {"batch_cancelled"}
    calls = len(gpu.calls)
    time.sleep(0.3)
    assert len(gpu.calls) == calls


def test_an_expired_batch_keeps_what_is_finished(sdk, worker, gpu, cpu):
    cpu.mode = "hang"
    gpu.plan = lambda call: "ok" if int(call.prompt) < 20 else "hang"
    lines = [line(f"c{n}", str(n)) for n in range(100)]
    done = ended(sdk, start(sdk, lines, completion_window="2s").id)
    assert done.status == "expired"
    output, errors = check_every_line_once(sdk, done, [each["custom_id"] for each in lines])
    assert len(output) >= 20
    assert {each["error"]["code"] for each in errors} <= {"batch_expired"}


def test_lines_wait_while_no_tier_can_serve(sdk, worker, gpu, cpu):
    gpu.vanish()
    cpu.vanish()
    batch = start(sdk, [line(f"c{n}", str(n)) for n in range(40)])
    time.sleep(2)
    found = sdk.batches.retrieve(batch.id)
    assert (found.status, found.request_counts.failed) == ("in_progress", 0)
    gpu.listen()
    done = ended(sdk, batch.id)
    assert (done.status, done.request_counts.completed) == ("completed", 40)


def test_a_batch_may_choose_degraded_answers(sdk, worker, gpu, cpu):
    gpu.vanish()
    cpu.vanish()
    metadata = {"fallthrough_on_exhausted": "degraded"}
    done = ended(sdk, start(sdk, [line("a", "x")], metadata=metadata).id)
    output, _ = check_every_line_once(sdk, done, ["a"])
    assert output[0]["fallthrough"]["tier_used"] == "degraded"


def test_a_batch_may_fail_what_no_tier_can_answer(sdk, worker, gpu, cpu):
    gpu.vanish()
    cpu.vanish()
    metadata = {"fallthrough_on_exhausted": "fail"}
    done = ended(sdk, start(sdk, [line("a", "x")], metadata=metadata).id)
    assert (done.status, done.output_file_id) == ("completed", None)
    _, errors = check_every_line_once(sdk, done, ["a"])
    assert errors[0]["response"]["status_code"] == 503


def test_what_the_gpu_cannot_answer_the_cpu_does(sdk, worker, gpu, cpu):
    gpu.plan = lambda call: "no-choices" if int(call.prompt) % 10 == 3 else "ok"
    lines = [line(f"c{n}", str(n)) for n in range(100)]
    done = ended(sdk, start(sdk, lines).id)
    output, _ = check_every_line_once(sdk, done, [each["custom_id"] for each in lines])
    assert {each["fallthrough"]["tier_used"] for each in output} == {"gpu", "cpu"}


def test_lines_that_left_early_and_end_last_are_joined_with_their_mates(sdk, worker, gpu, cpu):
    gpu.plan = lambda call: "no-choices" if int(call.prompt) % 10 == 3 else "ok"
    cpu.delay = 0.8
    real = gpu._answer

    async def slow_if_good(call, writer):
        gpu.delay = 0.0 if int(call.prompt) % 10 == 3 else 0.4
        return await real(call, writer)

    gpu._answer = slow_if_good
    lines = [line(f"c{n}", str(n)) for n in range(64)]
    done = ended(sdk, start(sdk, lines).id)
    output, _ = check_every_line_once(sdk, done, [each["custom_id"] for each in lines])
    tiers = [each["fallthrough"]["tier_used"] for each in output]
    assert tiers.count("cpu") >= 3


def test_results_are_paged_while_it_runs_and_after(api, sdk, worker, gpu):
    gpu.delay = 0.05
    lines = [line(f"c{n}", str(n)) for n in range(400)]
    batch = start(sdk, lines)
    seen, after, live = [], "0.0", 0
    until = time.monotonic() + 30
    while time.monotonic() < until:
        page = httpx.get(
            f"{api.url}/v1/batches/{batch.id}/results", params={"after": after, "limit": 50}
        ).json()
        seen += [each["custom_id"] for each in page["data"]]
        live += page["status"] == "in_progress" and bool(page["data"])
        after = page["next"]
        if page["done"]:
            break
        if not page["data"]:
            time.sleep(0.02)
    assert sorted(seen) == sorted(each["custom_id"] for each in lines)
    assert live > 1


def test_batches_are_listed_and_belong_to_files_that_stay(sdk, worker, gpu):
    gpu.mode = "hang"
    batches = [start(sdk, [line("a", "x")]) for _ in range(3)]
    page = sdk.batches.list(limit=2)
    assert [each.id for each in page.data] == [batches[2].id, batches[1].id]
    assert [each.id for each in sdk.batches.list()] == [b.id for b in reversed(batches)]
    with pytest.raises(openai.ConflictError) as error:
        sdk.files.delete(batches[0].input_file_id)
    assert batches[0].id in str(error.value)
    sdk.batches.cancel(batches[0].id)
    ended(sdk, batches[0].id)
    assert sdk.files.delete(batches[0].input_file_id).deleted


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input_file_id": "file-unknown"}, "input_file_id"),
        ({"endpoint": "/v1/embeddings"}, "endpoint"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"completion_window": "8d"}, "completion_window"),
        ({"metadata": {"priority": "urgent"}}, "metadata.priority"),
        ({"metadata": {"fallthrough_cache": "always"}}, "metadata.fallthrough_cache"),
        ({"metadata": {"fallthrough_magic": "1"}}, "metadata.fallthrough_magic"),
    ],
)
def test_a_batch_that_makes_no_sense_is_refused(sdk, fields, param):
    good = {"input_file_id": upload(sdk, jsonl([line("a", "x")])), "endpoint": line("", "")["url"]}
    with pytest.raises(openai.BadRequestError) as error:
        sdk.batches.create(**{**good, "completion_window": "24h", **fields})
    assert error.value.param == param


@pytest.mark.parametrize(
    ("name", "purpose", "param"),
    [("in.txt", "batch", "file"), ("in.jsonl", "fine-tune", "purpose")],
)
def test_an_upload_that_makes_no_sense_is_refused(sdk, name, purpose, param):
    with pytest.raises(openai.BadRequestError) as error:
        sdk.files.create(file=(name, b"x"), purpose=purpose)
    assert error.value.param == param


def test_a_create_sent_again_finds_what_it_made(api, sdk, worker):
    content = jsonl([line("a", "x")])
    again = {"x-stainless-retry-count": "1"}
    first = sdk.files.create(file=("in.jsonl", content), purpose="batch")
    same = sdk.files.create(file=("in.jsonl", content), purpose="batch", extra_headers=again)
    other = sdk.files.create(file=("in.jsonl", content), purpose="batch")
    assert same.id == first.id != other.id

    def create(**headers):
        return sdk.batches.create(
            input_file_id=first.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            extra_headers=headers,
        ).id

    batch = create()
    assert create(**again) == batch
    assert create() != batch
    keyed = create(**{"Idempotency-Key": "k1"})
    assert create(**{"Idempotency-Key": "k1"}) == keyed != create(**{"Idempotency-Key": "k2"})

    def job(**headers):
        return httpx.post(f"{api.url}/v1/jobs", json={"prompt": "x"}, headers=headers).json()["id"]

    made = job(**{"x-stainless-retry-count": "0"})
    assert job(**again) == made
    assert job(**{"Idempotency-Key": "k1"}) == job(**{"Idempotency-Key": "k1"}) != made

    requests = {"requests": [{"prompt": "a"}, {"prompt": "b"}]}
    keyed = {"Idempotency-Key": "list"}
    one, two = (
        httpx.post(f"{api.url}/v1/jobs", json=requests, headers=keyed).json() for _ in range(2)
    )
    assert [j["id"] for j in one["data"]] == [j["id"] for j in two["data"]]


def test_nothing_of_a_batch_is_left_behind(sdk, worker, valkey, tmp_path):
    done = ended(sdk, start(sdk, [line(f"c{n}", str(n)) for n in range(100)]).id)
    assert read(sdk, done.output_file_id)

    def left():
        with valkey.client() as client:
            patterns = (
                f"{PREFIX}part:*",
                f"{PREFIX}job:unit_*",
                f"{PREFIX}batch:*:units",
                f"{PREFIX}batch:*:slices",
            )
            return [key for pattern in patterns for key in client.scan_iter(pattern)]

    wait_until(lambda: not left())
    for folder in ("parts", "unfinished"):
        assert not list((tmp_path / "files" / folder).iterdir())


def test_a_file_beyond_200_mb_is_refused_and_leaves_nothing(api, tmp_path):
    for extra, status in ((0, 200), (1, 413)):
        large = tmp_path / "large.jsonl"
        with large.open("wb") as file:
            file.truncate(200 * 1024 * 1024 + extra)
        with large.open("rb") as file:
            reply = httpx.post(
                f"{api.url}/v1/files", files={"file": file}, data={"purpose": "batch"}, timeout=60
            )
        assert reply.status_code == status, reply.text
    assert reply.json()["error"]["code"] == "file_too_large"
    assert len(list((tmp_path / "files" / "content").iterdir())) == 1


def test_batches_share_the_fleet_and_a_low_priority_gets_less(fleet, sdk, gpu):
    fleet.worker("batch", slice_lines=8, gpu_concurrency=16, batch_window=16).start()
    gpu.delay = 0.02
    first = start(sdk, [line(f"c{n}", str(n)) for n in range(3000)])
    wait_until(lambda: sdk.batches.retrieve(first.id).request_counts.completed > 200)
    second = start(sdk, [line(f"c{n}", str(n)) for n in range(3000)])
    low = start(sdk, [line(f"c{n}", str(n)) for n in range(3000)], metadata={"priority": "low"})

    def done(batch):
        return sdk.batches.retrieve(batch.id).request_counts.completed

    wait_until(lambda: done(second) > 100, what="a second batch does not wait for the first")
    before = [done(batch) for batch in (first, second, low)]
    wait_until(lambda: done(second) > before[1] + 400)
    made = [done(b) - n for b, n in zip((first, second, low), before, strict=True)]
    assert 0.5 < made[0] / made[1] < 2
    assert made[2] < made[1] / 2
    for batch in (first, second, low):
        sdk.batches.cancel(batch.id)


def test_lone_requests_are_never_behind_a_batch(fleet, api, sdk, gpu):
    fleet.worker("interactive").start()
    fleet.worker("batch").start()
    gpu.delay = 0.2
    body = {"messages": [{"role": "user", "content": "x"}]}

    def p95():
        took = []
        for _ in range(30):
            began = time.monotonic()
            httpx.post(f"{api.url}/v1/chat/completions", json=body, timeout=30).raise_for_status()
            took.append(time.monotonic() - began)
        return sorted(took)[28]

    idle = p95()
    batch = start(sdk, [line(f"c{n}", str(n)) for n in range(20_000)])
    wait_until(lambda: sdk.batches.retrieve(batch.id).request_counts.completed > 0)
    assert p95() < 2 * idle
    assert sdk.batches.retrieve(batch.id).status == "in_progress"
    sdk.batches.cancel(batch.id)


def lone_p95(api):
    body, took = {"messages": [{"role": "user", "content": "x"}]}, []
    for _ in range(20):
        began = time.monotonic()
        httpx.post(f"{api.url}/v1/chat/completions", json=body, timeout=30).raise_for_status()
        took.append(time.monotonic() - began)
    return sorted(took)[18]


@pytest.mark.parametrize("crowd", [(1, 64), (4, 16)])
def test_a_worker_for_all_queues_answers_lone_requests_before_its_batches(
    fleet, api, sdk, gpu, crowd
):
    batches, places = crowd  # the many batches want more threads than there are
    fleet.worker(gpu_concurrency=places).start()
    gpu.delay = 0.2
    idle = lone_p95(api)
    lines = [line(f"c{n}", str(n)) for n in range(5_000)]
    running = [start(sdk, lines) for _ in range(batches)]
    wait_until(lambda: sdk.batches.retrieve(running[0].id).request_counts.completed > 0)
    wait_until(lambda: sdk.batches.retrieve(running[-1].id).status == "in_progress")
    assert lone_p95(api) < 2.5 * idle
    for batch in running:
        assert sdk.batches.cancel(batch.id).status == "cancelling"


def test_batches_beyond_what_a_worker_runs_at_once_all_end(fleet, sdk, gpu):
    worker = fleet.worker(slice_lines=4, gpu_concurrency=4).start()
    gpu.delay = 0.01
    gpu.plan = lambda call: "no-choices" if int(call.prompt) % 10 == 3 else "ok"
    lines = [line(f"c{n}", str(n)) for n in range(100)]
    batches = [start(sdk, lines) for _ in range(4)]
    wait_until(lambda: sdk.batches.retrieve(batches[-1].id).request_counts.completed > 0)
    worker.signal(signal.SIGTERM)
    assert worker.wait(30) == 0, worker.log
    worker.start()
    for batch in batches:
        done = ended(sdk, batch.id)
        check_every_line_once(sdk, done, [each["custom_id"] for each in lines])
    assert "unbegun" not in worker.log


@pytest.mark.parametrize("said", [True, -1, 10**30])
def test_a_server_that_counts_tokens_badly_does_no_harm(sdk, worker, gpu, said):
    usage = {"prompt_tokens": said, "completion_tokens": said}
    real = gpu._completion
    gpu._completion = lambda call: {**real(call), "usage": usage}
    done = ended(sdk, start(sdk, [line(f"c{n}", str(n)) for n in range(40)]).id)
    assert (done.status, done.request_counts.completed, done.usage) == ("completed", 40, None)


def test_usage_tells_cached_and_reasoning_tokens(sdk, worker, gpu):
    usage = {
        "prompt_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens": 7,
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    real = gpu._completion
    gpu._completion = lambda call: {**real(call), "usage": usage}
    used = ended(sdk, start(sdk, [line(f"u{n}", str(n)) for n in range(20)]).id).usage
    assert (used.input_tokens, used.input_tokens_details.cached_tokens) == (200, 80)
    assert (used.output_tokens, used.output_tokens_details.reasoning_tokens) == (140, 60)


async def test_a_slice_whose_last_line_came_from_elsewhere_is_joined(sdk, worker, gpu, valkey):
    gpu.mode = "hang"
    batch = start(sdk, [line("a", "x")])
    wait_until(lambda: gpu.calls)
    store = store_on(valkey.url)
    unit = slice_unit(id="unit_other", lease_owner="other", batch=batch.id)
    said = LineResult(0, good=True, content=b'{"custom_id":"a"}', counted_as="gpu:succeeded")
    said = msgspec.structs.replace(said, tokens=Tokens(10**30))
    await store.batches.record_lines(unit, [said])
    await store.close()
    done = ended(sdk, batch.id)
    assert (done.status, done.request_counts.completed) == ("completed", 1)


def test_answers_with_line_breaks_of_every_kind_stay_one_line(sdk, worker, gpu):
    text = "a\u2028b\u2029c\x85d"
    said = f'{{"choices":[\r{{"message":\r\n{{"content":"{text}"}}}}]}}'.encode()
    gpu._completion = lambda call: said
    done = ended(sdk, start(sdk, [line(f"{n}{text}", "x") for n in range(3)]).id)
    output, _ = check_every_line_once(sdk, done, [f"{n}{text}" for n in range(3)])
    assert output[0]["response"]["body"]["choices"][0]["message"]["content"] == text


def test_an_answer_that_is_no_text_falls_through(sdk, worker, gpu):
    gpu._completion = lambda call: b'{"choices":[{"message":{"content":"x"}}],"note":"\xff"}'
    done = ended(sdk, start(sdk, [line("a", "x")]).id)
    output, _ = check_every_line_once(sdk, done, ["a"])
    assert output[0]["fallthrough"]["tier_used"] == "cpu"


def test_a_batch_cancelled_before_it_is_validated_names_every_line(fleet, sdk, gpu):
    batch = start(sdk, [line(f"c{n}", str(n)) for n in range(300)])
    bad = start(sdk, ["no line"])
    for each in (batch, bad):
        assert sdk.batches.cancel(each.id).status == "cancelling"
        assert sdk.batches.cancel(each.id).status == "cancelling"
    fleet.worker().start()
    done = ended(sdk, batch.id)
    assert (done.status, done.request_counts.total) == ("cancelled", 300)
    _, errors = check_every_line_once(sdk, done, [f"c{n}" for n in range(300)])
    assert {each["error"]["code"] for each in errors} == {"batch_cancelled"}
    assert sdk.batches.cancel(batch.id).status == "cancelled"
    failed = ended(sdk, bad.id)
    assert (failed.status, failed.errors.data[0].line) == ("failed", 1)
    assert not gpu.calls


def test_a_batch_expired_before_it_is_validated_names_every_line(fleet, sdk, gpu):
    batch = start(sdk, [line(f"c{n}", str(n)) for n in range(300)], completion_window="1s")
    fleet.worker("interactive").start()  # it sweeps, and validates nothing
    wait_until(lambda: sdk.batches.retrieve(batch.id).status == "finalizing")
    fleet.worker("batch").start()
    done = ended(sdk, batch.id)
    assert (done.status, done.request_counts.total) == ("expired", 300)
    _, errors = check_every_line_once(sdk, done, [f"c{n}" for n in range(300)])
    assert {each["error"]["code"] for each in errors} == {"batch_expired"}
    assert not gpu.calls


def test_expired_files_that_are_in_use_keep_no_others_from_being_deleted(
    fleet, sdk, gpu, valkey, tmp_path
):
    gpu.mode = "hang"
    with valkey.client() as client:
        client.sadd(f"{PREFIX}file:file-used:batches", "batch_x")
        client.hset(f"{PREFIX}batch:batch_x", "status", "in_progress")
        for number in range(100):  # as many as a sweep takes
            name = f"file-used{number}"
            client.sadd(f"{PREFIX}file:{name}:batches", "batch_x")
            client.hset(f"{PREFIX}file:{name}", mapping={"id": name, "owner": "default"})
            client.zadd(f"{PREFIX}file_expiry", {name: 1})
        file = upload(sdk, jsonl([line("a", "x")]))
        client.zadd(f"{PREFIX}file_expiry", {file: 2})
        fleet.worker("interactive").start()
        wait_until(lambda: not (tmp_path / "files" / "content" / file).exists())
        assert client.exists(f"{PREFIX}file:file-used7")
