"""Files: what an upload, a list and a download do, on a local folder and on S3."""

from __future__ import annotations

import json
import shutil
import time

import httpx
import openai
import pytest
from harness.batches import check_every_line_once, ended, jsonl, line, start, upload
from harness.processes import Fleet
from harness.s3 import S3Server
from harness.upstream import Upstream
from harness.waiting import wait_until

CONTENT = jsonl([line("a", "x")])
ONE_HOUR = {"anchor": "created_at", "seconds": 3600}


@pytest.fixture(scope="module")
def stack(tmp_path_factory, valkey_session):
    """One API and one worker for those tests of this file that leave them whole."""
    gpu = Upstream("gpu-model")
    folder = tmp_path_factory.mktemp("files")
    with valkey_session.client() as client:  # breakers, too, that a file before has opened
        client.flushall()
    environ = {
        "FALLTHROUGH_REDIS_URL": valkey_session.url,
        "FALLTHROUGH_GPU_URL": gpu.url,
        "FALLTHROUGH_FILES_URL": str(folder),
    }
    fleet = Fleet(tmp_path_factory.mktemp("stack"), environ)
    api, _ = fleet.start(fleet.api(), fleet.worker(slice_lines=32))
    yield api.url, gpu, folder
    fleet.stop()
    gpu.close()


@pytest.fixture(scope="module")
def sdk(stack):
    with client_of(stack[0]) as client:
        yield client


@pytest.fixture(scope="module")
def http(stack):
    with httpx.Client(base_url=f"{stack[0]}/v1", timeout=30) as client:
        yield client


@pytest.fixture
def gpu(stack):
    yield stack[1]
    stack[1].plan = None


def client_of(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)


@pytest.fixture
def s3():
    server = S3Server()
    yield server
    server.close()


def test_everything_a_batch_needs_works_on_s3(own_fleet, s3):
    own_fleet.settings.update(s3.environ, FALLTHROUGH_FILES_URL="s3://bucket/some/prefix")
    api, _ = own_fleet.start(own_fleet.api(), own_fleet.worker(slice_lines=16))
    with client_of(api.url) as sdk:
        lines = [line(f"c{n}", f"prompt {n}") for n in range(100)]
        batch = start(sdk, lines)
        done = ended(sdk, batch.id)
        assert done.status == "completed"
        check_every_line_once(sdk, done, [each["custom_id"] for each in lines])
        page = httpx.get(f"{api.url}/v1/batches/{batch.id}/results").json()
        assert len(page["data"]) == 100
        large = b"x" * (20 * 1024 * 1024 - 1) + b"\n"
        file_id = upload(sdk, large)
        assert sdk.files.content(file_id).content == large
        sdk.files.delete(file_id)
        sdk.files.delete(batch.input_file_id)
    kept = {f"some/prefix/content/{done.output_file_id}"}
    wait_until(lambda: set(s3.objects) == kept, what="its parts and names go as well")
    assert not any(asked.startswith("PUT bucket") for asked in s3.asked), "buckets are the user's"


def test_files_are_listed_by_purpose_and_in_either_order(own_fleet):
    api, _ = own_fleet.start(own_fleet.api(), own_fleet.worker())
    with client_of(api.url) as sdk:
        done = ended(sdk, start(sdk, [line("a", "x")]).id)
        inputs = [done.input_file_id, *(upload(sdk, CONTENT) for _ in range(3))]
        oldest_first = [done.input_file_id, done.output_file_id, *inputs[1:]]
        assert [each.id for each in sdk.files.list(order="asc")] == oldest_first
        assert [each.id for each in sdk.files.list(order="desc")] == oldest_first[::-1]
        outputs = sdk.files.list(purpose="batch_output")
        assert [each.id for each in outputs] == [done.output_file_id]
        assert len(sdk.files.list(purpose="batch", limit=10_000).data) == 4
        one_by_one = sdk.files.list(purpose="batch", limit=1)
        assert [each.id for each in one_by_one] == inputs[::-1]
        page = sdk.files.list(order="asc", limit=2)
        assert (page.has_more, [each.id for each in page.data]) == (True, oldest_first[:2])
        assert [each.id for each in page.get_next_page().data] == oldest_first[2:4]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": "10001"}, "limit"),
        ({"limit": "²"}, "limit"),
        ({"order": "up"}, "order"),
        ({"after": "file-unknown"}, "after"),
    ],
)
def test_a_list_of_files_that_makes_no_sense_is_refused(http, query, param):
    reply = http.get("/files", params=query)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"anchor": "created_at"}, "expires_after.seconds"),
        ({"seconds": "3600"}, "expires_after.anchor"),
        ({"anchor": "last_used", "seconds": "3600"}, "expires_after.anchor"),
        ({"anchor": "created_at", "seconds": "3599"}, "expires_after.seconds"),
        ({"anchor": "created_at", "seconds": "2592001"}, "expires_after.seconds"),
        ({"anchor": "created_at", "seconds": "²"}, "expires_after.seconds"),
        ({"anchor": "created_at", "seconds": "3600.0"}, "expires_after.seconds"),
        ({"anchor": "created_at", "seconds": "9" * 5000}, "expires_after.seconds"),
    ],
)
def test_an_expiry_that_makes_no_sense_is_refused(http, fields, param):
    form = {f"expires_after[{name}]": value for name, value in fields.items()}
    reply = http.post(
        "/files", files={"file": ("a.jsonl", b"1")}, data={"purpose": "batch", **form}
    )
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param), reply.text


def test_output_files_expire_when_the_batch_says(sdk, gpu):
    gpu.plan = lambda call: "400" if call.prompt == "bad" else "ok"
    lines = [line("a", "x"), line("b", "bad")]
    done = ended(sdk, start(sdk, lines, output_expires_after=ONE_HOUR).id)
    for file_id in (done.output_file_id, done.error_file_id):
        file = sdk.files.retrieve(file_id)
        assert file.expires_at == file.created_at + 3600
    assert sdk.batches.retrieve(done.id).status == "completed"
    body = {"input_file_id": done.input_file_id, "endpoint": line("", "")["url"]}
    with pytest.raises(openai.BadRequestError) as error:
        sdk.batches.create(
            **body,
            completion_window="24h",
            output_expires_after={"anchor": "created_at", "seconds": 60},
        )
    assert error.value.param == "output_expires_after.seconds"


def form_of(content_parts):
    head = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    head += b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
    yield head
    yield from content_parts
    yield b"\r\n--x--\r\n"


def test_an_upload_of_unknown_length_is_taken_up_to_the_limit(http):
    headers = {"content-type": "multipart/form-data; boundary=x"}
    made = http.post("/files", content=form_of([CONTENT]), headers=headers)
    assert http.get(f"/files/{made.json()['id']}/content").content == CONTENT
    too_much = (b"x" * 1024 * 1024 for _ in range(201))
    refused = http.post("/files", content=form_of(too_much), headers=headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "file_too_large")


def test_content_that_is_gone_is_a_404_and_not_a_broken_answer(stack, http, sdk):
    file_id = upload(sdk, CONTENT)
    (stack[2] / "content" / file_id).unlink()
    reply = http.get(f"/files/{file_id}/content")
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "file_not_found")


def test_results_of_a_deleted_output_file_are_a_404_that_says_so(http, sdk):
    done = ended(sdk, start(sdk, [line("a", "x")]).id)
    sdk.files.delete(done.output_file_id)
    reply = http.get(f"/batches/{done.id}/results")
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "file_not_found")
    assert done.output_file_id in reply.json()["error"]["message"]


@pytest.fixture(scope="module")
def finished(stack, sdk):
    """A batch of a hundred lines, a tenth of which failed."""
    stack[1].plan = lambda call: "400" if call.prompt.endswith("7") else "ok"
    return ended(sdk, start(sdk, [line(f"c{n}", str(n)) for n in range(100)]).id)


def pages(http, batch_id, limit):
    after = "0.0"
    while True:
        page = http.get(f"/batches/{batch_id}/results", params={"after": after, "limit": limit})
        yield page.json()
        after = page.json()["next"]
        if page.json()["done"]:
            return


@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_pages_of_results_hold_every_line_once(http, finished, limit):
    found = list(pages(http, finished.id, limit))
    seen = [each["custom_id"] for page in found for each in page["data"]]
    assert sorted(seen) == sorted(f"c{n}" for n in range(100))
    assert max(len(page["data"]) for page in found) <= limit
    assert [page["has_more"] for page in found] == [True] * (len(found) - 2) + [False, False]


@pytest.mark.parametrize(
    "after", ["²", "².0", "0.²", "0", "0.", "-1.0", "9" * 30 + ".0", "0.3", "0.999999", "99.5"]
)
def test_a_cursor_that_no_page_gave_is_refused(http, finished, after):
    reply = http.get(f"/batches/{finished.id}/results", params={"after": after})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "after")


@pytest.mark.parametrize("limit", ["0", "1001", "x", "1.5", "²", "9" * 5000])
def test_a_page_size_that_makes_no_sense_is_refused(http, finished, limit):
    reply = http.get(f"/batches/{finished.id}/results", params={"limit": limit})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "limit")


def test_a_page_of_large_results_is_cut_at_8_mb(http, sdk, gpu):
    name, gpu.name = gpu.name, "x" * 1_500_000
    done = ended(sdk, start(sdk, [line(f"c{n}", str(n)) for n in range(12)]).id)
    gpu.name = name
    found = list(pages(http, done.id, 1000))
    sizes = [len(json.dumps(page["data"])) for page in found]
    assert max(sizes) < 11_000_000
    assert [bool(page["data"]) for page in found] == [True, True, False]
    assert [page["has_more"] for page in found] == [True, False, False]
    seen = [each["custom_id"] for page in found for each in page["data"]]
    assert sorted(seen) == sorted(f"c{n}" for n in range(12))


def test_a_storage_that_is_away_is_an_outage_for_who_reads_too(stack, http, sdk, tmp_path):
    file_id = upload(sdk, CONTENT)
    batch_id = ended(sdk, start(sdk, [line("a", "x")]).id).id
    folder, away = stack[2], tmp_path / "away"
    shutil.move(folder, away)
    folder.write_text("in the way")
    try:
        for path in (f"/files/{file_id}/content", f"/batches/{batch_id}/results"):
            reply = http.get(path)
            assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")
            assert str(folder) not in reply.text
    finally:
        folder.unlink()
        shutil.move(away, folder)


def test_a_storage_that_takes_nothing_is_an_outage_and_frees_the_key(stack, http, tmp_path):
    folder, away = stack[2], tmp_path / "away"
    shutil.move(folder, away)
    folder.write_text("in the way")
    headers = {"Idempotency-Key": "k"}

    def send():
        files = {"file": ("a.jsonl", CONTENT)}
        return http.post("/files", files=files, data={"purpose": "batch"}, headers=headers)

    assert (send().status_code, send().headers["retry-after"]) == (503, "5")
    folder.unlink()
    shutil.move(away, folder)
    began = time.monotonic()
    assert send().status_code == 200
    assert time.monotonic() - began < 3
