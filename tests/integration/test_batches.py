"""Files and batches with the stock openai SDK, over real processes."""

from __future__ import annotations

import time

import httpx
import openai
import pytest
from harness.batches import FINAL, check_every_line_once, ended, jsonl, line, read, start, upload
from harness.waiting import wait_until

from tasks.store.keyspace import PREFIX

KEYS = [f"key-of-owner-{n:03}" for n in range(100)]


@pytest.fixture(scope="module")
def api(module_fleet):
    """One API, beside one worker, for this whole file; each test is an owner of its own."""
    keys = ",".join(f"owner-{n}={key}" for n, key in enumerate(KEYS))
    api, _ = module_fleet.start(
        module_fleet.api(api_keys=keys),
        module_fleet.worker(slice_lines=16, gpu_timeout_seconds=20),
    )
    return api


@pytest.fixture
def gpu(module_gpu):
    with module_gpu.lent() as gpu:
        yield gpu


@pytest.fixture
def files(module_fleet):
    return module_fleet.folder / "files"


@pytest.fixture(scope="module")
def unused_keys():
    return iter(KEYS)


@pytest.fixture
def key(unused_keys):
    return next(unused_keys)


@pytest.fixture
def sdk(api, key, gpu):
    """The SDK as an owner who has nothing yet; afterwards nothing of theirs runs."""
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key=key, max_retries=0) as client:
        yield client
        for batch in client.batches.list():
            if batch.status not in FINAL:
                client.batches.cancel(batch.id)
            ended(client, batch.id)


@pytest.fixture
def http(api, key, gpu):
    """The same owner, without the SDK."""
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=f"{api.url}/v1", headers=headers, timeout=60) as client:
        yield client
        jobs = client.get("/jobs").json()["data"]
        for job in jobs:
            client.get(f"/jobs/{job['id']}", params={"wait": 20})


def test_a_thousand_lines_come_back_each_once(sdk, gpu):
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


def test_legacy_completions(sdk):
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


def test_a_failed_validation_names_every_line(sdk):
    lines = [line("a", "x"), line("a", "y"), {"custom_id": "b"}, "text"]
    done = ended(sdk, start(sdk, lines).id)
    assert done.status == "failed"
    assert [(e.code, e.line) for e in done.errors.data] == [
        ("duplicate_custom_id", 2),
        ("missing_required_parameter", 3),
        ("invalid_request", 4),
    ]
    assert done.output_file_id is None


def test_cancelling_keeps_what_is_finished_and_names_the_rest(sdk, gpu):
    gpu.delay = 0.1
    lines = [line(f"c{n}", f"prompt {n}") for n in range(2000)]
    batch = start(sdk, lines)
    wait_until(lambda: sdk.batches.retrieve(batch.id).request_counts.completed > 50)
    asked = time.monotonic()
    assert sdk.batches.cancel(batch.id).status == "cancelling"
    done = ended(sdk, batch.id)
    assert time.monotonic() - asked < 8
    assert done.status == "cancelled"
    output, errors = check_every_line_once(sdk, done, [each["custom_id"] for each in lines])
    assert len(output) > 50
    assert {each["error"]["code"] for each in errors} == {"batch_cancelled"}
    calls = len(gpu.calls)
    ended(sdk, start(sdk, [line("after", "x")]).id)
    assert len(gpu.calls) == calls + 1, "nothing but the batch after it was asked for"


def test_results_are_paged_while_it_runs_and_after(http, sdk, gpu):
    gpu.delay = 0.05
    lines = [line(f"c{n}", str(n)) for n in range(400)]
    batch = start(sdk, lines)
    seen, after, live = [], "0.0", 0

    def read_on():
        nonlocal after, live
        params = {"after": after, "limit": 50}
        page = http.get(f"/batches/{batch.id}/results", params=params).json()
        seen.extend(each["custom_id"] for each in page["data"])
        live += page["status"] == "in_progress" and bool(page["data"])
        after = page["next"]
        return page["done"]

    wait_until(read_on, 30)
    assert sorted(seen) == sorted(each["custom_id"] for each in lines)
    assert live > 1


def test_batches_are_listed_and_belong_to_files_that_stay(sdk, gpu):
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
        ({"endpoint": "/v1/moderations"}, "endpoint"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"completion_window": "8d"}, "completion_window"),
        ({"metadata": {"priority": "urgent"}}, "metadata.priority"),
        ({"metadata": {"fallthrough_cache": "always"}}, "metadata.fallthrough_cache"),
        ({"metadata": {"fallthrough_tiers": "gpu,moon"}}, "metadata.fallthrough_tiers"),
        ({"metadata": {"fallthrough_tiers": ""}}, "metadata.fallthrough_tiers"),
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


def test_a_create_sent_again_finds_what_it_made(http, sdk):
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
        return http.post("/jobs", json={"prompt": "x"}, headers=headers).json()["id"]

    made = job(**{"x-stainless-retry-count": "0"})
    assert job(**again) != made, "its caller was told of it: the same words are another's"
    assert job(**{"Idempotency-Key": "k1"}) == job(**{"Idempotency-Key": "k1"}) != made

    requests = {"requests": [{"prompt": "a"}, {"prompt": "b"}]}
    keyed = {"Idempotency-Key": "list"}
    one, two = (http.post("/jobs", json=requests, headers=keyed).json() for _ in range(2))
    assert [j["id"] for j in one["data"]] == [j["id"] for j in two["data"]]


def test_nothing_of_a_batch_is_left_behind(sdk, module_valkey, files):
    done = ended(sdk, start(sdk, [line(f"c{n}", str(n)) for n in range(100)]).id)
    assert read(sdk, done.output_file_id)

    def left():
        with module_valkey.client() as client:
            patterns = (
                f"{PREFIX}part:*",
                f"{PREFIX}job:unit_*",
                f"{PREFIX}batch:*:units",
            )
            return [key for pattern in patterns for key in client.scan_iter(pattern)]

    wait_until(lambda: not left())
    with module_valkey.client() as client:
        assert client.ttl(f"{PREFIX}batch:{done.id}:slices") > 0
    for folder in ("parts", "unfinished"):
        assert not list((files / folder).iterdir())


def test_a_file_beyond_200_mb_is_refused_and_leaves_nothing(http, tmp_path, files):
    before = len(list((files / "content").iterdir()))
    for extra, status in ((0, 200), (1, 413)):
        large = tmp_path / "large.jsonl"
        with large.open("wb") as file:
            file.truncate(200 * 1024 * 1024 + extra)
        with large.open("rb") as file:
            reply = http.post("/files", files={"file": file}, data={"purpose": "batch"})
        assert reply.status_code == status, reply.text
    assert reply.json()["error"]["code"] == "file_too_large"
    assert len(list((files / "content").iterdir())) == before + 1


@pytest.mark.parametrize("said", [True, -1, 10**30])
def test_a_server_that_counts_tokens_badly_does_no_harm(sdk, gpu, said):
    usage = {"prompt_tokens": said, "completion_tokens": said}
    real = gpu._completion
    gpu._completion = lambda call: {**real(call), "usage": usage}
    done = ended(sdk, start(sdk, [line(f"c{n}", str(n)) for n in range(40)]).id)
    assert (done.status, done.request_counts.completed, done.usage) == ("completed", 40, None)


def test_usage_tells_cached_and_reasoning_tokens(sdk, gpu):
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


def test_answers_with_line_breaks_of_every_kind_stay_one_line(sdk, gpu):
    text = "a\u2028b\u2029c\x85d"
    choice = f'{{"message":\r\n{{"content":"{text}"}},"finish_reason":"stop"}}'
    said = f'{{"choices":[\r{choice}]}}'.encode()
    gpu._completion = lambda call: said
    done = ended(sdk, start(sdk, [line(f"{n}{text}", "x") for n in range(3)]).id)
    output, _ = check_every_line_once(sdk, done, [f"{n}{text}" for n in range(3)])
    assert output[0]["response"]["body"]["choices"][0]["message"]["content"] == text
