"""What lies in the broker's queues and is no message is dropped, counted, and ends nobody."""

from __future__ import annotations

import base64
import json

import httpx
import pytest
from harness.waiting import wait_until

QUEUES = ("interactive", "interactive.begun", "batch", "phases")


def message(body=None, /, **fields):
    """A message as kombu keeps it, with something else in its place."""
    args = [["job_0"], {}, {}]
    content = base64.b64encode(json.dumps(args).encode()).decode()
    whole = {
        "body": content if body is None else body,
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": "tasks.gpu", "id": "x", "lang": "py"},
        "properties": {
            "body_encoding": "base64",
            "delivery_tag": "tag",
            "delivery_info": {"exchange": "", "routing_key": "interactive"},
        },
    }
    return json.dumps(whole | fields)


def encoded(value):
    return base64.b64encode(json.dumps(value).encode()).decode()


NO_MESSAGES = {
    "bytes": b"\xff\xfe\x00",
    "a word": "hello",
    "nothing": "",
    "a number": "5",
    "null": "null",
    "a list": "[]",
    "an empty object": "{}",
    "half a message": message()[:-20],
    "deep": "[" * 100_000,
    "other properties": message(properties=[]),
    "no delivery": message(properties={"delivery_tag": "x"}),
    "another tag": message(
        properties={"delivery_tag": {}, "delivery_info": {"exchange": "", "routing_key": "x"}}
    ),
    "no headers": message(headers=None),
    "a body of another kind": message({"a": 1}),
    "no base64": message("é"),
}
NO_TASKS = {
    "an unknown task": message(headers={"task": "os.system", "id": "x"}),
    "a task of another kind": message(headers={"task": 5, "id": "x"}),
    "no task": message(headers={}),
    "pickle": message(**{"content-type": "application/x-python-serialize"}),
    "no content type": message(**{"content-type": None}),
}
# A task of ours whose arguments are none: it is begun, and says so.
NO_ARGUMENTS = {
    "none": message(encoded([[], {}, {}])),
    "a number": message(encoded([[5], {}, {}])),
    "odd references": message(encoded([[["job_0", "x"], [1, 2]], {}, {}])),
    "others": message(encoded([[], {"a": 1}, {}])),
    "no list": message(encoded({"a": 1})),
    "no JSON": message(base64.b64encode(b"{").decode()),
}


@pytest.fixture(scope="module")
def stack(module_fleet):
    return module_fleet.start(module_fleet.api(), module_fleet.worker())


def metric(worker, name):
    metrics = httpx.get(f"{worker.url}/metrics").text
    [line] = [each for each in metrics.splitlines() if each.startswith(f"{name} ")]
    return float(line.split()[-1])


def dropped(worker):
    return metric(worker, "fallthrough_worker_messages_dropped_total")


IN_HAND = "fallthrough_worker_messages_prefetched"


@pytest.mark.parametrize("queue", QUEUES)
@pytest.mark.parametrize(
    "entries", [NO_MESSAGES, NO_TASKS, NO_ARGUMENTS], ids=["no", "task", "args"]
)
def test_what_is_no_message_is_dropped_counted_and_ends_nobody(
    stack, module_valkey, queue, entries
):
    api, worker = stack
    before, pid = dropped(worker), worker.process.pid
    with module_valkey.client() as broker:
        for entry in entries.values():
            broker.lpush(queue, entry)
        wait_until(lambda: broker.llen(queue) == 0, what="all are taken")
        if entries is not NO_ARGUMENTS:
            wait_until(lambda: dropped(worker) == before + len(entries), 10, "all are counted")
        reply = httpx.post(f"{api.url}/v1/jobs", json={"prompt": queue, "cache": "off"}).json()
        job = httpx.get(f"{api.url}/v1/jobs/{reply['id']}?wait=20", timeout=30).json()
        assert job["status"] == "succeeded"
        wait_until(lambda: metric(worker, IN_HAND) == 0, what="nothing is in hand")
    assert worker.process.poll() is None
    assert worker.process.pid == pid
