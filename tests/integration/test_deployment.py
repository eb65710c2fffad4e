"""The compose file and its override. (The chart: test_chart.py.)"""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from tasks.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
KNOWN = {row[0] for row in Settings().rows()}


def services_of(name):
    return yaml.safe_load((ROOT / name).read_text())["services"]


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


def test_a_part_that_refuses_to_start_is_started_again_and_one_that_stops_may_drain():
    # An upgrade replaces the containers one by one: a new one finds an old one that drains.
    parts = [each for each in services_of("docker-compose.yaml").values() if each.get("build")]
    assert len(parts) == 4
    for part in parts:
        assert part["restart"] == "unless-stopped"
        assert int(part["stop_grace_period"].removesuffix("s")) >= Settings().drain_seconds + 5


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
