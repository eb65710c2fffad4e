"""The compose file and its override. (The chart: test_chart.py.)"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tasks.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
KNOWN = {row[0] for row in Settings().rows()}


def services_of(name):
    return yaml.safe_load((ROOT / name).read_text())["services"]


def test_nothing_waits_for_what_only_watches():
    for service in services_of("docker-compose.yaml").values():
        awaited = set(service.get("depends_on", []))
        watchers = {"flower", "prometheus", "grafana"}
        assert not awaited & (watchers - {"prometheus"})
        assert "prometheus" not in awaited or "/grafana" in service["image"]


def test_compose_runs_every_part_with_settings_that_exist():
    services = services_of("docker-compose.yaml")
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


def test_compose_passes_on_the_tiers_that_are_named():
    """Their settings come by a file, as compose passes on no variable that it does not name."""
    for part in services_of("docker-compose.yaml").values():
        if part.get("build"):
            assert part["env_file"] == [{"path": "tiers.env", "required": False}]
            assert part["environment"][f"{PREFIX}TIERS"] == "${FALLTHROUGH_TIERS:-gpu,cpu}"
            # Set to nothing there is none: as where the tier is not named.
            # Without its profile there is no GPU tier that would be reported as down.
            wanted = "${FALLTHROUGH_GPU_URL-${COMPOSE_PROFILES:+http://max-serve-llama:8000}}"
            assert part["environment"][f"{PREFIX}GPU_URL"] == wanted


CONTAINERS_OWN = {"HOST", "WORKER_HOST", "WORKER_PORT", "API_URL", "API_KEY"}
OF_ONE_PART = {
    "API_KEYS": {"api-server", "flower"},
    "ALLOW_NO_KEYS": {"api-server", "flower"},
    "KEYS_FILE": {"api-server", "flower"},
    "FLOWER_URL": {"api-server"},
    "WORKER_QUEUES": {"worker", "worker-batch"},
}


def test_every_setting_passes_to_the_parts_that_read_it():
    text = (ROOT / "docker-compose.yaml").read_text()
    parts = {n: s for n, s in services_of("docker-compose.yaml").items() if s.get("build")}
    names = {name.removeprefix(PREFIX) for name in KNOWN}
    assert f"{{{PREFIX}PORT:-8000}}:8000" in text
    for name in names - CONTAINERS_OWN - {"PORT"}:
        given = {part for part, its in parts.items() if PREFIX + name in its["environment"]}
        assert given == OF_ONE_PART.get(name, set(parts)), f"add to docker-compose.yaml: {name}"
    for part in parts.values():
        for name, value in part["environment"].items():
            assert value is None or name not in KNOWN or "${" in value or "batch" in value
        assert part["extra_hosts"] == ["host.docker.internal:host-gateway"]


OTHERS_OWN = re.compile(r"(?<![A-Z_])(?:AWS|FSSPEC|FLOWER)_[A-Z0-9_]*[A-Z0-9]")
OF_S3 = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"}


def test_what_the_pages_name_of_s3_and_flower_passes_to_the_parts_that_read_it():
    pages = [(ROOT / "docs" / name).read_text() for name in ("operate.md", "reference.md")]
    # The reference names settings without their prefix, too.
    settings = {name.removeprefix(PREFIX) for name in KNOWN}
    named = set(OTHERS_OWN.findall("\n".join(pages))) - settings
    assert named >= {*OF_S3, "FSSPEC_S3", "FLOWER_BASIC_AUTH", "FLOWER_READ_ONLY"}
    parts = {n: s for n, s in services_of("docker-compose.yaml").items() if s.get("build")}
    told = (ROOT / ".env.example").read_text()
    for name in named:
        given = {part for part, its in parts.items() if name in its["environment"]}
        readers = {"flower"} if name.startswith("FLOWER_") else set(parts) - {"flower"}
        assert given == readers, f"add to docker-compose.yaml: {name}"
    assert [name for name in OF_S3 if f"\n#{name}=" not in told] == []
    # Set to nothing an address or a region would be a wrong one, so none has a default.
    for part in parts.values():
        of_s3 = {
            v for name, v in part["environment"].items() if name.startswith(("AWS_", "FSSPEC_"))
        }
        assert of_s3 <= {None}


def test_a_part_that_refuses_to_start_is_started_again_and_one_that_stops_may_drain():
    # An upgrade replaces the containers one by one: a new one finds an old one that drains.
    parts = [each for each in services_of("docker-compose.yaml").values() if each.get("build")]
    assert len(parts) == 4
    for part in parts:
        assert part["restart"] == "unless-stopped"
        # Whoever has calls drain for longer can have the containers wait for them.
        grace = re.fullmatch(r"\$\{STOP_GRACE_PERIOD:-(\d+)s\}", part["stop_grace_period"])
        assert grace is not None
        assert int(grace[1]) >= Settings().drain_seconds + 5


def test_the_override_gives_every_part_the_small_real_model():
    services, override = services_of("docker-compose.yaml"), services_of("compose.local.yaml")
    stages = re.findall(r"^FROM \S+ AS (\w+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    built = [
        service["build"]
        for service in (*services.values(), *override.values())
        if "build" in service
    ]
    assert {build["target"] for build in built} == {"fallthrough", "model"} <= set(stages)
    for name, service in services.items():
        if service.get("build"):
            assert override[name]["environment"] == {"FALLTHROUGH_CPU_URL": "http://model:8080"}
    assert override["ollama"]["profiles"], "nothing waits for a model to be pulled"


def test_the_store_of_compose_refuses_before_the_machine_is_out_of_memory():
    command = services_of("docker-compose.yaml")["redis"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert re.fullmatch(r"\$\{VALKEY_MAXMEMORY:-[1-9]\d*[mg]b\}", options["--maxmemory"])
    assert options["--maxmemory-policy"] == "noeviction"


@pytest.mark.parametrize("name", ["docker-compose.yaml", "compose.local.yaml"])
def test_every_image_can_be_given_by_digest(name):
    variables = set()
    for service in services_of(name).values():
        if "image" in service:
            registry = r"\$\{(?:IMAGE|HUB)_REGISTRY:-[\w.]+\}"  # another one can be put in front
            form = rf"^\$\{{(\w+_IMAGE):-{registry}/([\w./:-]+(?:\$\{{IMAGE_TAG:-latest\}})?)\}}$"
            [(variable, own)] = re.findall(form, service["image"])
            assert "@" not in own, "no digest is invented"
            variables.add(variable)
    assert len(variables) == {"docker-compose.yaml": 6, "compose.local.yaml": 1}[name]
    # Exported for compose, it must not keep a part that runs beside it from starting.
    assert not [variable for variable in variables if variable.startswith(PREFIX)]


@pytest.mark.parametrize("name", ["docker-compose.yaml", "compose.local.yaml"])
def test_the_file_says_on_top_which_variables_it_reads(name):
    text = (ROOT / name).read_text()
    [head, body] = re.split(r"^(?=name:|x-)", text, maxsplit=1, flags=re.MULTILINE)
    read = set(re.findall(r"(?<!\$)\$\{(\w+)", body))
    assert read - KNOWN <= set(re.findall(r"[A-Z_]{5,}", head))


def grafana_settings(password):
    """The GF_ variables that Grafana starts with, where GRAFANA_PASSWORD is this."""
    grafana = services_of("docker-compose.yaml")["grafana"]
    given = grafana["environment"]["GF_SECURITY_ADMIN_PASSWORD"]
    assert given == "${GRAFANA_PASSWORD:-}"
    [shell, option, script] = grafana["entrypoint"]
    assert script.count("exec /run.sh") == 1
    script = script.replace("$$", "$").replace("/run.sh", "env")
    started = subprocess.run(
        [shell, option, script],
        env={"PATH": "/usr/bin:/bin", "GF_SECURITY_ADMIN_PASSWORD": password},
        check=True,
        capture_output=True,
        text=True,
    )
    lines = [line.partition("=") for line in started.stdout.splitlines()]
    return {name: value for name, _, value in lines if name.startswith("GF_")}


def test_grafana_has_no_password_that_everybody_knows():
    assert grafana_settings("") == {
        "GF_SECURITY_ADMIN_PASSWORD": "",
        "GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION": "true",
        # A volume of an earlier release has the user admin, with the password admin.
        "GF_AUTH_BASIC_ENABLED": "false",
        "GF_AUTH_DISABLE_LOGIN_FORM": "true",
        "GF_AUTH_ANONYMOUS_ENABLED": "true",
    }
    password = """it's "mine" & $yours"""  # noqa: S105 - any sign may stand in one
    assert grafana_settings(password) == {"GF_SECURITY_ADMIN_PASSWORD": password}
