"""Bad input, sent with the stock openai SDK: a clear error on each, nothing lost or leaked."""

from __future__ import annotations

import openai
import pytest
from harness.batches import (
    CHAT,
    check_every_line_once,
    ended,
    jsonl,
    line,
    read,
    start,
    upload,
)
from harness.waiting import wait_until

from tasks.store.keyspace import PREFIX

A, B = jsonl([line("a", "x")]), jsonl([line("b", "y")])
LEGACY = {"custom_id": "b", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}}
BAD = {
    "empty": (b"", [("empty_file", None)]),
    "nothing but blank lines": (b"\n \r\n", [("empty_file", None)]),
    "a line of 5 MB": (A + jsonl([line("b", "x" * 5_000_000)]), [("line_too_large", 2)]),
    "no UTF-8 where it is read": (A + B.replace(b'"y"', b'"\xff"'), [("invalid_json_line", 2)]),
    "no UTF-8 elsewhere": (
        A + jsonl([line("b", "y", user="?")]).replace(b"?", b"\xff"),
        [("invalid_json_line", 2)],
    ),
    "UTF-16": (A.decode().encode("utf-16"), [("invalid_json_line", 1), ("invalid_json_line", 2)]),
    "NUL bytes": (A + b"\0\0\n" + B, [("invalid_json_line", 2)]),
    "a number that is none": (
        A + jsonl([line("b", "y", top_p=7)]).replace(b"7", b"1e999"),
        [("invalid_json_line", 2)],
    ),
    "a number of 5 000 digits": (
        A + jsonl([line("b", "y", n=7)]).replace(b"7", b"7" * 5_000),
        [("invalid_json_line", 2)],
    ),
    "duplicate custom_ids": (A + B + A, [("duplicate_custom_id", 3)]),
    "no custom_id": (A + B.replace(b"custom_id", b"id"), [("missing_required_parameter", 2)]),
    "a custom_id that is no text": (A + B.replace(b'"b"', b"7"), [("invalid_request", 2)]),
    "a wrong url": (A + B.replace(b"/chat/completions", b"/embeddings"), [("url_mismatch", 2)]),
    "mixed endpoints": (
        A + jsonl([LEGACY]),
        [("url_mismatch", 2), ("invalid_request", 2)],  # it has no messages either
    ),
    "a body that is no object": (
        A + jsonl([{**line("b", ""), "body": [1]}]),
        [("invalid_request", 2)],
    ),
    "a body without messages": (
        A + jsonl([{**line("b", ""), "body": {}}]),
        [("invalid_request", 2)],
    ),
    "a line that is no object": (A + b'"text"\n' + B, [("invalid_request", 2)]),
    "half a line": (A + B[:30], [("invalid_json_line", 2)]),
    "50 001 lines": (
        jsonl([line(f"c{n}", "x") for n in range(50_001)]),
        [("too_many_tasks", 50_001)],
    ),
    "two models": (
        jsonl([line("a", "x", model="m"), line("b", "x", model="n")]),
        [("model_mismatch", 2)],
    ),
}
GOOD = {
    "BOM": b"\xef\xbb\xbf" + A + B,
    "CRLF": (A + B).replace(b"\n", b"\r\n"),
    "blank lines, and no end of the last": A + b"\n\n  \n" + B[:-1],
}


@pytest.fixture
def stack(fleet):
    return fleet.start(fleet.api(), fleet.worker(slice_lines=16, batch_window=1))


@pytest.fixture
def worker(stack):
    return stack[1]


@pytest.fixture
def sdk(stack):
    with openai.OpenAI(base_url=f"{stack[0].url}/v1", api_key="any") as client:
        yield client


def create(sdk, content):
    return sdk.batches.create(
        input_file_id=upload(sdk, content), endpoint=CHAT, completion_window="24h"
    )


def check_nothing_is_left(sdk, valkey, files):
    """Delete what the owner can delete, then look for anything else."""
    for file in sdk.files.list(limit=100):
        sdk.files.delete(file.id)
    patterns = ("part:*", "job:*", "file:*", "batch:*:units", "dispatched:*")
    indexes = ("leases", "parked", "deadlines")
    with valkey.client() as client:

        def left():
            keys = [key for p in patterns for key in client.scan_iter(f"{PREFIX}{p}")]
            keys += [name for name in indexes if client.exists(f"{PREFIX}{name}")]
            expiring = client.zrange(f"{PREFIX}file_expiry", 0, -1)
            # What a batch leaves is looked for once more, later.
            return keys + [name for name in expiring if not name.startswith(b"batch_")]

        wait_until(lambda: not left(), what=f"nothing is left but {left()}")
        kept = [*client.scan_iter(f"{PREFIX}batch:*"), *client.scan_iter(f"{PREFIX}once:*")]
        assert [key for key in kept if client.ttl(key) < 0] == []
    assert [path for path in files.rglob("*") if path.is_file()] == []


def test_every_bad_file_gets_a_clear_error_and_leaves_nothing(sdk, worker, gpu, valkey, tmp_path):
    bad = {name: create(sdk, content) for name, (content, _) in BAD.items()}
    good = {name: create(sdk, content) for name, content in GOOD.items()}
    for name, batch in bad.items():
        done = ended(sdk, batch.id)
        found = [(error.code, error.line) for error in done.errors.data]
        assert (name, done.status, found) == (name, "failed", BAD[name][1])
        assert all(error.message for error in done.errors.data)
        assert (done.output_file_id, done.error_file_id) == (None, None)
    for batch in good.values():
        output, _ = check_every_line_once(sdk, ended(sdk, batch.id), ["a", "b"])
        assert len(output) == 2
    assert len(gpu.calls) == 2 * len(GOOD)
    assert "Traceback" not in worker.log
    check_nothing_is_left(sdk, valkey, tmp_path / "files")


def test_a_file_of_more_than_200_mb_is_refused_and_leaves_nothing(sdk, valkey, tmp_path):
    large = tmp_path / "large.jsonl"
    with large.open("wb") as file:
        file.truncate(200 * 1024 * 1024 + 1)
    with pytest.raises(openai.APIStatusError) as error:
        sdk.files.create(file=large, purpose="batch")
    assert (error.value.status_code, error.value.code) == (413, "file_too_large")
    check_nothing_is_left(sdk, valkey, tmp_path / "files")


@pytest.mark.parametrize("ending", ["completed", "cancelled"])
def test_lines_that_changed_since_their_validation_end_as_error_lines(sdk, gpu, tmp_path, ending):
    gpu.delay = 0.2  # slice after slice: the last ones are read later
    ids = [f"c{n}" for n in range(96)]
    batch = start(sdk, [line(name, "x", user="?") for name in ids])
    wait_until(lambda: gpu.calls)
    path = tmp_path / "files" / "content" / batch.input_file_id
    lines = path.read_bytes().split(b"\n")
    lines[-2] = lines[-2].replace(b"?", b"\xff")
    lines[-3] = lines[-3].replace(b'"c94"', b"     ")
    with path.open("r+b") as file:
        file.write(b"\n".join(lines))
    if ending == "cancelled":
        sdk.batches.cancel(batch.id)
    done = ended(sdk, batch.id)
    assert done.status == ending
    output, errors = check_every_line_once(sdk, done, [None if i == "c94" else i for i in ids])
    if ending == "completed":
        assert len(output) == 94
        assert [each["error"]["code"] for each in errors] == ["invalid_json_line"] * 2


def test_a_file_that_is_gone_while_its_batch_runs_ends_it_with_an_error(sdk, gpu, tmp_path):
    gpu.delay = 0.2
    files, ids = tmp_path / "files", [f"c{n}" for n in range(96)]
    named, nameless = (start(sdk, [line(name, "x") for name in ids]) for _ in range(2))
    for batch in (named, nameless):
        wait_until(lambda it=batch: sdk.batches.retrieve(it.id).request_counts.completed >= 16)
        (files / "content" / batch.input_file_id).unlink()
    (files / "names" / f"{nameless.id}.jsonl").unlink()
    for batch in (named, nameless):
        done = ended(sdk, batch.id)
        assert (done.status, done.errors.data[0].code) == ("completed", "file_not_found")
        output = read(sdk, done.output_file_id)
        known = [each["custom_id"] for each in output] + [None] * (96 - len(output))
        _, errors = check_every_line_once(sdk, done, ids if batch is named else known)
        assert len(output) >= 16
        assert {each["error"]["code"] for each in errors} == {"file_not_found"}


def test_nothing_is_left_of_a_batch_whose_file_was_gone(sdk, gpu, valkey, tmp_path):
    gpu.delay = 0.2
    batch = start(sdk, [line(f"c{n}", "x") for n in range(96)])
    wait_until(lambda: gpu.calls)
    (tmp_path / "files" / "content" / batch.input_file_id).unlink()
    assert ended(sdk, batch.id).error_file_id
    check_nothing_is_left(sdk, valkey, tmp_path / "files")
