"""What a user of the stock openai SDK does, with nothing but the SDK and its defaults."""

from __future__ import annotations

import io
import json

import openai
import pytest
from harness.batches import CHAT, FINAL, jsonl, line
from harness.waiting import wait_until

DAY = {"endpoint": CHAT, "completion_window": "24h"}


@pytest.fixture
def client(fleet):
    """A client of an API beside a worker that has room for every line that hangs."""
    worker = fleet.worker(slice_lines=16, gpu_concurrency=64, gpu_timeout_seconds=20)
    api, _ = fleet.start(fleet.api(), worker)
    with client_of(api) as client:
        yield client


@pytest.fixture(scope="module")
def api(module_fleet):
    """One API, and no worker, for those tests that only create."""
    return module_fleet.api().start()


@pytest.fixture
def creator(api):
    with client_of(api) as client:
        yield client


def client_of(api):
    return openai.OpenAI(base_url=f"{api.url}/v1", api_key="any")


def mixed(number):
    """A thousand requests, of many kinds: the last digit says which."""
    kinds = {
        0: {"temperature": 0.2, "max_tokens": 20},
        1: {"messages": [{"role": "system", "content": "brief"}, {"role": "user", "content": "é"}]},
        2: {"seed": 7, "stop": ["\n"]},
        3: {"metadata": {"any": "thing"}, "tools": [], "x": [1, {"y": None}]},
        4: {"messages": [{"role": "user", "content": [{"type": "text", "text": "parts"}]}]},
    }
    prompt = "refused" if number % 10 == 7 else f"prompt {number} \u2028 日本" * (number % 10)
    return line(f"request-{number}", prompt or "short", **kinds.get(number % 10, {}))


def submit(client, lines, **fields):
    file = client.files.create(file=("in.jsonl", io.BytesIO(jsonl(lines))), purpose="batch")
    return client.batches.create(input_file_id=file.id, **{**DAY, **fields})


def poll(client, batch, until=lambda batch: batch.status in FINAL):
    def found():
        now = client.batches.retrieve(batch.id)
        return now if until(now) else None

    return wait_until(found, 60, f"{batch.id} gets on")


def downloaded(client, file_id):
    if file_id is None:
        return []
    return [json.loads(text) for text in client.files.content(file_id).iter_lines()]


def every_line(client, batch):
    """Return output and error lines, which hold every input line once."""
    output = downloaded(client, batch.output_file_id)
    errors = downloaded(client, batch.error_file_id)
    asked = [each["custom_id"] for each in downloaded(client, batch.input_file_id)]
    assert sorted(each["custom_id"] for each in output + errors) == sorted(asked)
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (len(asked), len(output), len(errors))
    return output, errors


def answer_what_can_be(call):
    """Refuse what is to be refused, and leave hanging what never ends."""
    return {"refused": "400", "endless": "hang"}.get(call.prompt, "ok")


LINES, SHORT = 60, 6
HALVES = [line(f"c{n}", "endless" if n < LINES - SHORT else "short") for n in range(LINES)]


def complete_a_thousand_lines(client):
    batch = submit(client, [mixed(n) for n in range(1000)], metadata={"team": "blue"})
    batch = poll(client, batch)
    assert (batch.status, batch.errors) == ("completed", None)
    assert batch.metadata == {"team": "blue"}
    assert batch.usage.total_tokens == 2700
    output, errors = every_line(client, batch)
    assert (len(output), len(errors)) == (900, 100)
    assert {each["response"]["status_code"] for each in output} == {200}
    assert {each["response"]["status_code"] for each in errors} == {400}
    return batch


def cancel_one(client):
    batch = submit(client, HALVES)
    poll(client, batch, lambda now: now.request_counts.completed == SHORT)
    assert client.batches.cancel(batch.id).status == "cancelling"
    return check_halves(client, batch, "cancelled")


def let_one_expire(client):
    return check_halves(client, submit(client, HALVES, completion_window="3s"), "expired")


def check_halves(client, batch, ending):
    """Wait for the batch; a tenth of its lines is answered, the rest says how it ended."""
    batch = poll(client, batch)
    assert batch.status == ending
    output, errors = every_line(client, batch)
    assert len(output) == SHORT
    assert {each["error"]["code"] for each in errors} == {f"batch_{ending}"}
    return batch


def check_and_delete_files(client, batches):
    files = {each.id: each for each in client.files.list()}
    assert len(files) == 3 * len(batches)
    for batch in batches:
        for file_id in (batch.input_file_id, batch.output_file_id, batch.error_file_id):
            assert len(client.files.content(file_id).content) == files[file_id].bytes
            assert client.files.delete(file_id).deleted
    assert list(client.files.list()) == []


def test_a_thousand_lines_one_batch_cancelled_one_expired_all_listed(client, gpu, cpu):
    gpu.plan = answer_what_can_be
    cpu.mode = "hang"
    whole = complete_a_thousand_lines(client)
    stopped = cancel_one(client)
    late = let_one_expire(client)
    listed = list(client.batches.list(limit=1))
    assert [each.id for each in listed] == [late.id, stopped.id, whole.id]
    assert [each.status for each in listed] == ["expired", "cancelled", "completed"]
    check_and_delete_files(client, listed)


def test_a_batch_may_be_cancelled_twice_and_a_completed_one_stays(client, gpu):
    done = poll(client, submit(client, [line("a", "x")]))
    assert client.batches.cancel(done.id) == done
    gpu.mode = "hang"
    batch = submit(client, [line(f"c{n}", "x") for n in range(50)])
    poll(client, batch, lambda now: now.status == "in_progress")
    first, second = client.batches.cancel(batch.id), client.batches.cancel(batch.id)
    assert first.cancelling_at
    assert second.cancelling_at == first.cancelling_at
    ended = poll(client, batch)
    assert ended.status == "cancelled"
    every_line(client, ended)
    assert client.batches.cancel(batch.id) == ended
    with pytest.raises(openai.NotFoundError):
        client.batches.cancel("batch_unknown")


@pytest.mark.parametrize(
    ("metadata", "param"),
    [
        ({f"k{n}": "v" for n in range(17)}, "metadata"),
        ({"k" * 65: "v"}, "metadata"),
        ({"k": "v" * 513}, "metadata[...]"),
    ],
    ids=["17 pairs", "a key of 65", "a value of 513"],
)
def test_metadata_beyond_its_limits_is_refused(creator, metadata, param):
    client = creator
    file = client.files.create(file=("in.jsonl", b"{}"), purpose="batch")
    with pytest.raises(openai.BadRequestError) as error:
        client.batches.create(input_file_id=file.id, **DAY, metadata=metadata)
    assert error.value.param == param
    most = {f"{n:02}" * 32: "é" * 512 for n in range(16)}
    assert client.batches.create(input_file_id=file.id, **DAY, metadata=most).metadata == most


def test_lists_are_paged_by_cursors_that_stay_good(fleet):
    with client_of(fleet.api().start()) as client:
        batches = [submit(client, [line("a", "x")]).id for _ in range(5)][::-1]
        page = client.batches.list(limit=2)
        newer = submit(client, [line("a", "x")])
        assert (page.has_more, [each.id for each in page.data]) == (True, batches[:2])
        page = page.get_next_page()
        assert [each.id for each in page.data] == batches[2:4]
        page = page.get_next_page()
        assert (page.has_more, [each.id for each in page.data]) == (False, batches[4:])
        assert client.batches.list(limit=1).data[0].id == newer.id
        with pytest.raises(openai.BadRequestError) as error:
            client.batches.list(after="batch_unknown")
        assert error.value.param == "after"
        for limit in (0, 101):
            with pytest.raises(openai.BadRequestError) as error:
                client.batches.list(limit=limit)
            assert error.value.param == "limit"


def test_a_batch_may_be_answered_from_the_cache(client, gpu):
    lines = [line(f"c{n}", f"cached {n}") for n in range(20)]
    metadata = {"fallthrough_cache": "first"}
    every_line(client, poll(client, submit(client, lines, metadata=metadata)))
    asked = len(gpu.calls)
    assert asked == 20
    output, _ = every_line(client, poll(client, submit(client, lines, metadata=metadata)))
    assert {each["fallthrough"]["tier_used"] for each in output} == {"cache"}
    assert len(gpu.calls) == asked
