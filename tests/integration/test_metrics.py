"""What the processes export is what docs/metrics.md lists, and what rules and dashboard ask."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import httpx
import openai
import pytest
import yaml
from harness.batches import line, start
from harness.waiting import wait_until
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as families

ROOT = Path(__file__).parents[2]
ROW = re.compile(
    r"^\| `(?P<name>\w+)` \| (?P<kind>\w+) \| (?P<labels>[\w, ]*?) ?\| (?P<sides>[\w, ]+) \| .+ \|$"
)
TEXT = {"Accept": "text/plain"}


def catalogue():
    """{(side, family): (kind, labels)}."""
    rows = (ROW.match(line) for line in (ROOT / "docs" / "metrics.md").read_text().splitlines())
    listed = {}
    for row in filter(None, rows):
        labels = {label.strip() for label in row["labels"].split(",") if label.strip()}
        for side in row["sides"].split(","):
            listed[side.strip(), row["name"].removesuffix("_total")] = row["kind"], labels
    return listed


def exported(side, text):
    found = {}
    for family in families(text):
        if family.name.startswith("process_"):
            continue
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[side, family.name] = family.type, labels
    return found


def ask(client, prompt, **fields):
    body = {"messages": [{"role": "user", "content": prompt}], **fields}
    return client.post("/v1/chat/completions", json=body)


@pytest.fixture(scope="module")
def scraped(module_fleet, module_gpu, module_cpu):
    """Both sides, after an outage, a cached answer, a batch and a refused request."""
    fleet, gpu, cpu = module_fleet, module_gpu, module_cpu
    long = {"breaker_recovery_seconds": 30}  # the outage is over when this says so
    api, worker = fleet.start(fleet.api(**long), fleet.worker(**long))
    with httpx.Client(base_url=api.url, timeout=30) as client:
        assert ask(client, "again").status_code == 200
        gpu.mode = "500"
        for n in range(4):
            assert ask(client, f"cpu {n}").headers["x-fallthrough-tier"] == "cpu"
        cpu.mode = "500"
        assert ask(client, "again").headers["x-fallthrough-tier"] == "cache"
        assert client.get("/nowhere").status_code == 404
        cpu.mode = "ok"
        assert ask(client, "as it comes", stream=True).text.endswith("data: [DONE]\n\n")
        gpu.mode = "ok"
        texts = client.get("/metrics", headers=TEXT).text
        yield client, worker, texts


def test_every_metric_is_in_the_catalogue_and_the_catalogue_is_exported(scraped):
    _, worker, text = scraped
    found = exported("api", text) | exported("worker", httpx.get(f"{worker.url}/metrics").text)
    listed = catalogue()
    assert set(found) == set(listed)
    for name, (kind, labels) in found.items():
        assert kind == listed[name][0], name
        # A family that has not counted yet shows no labels.
        assert labels in (listed[name][1], set()), name


def test_every_loop_is_told_from_0_on_so_that_its_first_death_is_a_rise(scraped):
    _, worker, text = scraped
    texts = {
        "api/services.py": text,
        "workers/process.py": httpx.get(f"{worker.url}/metrics").text,
    }
    for source, told in texts.items():
        loops = re.findall(r'\bstart\("([\w ]+)"', (ROOT / source).read_text())
        [deaths] = (each for each in families(told) if each.name == "fallthrough_loop_deaths")
        assert {sample.labels["loop"] for sample in deaths.samples} == {*loops}, source


def test_what_happened_is_counted(scraped):
    client, worker, _ = scraped
    wait_until(lambda: client.get("/metrics").json()["metrics"]["total"] == 7)
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for text in (
            client.get("/metrics", headers=TEXT).text,
            httpx.get(f"{worker.url}/metrics").text,
        )
        for family in families(text)
        for sample in family.samples
    }
    assert samples["fallthrough_jobs_total", "succeeded", "cpu"] == 5
    assert samples["fallthrough_worker_jobs_total", "succeeded", "cache"] == 1
    assert samples["fallthrough_worker_tries_total", "", "cache", "answered"] == 1
    assert samples["circuit_breaker_failures_total", "max_gpu"] == 3
    assert samples["circuit_breaker_rejections_total", "max_gpu"] >= 1
    assert samples["circuit_breaker_transitions_total", "max_gpu", "open"] == 1
    assert samples["fallthrough_worker_job_seconds_count", "cpu"] == 5
    assert samples["fallthrough_worker_queue_wait_seconds_count", "gpu"] == 7
    assert samples["fallthrough_worker_tokens_total", "completion", "cpu"] == 10
    assert samples["fallthrough_http_requests_total", "GET", "(none)", "404"] == 1
    assert samples["fallthrough_http_requests_total", "POST", "/v1/chat/completions", "200"] == 7
    assert samples["fallthrough_streams_total", "succeeded"] == 1
    assert samples["fallthrough_worker_time_to_first_chunk_seconds_count", "cpu"] == 1
    assert samples["fallthrough_worker_time_per_output_chunk_seconds_count", "cpu"] == 3


def test_open_metrics_when_asked(scraped):
    client, worker, _ = scraped
    for url in ("/metrics", f"{worker.url}/metrics"):
        reply = client.get(url, headers={"Accept": "application/openmetrics-text"})
        assert reply.headers["content-type"].startswith("application/openmetrics-text")
        assert len(list(open_metrics(reply.text))) > 5


def test_a_warm_shutdown_is_counted_for_the_fleet(fleet):
    api, worker = fleet.start(fleet.api(), fleet.worker())
    worker.process.terminate()
    assert worker.wait() == 0
    text = httpx.get(f"{api.url}/metrics", headers=TEXT).text
    assert "fallthrough_worker_drains_total 1.0" in text


def test_rules_and_dashboard_ask_for_what_is_exported():
    rules = yaml.safe_load((ROOT / "configs/prometheus/rules/fallthrough.yml").read_text())
    dashboards = ROOT / "configs/grafana/dashboards"
    dashboard = json.loads((dashboards / "circuit-breaker-dashboard.json").read_text())
    queries = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    queries += [t["expr"] for panel in dashboard["panels"] for t in panel.get("targets", [])]
    assert len(queries) > 25
    known = {name for _, name in catalogue()}
    recorded = {r["record"] for group in rules["groups"] for r in group["rules"] if "record" in r}
    for query in queries:
        used = set(re.findall(r"\b(?:fallthrough|circuit_breaker)_[a-z_]+\b", query))
        assert used or any(name in query for name in (*recorded, "process_")), query
        for name in used:
            assert re.sub(r"_(total|bucket|sum|count)$", "", name) in known, name
    kustomization = yaml.safe_load((dashboards / "kustomization.yaml").read_text())
    [generator] = kustomization["configMapGenerator"]
    assert all((dashboards / file).exists() for file in generator["files"])


def test_a_tier_that_only_embeds_is_told_as_one(fleet):
    api = fleet.api(cpu_accepts="embeddings").start()
    name = "circuit_breaker_embeds"
    told = values(api.url, name)
    assert told[name, "ollama_cpu"] == 1
    assert told[name, "max_gpu"] == 0


def test_with_the_store_away_a_process_tells_what_it_knows_by_itself(own_fleet, own_valkey):
    api = own_fleet.api().start()
    assert "fallthrough_store_up 1.0" in httpx.get(f"{api.url}/metrics", headers=TEXT).text
    own_valkey.kill()
    reply = httpx.get(f"{api.url}/metrics", headers=TEXT, timeout=20)
    assert reply.status_code == 200
    assert "fallthrough_store_up 0.0" in reply.text
    assert "fallthrough_http_requests_total" in reply.text


def test_a_worker_whose_broker_is_away_tells_so_until_it_consumes_again(own_fleet, own_valkey):
    worker = own_fleet.worker().start()
    up = "fallthrough_worker_broker_up"
    wait_until(lambda: values(worker.url, up) == {(up,): 1})
    own_valkey.kill()
    wait_until(lambda: values(worker.url, up) == {(up,): 0})
    own_valkey.start()
    wait_until(lambda: values(worker.url, up) == {(up,): 1})


def test_a_refused_request_is_counted_at_the_tier_that_refused_it(fleet, gpu):
    api, _ = fleet.start(fleet.api(), fleet.worker())
    gpu.mode = "400"
    with httpx.Client(base_url=api.url, timeout=30) as client:
        assert ask(client, "bad").headers["x-fallthrough-tier"] == "gpu"
        text = client.get("/metrics", headers=TEXT).text
    assert 'fallthrough_jobs_total{status="failed",tier="gpu"} 1.0' in text


STREAMS = ("fallthrough_streams_in_flight", "fallthrough_http_streams_in_flight")


def values(url, *names):
    """Return a metric's values by its labels, as {(name, label, …): value}."""
    text = httpx.get(f"{url}/metrics", headers=TEXT).text
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families(text)
        for sample in family.samples
        if sample.name in names
    }


def test_streams_are_in_flight_from_their_first_word_to_their_end(fleet, gpu):
    api, worker = fleet.start(fleet.api(), fleet.worker())
    at_worker = "fallthrough_worker_streams_in_flight"
    gpu.pace = 0.2
    body = {"messages": [{"role": "user", "content": "one " * 200}], "stream": True}
    with httpx.stream("POST", f"{api.url}/v1/chat/completions", json=body, timeout=20) as reply:
        pieces = reply.iter_bytes()
        next(pieces)
        assert set(values(api.url, *STREAMS).values()) == {1.0}
        assert values(worker.url, at_worker)[at_worker, "gpu"] == 1
        shown = httpx.get(f"{api.url}/metrics").json()["metrics"]
        assert (shown["streams_in_flight"], shown["streams"]["cancelled"]) == (1, 0)
        assert 0 < shown["p50_first_token_ms"] <= shown["p95_first_token_ms"] < 20_000
    wait_until(lambda: set(values(api.url, *STREAMS).values()) == {0.0})
    wait_until(lambda: values(worker.url, at_worker)[at_worker, "gpu"] == 0)
    ended = values(api.url, "fallthrough_streams_total")
    assert ended["fallthrough_streams_total", "cancelled"] == 1


def test_a_stream_that_breaks_off_after_its_first_word_is_counted(fleet, gpu, cpu):
    api, worker = fleet.start(fleet.api(), fleet.worker())
    cut, ended = "fallthrough_worker_streams_cut_total", "fallthrough_streams_total"
    with httpx.Client(base_url=api.url, timeout=30) as client:
        gpu.mode = "500"  # before its first word: the next tier answers
        assert "cpu-model" in ask(client, "one", stream=True).text
        assert values(worker.url, cut)[cut, "gpu"] == 0
        gpu.mode = "cut"
        with pytest.raises(httpx.RemoteProtocolError):
            ask(client, "two three four", stream=True)
    assert values(worker.url, cut) == {(cut, "gpu"): 1, (cut, "cpu"): 0}
    wait_until(lambda: values(api.url, ended)[ended, "failed"] == 1)
    assert values(api.url, ended)[ended, "succeeded"] == 1


def test_work_that_no_batch_worker_does_grows_old_and_none_of_it_runs(fleet):
    """As FallthroughNoBatchWorker asks; of a batch that nobody has validated no line is counted."""
    api, _ = fleet.start(fleet.api(), fleet.worker("interactive"))
    oldest, running = "fallthrough_queue_oldest_seconds", "fallthrough_queue_running"
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key="none") as sdk:
        start(sdk, [line("l1", "a prompt")])
    requests = {"requests": [{"prompt": "one"}, {"prompt": "two"}]}
    assert httpx.post(f"{api.url}/v1/jobs", json=requests).status_code == 202
    # A sweep puts off what waits, and it stays as old.
    swept = 2 * float(fleet.settings["FALLTHROUGH_DISPATCH_GRACE_SECONDS"])
    for queue in ("batch", "phases"):
        old = partial(lambda queue: values(api.url, oldest)[oldest, queue] > swept, queue)
        wait_until(old, swept + 10, f"{queue} is old")
        assert values(api.url, running)[running, queue] == 0
    unfinished = values(api.url, "fallthrough_unfinished")
    assert not [number for name, number in unfinished.items() if "lines" in name and number]
