"""A real Prometheus over a real run with an outage in it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import helm_python as helm
import httpx
import openai
import pytest
import yaml
from harness.batches import ended, line, start
from harness.flower import flower
from harness.waiting import free_port, wait_until

CONFIGS = Path(__file__).parents[2] / "configs"
CHART = Path(__file__).parents[2] / "helm" / "ai-platform"
TESTS = CONFIGS / "prometheus" / "tests" / "fallthrough.yml"
RULES = CONFIGS / "prometheus" / "rules" / "fallthrough.yml"
DASHBOARD = CONFIGS / "grafana" / "dashboards" / "circuit-breaker-dashboard.json"
SELECTOR = re.compile(r"\b(?:fallthrough|circuit_breaker)[a-z_:0-9]+(?:\{[^}]*\})?")
FOR = "3s"  # in place of minutes: how long a state lasts until its alert fires


def program(name):
    found = shutil.which(name)
    if not found:
        pytest.fail(f"{name} is missing: `./run test services` installs it and runs these")
    return found


class Prometheus:
    def __init__(self, url):
        self.url = url

    def query(self, text):
        reply = httpx.get(f"{self.url}/api/v1/query", params={"query": text}).json()
        assert reply["status"] == "success", (text, reply)
        return reply["data"]["result"]

    def firing(self):
        alerts = httpx.get(f"{self.url}/api/v1/alerts").json()["data"]["alerts"]
        return {
            (alert["labels"]["alertname"], alert["labels"].get("name"))
            for alert in alerts
            if alert["state"] == "firing"
        }

    def ready(self):
        try:
            return httpx.get(f"{self.url}/-/ready").is_success
        except httpx.HTTPError:
            return False


@pytest.fixture
def prometheus(tmp_path):
    """Return a function that starts a Prometheus on these targets: {job: [host:port, …]}."""
    started = []

    def begin(targets):
        rules = yaml.safe_load(RULES.read_text())
        for group in rules["groups"]:
            for rule in group["rules"]:
                if "for" in rule:
                    rule["for"] = FOR
        (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules))
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yml"],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": hosts}]}
                for job, hosts in targets.items()
            ],
        }
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
        port = free_port()
        command = [
            program("prometheus"),
            f"--config.file={tmp_path / 'prometheus.yml'}",
            f"--storage.tsdb.path={tmp_path / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        with (tmp_path / "prometheus.log").open("wb") as log:
            started.append(subprocess.Popen(command, stdout=log, stderr=log))
        found = Prometheus(f"http://127.0.0.1:{port}")
        wait_until(found.ready, 30, "Prometheus is ready")
        return found

    yield begin
    for process in started:
        process.terminate()
        process.wait(20)


def ask(client, prompt, **fields):
    body = {"messages": [{"role": "user", "content": prompt}], **fields}
    return client.post("/v1/chat/completions", json=body)


def queries():
    """Return every query of every panel and rule; of an alert, each series that it looks at."""
    found = []
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        found += [target["expr"] for target in panel.get("targets", [])]
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            found += SELECTOR.findall(rule["expr"])
            found += [rule["record"]] if "record" in rule else []
    return sorted({text.strip() for text in found})


@pytest.fixture
def watched(fleet, prometheus, tmp_path):
    """An API, a worker and Flower, scraped by a Prometheus."""
    api, worker = fleet.api().start(), fleet.worker().start()
    redis = {"FALLTHROUGH_REDIS_URL": fleet.settings["FALLTHROUGH_REDIS_URL"]}
    with (
        flower(tmp_path, **redis) as seen,
        httpx.Client(base_url=api.url, timeout=60) as client,
    ):
        ports = {"fallthrough-api": api.url, "fallthrough-worker": worker.url, "flower": seen}
        watching = prometheus({job: [url.removeprefix("http://")] for job, url in ports.items()})
        wait_until(lambda: len(watching.query("up == 1")) == 3, 30, "all targets are scraped")
        yield client, watching


@pytest.mark.timeout(240)
def test_panels_have_data_and_the_breakers_alert_fires_and_resolves(watched, gpu, cpu):
    client, watching = watched
    with openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="none") as sdk:
        wait_until(lambda: not watching.firing(), 30, "nothing is wrong")

        # A quiet while: answers, a batch, a request that is refused.
        assert ask(client, "again").is_success
        assert "[DONE]" in ask(client, "as it comes", stream=True).text
        ended(sdk, start(sdk, [line(f"l{n}", f"prompt {n}") for n in range(40)]).id)
        gpu.mode = "400"
        assert ask(client, "refused").status_code == 400

        # The outage: the GPU tier's breaker opens, the CPU tier answers.
        gpu.mode = "500"
        for n in range(4):
            assert ask(client, f"outage {n}").headers["x-fallthrough-tier"] == "cpu"
        cpu.mode = "500"
        nobody = ask(client, "nobody", fallthrough={"cache": "off"})
        assert nobody.headers["x-fallthrough-tier"] == "degraded"
        failing = {"cache": "off", "on_exhausted": "fail"}
        assert ask(client, "nobody", fallthrough=failing).status_code == 503
        cpu.mode = "ok"
        opened = ("FallthroughBreakerOpen", "max_gpu")
        wait_until(lambda: opened in watching.firing(), 30, "the alert fires")

        # The way back: probes close it.
        gpu.mode = "ok"
        wait_until(lambda: ask(client, "back").headers["x-fallthrough-tier"] == "gpu", 30)
        wait_until(lambda: ask(client, "more").is_success and not watching.firing(), 60, "resolved")
        state = watching.query('circuit_breaker_state{name="max_gpu"}')
        assert [sample["value"][1] for sample in state] == ["0"]

        def silent():
            return [text for text in queries() if not watching.query(text)]

        wait_until(lambda: not silent(), 40, f"these have no data: {silent()}")


def test_the_alert_of_a_model_that_a_tier_lacks_fires_though_no_breaker_opens(watched, gpu):
    client, watching = watched
    gpu.mode = "no-model"
    assert ask(client, "one").headers["x-fallthrough-tier"] == "cpu"
    lacking = ("FallthroughTierHasNotTheModel", "max_gpu")
    wait_until(lambda: lacking in watching.firing(), 30, "the alert fires")
    assert {name for name, _ in watching.firing()} == {lacking[0]}
    rate = 'rate(fallthrough_worker_tries_total{tier="gpu", verdict="unfit", detail=~".+"}[5m]) > 0'
    assert [each["metric"]["detail"] for each in watching.query(rate)] == ["no such model"]
    gpu.mode = "ok"
    assert ask(client, "two").headers["x-fallthrough-tier"] == "gpu"
    wait_until(lambda: not watching.firing(), 30, "resolved")


def checked(tests):
    done = subprocess.run(
        [program("promtool"), "test", "rules", str(tests)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


def test_the_rules_do_what_their_unit_tests_say():
    checked(TESTS)


def test_the_configuration_is_one_that_prometheus_takes():
    config = str(CONFIGS / "prometheus" / "prometheus.yml")
    done = subprocess.run(
        [program("promtool"), "check", "config", config],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def rules_of(release, runbookBase=None, **more):  # noqa: N803 - the chart's name
    """The groups of rules that the chart makes for a release, in a namespace of its own."""
    enabled = {"enabled": True}
    values = {"serviceMonitor": enabled, "prometheusRule": {**enabled}, **more}
    if runbookBase is not None:
        values["prometheusRule"]["runbookBase"] = runbookBase
    made = helm.Chart.load(str(CHART)).render(values, name=release, namespace=f"of-{release}")
    manifests = (yaml.safe_load_all(text) for name, text in made.items() if "monitoring" in name)
    [rule] = [each for all_of in manifests for each in all_of if each["kind"] == "PrometheusRule"]
    return rule["spec"]


OF_PROD = {"namespace": "of-prod", "release": "prod"}


def labelled(series, labels):
    """A series with more labels."""
    name, _, own = series.partition("{")
    more = ", ".join(f'{label}="{value}"' for label, value in labels.items())
    return f"{name}{{{more}{', ' if own.strip('}') else ''}{own or '}'}"


@pytest.mark.parametrize("values", [{}, {"seriesLabels": {"cluster": "a}{b"}}])
def test_what_the_chart_makes_of_the_rules_passes_their_tests(tmp_path, values):
    """Each rule sees its release's series alone: in every case another's lie beside them."""
    told = yaml.load(TESTS.read_text(), yaml.BaseLoader)  # noqa: S506 - to it 0x30 is a text
    own = values.get("seriesLabels", OF_PROD)
    for test in told["tests"]:
        test.pop("promql_expr_test", None)  # they look at what rules make: the alerts do, too
        given = [(each["series"], each["values"]) for each in test["input_series"]]
        test["input_series"] = [
            {"series": labelled(name, labels), "values": value}
            for name, its in given
            for labels, value in ((own, its), ({"release": "staging"}, "0x400"))
        ]
        for alert in (each for rule in test["alert_rule_test"] for each in rule["exp_alerts"]):
            alert["exp_labels"] |= {**OF_PROD, **own}
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules_of("prod", runbookBase="", **values)))
    (tmp_path / "tests.yml").write_text(yaml.safe_dump({**told, "rule_files": ["rules.yml"]}))
    checked(tmp_path / "tests.yml")


# Of prod, and of staging beside it, where all is well.
FAULTS = {
    "FallthroughNoWorker": ("fallthrough_workers{%s}", 0, 2),
    "FallthroughApiAway": ("fallthrough_store_up{%s}", "_", 1),
    "FallthroughNoTierAnswers": ('circuit_breaker_state{%s, name="max_gpu"}', 2, 0),
}


def test_a_release_that_is_well_hides_no_fault_of_another(tmp_path):
    labels = {
        release: f'namespace="of-{release}", release="{release}"' for release in ("prod", "staging")
    }
    series = []
    for release, whose in labels.items():
        (tmp_path / f"{release}.yml").write_text(yaml.safe_dump(rules_of(release)))
        values = {
            name % whose: faulty if release == "prod" else well
            for name, faulty, well in FAULTS.values()
        }
        values[f'circuit_breaker_held{{{whose}, name="max_gpu"}}'] = 0
        values[f'circuit_breaker_configured{{{whose}, name="max_gpu"}}'] = 1
        series += [{"series": name, "values": f"{value}x20"} for name, value in values.items()]
    rules = {
        rule["alert"]: rule
        for group in rules_of("prod")["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }
    fired = [
        {
            "eval_time": "5m",
            "alertname": name,
            "exp_alerts": [
                {"exp_labels": rules[name]["labels"], "exp_annotations": rules[name]["annotations"]}
            ],
        }
        for name in FAULTS
    ]
    test = {"interval": "15s", "input_series": series, "alert_rule_test": fired}
    whole = {"rule_files": ["prod.yml", "staging.yml"], "tests": [test]}
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(whole))
    checked(tmp_path / "tests.yml")
    assert rules["FallthroughNoWorker"]["labels"]["release"] == "prod"
