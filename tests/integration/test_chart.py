"""The Helm chart, rendered and linted by Helm's own engine, checked against Kubernetes' schemas."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import threading
import tomllib
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import helm_python as helm
import pytest
import yaml
from harness.charts import CHART, check, loaded

from api.files import LARGEST_FILE
from tasks.keys import parse_environment
from tasks.records.jobs import Queue
from tasks.settings import PREFIX, Settings, specs_of

ROOT = Path(__file__).parents[2]
KNOWN = {row[0] for row in Settings().rows()}
# Those of the parts: the command line has one of its own.
SECRETS = {
    PREFIX + field.name.upper()
    for field in specs_of(Settings)
    if field.metadata["kind"].shown("x") != "x" and field.name != "api_key"
}
DASHBOARD = "configs/grafana/dashboards/circuit-breaker-dashboard.json"
COPIES = ["configs/prometheus/rules/fallthrough.yml", DASHBOARD]
# No part of Kubernetes: kubernetes-validate knows no schema of theirs.
CUSTOM = {"keda.sh/v1alpha1", "monitoring.coreos.com/v1"}
# The oldest version that Chart.yaml allows, and the newest that has a schema.
VERSIONS = ["1.25", "1.37"]
PARTS = ("api-server", "worker-interactive", "worker-batch", "flower")
DIGEST = "sha256:" + "0123456789abcdef" * 4


def values_of(name):
    return yaml.safe_load((CHART / name).read_text())


PROBES = values_of("values-health-probes.yaml")
MONITORED = {
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
    "dashboard": {"enabled": True},
}
EVERYTHING = {
    **MONITORED,
    "existingSecret": "keys",
    "imagePullSecrets": [{"name": "registry"}],
    "extraEnvFrom": [{"configMapRef": {"name": "s3"}}],
    "settings": {"MAX_BODY_BYTES": 86_400_000, "GPU_TIMEOUT_SECONDS": 1.5, "LOG_LEVEL": "DEBUG"},
    "ollama": {"enabled": True, "nodeSelector": {"disk": "fast"}},
    "maxServe": {"enabled": True},
    "ingress": {
        "enabled": True,
        "host": "llm.example.com",
        "className": "nginx",
        "annotations": {"nginx.ingress.kubernetes.io/proxy-read-timeout": "130"},
        "tls": [{"secretName": "tls", "hosts": ["llm.example.com"]}],
    },
    "apiServer": {"autoscaling": {"enabled": True}},
    "keda": {"enabled": True},
    "networkPolicy": {"apiFrom": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]},
}
VALUES = {
    "nothing": {},
    "quick start": PROBES,
    "open": {**MONITORED, "allowNoKeys": True, "keda": {"enabled": True}},
    "everything": EVERYTHING,
    "yours": {
        "existingSecret": "keys",
        "valkey": {"enabled": False},
        "flower": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "podDisruptionBudget": {"enabled": False},
        "files": {"persistentVolume": {"enabled": False}},
        "settings": {
            "REDIS_URL": "rediss://redis:6380/0",
            "BROKER_URL": "amqp://rabbit",
            "FILES_URL": "s3://bucket/files",
            "GPU_URL": "http://vllm:8000",
        },
    },
    "store in the secret": {"existingSecret": "keys", "valkey": {"enabled": False}},
}
QUICK = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a tenth of the time, where it was built
every_values = pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)


def texts(values):
    return loaded().render(values, name="ai-platform", namespace="ai")


def parsed(rendered):
    manifests = (text for name, text in rendered.items() if name.endswith(".yaml"))
    return [found for text in manifests for found in yaml.load_all(text, QUICK) if found]


def render(values):
    return parsed(texts(values))


def of_kind(manifests, kind):
    return {each["metadata"]["name"]: each for each in manifests if each["kind"] == kind}


def pods(manifests):
    """(name, spec) of every pod that the chart makes."""
    for manifest in manifests:
        name = manifest["metadata"]["name"]
        if manifest["kind"] in {"Deployment", "StatefulSet"}:
            yield name, manifest["spec"]["template"]["spec"]
        elif manifest["kind"] == "Pod":
            yield name, manifest["spec"]


def environment(spec):
    [container] = spec["containers"]
    return container.get("env", [])


def decoded(secret):
    return {name: base64.b64decode(value).decode() for name, value in secret["data"].items()}


@every_values
def test_the_chart_renders_what_kubernetes_takes(values):
    manifests = render(values)
    for manifest in manifests:
        if manifest["apiVersion"] not in CUSTOM:
            for version in VERSIONS:
                check(manifest, version)
    names = [(each["kind"], each["metadata"]["name"]) for each in manifests]
    assert len(names) == len(set(names))
    linted = helm.lint(str(CHART), values, strict=True)
    assert not linted["errors"]
    said = [each["error"] for each in linted["messages"] if each["error"] != "icon is recommended"]
    assert not said


def test_the_quick_starts_command_installs_every_part_with_keys():
    manifests = render({**values_of("values.yaml"), **PROBES})
    assert set(of_kind(manifests, "Deployment")) == {
        "api-server",
        "ai-platform-worker-interactive",
        "ai-platform-worker-batch",
        "ai-platform-flower",
    }
    assert set(of_kind(manifests, "StatefulSet")) == {"ai-platform-valkey"}
    [api] = [spec for name, spec in pods(manifests) if name == "api-server"]
    given = {entry["name"]: entry for entry in environment(api)}
    assert f"{PREFIX}ALLOW_NO_KEYS" not in given
    [secret] = of_kind(manifests, "Secret")
    wanted = {"name": secret, "key": f"{PREFIX}API_KEYS", "optional": False}
    assert given[f"{PREFIX}API_KEYS"]["valueFrom"]["secretKeyRef"] == wanted


def test_the_probes_are_those_that_the_quick_start_prints():
    [api] = [spec for name, spec in pods(render(PROBES)) if name == "api-server"]
    [container] = api["containers"]
    printed = {"httpGet": {"path": "/health", "port": 8000}, "failureThreshold": 3}
    times = {"initialDelaySeconds": 30, "periodSeconds": 30, "timeoutSeconds": 10}
    assert container["livenessProbe"] == {**printed, **times}
    times = {"initialDelaySeconds": 20, "periodSeconds": 10, "timeoutSeconds": 5}
    assert container["readinessProbe"] == {**printed, **times}
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "5"]
    assert api["terminationGracePeriodSeconds"] == 30
    assert container["ports"] == [{"name": "http", "containerPort": 8000}]


def test_every_part_is_probed_and_gets_the_time_to_drain():
    own = {"api-server": "/health/ready", "worker": "/health/ready", "flower": "/healthcheck"}
    seen = set()
    for name, spec in pods(render(EVERYTHING)):
        part = next((part for part in own if part in name), None)
        if part is None:
            continue
        seen.add(part)
        [container] = spec["containers"]
        assert spec["terminationGracePeriodSeconds"] == 30
        assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "5"]
        assert container["readinessProbe"]["httpGet"] == {"path": own[part], "port": "http"}
        assert {"startupProbe", "livenessProbe"} <= set(container)
    assert seen == set(own)


@every_values
def test_every_setting_that_the_chart_feeds_is_one_and_can_be_read(values):
    for name, spec in pods(render(values)):
        fed = [entry["name"] for entry in environment(spec)]
        assert len(fed) == len(set(fed)), name
        assert {each for each in fed if each.startswith(PREFIX)} <= KNOWN, name
        plain = {entry["name"]: entry["value"] for entry in environment(spec) if "value" in entry}
        assert not SECRETS & set(plain), "a secret stands in the manifest"
        Settings.from_env(plain)


def test_numbers_arrive_as_they_were_given():
    [api] = [spec for name, spec in pods(render(EVERYTHING)) if name == "api-server"]
    plain = {entry["name"]: entry.get("value") for entry in environment(api)}
    read = Settings.from_env({name: value for name, value in plain.items() if value})
    assert read.max_body_bytes == 86_400_000
    assert read.gpu_timeout_seconds == 1.5
    assert read.gpu_url == "http://ai-platform-max-serve:8000"
    assert read.cpu_url == "http://ai-platform-ollama:11434"
    assert read.redis_url == "redis://ai-platform-valkey:6379/0"


def test_each_part_gets_only_the_secrets_that_it_needs():
    taken = {
        name: {
            entry["valueFrom"]["secretKeyRef"]["key"]
            for entry in environment(spec)
            if "valueFrom" in entry
        }
        for name, spec in pods(render({}))
    }
    upstream = {*SECRETS, "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    broker = f"{PREFIX}BROKER_URL"
    assert taken == {
        "api-server": {*upstream, broker},
        "ai-platform-worker-interactive": {*upstream, broker} - {f"{PREFIX}API_KEYS"},
        "ai-platform-worker-batch": {*upstream, broker} - {f"{PREFIX}API_KEYS"},
        "ai-platform-flower": {"FLOWER_BASIC_AUTH", broker},
        "ai-platform-valkey": set(),
        "ai-platform-answers": {f"{PREFIX}ADMIN_KEY"},
    }


NAMED = {
    "settings": {"TIERS": "h100, l4,cpu", "H100_URL": "http://h100", "L4_FLEET_CONCURRENCY": 8},
    "ollama": {"enabled": True},
}


def test_tiers_that_are_named_have_their_settings_and_their_keys():
    for name, spec in pods(render(NAMED)):
        if name not in {"api-server", "ai-platform-worker-batch"}:
            continue
        given = {entry["name"]: entry for entry in environment(spec)}
        keys = {each for each in given if each.endswith("_API_KEY")}
        assert keys == {f"{PREFIX}{tier}_API_KEY" for tier in ("H100", "L4", "CPU")}
        assert all(given[key]["valueFrom"]["secretKeyRef"]["optional"] for key in keys)
        read = Settings.from_env({k: v["value"] for k, v in given.items() if "value" in v})
        tiers = read.model_tiers
        assert list(tiers) == ["h100", "l4", "cpu"]
        assert (tiers["h100"].url, tiers["l4"].fleet_concurrency) == ("http://h100", 8)
        assert tiers["cpu"].url == "http://ai-platform-ollama:11434"


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"settings": {"TIERS": "l4", "L4_API_KEY": "x"}}, "settings.L4_API_KEY is not set here"),
        ({**NAMED, "maxServe": {"enabled": True}}, "settings.TIERS does not name gpu"),
        ({"settings": {"TIERS": "gpu"}, "ollama": {"enabled": True}}, "TIERS does not name cpu"),
    ],
)
def test_what_a_tier_cannot_have_is_said_by_the_chart(values, fault):
    with pytest.raises(helm.HelmError, match=re.escape(fault)):
        render(values)


def test_the_two_queues_have_workers_of_their_own():
    queues = {
        entry["value"]: name
        for name, spec in pods(render({}))
        for entry in environment(spec)
        if entry["name"] == f"{PREFIX}WORKER_QUEUES"
    }
    assert queues == {
        "interactive": "ai-platform-worker-interactive",
        "batch": "ai-platform-worker-batch",
    }


def test_valkey_refuses_before_its_container_is_out_of_memory():
    [container] = next(s["containers"] for n, s in pods(render({})) if n == "ai-platform-valkey")
    limit = container["resources"]["limits"]["memory"]
    maxmemory = container["command"][container["command"].index("--maxmemory") + 1]
    assert limit.endswith("Gi")
    assert maxmemory.endswith("mb")
    assert int(maxmemory.removesuffix("mb")) <= 0.75 * 1024 * int(limit.removesuffix("Gi"))


def test_uploads_are_refused_before_the_volume_of_files_is_full():
    values = values_of("values.yaml")
    size = values["files"]["persistentVolume"]["size"]
    assert size.endswith("Gi")
    most = int(values["settings"]["MAX_STORED_BYTES"])
    assert most <= 0.75 * 1024**3 * int(size.removesuffix("Gi")), "results need room, too"


@pytest.mark.parametrize(
    ("maxmemory", "limit", "fits"),
    [
        *(("768mb", "1Gi", True), ("769mb", "1Gi", False), ("1gb", "1.5Gi", True)),
        *(("1gb", "1Gi", False), ("805306368", 1073741824, True), ("805306369", 1073741824, False)),
        *(("750mb", "1G", False), ("700mb", "1G", True), ("786432kb", "1048576Ki", True)),
        *(("1000gb", "1Ti", False), ("4gb", "8G", True), ("4gb", None, True), ("4gb", "1e9", True)),
    ],
)
def test_what_valkey_may_fill_fits_into_its_container(maxmemory, limit, fits):
    resources = {"limits": {"memory": limit}}
    values = {"valkey": {"maxmemory": maxmemory, "resources": resources}}
    if fits:
        render(values)
        return
    with pytest.raises(helm.HelmError, match=r"valkey\.maxmemory is more than"):
        render(values)


def test_a_store_without_limits_or_elsewhere_is_not_ours_to_check():
    assert render({"valkey": {"maxmemory": "64gb", "resources": None}})
    values = {"valkey": {"enabled": False, "maxmemory": "64gb"}, "existingSecret": "keys"}
    assert render(values)


@every_values
def test_every_folder_of_a_pod_has_a_size(values):
    sizes = {}
    for name, spec in pods(render(values)):
        for volume in spec.get("volumes", []):
            if "emptyDir" in volume:
                sizes[name, volume["name"]] = volume["emptyDir"].get("sizeLimit")
    assert ("api-server", "tmp") in sizes
    assert None not in sizes.values(), sizes


def test_a_folder_is_as_large_as_the_values_say():
    sizes = {
        (name.removeprefix("ai-platform-"), volume["name"]): volume["emptyDir"]["sizeLimit"]
        for name, spec in pods(
            render(
                {
                    **EVERYTHING,
                    "emptyDir": {"tmp": "7Gi", "data": "3Gi"},
                    "ollama": {"enabled": True, "tmpSize": "5Gi"},
                    "maxServe": {"enabled": True, "tmpSize": "6Gi"},
                }
            )
        )
        for volume in spec.get("volumes", [])
        if "emptyDir" in volume
    }
    assert sizes == {
        **{(part, "tmp"): "7Gi" for part in PARTS},
        ("flower", "data"): "3Gi",
        ("ollama", "tmp"): "5Gi",
        ("max-serve", "tmp"): "6Gi",
    }


def test_twenty_uploads_of_the_largest_size_fit_into_a_pods_tmp():
    tmp = values_of("values.yaml")["emptyDir"]["tmp"]
    assert tmp.endswith("Gi")
    assert int(tmp.removesuffix("Gi")) * 1024**3 >= 20 * LARGEST_FILE


def test_pods_are_restricted():
    # As the Pod Security Standard "restricted" has it, and no file of the image can be written.
    seen = set()
    for name, spec in pods(render(EVERYTHING)):
        seen.add(name.removeprefix("ai-platform-"))
        [container] = spec["containers"]
        security = {**spec["securityContext"], **container["securityContext"]}
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert spec["serviceAccountName"] == "ai-platform-fallthrough"
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        if not name.endswith("max-serve"):  # its image is made to run as root
            assert security["runAsNonRoot"] is True
            assert security["runAsUser"] > 0
            assert security["readOnlyRootFilesystem"] is True
    assert seen >= {"api-server", "flower", "valkey", "ollama", "max-serve", "answers"}
    [account] = of_kind(render({}), "ServiceAccount").values()
    assert account["automountServiceAccountToken"] is False


def test_a_gpu_is_asked_for_where_one_is():
    [spec] = [spec for name, spec in pods(render(EVERYTHING)) if name.endswith("max-serve")]
    [container] = spec["containers"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 1}
    assert spec["tolerations"][0]["key"] == "nvidia.com/gpu"


@contextmanager
def serving(answers, unready=0):
    """An HTTP server with these answers by (method, path); yields its URL and what it was sent.

    unready: so many requests get a 503 first.
    """
    sent, statuses = {}, iter([503] * unready)

    class Handler(BaseHTTPRequestHandler):
        def _answer(self):
            asked = (self.command, self.path.split("?")[0])
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            sent[asked] = (dict(self.headers), content)
            status, body = (200, answers[asked]) if asked in answers else (404, {})
            status = next(statuses, status)
            encoded = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

        do_GET = do_POST = _answer  # noqa: N815 - http.server's names

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", sent
        finally:
            server.shutdown()
            thread.join()


def render_where(objects, values):
    """Render as `helm upgrade` does where the cluster has these Secrets and Deployments."""
    kinds = {"Secret": "/api/v1", "Deployment": "/apis/apps/v1"}
    apps = {"groupVersion": "apps/v1", "version": "v1"}
    group = {"name": "apps", "versions": [apps], "preferredVersion": apps}
    cluster = {
        ("GET", "/api"): {"kind": "APIVersions", "versions": ["v1"]},
        ("GET", "/apis"): {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]},
    }
    for kind, path in kinds.items():
        name = f"{kind.lower()}s"
        resource = {"name": name, "namespaced": True, "kind": kind, "verbs": ["get"]}
        version = path.removeprefix("/api/").removeprefix("/apis/")
        cluster["GET", path] = {"groupVersion": version, "resources": [resource]}
        for each in objects:
            if each["kind"] == kind:
                cluster["GET", f"{path}/namespaces/ai/{name}/{each['metadata']['name']}"] = each
    with serving(cluster) as (url, _):
        context = {"name": "test", "context": {"cluster": "test", "user": "test"}}
        kubeconfig = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": url}}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [context],
            "current-context": "test",
        }
        content = yaml.safe_dump(kubeconfig)
        with helm.Config(kubeconfig_content=content, namespace="ai") as config:
            rendered = config.render(loaded(), values, name="ai-platform", namespace="ai")
    return parsed(rendered)


def test_without_a_secret_of_yours_the_chart_makes_one():
    [secret] = of_kind(render({}), "Secret").values()
    given = decoded(secret)
    [key] = parse_environment(given["FALLTHROUGH_API_KEYS"])
    assert (key.owner, key.admin) == ("admin", True)
    assert given["FALLTHROUGH_API_KEYS"] == f"admin!={given['FALLTHROUGH_ADMIN_KEY']}"
    assert re.fullmatch(r"ft-\w{43}", given["FALLTHROUGH_ADMIN_KEY"])
    assert re.fullmatch(r"admin:\w{43}", given["FLOWER_BASIC_AUTH"])
    told = f"{given['FLOWER_USERNAME']}:{given['FLOWER_PASSWORD']}"
    assert given["FLOWER_BASIC_AUTH"] == told
    assert secret["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    [other] = of_kind(render({}), "Secret").values()
    assert not set(given.values()) & set(decoded(other).values()) - {"admin"}


def test_an_upgrade_keeps_the_keys_that_are_there():
    [secret] = of_kind(render({}), "Secret").values()
    secret["metadata"]["namespace"] = "ai"
    [kept] = of_kind(render_where([secret], {}), "Secret").values()
    assert decoded(kept) == decoded(secret)
    # Another owner's key that an admin added stays too.
    more = decoded(secret)["FALLTHROUGH_API_KEYS"] + ",ann=ft-0123456789abcdef"
    secret["data"]["FALLTHROUGH_API_KEYS"] = base64.b64encode(more.encode()).decode()
    [kept] = of_kind(render_where([secret], {}), "Secret").values()
    assert decoded(kept)["FALLTHROUGH_API_KEYS"] == more


FLOWERS = ("FLOWER_BASIC_AUTH", "FLOWER_USERNAME", "FLOWER_PASSWORD")
KEYS = ("FALLTHROUGH_API_KEYS", "FALLTHROUGH_ADMIN_KEY")


@pytest.mark.parametrize(
    "values",
    [
        {"allowNoKeys": True},
        {"flower": {"enabled": False}},
        {"allowNoKeys": True, "flower": {"enabled": False}},
        {"secrets": {name: {"name": "mine"} for name in KEYS}},
        {"secrets": {name: {"name": "mine"} for name in FLOWERS}},
    ],
    ids=["no keys", "no flower", "neither", "keys elsewhere", "flower's elsewhere"],
)
def test_what_is_not_read_for_a_while_is_kept_as_well(values):
    [secret] = of_kind(render({}), "Secret").values()
    secret["metadata"]["namespace"] = "ai"
    # What an admin put there is nobody's to take away either.
    secret["data"]["FALLTHROUGH_GPU_API_KEY"] = base64.b64encode(b"sk-0123456789").decode()
    [meanwhile] = of_kind(render_where([secret], values), "Secret").values()
    assert meanwhile["data"] == secret["data"]
    [back] = of_kind(render_where([secret], {}), "Secret").values()
    assert back["data"] == secret["data"]


def test_what_was_never_made_is_made_when_it_is_read():
    [without] = of_kind(render({"allowNoKeys": True}), "Secret").values()
    without["metadata"]["namespace"] = "ai"
    [made] = of_kind(render_where([without], {}), "Secret").values()
    assert set(made["data"]) == {*KEYS, *FLOWERS}
    assert without["data"].items() <= made["data"].items()


def test_no_secret_is_made_beside_yours_and_no_key_where_none_is_asked_for():
    assert not of_kind(render({"existingSecret": "keys"}), "Secret")
    assert not of_kind(render({"allowNoKeys": True, "flower": {"enabled": False}}), "Secret")
    [secret] = of_kind(render({"allowNoKeys": True}), "Secret").values()
    assert not [name for name in secret["data"] if name.startswith(PREFIX)]
    assert "FLOWER_BASIC_AUTH" in secret["data"], "Flower is never open to the network"


@pytest.mark.parametrize(
    ("workers", "queues"), [("interactive", ["interactive"]), ("batch", ["batch", "phases"])]
)
def test_keda_scales_each_queues_workers_on_what_is_queued_and_runs(workers, queues):
    manifests = render(EVERYTHING)
    name = f"ai-platform-worker-{workers}"
    assert "replicas" not in of_kind(manifests, "Deployment")[name]["spec"]
    scaled = of_kind(manifests, "ScaledObject")[name]["spec"]
    defaults = values_of("values.yaml")
    wanted = defaults["worker"][workers]["keda"]
    assert scaled["scaleTargetRef"] == {"name": name}
    assert scaled["minReplicaCount"] == wanted["minReplicas"]
    assert scaled["maxReplicaCount"] == wanted["maxReplicas"]
    assert scaled["cooldownPeriod"] == defaults["keda"]["cooldownSeconds"]
    assert "fallback" not in scaled, "an API that is away would take busy workers away"
    assert set(queues) <= {queue.value for queue in Queue}
    metadata = {
        "url": "http://api-server.ai.svc:8000/metrics",
        "targetValue": str(wanted["targetValue"]),
        "authMode": "bearer",
    }
    [authentication] = of_kind(manifests, "TriggerAuthentication").values()
    assert scaled["triggers"] == [
        {
            "type": "metrics-api",
            "metadata": {**metadata, "valueLocation": f"metrics.load_{queue}"},
            "authenticationRef": {"name": authentication["metadata"]["name"]},
        }
        for queue in queues
    ]
    key = {"parameter": "token", "name": "keys", "key": "FALLTHROUGH_ADMIN_KEY"}
    assert authentication["spec"]["secretTargetRef"] == [key]


def test_keda_scales_on_rabbitmq_as_on_valkey():
    on_rabbitmq = {**EVERYTHING, "settings": {"BROKER_URL": "amqp://rabbit"}}
    scaled = of_kind(render(on_rabbitmq), "ScaledObject")
    # It asks the API, which counts in the store: no queue of a broker is looked at.
    assert scaled == of_kind(render(EVERYTHING), "ScaledObject")


def test_keda_asks_without_a_key_where_there_is_none():
    manifests = render(VALUES["open"])
    assert not of_kind(manifests, "TriggerAuthentication")
    for scaled in of_kind(manifests, "ScaledObject").values():
        for trigger in scaled["spec"]["triggers"]:
            assert "authenticationRef" not in trigger
            assert "authMode" not in trigger["metadata"]


STORING = ["api-server", "ai-platform-worker-interactive", "ai-platform-worker-batch"]


@every_values
def test_what_keeps_records_is_stopped_before_it_is_started_anew(values):
    deployments = of_kind(render(values), "Deployment")
    for name in STORING:
        spec = deployments.pop(name)["spec"]
        assert spec["strategy"] == {"type": "Recreate"}
    # Of the others, the model servers hold a volume.
    recreated = {name for name, each in deployments.items() if "strategy" in each["spec"]}
    assert recreated <= {"ai-platform-ollama", "ai-platform-max-serve"}


def test_a_release_that_says_so_may_be_rolled_out():
    deployments = of_kind(render({"updateStrategy": {"type": "RollingUpdate"}}), "Deployment")
    for name in STORING:
        strategy = deployments[name]["spec"]["strategy"]
        # Said, not left to Kubernetes: a server-side apply back to Recreate takes away its own.
        numbers = {"maxSurge": "25%", "maxUnavailable": "25%"}
        assert strategy == {"type": "RollingUpdate", "rollingUpdate": numbers}


def test_a_rollout_may_take_as_long_as_its_pods_may_drain():
    # A new pod that finds an old one waits as long again, at most: back-offs double.
    for grace, deadline in ((30, 660), (1800, 4200)):
        deployments = of_kind(render({"terminationGracePeriodSeconds": grace}), "Deployment")
        for name in STORING:
            assert deployments[name]["spec"]["progressDeadlineSeconds"] == deadline


def live(name, operation, **strategy):
    """A Deployment as the cluster has it, and who put which part of its strategy there."""
    owned = {"f:strategy": {f"f:{key}": {} for key in strategy}} if strategy else {}
    if "rollingUpdate" in strategy:
        owned["f:strategy"]["f:rollingUpdate"] = {"f:maxSurge": {}, "f:maxUnavailable": {}}
    numbers = {"maxSurge": "25%", "maxUnavailable": "25%"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name,
            "namespace": "ai",
            "managedFields": [
                {"manager": "helm", "operation": operation, "fieldsV1": {"f:spec": owned}},
                {"manager": "controller", "operation": "Update", "fieldsV1": {"f:status": {}}},
            ],
        },
        "spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": numbers}},
    }


def test_a_server_side_apply_that_cannot_come_to_recreate_says_what_to_do_first():
    deployments = [live(name, "Apply") for name in STORING]
    wanted = "(?s)kubectl -n ai patch " + " ".join(f"deployment/{name}" for name in STORING)
    with pytest.raises(helm.HelmError, match=wanted):
        render_where(deployments, {})
    with pytest.raises(helm.HelmError, match="patch deployment/api-server --type"):
        render_where(deployments[:1], {})


@pytest.mark.parametrize(
    ("deployment", "values"),
    [
        (live("api-server", "Update"), {}),
        (live("api-server", "Apply", type="", rollingUpdate=""), {}),
        (live("api-server", "Apply"), {"updateStrategy": {"type": "RollingUpdate"}}),
    ],
    ids=["client-side apply", "numbers of our own", "no change wanted"],
)
def test_any_other_deployment_comes_to_the_strategy_that_is_wanted(deployment, values):
    assert of_kind(render_where([deployment], values), "Deployment")


def test_without_keda_and_autoscaling_the_replicas_are_those_of_the_values():
    manifests = render({"apiServer": {"replicas": 3}, "worker": {"batch": {"replicas": 4}}})
    deployments = of_kind(manifests, "Deployment")
    assert deployments["api-server"]["spec"]["replicas"] == 3
    assert deployments["ai-platform-worker-batch"]["spec"]["replicas"] == 4
    assert not of_kind(manifests, "ScaledObject")
    assert not of_kind(manifests, "HorizontalPodAutoscaler")
    assert set(of_kind(manifests, "PodDisruptionBudget")) == {
        "ai-platform-api-server",
        "ai-platform-worker-interactive",
        "ai-platform-worker-batch",
    }


def test_the_api_scales_on_its_processors():
    manifests = render(EVERYTHING)
    assert "replicas" not in of_kind(manifests, "Deployment")["api-server"]["spec"]
    scaler = of_kind(manifests, "HorizontalPodAutoscaler")["api-server"]["spec"]
    assert scaler["scaleTargetRef"]["name"] == "api-server"
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 10)


def test_prometheus_scrapes_every_part_with_what_it_asks_for():
    manifests = render({**MONITORED, "existingSecret": "keys"})
    monitors = of_kind(manifests, "ServiceMonitor")
    [api] = monitors["ai-platform-api-server"]["spec"]["endpoints"]
    key = {"name": "keys", "key": "FALLTHROUGH_ADMIN_KEY"}
    assert api["authorization"] == {"type": "Bearer", "credentials": key}
    [flower] = monitors["ai-platform-flower"]["spec"]["endpoints"]
    assert flower["basicAuth"] == {
        "username": {"name": "keys", "key": "FLOWER_USERNAME"},
        "password": {"name": "keys", "key": "FLOWER_PASSWORD"},
    }
    [monitor] = of_kind(manifests, "PodMonitor").values()
    [worker] = monitor["spec"]["podMetricsEndpoints"]
    for endpoint in (api, flower, worker):
        assert (endpoint["port"], endpoint["path"]) == ("http", "/metrics")
    # The rules and the dashboard ask by job.
    jobs = {each["relabelings"][0]["replacement"] for each in (api, flower, worker)}
    configured = yaml.safe_load((ROOT / "configs/prometheus/prometheus.yml").read_text())
    assert jobs == {each["job_name"] for each in configured["scrape_configs"]}
    for each in [*monitors.values(), monitor]:
        assert each["metadata"]["labels"]["release"] == "prometheus"
    [open_api, _] = [
        each["spec"]["endpoints"][0]
        for each in of_kind(render(VALUES["open"]), "ServiceMonitor").values()
    ]
    assert "authorization" not in open_api


def test_what_a_monitor_a_service_and_a_policy_select_is_there():
    manifests = render({**EVERYTHING, "networkPolicy": {"enabled": True}})
    labelled = [
        each["spec"]["template"]["metadata"]["labels"]
        for each in manifests
        if each["kind"] in {"Deployment", "StatefulSet"}
    ]
    services = [each["metadata"]["labels"] for each in of_kind(manifests, "Service").values()]
    looked = 0
    for manifest in manifests:
        kind, spec = manifest["kind"], manifest.get("spec", {})
        wanted = {
            "Service": spec.get("selector"),
            "NetworkPolicy": spec.get("podSelector", {}).get("matchLabels"),
            "PodDisruptionBudget": (spec.get("selector") or {}).get("matchLabels"),
            "ServiceMonitor": (spec.get("selector") or {}).get("matchLabels"),
        }.get(kind)
        if wanted is None:
            continue
        looked += 1
        among = services if kind == "ServiceMonitor" else labelled
        found = [labels for labels in among if wanted.items() <= labels.items()]
        assert len(found) == 1, manifest["metadata"]["name"]
    assert looked > 12


def peers_of(network_policy):
    """Who may connect, by part; None: anybody."""
    policies = of_kind(render({**EVERYTHING, "networkPolicy": network_policy}), "NetworkPolicy")
    peers = {}
    for name, policy in policies.items():
        [rule] = policy["spec"]["ingress"]
        assert len(rule["ports"]) == 1
        peers[name.removeprefix("ai-platform-")] = rule.get("from")
    return peers


def test_only_what_needs_a_part_connects_to_it():
    peers = peers_of({})
    parts = {name.removeprefix("ai-platform-") for name, _ in pods(render(EVERYTHING))}
    assert set(peers) == parts - {"answers"}
    assert peers["api-server"] is None, "anybody"
    inside = [{"podSelector": {}}]  # without a namespaceSelector: of the policy's own namespace
    assert peers["worker-interactive"] == peers["worker-batch"] == peers["flower"] == inside
    for part, callers in {
        "valkey": {"api-server", "worker-interactive", "worker-batch", "flower"},
        "ollama": {"api-server", "worker-interactive", "worker-batch"},
        "max-serve": {"api-server", "worker-interactive", "worker-batch"},
    }.items():
        [peer] = peers[part]
        assert set(peer["podSelector"]["matchExpressions"][0]["values"]) == callers


def test_a_prometheus_elsewhere_is_let_in_by_its_namespace():
    labels = {"kubernetes.io/metadata.name": "monitoring"}
    prometheus = {"namespaceSelector": {"matchLabels": labels}}
    peers = peers_of({"monitoringNamespaces": ["monitoring"]})
    for part in PARTS[1:]:
        assert peers[part] == [{"podSelector": {}}, prometheus]
    assert peers["api-server"] is None, "anybody, still"
    assert prometheus not in peers["valkey"] + peers["ollama"] + peers["max-serve"]
    # Where the API's peers are named, it needs its place among them, as `helm test` does.
    ingress = {"podSelector": {"matchLabels": {"app": "nginx"}}}
    api = peers_of({"apiFrom": [ingress], "monitoringNamespaces": ["monitoring"]})["api-server"]
    assert api[:2] == [ingress, prometheus]
    [test] = [each for each in api[2:] if "podSelector" in each]
    pod = of_kind(render({}), "Pod")["ai-platform-answers"]
    assert test["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()


@pytest.mark.parametrize("original", COPIES)
def test_the_chart_carries_the_very_rules_and_dashboard(original):
    # A chart cannot read what lies outside its folder.
    copy = f"helm/ai-platform/files/{Path(original).name}"
    same = (ROOT / original).read_bytes() == (ROOT / copy).read_bytes()
    assert same, f"they differ; do: cp {original} {copy}"


def watching(values):
    """The groups of rules and the dashboard that the chart makes, and those of its files."""
    manifests = render(values)
    [rule] = of_kind(manifests, "PrometheusRule").values()
    board = of_kind(manifests, "ConfigMap")["ai-platform-dashboard"]
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    made = rule["spec"]["groups"], json.loads(board["data"]["circuit-breaker-dashboard.json"])
    groups = yaml.safe_load((CHART / "files/fallthrough.yml").read_text())["groups"]
    return *made, groups, json.loads((ROOT / DASHBOARD).read_text())


def expressions(groups, board):
    yield from (rule["expr"] for group in groups for rule in group["rules"])
    yield from (target["expr"] for p in board["panels"] for target in p.get("targets", []))


def without_release(groups, board):
    """The same rules and dashboard without the labels, names and uid that say whose they are."""
    for group in groups:
        group["name"] = group["name"].removeprefix("ai-platform-")
        for rule in group["rules"]:
            whose = {name: rule["labels"].pop(name) for name in ("namespace", "release")}
            assert whose == {"namespace": "ai", "release": "ai-platform"}
            if not rule["labels"]:
                del rule["labels"]
    return groups, {**board, "uid": "", "title": ""}


def test_rules_and_dashboard_reach_the_cluster_as_they_are():
    groups, board, *originals = watching({**MONITORED, "serviceMonitor": {"enabled": False}})
    assert board == originals[1]
    assert without_release(groups, board) == (originals[0], {**board, "uid": "", "title": ""})


SERIES = re.compile(r"\b(?:fallthrough|circuit_breaker|process)[_:][a-z0-9_:]+(\{[^}]*\})?")


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (MONITORED, {"namespace": "ai", "release": "ai-platform"}),
        ({**MONITORED, "seriesLabels": {"team": "$1"}}, {"team": "$1"}),
    ],
    ids=["as the monitors label them", "as you do"],
)
def test_rules_and_dashboard_look_at_their_own_releases_series_alone(values, labels):
    groups, board, *originals = watching(values)
    own = ",".join(f'{name}="{value}"' for name, value in labels.items())
    for made, original in zip(expressions(groups, board), expressions(*originals), strict=True):
        selectors = [found[1] for found in SERIES.finditer(made)]
        assert selectors
        assert all(each.startswith(f"{{{own}") for each in selectors), made
        assert made.replace(f"{{{own}}}", "").replace(f"{own},", "") == original
    # What is recorded carries the labels that it is asked by; an alert says them to who gets it.
    for rule in (rule for group in groups for rule in group["rules"]):
        assert {**labels, "namespace": "ai", "release": "ai-platform"}.items() <= rule[
            "labels"
        ].items()
    assert "ai/ai-platform" in board["title"]
    assert board["uid"] != originals[1]["uid"]


def test_every_monitor_puts_on_its_series_what_the_rules_ask_for():
    manifests = render(MONITORED)
    monitors = [each for each in manifests if each["kind"] in {"ServiceMonitor", "PodMonitor"}]
    assert len(monitors) == 3
    for spec in (each["spec"] for each in monitors):
        # In the monitor's own namespace, which the Operator makes the label `namespace`.
        assert "namespaceSelector" not in spec
        [endpoint] = spec.get("endpoints") or spec["podMetricsEndpoints"]
        put = {each["targetLabel"]: each["replacement"] for each in endpoint["relabelings"]}
        assert put["release"] == "ai-platform"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"drainSeconds": 21}, "terminationGracePeriodSeconds"),
        ({"preStopSeconds": 6}, "terminationGracePeriodSeconds"),
        ({"valkey": {"enabled": False}}, "REDIS_URL"),
        ({"settings": {"REDIS_URL": "redis://mine"}}, "valkey.enabled=false"),
        ({"ingress": {"enabled": True}}, "ingress.host"),
        ({"files": {"persistentVolume": {"enabled": False}}}, "FILES_URL"),
        ({"settings": {"API_KEYS": "ann=ft-0123456789abcdef"}}, "settings.API_KEYS"),
        ({"settings": {"DRAIN_SECONDS": 3}}, "drainSeconds"),
        ({"worker": {"batch": {"keda": {"minReplicas": 9}}}}, "worker.batch.keda"),
        ({"image": {"tag": "0.2.0", "digest": DIGEST}}, "image.tag and image.digest"),
        ({"settings": {"L4_URL": "http://l4"}}, "settings.L4_URL: there is no such setting"),
        ({"externalRedis": {"host": "redis"}}, "externalRedis.host names a store of your own"),
        (
            {"externalRabbitmq": {"host": "a"}, "settings": {"BROKER_URL": "amqp://b"}},
            "settings.BROKER_URL and externalRabbitmq.host name the same",
        ),
        ({"externalRabbitmq": {"passwordSecret": {"name": "a"}}}, "without externalRabbitmq.host"),
        ({"httpRoute": {"enabled": True}}, "httpRoute.parentRefs"),
        ({"updateStrategy": {"rollingUpdate": {"maxSurge": 1}}}, "updateStrategy.rollingUpdate"),
        (
            {"fullnameOverride": "a", "secrets": {"FALLTHROUGH_API_KEYS": {"name": "a"}}},
            "name both",
        ),
        ({"secrets": {"FLOWER_PASSWORD": {"name": "a"}}}, "name all three"),
    ],
)
def test_values_that_make_no_sense_are_refused(values, said):
    with pytest.raises(helm.HelmError, match=said):
        render(values)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"replicas": 3}, "'replicas'"),
        ({"apiServer": {"replica": 3}}, "/apiServer.*'replica'"),
        ({"apiServer": {"replicas": "3"}}, "/apiServer/replicas"),
        ({"apiServer": {"resources": {"request": {}}}}, "/apiServer/resources.*'request'"),
        ({"worker": {"gpu": {}}}, "/worker.*'gpu'"),
        ({"worker": {"interactive": {"keda": {"minReplicas": 0}}}}, "/worker/interactive/keda/min"),
        ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
        ({"settings": {"gpu_url": "http://gpu"}}, "'gpu_url'"),
        ({"settings": {"GPU_URL": ["http://gpu"]}}, "/settings/GPU_URL"),
        ({"allowNoKeys": "yes"}, "/allowNoKeys"),
        ({"probes": {"liveness": {"periodSeconds": 0}}}, "/probes/liveness/periodSeconds"),
        ({"files": {"persistentVolume": {"accessModes": ["Any"]}}}, "/accessModes/0"),
        ({"networkPolicy": {"partsFrom": []}}, "/networkPolicy/partsFrom"),
        ({"networkPolicy": {"monitoringNamespaces": ["Mine"]}}, "/monitoringNamespaces/0"),
        ({"emptyDir": {"tmp": "large"}}, "/emptyDir/tmp"),
        ({"valkey": {"maxmemory": "0"}}, "/valkey/maxmemory"),
        ({"image": {"digest": "0.2.0"}}, "/image/digest"),
        ({"image": {"digest": DIGEST[:-1]}}, "/image/digest"),
        ({"image": {"digest": DIGEST.upper()}}, "/image/digest"),
        ({"image": {"digest": DIGEST.removeprefix("sha256:")}}, "/image/digest"),
        ({"image": {"tag": DIGEST}}, "/image/tag"),
        ({"image": {"tag": ":0.2.0"}}, "/image/tag"),
        ({"image": {"repository": "fallthrough:0.2.0"}}, "/image/repository"),
        ({"image": {"repository": f"fallthrough@{DIGEST}"}}, "/image/repository"),
        ({"image": {"repository": ""}}, "/image/repository"),
        ({"valkey": {"image": "valkey@8"}}, "/valkey/image"),
        ({"valkey": {"image": DIGEST}}, "/valkey/image"),
        ({"valkey": {"image": f"{DIGEST}@valkey"}}, "/valkey/image"),
        ({"valkey": {"image": f"valkey:8@{DIGEST}00"}}, "/valkey/image"),
        ({"valkey": {"image": "Valkey/Valkey:8"}}, "/valkey/image"),
        ({"ollama": {"image": "ollama: latest"}}, "/ollama/image"),
        ({"maxServe": {"image": ""}}, "/maxServe/image"),
        ({"serviceMonitor": {"interval": "often"}}, "/serviceMonitor/interval"),
        ({"updateStrategy": {"type": "Replace"}}, "/updateStrategy/type"),
        ({"updateStrategy": {"rollingUpdate": {"surge": 1}}}, "/rollingUpdate.*'surge'"),
        ({"settings": {"GPU_ULR": "http://gpu"}}, "'GPU_ULR'"),
        ({"files": {"persistentVolume": {"accessModes": ["ReadWriteOncePod"]}}}, "/accessModes/0"),
        ({"secrets": {"FALLTHROUGH_GPU_KEY": {"name": "gpu"}}}, "'FALLTHROUGH_GPU_KEY'"),
        ({"tolerations": [{"keys": "gpu"}]}, "/tolerations/0.*'keys'"),
        ({"updateStrategy": "Recreate"}, "/updateStrategy"),
    ],
)
def test_the_schema_names_what_it_refuses(values, said):
    with pytest.raises(helm.HelmValuesError, match=f"(?s){said}"):
        render(values)


def test_every_image_can_be_given_by_digest():
    images = {
        "ollama": f"docker.io/ollama/ollama:0.11.10@{DIGEST}",
        "max-serve": f"localhost:5000/max_serve/max-nvidia--full@{DIGEST}",
        "valkey": f"valkey:8@{DIGEST}",
    }
    values = {
        "image": {"repository": "registry.example.com:5000/team/fallthrough", "digest": DIGEST},
        "valkey": {"image": images["valkey"]},
        "ollama": {"enabled": True, "image": images["ollama"]},
        "maxServe": {"enabled": True, "image": images["max-serve"]},
    }
    for name, spec in pods(render(values)):
        [container] = spec["containers"]
        ours = f"registry.example.com:5000/team/fallthrough@{DIGEST}"
        assert container["image"] == images.get(name.removeprefix("ai-platform-"), ours)


def test_no_digest_is_invented():
    assert not re.search(r"sha256:[0-9a-f]", (CHART / "values.yaml").read_text())
    assert not [spec for _, spec in pods(render(EVERYTHING)) if "@" in json.dumps(spec)]


@pytest.mark.parametrize(
    "image",
    [
        *("valkey", "valkey:8", "docker.io/valkey/valkey:8", "localhost:5000/valkey"),
        *("10.0.0.1:5000/a/b/c:v1.2.3-rc.1_2", "my_image:latest", "Registry.example.com/a"),
    ],
)
def test_a_reference_without_a_digest_is_taken_as_before(image):
    [container] = next(
        spec["containers"]
        for name, spec in pods(render({"valkey": {"image": image}}))
        if name == "ai-platform-valkey"
    )
    assert container["image"] == image


def test_the_chart_names_the_version_that_it_installs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    metadata = loaded().metadata
    assert metadata["appVersion"] == project["version"]
    assert metadata["kubeVersion"] == f">={VERSIONS[0]}.0-0"
    [api] = [spec for name, spec in pods(render({})) if name == "api-server"]
    assert api["containers"][0]["image"] == f"fallthrough:{project['version']}"


@pytest.mark.parametrize(
    ("values", "told", "untold"),
    [
        (
            {},
            [
                "port-forward svc/api-server",
                "get secret ai-platform-keys -o jsonpath='{.data.FALLTHROUGH_ADMIN_KEY}'",
                "Authorization: Bearer $KEY",
                "port-forward svc/ai-platform-flower",
                "{.data.FLOWER_BASIC_AUTH}",
                "There is no model server",
                "test ai-platform",
            ],
            ["ANYBODY", "ollama pull", "monitoringNamespaces"],
        ),
        (MONITORED, ["Only pods of ai reach", "networkPolicy.monitoringNamespaces={"], []),
        (
            {**MONITORED, "networkPolicy": {"monitoringNamespaces": ["monitoring"]}},
            [],
            ["monitoringNamespaces"],
        ),
        (
            {**MONITORED, "networkPolicy": {"partsFrom": [{"namespaceSelector": {}}]}},
            [],
            ["monitoringNamespaces"],
        ),
        ({**MONITORED, "networkPolicy": {"enabled": False}}, [], ["monitoringNamespaces"]),
        (
            EVERYTHING,
            ["https://llm.example.com/", "get secret keys", "ollama pull"],
            ["svc/api-server", "no model server", "was made for you"],
        ),
        (
            {"allowNoKeys": True, "flower": {"enabled": False}},
            ["ANYBODY"],
            ["get secret", "Flower", "Bearer"],
        ),
    ],
    ids=["nothing", "monitored", "named", "any", "no policy", "everything", "open"],
)
def test_the_notes_tell_the_next_step(values, told, untold):
    notes = texts(values)["ai-platform/templates/NOTES.txt"]
    assert [each for each in told if each not in notes] == []
    assert [each for each in untold if each in notes] == []


@pytest.mark.parametrize(
    ("content", "status"), [("Hello!", 0), ("", 1)], ids=["an answer", "an empty one"]
)
def test_helm_test_waits_for_the_api_submits_a_request_and_wants_an_answer(content, status):
    pod = of_kind(render({}), "Pod")["ai-platform-answers"]
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    [python, *arguments] = pod["spec"]["containers"][0]["command"]
    assert python == "python"
    answer = {"choices": [{"message": {"content": content}}]}
    routes = {("GET", "/health/ready"): {"ready": True}, ("POST", "/v1/chat/completions"): answer}
    with serving(routes, unready=1) as (url, sent):
        env = {f"{PREFIX}API_URL": url, f"{PREFIX}API_KEY": "ft-key"}
        run = subprocess.run([sys.executable, *arguments], env=env, check=False, timeout=60)
    assert run.returncode == status
    headers, body = sent["POST", "/v1/chat/completions"]
    assert headers["Authorization"] == "Bearer ft-key"
    assert json.loads(body)["messages"][0]["role"] == "user"
    assert ("GET", "/health/ready") in sent


def test_helm_test_fails_at_once_where_something_else_answers():
    pod = of_kind(render({}), "Pod")["ai-platform-answers"]
    arguments = pod["spec"]["containers"][0]["command"][1:]
    with serving({}) as (url, _):
        env = {f"{PREFIX}API_URL": url}
        run = subprocess.run(
            [sys.executable, *arguments], env=env, check=False, timeout=60, capture_output=True
        )
    assert run.returncode != 0
    assert b"404" in run.stderr
