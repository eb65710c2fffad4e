"""GET /v1/jobs/{id}/stream: any job's answer, from any place of it; its frames, to the letter."""

from __future__ import annotations

import json
import re
import time

import httpx
import openai
import pytest
from harness.upstream_streams import UNICODE
from harness.waiting import wait_until
from openai import OpenAI

import tasks.keys

MESSAGES = [{"role": "user", "content": f"one two {UNICODE}"}]
FRAMES = re.compile(r"(data: \{[^\n]+\}\n\n|: [^\n]+\n\n)*(data: \[DONE\]\n\n)?")
SETTINGS = {
    "breaker_failure_threshold": 10_000,
    "breaker_minimum_calls": 10_000,
    "gpu_timeout_seconds": 20,
}


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """A file of keys of ann's and bob's."""
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    return path, {owner: tasks.keys.create(path, owner, admin=False)[1] for owner in ("ann", "bob")}


@pytest.fixture(scope="module")
def stack(module_fleet, keys):
    return module_fleet.start(module_fleet.api(keys_file=keys[0]), module_fleet.worker(**SETTINGS))


@pytest.fixture
def gpu(module_gpu):
    with module_gpu.lent():
        yield module_gpu


@pytest.fixture
def cpu(module_cpu):
    with module_cpu.lent():
        yield module_cpu


@pytest.fixture
def clients(stack, keys, gpu, cpu):
    """A client of each owner."""
    found = {
        owner: httpx.Client(
            base_url=f"{stack[0].url}/v1", headers={"authorization": f"Bearer {key}"}, timeout=30
        )
        for owner, key in keys[1].items()
    }
    yield found
    for client in found.values():
        client.close()


@pytest.fixture
def ann(clients):
    return clients["ann"]


def submitted(client, **fields):
    body = {"messages": MESSAGES, "cache": "off", **fields}
    reply = client.post("/jobs", json=body)
    assert reply.status_code == 202, reply.text
    return reply.json()["id"]


def followed(client, job_id, **query):
    """Return the frames of a job's stream, and whether its body came whole."""
    text, whole = "", True
    with client.stream("GET", f"/jobs/{job_id}/stream", params=query) as reply:
        assert reply.status_code == 200
        try:
            for piece in reply.iter_raw():
                text += piece.decode()
        except httpx.RemoteProtocolError:
            whole = False
    assert FRAMES.fullmatch(text), text
    return [frame for frame in text.split("\n\n") if frame.startswith("data: ")], whole


def chunks(frames):
    return [json.loads(f.removeprefix("data: ")) for f in frames if f != "data: [DONE]"]


def text_of(frames):
    found = (chunk["choices"][0]["delta"] for chunk in chunks(frames))
    return "".join(delta.get("content") or "" for delta in found)


SAID = f"gpu-model: {MESSAGES[0]['content']}"


@pytest.mark.parametrize("stream", [True, False])
def test_a_job_is_followed_while_it_runs_and_after_its_end(ann, gpu, stream):
    gpu.pace = 0.05
    job_id = submitted(ann, stream=stream)
    frames, whole = followed(ann, job_id)
    assert whole
    assert frames[-1] == "data: [DONE]"
    assert text_of(frames) == SAID
    numbers = [chunk["sequence_number"] for chunk in chunks(frames)]
    assert numbers == list(range(len(numbers)))
    assert (len(numbers) > 5) is stream
    assert followed(ann, job_id) == (frames, True)
    for after in range(len(numbers) + 3):
        rest, whole = followed(ann, job_id, starting_after=after)
        assert (rest, whole) == ([*frames[:-1][after + 1 :], frames[-1]], True)


def test_a_job_is_followed_from_a_place_that_it_has_not_come_to(ann, gpu):
    gpu.pace = 0.1
    job_id = submitted(ann, stream=True)
    rest, _ = followed(ann, job_id, starting_after=3)
    whole, _ = followed(ann, job_id)
    assert rest == whole[4:]


def test_who_only_follows_may_leave(ann, gpu):
    gpu.pace = 0.1
    job_id = submitted(ann, stream=True)
    with ann.stream("GET", f"/jobs/{job_id}/stream") as reply:
        next(reply.iter_raw())
    assert ann.get(f"/jobs/{job_id}?wait=20").json()["status"] == "succeeded"
    assert gpu.left == []
    assert text_of(followed(ann, job_id)[0]) == SAID


@pytest.mark.parametrize("stream", [True, False])
def test_a_job_that_failed_says_so_and_is_cut_off(ann, gpu, cpu, stream):
    gpu.mode = cpu.mode = "500"
    job_id = submitted(ann, stream=stream, on_exhausted="fail")
    for _ in range(2):
        [frame], whole = followed(ann, job_id)
        assert not whole
        [error] = chunks([frame])
        assert error["error"]["code"] == "tiers_exhausted"
    assert ann.get(f"/jobs/{job_id}").json()["status"] == "failed"


def test_a_job_that_broke_off_says_what_it_had_said_and_is_cut_off(ann, gpu):
    gpu.mode = "cut@2"
    job_id = submitted(ann, stream=True)
    for _ in range(2):
        frames, whole = followed(ann, job_id)
        assert not whole
        *said, error = chunks(frames)
        assert error["error"]["code"] == "upstream_interrupted"
        assert "".join(c["choices"][0]["delta"]["content"] for c in said) == "gpu-model: one"
    assert followed(ann, job_id, starting_after=1)[0] == frames[2:]


@pytest.mark.parametrize("began", [True, False])
def test_a_job_that_was_cancelled_says_so(ann, gpu, began):
    gpu.mode = "stall@2" if began else "hang"
    job_id = submitted(ann, stream=True)
    wait_until(lambda: gpu.calls)
    with ann.stream("GET", f"/jobs/{job_id}/stream") as reply:
        text, gone = "", None
        try:
            for piece in reply.iter_raw():
                text += piece.decode()
                if gone is None:
                    gone = time.monotonic()
                    assert ann.post(f"/jobs/{job_id}/cancel").is_success
        except httpx.RemoteProtocolError:
            assert time.monotonic() - gone < 2
        else:
            pytest.fail("it ended as if it were whole")
    last = text.split("\n\n")[-2]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "cancelled"
    assert ("gpu-model:" in text) is began
    frames, whole = followed(ann, job_id)
    assert (chunks(frames)[-1]["error"]["code"], whole) == ("cancelled", False)
    wait_until(lambda: gpu.left, 2, "the model server's call ends")


@pytest.mark.parametrize("mode", ["stall@2", "hang"])
def test_a_job_that_expires_says_so(ann, gpu, cpu, mode):
    gpu.mode = cpu.mode = mode
    job_id = submitted(ann, stream=True, on_exhausted="wait", deadline_seconds=1)
    for _ in range(2):
        frames, whole = followed(ann, job_id)
        assert not whole
        assert chunks(frames)[-1]["error"]["code"] == "deadline_exceeded"
        assert (len(frames) > 1) is (mode != "hang")
    assert ann.get(f"/jobs/{job_id}").json()["status"] == "expired"


def test_another_owner_has_no_such_job(clients):
    job_id = submitted(clients["ann"], stream=True)
    for client, name in ((clients["bob"], job_id), (clients["ann"], job_id[:-1] + "x")):
        reply = client.get(f"/jobs/{name}/stream")
        assert reply.status_code == 404
        assert reply.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("after", ["-1", "x", "", "1.5", "1e3", "10" * 20, "٣"])
def test_a_place_that_is_none_is_refused(ann, after):
    job_id = submitted(ann, stream=True)
    reply = ann.get(f"/jobs/{job_id}/stream", params={"starting_after": after})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "starting_after"


def test_the_frames_are_the_contracts_to_the_letter(ann, gpu):
    gpu.mode = "fields"  # ids, names and retries of the server's stay there
    body = {"messages": MESSAGES, "stream": True, "stream_options": {"include_obfuscation": True}}
    headers = {"accept-encoding": "gzip", "x-fallthrough-cache": "off"}
    with ann.stream("POST", "/chat/completions", json=body, headers=headers) as reply:
        text = b"".join(reply.iter_raw()).decode()
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert reply.headers["cache-control"] == "no-cache"
    assert reply.headers["x-accel-buffering"] == "no"
    assert reply.headers["transfer-encoding"] == "chunked"
    assert reply.headers["x-request-id"]
    assert reply.headers["x-fallthrough-job-id"].startswith("job_")
    assert reply.headers.keys().isdisjoint({"content-encoding", "content-length"})
    assert FRAMES.fullmatch(text)
    assert text.endswith("\n\ndata: [DONE]\n\n")
    frames = text.removesuffix("data: [DONE]\n\n").split("\n\n")[:-1]
    for chunk in chunks(frames):
        assert chunk.keys() >= {"id", "object", "created", "model", "choices"}
        assert "sequence_number" not in chunk
        [choice] = chunk["choices"]
        assert choice.keys() >= {"index", "delta", "finish_reason"}
    job_id = reply.headers["x-fallthrough-job-id"]
    again = chunks(followed(ann, job_id)[0])
    assert [each.pop("sequence_number") for each in again] == list(range(len(again)))
    assert again == chunks(frames)


def test_who_waits_long_is_told_where_his_request_is(stack, keys, gpu):
    gpu.delay = 12
    api = stack[0]
    body = {"model": "", "messages": MESSAGES, "stream": True}
    headers = {"authorization": f"Bearer {keys[1]['ann']}", "x-fallthrough-cache": "off"}
    began = time.monotonic()
    text = ""
    url = f"{api.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, headers=headers, timeout=30) as reply:
        assert 9 < time.monotonic() - began < 11.5
        for piece in reply.iter_raw():
            text += piece.decode()
    assert text.startswith(": ")
    assert FRAMES.fullmatch(text)
    gpu.delay, gpu.mode = 11, "cut@2"
    with (
        OpenAI(base_url=f"{api.url}/v1", api_key=keys[1]["ann"], max_retries=0) as sdk,
        pytest.raises(openai.APIError) as raised,
    ):
        list(sdk.chat.completions.create(**body, extra_headers=headers))
    assert raised.value.code == "upstream_interrupted"
