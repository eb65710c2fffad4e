"""Each value of the chart has an effect, and what it makes is what Kubernetes takes."""

from __future__ import annotations

import copy
import json
import shutil
from functools import cache

import helm_python as helm
import pytest
import yaml
from harness.charts import CHART, check, loaded

from tasks.settings import Settings

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
DIGEST = "sha256:" + "0123456789abcdef" * 4
# What Kubernetes' own schemas know; the others are of the Gateway API, KEDA and the Operator.
OWN_GROUPS = ("v1", "apps/v1", "policy/v1", "autoscaling/v2", "networking.k8s.io/v1")
STORE = "ai-platform-valkey"
SHARING = ("api-server", "ai-platform-worker-interactive", "ai-platform-worker-batch")


def render(values, name="ai-platform", chart=CHART):
    rendered = loaded(chart).render(values, name=name, namespace="ai")
    texts = (text for file, text in rendered.items() if file.endswith(".yaml"))
    manifests = [each for text in texts for each in yaml.load_all(text, LOADER) if each]
    return {(each["kind"], each["metadata"]["name"]): each for each in manifests}


@cache
def _rendered(encoded):
    return render(json.loads(encoded))


def rendered(values):
    """The same, made once: for values that many tests compare with."""
    return _rendered(json.dumps(values))


def merged(base, more):
    both = copy.deepcopy(base)
    for key, value in more.items():
        own = both.get(key)
        is_group = isinstance(own, dict) and isinstance(value, dict)
        both[key] = merged(own, value) if is_group else value
    return both


def pod(values, kind="Deployment", name="api-server", **more):
    return render(values, **more)[kind, name]["spec"]["template"]


BASE = {"existingSecret": "keys"}
# What must be there for a value to count, by the beginning of its path.
SURROUNDINGS = {
    "externalRedis": {
        "valkey": {"enabled": False},
        "externalRedis": {"host": "redis", "passwordSecret": {"name": "redis"}},
    },
    "externalRabbitmq": {
        "externalRabbitmq": {"host": "rabbit", "passwordSecret": {"name": "rabbit"}}
    },
    "keda": {"keda": {"enabled": True}},
    "worker.interactive.keda": {"keda": {"enabled": True}},
    "worker.batch.keda": {"keda": {"enabled": True}},
    "apiServer.autoscaling": {"apiServer": {"autoscaling": {"enabled": True}}},
    "apiServer.service": {"apiServer": {"service": {"type": "LoadBalancer"}}},
    "flower.service": {"flower": {"service": {"type": "LoadBalancer"}}},
    "ollama": {"ollama": {"enabled": True}},
    "maxServe": {"maxServe": {"enabled": True}},
    "ingress": {"ingress": {"enabled": True, "host": "a.example.com"}},
    "httpRoute": {"httpRoute": {"enabled": True, "parentRefs": [{"name": "gateway"}]}},
    "updateStrategy.rollingUpdate": {"updateStrategy": {"type": "RollingUpdate"}},
    "serviceMonitor": {"serviceMonitor": {"enabled": True}},
    "prometheusRule": {"prometheusRule": {"enabled": True}},
    "dashboard": {"dashboard": {"enabled": True}},
    "seriesLabels": {"prometheusRule": {"enabled": True}},
    "drainSeconds": {"terminationGracePeriodSeconds": 90},
    "preStopSeconds": {"terminationGracePeriodSeconds": 90},
    "secrets.HF_TOKEN": {"maxServe": {"enabled": True}},
    "secrets.FALLTHROUGH_REDIS_URL": {"valkey": {"enabled": False}},
    "secrets.FALLTHROUGH_ADMIN_KEY": {"serviceMonitor": {"enabled": True}},
    "secrets.FLOWER": {"serviceMonitor": {"enabled": True}},
}
PEER = {"ipBlock": {"cidr": "10.0.0.0/8"}}
VOLUME = {"name": "ca", "configMap": {"name": "company-ca"}}
# Samples, by the last name of a path or, above these, by the whole of it.
SAMPLES = {
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"key": "spot", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {"podAntiAffinity": {}},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
    ],
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
    "extraEnvFrom": [{"configMapRef": {"name": "s3"}}],
    "extraVolumes": [VOLUME],
    "extraVolumeMounts": [{"name": "tmp", "mountPath": "/ca"}],
    "initContainers": [{"name": "wait", "image": "busybox", "command": ["true"]}],
    "podSecurityContext": {"supplementalGroups": [7]},
    "securityContext": {"privileged": False},
    "imagePullSecrets": [{"name": "registry"}],
    "digest": DIGEST,
    "image": f"registry.example.com/a@{DIGEST}",
    "pullPolicy": "Always",
    "annotations": {"a.example.com/b": "c"},
    "podAnnotations": {"a.example.com/b": "c"},
    "labels": {"a": "b"},
    "podLabels": {"a": "b"},
    "seriesLabels": {"a": "b"},
    "resources": {"limits": {"memory": "2Gi"}},
    "livenessProbe": {"tcpSocket": {"port": 8000}},
    "readinessProbe": {"tcpSocket": {"port": 8000}},
    "startup": {"periodSeconds": 7},
    "liveness": {"periodSeconds": 7},
    "readiness": {"periodSeconds": 7},
    "size": "77Gi",
    "tmpSize": "77Gi",
    "tmp": "77Gi",
    "data": "77Gi",
    "maxmemory": "77mb",
    "clusterIP": "10.0.0.7",
    "loadBalancerSourceRanges": ["10.0.0.0/8"],
    "nodePort": 30080,
    "externalTrafficPolicy": "Local",
    "sessionAffinity": "ClientIP",
    "type": "NodePort",
    "updateStrategy.type": "RollingUpdate",
    "accessModes": ["ReadWriteMany"],
    "hosts": ["b.example.com"],
    "hostnames": ["b.example.com"],
    "path": "/llm",
    "pathType": "Exact",
    "ingress.tls": [{"secretName": "tls", "hosts": ["a.example.com"]}],
    "parentRefs": [{"name": "other"}],
    "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": ["x"]}}],
    "request": "600s",
    "backendRequest": "600s",
    "apiFrom": [PEER],
    "partsFrom": [PEER],
    "monitoringNamespaces": ["monitoring"],
    "interval": "7s",
    "runbookBase": "https://git.example.com/main/",
    "maxSurge": 3,
    "maxUnavailable": "30%",
    "minAvailable": 1,
    "maxReplicas": 20,
    "settings": {"GPU_URL": "http://gpu:8000"},
    "files.persistentVolume.enabled": {"of": {"settings": {"FILES_URL": "s3://bucket/files"}}},
    "valkey.enabled": {"of": {"settings": {"REDIS_URL": "redis://redis"}}},
}
NO_EFFECT = {"global"}  # a parent chart's


def resolved(node):
    return SCHEMA["definitions"][node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node


def leaves(node, default, path=()):
    """(path, what it may be, its default) of each value that an operator gives."""
    for name, child in node["properties"].items():
        here, its = (*path, name), default.get(name) if isinstance(default, dict) else None
        of = resolved(child)
        sampled = name in SAMPLES and of.get("type") != "string" and name != "settings"
        if path and path[0] == "secrets":
            yield here, of, its
        elif of.get("properties") and not sampled and name not in {"settings", "affinity", "image"}:
            yield from leaves(of, its or {}, here)
        elif name == "image" and not path:
            yield from leaves(of, its, here)
        else:
            yield here, of, its


def sample(path, of, default):
    """Another value than the default, and what else it needs."""
    given = SAMPLES.get(".".join(path), SAMPLES.get(path[-1]))
    if isinstance(given, dict) and set(given) == {"of"}:
        return not default, given["of"]
    if given is not None:
        return given, {}
    if path[0] == "secrets":
        return {"name": "other", "key": "entry"}, {}
    if of.get("type") == "boolean":
        return not default, {}
    if of.get("type") in {"integer", "number"}:
        return (default or 0) + 1, {}
    return "sample", {}


def nested(path, value):
    for name in reversed(path):
        value = {name: value}
    return value


LEAVES = {".".join(path): (path, of, default) for path, of, default in leaves(SCHEMA, DEFAULTS)}


@pytest.mark.parametrize("name", [name for name in LEAVES if name not in NO_EFFECT])
def test_each_value_changes_what_is_made_into_something_that_kubernetes_takes(name):
    path, of, default = LEAVES[name]
    value, more = sample(path, of, default)
    base = merged(BASE, more)
    for beginning, around in SURROUNDINGS.items():
        if name.startswith(beginning):
            base = merged(base, around)
    after = render(merged(base, nested(path, value)))
    if path[-1] == "enabled":
        base = merged(base, nested(path, default))
    before = rendered(BASE if name == "valkey.enabled" else base)
    assert after != before
    for key, manifest in after.items():
        if manifest["apiVersion"] in OWN_GROUPS and manifest != before.get(key):
            check(manifest)


def test_the_table_looks_at_every_value():
    assert len(LEAVES) > 200
    assert {name.split(".")[0] for name in LEAVES} == set(SCHEMA["properties"])
    assert set(DEFAULTS) <= set(SCHEMA["properties"])


def test_every_value_says_what_it_is_for():
    def silent(node, path=()):
        for name, child in node["properties"].items():
            if "description" not in child and "description" not in resolved(child):
                yield ".".join((*path, name))
            if child.get("properties") and name != "secrets":
                yield from silent(child, (*path, name))

    assert list(silent(SCHEMA)) == []


def test_two_releases_in_one_namespace_share_nothing():
    first, second = render({}, name="one"), render({}, name="two")
    assert not set(first) & set(second)
    assert ("Service", "one-api-server") in first
    assert ("Service", "api-server") in render({})
    for (kind, _), manifest in first.items():
        if kind == "Service":
            chosen = manifest["spec"]["selector"]
            assert chosen["app.kubernetes.io/instance"] == "one"
    text = json.dumps(list(first.values()))
    assert "http://one-api-server.ai.svc:8000" in text
    assert '"http://api-server' not in text


def test_names_can_be_chosen():
    made = render(
        {"fullnameOverride": "llm", "nameOverride": "gateway", "apiServer": {"name": "x"}}
    )
    assert {("Service", "x"), ("StatefulSet", "llm-valkey"), ("Secret", "llm-keys")} <= set(made)
    labels = made["Deployment", "x"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/name"] == "gateway"
    with pytest.raises(helm.HelmError, match="fullnameOverride"):
        render({}, name="a" * 46)


def test_another_version_of_the_chart_does_not_restart_the_store(tmp_path):
    newer = tmp_path / "ai-platform"
    shutil.copytree(CHART, newer)
    text = (newer / "Chart.yaml").read_text()
    changed = text.replace("\nversion: ", "\nversion: 9").replace('appVersion: "', 'appVersion: "9')
    assert changed != text
    (newer / "Chart.yaml").write_text(changed)
    old, new = render(BASE), render(BASE, chart=newer)
    assert old["StatefulSet", STORE]["spec"] == new["StatefulSet", STORE]["spec"]
    assert old["Deployment", "api-server"]["spec"] != new["Deployment", "api-server"]["spec"]


def needs_one_node(template):
    terms = (
        template["spec"]
        .get("affinity", {})
        .get("podAffinity", {})
        .get("requiredDuringSchedulingIgnoredDuringExecution", [])
    )
    return [term["topologyKey"] for term in terms]


def test_pods_that_share_a_volume_of_one_node_run_there():
    made = render(BASE)
    claim = made["PersistentVolumeClaim", "ai-platform-files"]["spec"]
    assert claim["accessModes"] == ["ReadWriteOnce"], "which every cluster's default class has"
    for name in SHARING:
        template = made["Deployment", name]["spec"]["template"]
        assert needs_one_node(template) == ["kubernetes.io/hostname"]
        [term] = template["spec"]["affinity"]["podAffinity"][
            "requiredDuringSchedulingIgnoredDuringExecution"
        ]
        component = template["metadata"]["labels"]["app.kubernetes.io/component"]
        [expression] = term["labelSelector"]["matchExpressions"]
        assert component in expression["values"], "the first pod must match itself"
    assert needs_one_node(made["Deployment", "ai-platform-flower"]["spec"]["template"]) == []
    many = {"files": {"persistentVolume": {"accessModes": ["ReadWriteMany"]}}}
    assert needs_one_node(pod(many)) == []


def test_an_affinity_of_yours_stays_beside_the_one_node():
    anti = {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
    spec = pod({**BASE, "apiServer": {"affinity": anti}})["spec"]
    assert set(spec["affinity"]) == {"podAffinity", "podAntiAffinity"}


def test_a_parts_own_values_win_over_those_of_all():
    values = {
        "nodeSelector": {"disk": "slow", "zone": "a"},
        "tolerations": [{"key": "all", "operator": "Exists"}],
        "priorityClassName": "low",
        "podLabels": {"app.kubernetes.io/component": "mine", "team": "llm"},
        "apiServer": {
            "nodeSelector": {"disk": "fast"},
            "tolerations": [{"key": "api", "operator": "Exists"}],
            "priorityClassName": "high",
        },
    }
    api, store = pod(values), pod(values, "StatefulSet", STORE)
    assert api["spec"]["nodeSelector"] == {"disk": "fast", "zone": "a"}
    assert [each["key"] for each in api["spec"]["tolerations"]] == ["all", "api"]
    assert (api["spec"]["priorityClassName"], store["spec"]["priorityClassName"]) == ("high", "low")
    assert store["spec"]["nodeSelector"] == values["nodeSelector"]
    assert api["metadata"]["labels"]["team"] == "llm"
    assert api["metadata"]["labels"]["app.kubernetes.io/component"] == "api-server"


def test_a_constraint_without_a_selector_counts_the_parts_own_pods():
    values = {"topologySpreadConstraints": SAMPLES["topologySpreadConstraints"]}
    template = pod(values)
    [constraint] = template["spec"]["topologySpreadConstraints"]
    chosen = constraint["labelSelector"]["matchLabels"]
    assert chosen["app.kubernetes.io/component"] == "api-server"
    assert chosen.items() <= template["metadata"]["labels"].items()


@pytest.mark.parametrize("selector", [{"matchLabels": {"team": "llm"}}, {}])
def test_a_constraint_with_a_selector_counts_what_that_says(selector):
    [spread] = SAMPLES["topologySpreadConstraints"]
    values = {"topologySpreadConstraints": [{**spread, "labelSelector": selector}]}
    [constraint] = pod(values)["spec"]["topologySpreadConstraints"]
    assert constraint == {**spread, "labelSelector": selector}


def test_what_is_0_or_false_counts_as_given():
    values = {
        "updateStrategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
        },
        "podSecurityContext": {"runAsNonRoot": False},
        "securityContext": {"readOnlyRootFilesystem": False},
        "podDisruptionBudget": {"minAvailable": 0},
        "probes": {"liveness": {"initialDelaySeconds": 0}},
        "serviceAccount": {"automount": False},
        "keda": {"enabled": True},
        "settings": {"BREAKER_FAILURE_RATE": 0},
        "worker": {
            "batch": {
                "keda": {"minReplicas": 0},
                "podSecurityContext": {"runAsUser": 0},
                "securityContext": {"allowPrivilegeEscalation": False},
            }
        },
    }
    made = render(values)
    deployment = made["Deployment", "ai-platform-worker-batch"]["spec"]
    assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    spec = deployment["template"]["spec"]
    [container] = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is False
    assert spec["securityContext"]["runAsUser"] == 0
    assert spec["automountServiceAccountToken"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is False
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["livenessProbe"]["initialDelaySeconds"] == 0
    assert {"name": "FALLTHROUGH_BREAKER_FAILURE_RATE", "value": "0"} in container["env"]
    assert made["ScaledObject", "ai-platform-worker-batch"]["spec"]["minReplicaCount"] == 0
    budget = made["PodDisruptionBudget", "ai-platform-worker-batch"]["spec"]
    assert budget["minAvailable"] == 0


def test_a_part_scaled_to_nothing_has_no_pods():
    values = {"apiServer": {"replicas": 0}, "worker": {"batch": {"replicas": 0}}}
    made = render(values)
    for name in ("api-server", "ai-platform-worker-batch"):
        assert made["Deployment", name]["spec"]["replicas"] == 0


def probe(name, own):
    deployment = render({"apiServer": {f"{name}Probe": own}})["Deployment", "api-server"]
    check(deployment)
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    return container[f"{name}Probe"]


@pytest.mark.parametrize("times", [{}, {"periodSeconds": 60}, {"initialDelaySeconds": 0}])
@pytest.mark.parametrize(
    ("name", "path"), [("liveness", "/health"), ("readiness", "/health/ready")]
)
def test_a_probe_of_times_alone_asks_what_the_shared_one_asks(name, path, times):
    asks = {"httpGet": {"path": path, "port": "http"}}
    assert probe(name, times) == {**DEFAULTS["probes"][name], **times, **asks}


@pytest.mark.parametrize(
    "whole",
    [
        {"httpGet": {"path": "/health", "port": 8000}},
        {"tcpSocket": {"port": 8000}, "periodSeconds": 60},
        {"exec": {"command": ["true"]}},
        {"grpc": {"port": 8000}},
    ],
)
def test_a_probe_that_says_what_to_ask_is_whole(whole):
    assert probe("liveness", whole) == whole


def test_a_cluster_may_choose_the_users_of_pods():
    nobody = {"podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None}}
    values = {**nobody, "valkey": nobody, "ollama": {**nobody, "enabled": True}}
    for manifest in render(values).values():
        spec = manifest["spec"].get("template", manifest)["spec"] if "spec" in manifest else {}
        security = spec.get("securityContext", {})
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & set(security)
        assert "containers" not in spec or security["runAsNonRoot"] is True


def environment(values):
    """The plain variables of the API's container, with $(…) put in as Kubernetes does."""
    [container] = pod(values)["spec"]["containers"]
    known = {}
    for entry in container["env"]:
        text = entry.get("value", "s3cret" if entry["name"].endswith("_PASSWORD") else None)
        if text is not None:
            for name, value in known.items():
                text = text.replace(f"$({name})", value)
            known[entry["name"]] = text
    return known


@pytest.mark.parametrize(
    ("redis", "rabbit", "urls"),
    [
        ({"host": "r"}, {"host": "q"}, ("redis://r:6379/0", "amqp://q:5672/")),
        (
            {"host": "r", "port": 6380, "tls": True, "database": 2, "username": "u"},
            {"host": "q", "tls": True, "port": 5671, "vhost": "a/b"},
            ("rediss://u@r:6380/2", "amqps://q:5671/a%2Fb"),
        ),
        (
            {"host": "r", "passwordSecret": {"name": "redis"}},
            {"host": "q", "username": "u", "passwordSecret": {"name": "rabbit", "key": "pass"}},
            ("redis://:s3cret@r:6379/0", "amqp://u:s3cret@q:5672/"),
        ),
    ],
)
def test_a_store_and_a_broker_of_yours_are_asked_by_their_urls(redis, rabbit, urls):
    values = {"valkey": {"enabled": False}, "externalRedis": redis, "externalRabbitmq": rabbit}
    given = environment(values)
    own = {name: value for name, value in given.items() if name.startswith("FALLTHROUGH_")}
    read = Settings.from_env(own)
    assert (read.redis_url, read.broker_url) == urls


def test_each_secret_may_lie_elsewhere():
    secrets = {
        "FALLTHROUGH_GPU_API_KEY": {"name": "gpu", "key": "token"},
        "FALLTHROUGH_BROKER_URL": {"name": "rabbitmq-default-user", "key": "connection_string"},
        "AWS_ACCESS_KEY_ID": {"name": "s3"},
    }
    [container] = pod({"secrets": secrets})["spec"]["containers"]
    refs = {
        entry["name"]: entry["valueFrom"]["secretKeyRef"]
        for entry in container["env"]
        if "valueFrom" in entry
    }
    for name, where in secrets.items():
        assert refs[name] == {"key": name, **where, "optional": False}
    assert refs["FALLTHROUGH_API_KEYS"]["name"] == "ai-platform-keys"


def test_keys_that_lie_elsewhere_are_not_made():
    names = ("FALLTHROUGH_API_KEYS", "FALLTHROUGH_ADMIN_KEY")
    values = {"secrets": {name: {"name": "mine"} for name in names}, "keda": {"enabled": True}}
    made = render(values)
    assert not [n for n in made["Secret", "ai-platform-keys"]["data"] if n in names]
    [target] = made["TriggerAuthentication", "ai-platform-admin-key"]["spec"]["secretTargetRef"]
    assert target == {"parameter": "token", "name": "mine", "key": "FALLTHROUGH_ADMIN_KEY"}


def test_a_route_leads_several_hosts_to_the_api():
    hosts = ["a.example.com", "b.example.com"]
    made = render(
        {
            "ingress": {"enabled": True, "host": hosts[0], "hosts": hosts},
            "httpRoute": {"enabled": True, "parentRefs": [{"name": "gw"}], "hostnames": hosts},
            "apiServer": {"service": {"port": 80}},
        }
    )
    rules = made["Ingress", "ai-platform-fallthrough"]["spec"]["rules"]
    assert [rule["host"] for rule in rules] == hosts
    route = made["HTTPRoute", "ai-platform-fallthrough"]
    assert route["apiVersion"] == "gateway.networking.k8s.io/v1"
    assert route["spec"] == {
        "parentRefs": [{"name": "gw"}],
        "hostnames": hosts,
        "rules": [
            {
                "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                "backendRefs": [{"name": "api-server", "port": 80}],
            }
        ],
    }
    assert made["Service", "api-server"]["spec"]["ports"][0]["port"] == 80


def test_a_secret_that_changes_restarts_the_pods_that_read_it():
    [one, other] = [pod({})["metadata"]["annotations"]["checksum/secrets"] for _ in range(2)]
    assert one != other, "each render without a cluster makes a new key"
    again = render({})
    sums = {
        again["Deployment", name]["spec"]["template"]["metadata"]["annotations"]["checksum/secrets"]
        for name in SHARING
    }
    assert len(sums) == 1
    assert "annotations" not in pod({}, "StatefulSet", STORE)["metadata"]
    yours = [pod({"existingSecret": name})["metadata"]["annotations"] for name in ("a", "a", "b")]
    assert yours[0] == yours[1] != yours[2]
