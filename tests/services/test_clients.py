"""Clients that people use, through every tier: as docs/clients.md says."""

from __future__ import annotations

import itertools

import httpx
import pytest
from harness.clients import TRIED, Browser, Client, ways_of
from harness.waiting import wait_until

PACE = 0.1  # seconds between two words of a model
MESSAGE = "Nobody is there."
TIERS = ("gpu", "cpu", "cache", "degraded")
WAYS = [
    *((name, way) for name, tried in TRIED.items() for way in ways_of(tried.file)),
    ("browser", "plain"),
    ("browser", "streamed"),
]
NUMBERS = itertools.count()


BROKEN = "broken"  # what is asked so is answered by two words, and cut


def answer_or_call(call):
    """Call the tools that are offered."""
    if BROKEN in call.prompt:
        return "cut@2"
    return "tools" if call.body.get("tools") else "ok"


def prompt_of(tier, client, way):
    return f"{client} {way} é日本 {tier}"


def answers(api, text):
    said = [{"role": "user", "content": f"who is there {next(NUMBERS)}"}]
    reply = httpx.post(f"{api.url}/v1/chat/completions", json={"messages": said}, timeout=30)
    return reply.json()["choices"][0]["message"]["content"].startswith(text)


@pytest.fixture(scope="module")
def clients(tmp_path_factory, chromium):
    """Return every client by its name; each starts with its first question."""
    made = {"browser": Browser(chromium)}
    for name, tried in TRIED.items():
        made[name] = Client(tried.file, tried.python, tmp_path_factory.mktemp(tried.file))
    yield made
    for client in made.values():
        client.close()


# One stream after the other breaks off, and the same tier is to be asked for the next.
PATIENT = {"breaker_failure_threshold": 10_000, "breaker_minimum_calls": 10_000}


@pytest.fixture(scope="module")
def api(module_fleet):
    return module_fleet.start(
        module_fleet.api(**PATIENT),
        module_fleet.worker(degraded_message=MESSAGE, gpu_timeout_seconds=10, **PATIENT),
    )[0]


@pytest.fixture(scope="module", params=TIERS)
def tier(request, api, clients, module_gpu, module_cpu):
    """Return the tier that answers from now on."""
    with module_gpu.lent() as gpu, module_cpu.lent() as cpu:
        gpu.plan = cpu.plan = answer_or_call
        wait_until(lambda: answers(api, "gpu-model"), 30, "the GPU tier is back")
        if request.param == "cache":
            for client, way in WAYS:  # what comes of it, the other tests tell
                clients[client].ask(way, f"{api.url}/v1", prompt_of("cache", client, way))
        gpu.pace = cpu.pace = PACE
        if request.param != "gpu":
            gpu.vanish()
        if request.param in {"cache", "degraded"}:
            cpu.vanish()
        yield request.param


def expected(tier, client, way):
    said = prompt_of(tier, client, way)
    if tier == "degraded":
        return MESSAGE
    if way.startswith("tools"):
        said = f"sunny in {said}"
    if (client, way) == ("LlamaIndex", "tools"):
        return said  # its users are shown what the tool says
    return f"{'cpu' if tier == 'cpu' else 'gpu'}-model: {said}"


@pytest.mark.parametrize(("client", "way"), WAYS, ids=[" ".join(each) for each in WAYS])
def test_every_client_is_answered_in_each_of_its_ways(tier, api, clients, client, way):
    answer = clients[client].ask(way, f"{api.url}/v1", prompt_of(tier, client, way))
    assert not answer.error
    assert answer.text == expected(tier, client, way)
    if "streamed" not in way:
        return
    times = [seconds for seconds, _ in answer.pieces]
    checked = way.startswith("tools")  # at the CPU tier, before anybody sees it
    if tier == "gpu" or (tier == "cpu" and not checked):  # the words come as they are said
        assert len(times) >= 4
        assert times[-1] - times[0] >= 2 * PACE
    else:
        assert len(times) == 1


STREAMS = [each for each in WAYS if "streamed" in each[1] or each[1] == "command"]


@pytest.mark.parametrize("tier", ["gpu"], indirect=True)
@pytest.mark.parametrize(("client", "way"), STREAMS, ids=[" ".join(each) for each in STREAMS])
def test_a_stream_that_breaks_off_passes_for_no_answer(tier, api, clients, client, way):
    answer = clients[client].ask(way, f"{api.url}/v1", f"{client} {way} {BROKEN}")
    assert answer.error


@pytest.mark.parametrize("way", ["plain", "streamed"])
def test_a_page_of_another_origin_asks_if_it_may(fleet, gpu, cpu, chromium, way):
    page = f"{cpu.url}/v1/models"
    api, _ = fleet.start(fleet.api(cors_origins=cpu.url), fleet.worker())
    answer = Browser(chromium, page).ask(way, f"{api.url}/v1", "a b c")
    assert not answer.error
    assert answer.text == "gpu-model: a b c"


def test_a_page_of_another_origin_does_not_ask_by_default(fleet, gpu, cpu, chromium):
    api, _ = fleet.start(fleet.api(), fleet.worker())
    answer = Browser(chromium, f"{cpu.url}/v1/models").ask("plain", f"{api.url}/v1", "a b c")
    assert "Failed to fetch" in answer.error
    assert gpu.calls == []
