"""The Helm chart by Helm's own engine, the compose file, the rules and the dashboard."""

from __future__ import annotations

import json
import re
from pathlib import Path

import helm_python as helm
import kubernetes_validate
import pytest
import yaml

from tasks.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "ai-platform"
KNOWN = {row[0] for row in Settings().rows()}
PROBES = yaml.safe_load((CHART / "values-health-probes.yaml").read_text())
VALUES = {
    "open": {"allowNoKeys": True},
    "probes": {"allowNoKeys": True, **PROBES},
    "everything": {
        "existingSecret": "keys",
        "ollama": {"enabled": True},
        "maxServe": {"enabled": True},
        "ingress": {"enabled": True, "host": "llm.example.com"},
        "apiServer": {"autoscaling": {"enabled": True}},
    },
    "yours": {
        "existingSecret": "keys",
        "valkey": {"enabled": False},
        "flower": {"enabled": False},
        "files": {"persistentVolume": {"enabled": False}},
        "settings": {"REDIS_URL": "rediss://redis:6380/0", "FILES_URL": "s3://bucket/files"},
    },
}


def render(values):
    rendered = helm.Chart.load(str(CHART)).render(values, name="ai-platform", namespace="ai")
    manifests = (text for name, text in rendered.items() if name.endswith(".yaml"))
    return [found for text in manifests for found in yaml.safe_load_all(text) if found]


def containers(manifests):
    for manifest in manifests:
        if manifest["kind"] in {"Deployment", "StatefulSet"}:
            spec = manifest["spec"]["template"]["spec"]
            yield from ((manifest["metadata"]["name"], spec, each) for each in spec["containers"])


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_the_chart_renders_what_kubernetes_takes(values):
    manifests = render(values)
    for manifest in manifests:
        kubernetes_validate.validate(manifest, "1.30", strict=True)
    names = [(each["kind"], each["metadata"]["name"]) for each in manifests]
    assert len(names) == len(set(names))
    assert not helm.lint(str(CHART), values)["errors"]


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_every_setting_that_the_chart_feeds_is_one(values):
    fed = {
        entry["name"]
        for _, _, container in containers(render(values))
        for entry in container.get("env", [])
        if entry["name"].startswith(PREFIX)
    }
    assert fed
    assert fed <= KNOWN


def test_pods_are_restricted_and_get_the_time_to_drain():
    for name, spec, container in containers(render(VALUES["everything"])):
        assert spec["automountServiceAccountToken"] is False
        if name.endswith(("ollama", "max-serve")):
            continue
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True
        assert security["capabilities"] == {"drop": ["ALL"]}
        if name.endswith("valkey"):
            continue
        assert spec["terminationGracePeriodSeconds"] == 30
        assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "5"]
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container)


def test_the_probes_are_those_of_the_quick_start():
    api = next(c for name, _, c in containers(render(VALUES["probes"])) if name == "api-server")
    assert api["livenessProbe"] == {
        "initialDelaySeconds": 30,
        "periodSeconds": 30,
        "timeoutSeconds": 10,
        "failureThreshold": 3,
        "httpGet": {"path": "/health", "port": "http"},
    }


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "existingSecret"),
        ({"allowNoKeys": True, "drainSeconds": 30}, "terminationGracePeriodSeconds"),
        ({"allowNoKeys": True, "valkey": {"enabled": False}}, "REDIS_URL"),
        ({"allowNoKeys": True, "ingress": {"enabled": True}}, "ingress.host"),
    ],
)
def test_values_that_make_no_sense_are_refused(values, said):
    with pytest.raises(helm.HelmError, match=said):
        render(values)


def test_compose_runs_every_part_with_settings_that_exist():
    compose = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())
    services = compose["services"]
    assert {
        *("api-server", "worker", "flower", "redis", "ollama", "max-serve-llama"),
        *("prometheus", "grafana"),
    } <= set(services)
    assert services["max-serve-llama"]["profiles"] == ["gpu"]
    for service in services.values():
        fed = {name for name in service.get("environment", {}) if name.startswith(PREFIX)}
        assert fed <= KNOWN
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), "nothing is published beyond this machine"
        for volume in service.get("volumes", []):
            if volume.startswith("./"):
                assert (ROOT / volume.split(":")[0]).exists()


def test_rules_and_dashboard_name_metrics_that_are_exported():
    sources = "".join(
        (ROOT / name).read_text() for name in ("api/operations.py", "workers/metrics.py")
    )
    rules = yaml.safe_load((ROOT / "configs/prometheus/rules/fallthrough.yml").read_text())
    dashboards = ROOT / "configs/grafana/dashboards"
    dashboard = json.loads((dashboards / "circuit-breaker-dashboard.json").read_text())
    queries = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    queries += [t["expr"] for panel in dashboard["panels"] for t in panel["targets"]]
    assert len(queries) > 12
    for query in queries:
        used = re.findall(r"\b((?:fallthrough|circuit_breaker)_[a-z_]+)\b", query)
        assert used, query
        for name in used:
            stem = name.removesuffix("_total").removeprefix("circuit_breaker_")
            assert stem in sources, name
    kustomization = yaml.safe_load((dashboards / "kustomization.yaml").read_text())
    [generator] = kustomization["configMapGenerator"]
    assert all((dashboards / file).exists() for file in generator["files"])
