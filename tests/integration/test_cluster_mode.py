"""A store in cluster mode: one node may own all slots, with the broker elsewhere."""

from __future__ import annotations

import contextlib

import httpx
import openai
import pytest
from harness.batches import check_every_line_once, ended, line, start
from harness.commands import environ
from harness.processes import python
from harness.valkey import ValkeyServer
from harness.waiting import free_port

from tasks.store.keyspace import PREFIX


@pytest.fixture
def two_nodes(tmp_path):
    """A cluster of two nodes, each with half of the slots."""
    with contextlib.ExitStack() as running:
        nodes = []
        for name in ("one", "two"):
            folder = tmp_path / name
            folder.mkdir()
            nodes.append(ValkeyServer(folder, free_port(), clustered=True))
            running.callback(nodes[-1].kill)
            nodes[-1].start()
        one, two = nodes
        two.take_half(one)
        yield one


def refusal(module, **settings):
    """Start a part that is to refuse; return the line that says why."""
    done = python(module, environ=environ(**settings))
    assert done.returncode == 2, done.stderr
    [said] = done.stderr.splitlines()
    return said


@pytest.mark.parametrize("module", ["api", "workers"])
def test_a_clustered_store_is_no_broker(clustered_valkey, module):
    said = refusal(module, FALLTHROUGH_REDIS_URL=clustered_valkey.url)
    assert "set FALLTHROUGH_BROKER_URL to another server" in said


def test_a_broker_url_that_names_the_store_is_no_way_around(clustered_valkey):
    url = clustered_valkey.url
    said = refusal("api", FALLTHROUGH_REDIS_URL=url, FALLTHROUGH_BROKER_URL=url)
    assert "set FALLTHROUGH_BROKER_URL to another server" in said


@pytest.mark.parametrize("module", ["api", "workers"])
def test_a_cluster_of_several_nodes_is_refused(two_nodes, valkey, module):
    urls = {"FALLTHROUGH_REDIS_URL": two_nodes.url, "FALLTHROUGH_BROKER_URL": valkey.url}
    assert "2 nodes own slots: several nodes are not supported" in refusal(module, **urls)


def test_what_an_older_release_left_stays_where_it_cannot_be_taken_over(clustered_valkey, valkey):
    urls = {"FALLTHROUGH_REDIS_URL": clustered_valkey.url, "FALLTHROUGH_BROKER_URL": valkey.url}
    with clustered_valkey.client() as client:
        client.hset("ft:job:job_1", "status", "queued")
        assert "let this release do that on a server of its own" in refusal("api", **urls)
        assert client.exists("ft:job:job_1")
        assert not client.exists(f"{PREFIX}layout"), "who starts next is told the same"


def test_with_the_broker_elsewhere_it_keeps_chats_and_batches(fleet, clustered_valkey, valkey):
    fleet.settings |= {
        "FALLTHROUGH_REDIS_URL": clustered_valkey.url,
        "FALLTHROUGH_BROKER_URL": valkey.url,
        "FALLTHROUGH_SLICE_LINES": "16",
    }
    api = fleet.api().start()
    fleet.worker().start()
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key="any", max_retries=0) as sdk:
        hello = [{"role": "user", "content": "Hello"}]
        answer = sdk.chat.completions.create(model="gpu-model", messages=hello)
        assert answer.choices[0].message.content == "gpu-model: Hello"
        lines = [line(f"c{n}", f"prompt {n}") for n in range(50)]
        done = ended(sdk, start(sdk, lines).id)
        assert done.status == "completed"
        output, _ = check_every_line_once(sdk, done, [each["custom_id"] for each in lines])
        assert len(output) == 50
    shown = httpx.get(f"{api.url}/circuit-breakers").json()["circuit_breakers"]["max_gpu"]
    assert shown["state"] == "closed"
    with clustered_valkey.client() as store, valkey.client() as broker:
        assert store.exists(f"{PREFIX}stats")
        assert not broker.keys(f"{PREFIX}*"), "the broker holds messages, and no record"
        assert not broker.keys("unacked*"), "what is in hand is written down nowhere"
