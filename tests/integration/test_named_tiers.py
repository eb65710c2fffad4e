"""Real APIs and workers: tiers that are named, more than two, and not the same everywhere."""

from __future__ import annotations

import time

import httpx
import openai
import pytest
from harness.batches import check_every_line_once, ended, line, start
from harness.upstream import Upstream
from harness.waiting import wait_until

HELLO = [{"role": "user", "content": "Hello"}]
NAMES = ("h100", "l4")


@pytest.fixture
def h100(gpu):
    return gpu


@pytest.fixture
def l4():
    upstream = Upstream("l4-model")
    yield upstream
    upstream.close()


@pytest.fixture
def three(fleet, h100, l4):
    """A fleet whose processes know h100, l4 and cpu, unless they are told otherwise."""
    fleet.settings |= {
        "FALLTHROUGH_GPU_URL": "",
        "FALLTHROUGH_TIERS": "h100,l4,cpu",
        "FALLTHROUGH_H100_URL": h100.url,
        "FALLTHROUGH_H100_TIMEOUT_SECONDS": "1",
        "FALLTHROUGH_L4_URL": l4.url,
        "FALLTHROUGH_L4_TIMEOUT_SECONDS": "1",
    }
    return fleet


def without(fleet, *tiers):
    """The settings of a process that does not know some of the tiers."""
    names = [name for name in fleet.settings["FALLTHROUGH_TIERS"].split(",") if name not in tiers]
    gone = tuple(f"FALLTHROUGH_{tier.upper()}_" for tier in tiers)
    kept = {name: value for name, value in fleet.settings.items() if not name.startswith(gone)}
    return {**kept, "FALLTHROUGH_TIERS": ",".join(names)}


def worker_without(fleet, *tiers, **settings):
    worker = fleet.worker(slice_lines=16, **settings)
    own = {name: worker.environ[name] for name in worker.environ if "_WORKER_" in name}
    worker.environ = {**without(fleet, *tiers), "FALLTHROUGH_SLICE_LINES": "16", **own}
    return worker


def api_without(fleet, *tiers):
    api = fleet.api()
    api.environ = {**without(fleet, *tiers), "FALLTHROUGH_PORT": str(api.port)}
    return api


def client_of(api):
    return httpx.Client(base_url=api.url, timeout=30)


def chat(http, **fallthrough):
    body = {"messages": HELLO} | ({"fallthrough": fallthrough} if fallthrough else {})
    return http.post("/v1/chat/completions", json=body)


def tries(http, job_id):
    attempts = http.get(f"/v1/jobs/{job_id}?wait=20").json()["attempts"]
    return [(attempt["tier"], attempt["verdict"]) for attempt in attempts]


def test_a_job_falls_through_all_of_them_and_each_is_named(three, h100, l4, cpu):
    api, worker = three.start(three.api(), three.worker(breaker_failure_threshold=99))
    with client_of(api) as http:
        for upstream, tier in ((h100, "h100"), (l4, "l4"), (cpu, "cpu"), (None, "cache")):
            reply = chat(http)
            assert (reply.status_code, reply.headers["x-fallthrough-tier"]) == (200, tier)
            if upstream:
                upstream.mode = "500"
        last = tries(http, reply.headers["x-fallthrough-job-id"])
        assert last == [
            *((tier, "failure") for tier in ("h100", "l4", "cpu")),
            ("cache", "answered"),
        ]
        assert chat(http, cache="off").headers["x-fallthrough-tier"] == "degraded"
        breakers = http.get("/circuit-breakers").json()["circuit_breakers"]
        assert list(breakers) == ["tier_h100", "tier_l4", "ollama_cpu", "redis_cache"]
        assert all(each["configured"] for each in breakers.values())
        counts = http.get("/metrics").json()["metrics"]
        assert {"h100", "l4", "cpu", "cache", "degraded"} <= set(counts["jobs"])
        assert set(counts["unusable"]) == {"h100", "l4", "cpu"}
        text = httpx.get(f"{worker.url}/metrics").text
        assert 'circuit_breaker_requests_total{name="tier_l4"} 4.0' in text
        assert 'fallthrough_worker_tries_total{detail="interrupted",tier="l4"' in text


def test_who_may_answer_is_said_by_their_names(three, h100, l4):
    api, _ = three.start(three.api(), three.worker())
    with client_of(api) as http:
        assert chat(http, tiers=["l4"]).headers["x-fallthrough-tier"] == "l4"
        refused = chat(http, tiers=["gpu"])
        assert refused.status_code == 400
        assert "there are h100, l4, cpu, cache" in refused.json()["error"]["message"]
    assert (len(h100.calls), len(l4.calls)) == (0, 1)


def test_what_stands_at_a_tier_that_was_taken_away_goes_on_at_once(three, cpu, l4):
    """It was accepted for l4, whose workers are gone; its message is one that nobody knows."""
    api = three.api(dispatch_grace_seconds=60).start()
    with client_of(api) as http:
        jobs = [
            http.post("/v1/jobs", json={"prompt": f"p{n}", "tiers": tiers, "on_exhausted": "fail"})
            for n in range(8)
            for tiers in (["l4", "cpu"], ["h100", "l4", "cpu"])
        ]
        worker_without(three, *NAMES).start()
        began = time.monotonic()
        for job in jobs:
            done = http.get(f"/v1/jobs/{job.json()['id']}?wait=20").json()
            assert (done["status"], done["tier_used"]) == ("succeeded", "cpu")
            assert [a["verdict"] for a in done["attempts"]] == ["not_configured", "answered"]
        assert time.monotonic() - began < 30, "none waited for the sweeper, which looks after 60 s"
    assert (len(cpu.calls), l4.calls) == (16, [])


def test_a_record_that_lost_its_message_there_is_found_and_goes_on(three, valkey):
    api = three.api().start()
    with client_of(api) as http, valkey.client() as broker:
        job = http.post("/v1/jobs", json={"prompt": "x", "tiers": ["l4", "cpu"]}).json()["id"]
        wait_until(lambda: broker.llen("interactive"), what="its message is there")
        broker.delete("interactive")
        worker_without(three, *NAMES).start()
        done = http.get(f"/v1/jobs/{job}?wait=20").json()
    assert (done["status"], done["tier_used"]) == ("succeeded", "cpu")


def test_a_batch_goes_on_when_its_tier_is_taken_away(three, l4, h100, cpu):
    l4.mode = h100.mode = "hang"
    api, worker = three.start(
        three.api(), three.worker(slice_lines=16, h100_timeout_seconds=60, l4_timeout_seconds=60)
    )
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key="any", max_retries=0) as sdk:
        lines = [line(f"c{n}", str(n)) for n in range(100)]
        batch = start(sdk, lines, metadata={"fallthrough_tiers": "l4,cpu"})
        wait_until(lambda: l4.running > 10, what="lines are called there")
        worker.stop()
        worker_without(three, *NAMES).start()
        done = ended(sdk, batch.id)
        output, _ = check_every_line_once(sdk, done, [each["custom_id"] for each in lines])
    assert (done.status, len(output)) == ("completed", 100)
    assert len({call.prompt for call in cpu.calls}) == len(cpu.calls) == 100


def test_half_a_fleet_may_know_a_tier_that_the_other_does_not(three, h100, l4, cpu):
    """h100 fails: what the new half sends to l4 comes to the old half as well, and the reverse."""
    h100.mode = "500"
    new, old, *_ = three.start(
        three.api(),
        api_without(three, "l4"),
        three.worker(slice_lines=16),
        worker_without(three, "l4"),
    )
    lines = [line(f"c{n}", f"line {n}") for n in range(200)]
    with openai.OpenAI(base_url=f"{old.url}/v1", api_key="any", max_retries=0) as sdk:
        batch = start(sdk, lines)
        for api in (new, old) * 2:
            with client_of(api) as http:
                asked = [http.post("/v1/jobs", json={"prompt": f"{n}"}).json() for n in range(20)]
                for job in asked:
                    done = http.get(f"/v1/jobs/{job['id']}?wait=20").json()
                    assert (done["status"], done["degraded"]) == ("succeeded", False)
                    assert done["tier_used"] in {"l4", "cpu"}
                    assert len(done["attempts"]) <= 6, "it goes round nowhere"
        h100.mode = "ok"
        done = ended(sdk, batch.id)
        output, _ = check_every_line_once(sdk, done, [each["custom_id"] for each in lines])
        assert (done.status, len(output)) == ("completed", 200)
    assert l4.calls
    assert cpu.calls


def test_lines_that_two_tiers_cannot_answer_come_to_the_third_as_it_has_room(three, h100, l4, cpu):
    """Else all that l4 got would stand before the CPU tier at once, and be turned away there."""
    h100.mode = l4.mode = "500"
    cpu.delay = 0.05
    api, worker = three.start(three.api(), three.worker(slice_lines=64, cpu_wait_seconds=1))
    lines = [line(f"c{n}", f"line {n}") for n in range(200)]
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key="any", max_retries=0) as sdk:
        done = ended(sdk, start(sdk, lines).id)
        output, _ = check_every_line_once(sdk, done, [each["custom_id"] for each in lines])
    assert (done.status, len(output), len(cpu.calls)) == ("completed", 200, 200)
    assert cpu.most_running <= 8
    turned_away = 'tries_total{detail="",tier="cpu",verdict="no_permit"}'
    assert turned_away not in httpx.get(f"{worker.url}/metrics").text
