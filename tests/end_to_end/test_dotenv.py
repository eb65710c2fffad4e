"""A `.env` of the current folder: `fallthrough` alone reads it, and says what it took."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from harness.commands import FALLTHROUGH, Up, environ
from harness.upstream import Upstream

SECRET = "hunter2"  # noqa: S105 - made up


def in_folder(folder, *command, **variables):
    return subprocess.run(
        command,
        env=environ(**variables),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def folder(tmp_path):
    """Another's folder: it sets more than settings."""
    lines = [
        "# settings",
        "FALLTHROUGH_GPU_MODEL='of the file'",
        f"export FALLTHROUGH_GPU_API_KEY={SECRET}",
        "FALLTHROUGH_LOG_LEVEL=DEBUG",
        "PATH=/nowhere",
        "HTTP_PROXY=http://127.0.0.1:1",
        "XDG_DATA_HOME=/nowhere",
        "this is no line",
    ]
    (tmp_path / ".env").write_text("\n".join(lines))
    return tmp_path


def test_the_command_line_takes_settings_and_says_their_names(folder):
    done = in_folder(folder, *FALLTHROUGH, "config", "--json", FALLTHROUGH_LOG_LEVEL="ERROR")
    assert done.returncode == 0
    assert done.stderr == ".env: FALLTHROUGH_GPU_API_KEY, FALLTHROUGH_GPU_MODEL\n"
    settings = json.loads(done.stdout)
    assert settings["FALLTHROUGH_GPU_MODEL"] == "of the file"
    assert settings["FALLTHROUGH_LOG_LEVEL"] == "ERROR", "the environment wins"
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "command",
    [("-P", "-m", "api"), ("-P", "-m", "workers"), ("-P", "-m", "celery", "-A", "tasks", "report")],
)
def test_no_other_command_reads_it(tmp_path, command):
    (tmp_path / ".env").write_text("FALLTHROUGH_PORT=many\n")
    done = in_folder(tmp_path, sys.executable, *command, FALLTHROUGH_LOG_LEVEL="LOUD")
    assert done.returncode == 2
    assert "FALLTHROUGH_LOG_LEVEL: 'LOUD'" in done.stderr


@pytest.mark.parametrize(
    ("line", "variables", "said"),
    [
        ("FALLTHROUGH_PORT=many", {}, "FALLTHROUGH_PORT: 'many' is not a whole number"),
        ("FALLTHROUGH_PROT=1", {}, "did you mean FALLTHROUGH_PORT?"),
        (f'FALLTHROUGH_API_KEY="{SECRET}', {}, ".env, line 1: FALLTHROUGH_API_KEY begins with"),
        (
            "FALLTHROUGH_API_URL=http://evil.example",
            {"FALLTHROUGH_API_KEY": SECRET},
            "FALLTHROUGH_API_URL would be sent FALLTHROUGH_API_KEY of the environment",
        ),
    ],
)
def test_what_is_wrong_in_it_is_told_in_one_line(tmp_path, line, variables, said):
    (tmp_path / ".env").write_text(line)
    done = in_folder(tmp_path, *FALLTHROUGH, "breakers", **variables)
    assert done.returncode == 2
    *names, error = done.stderr.splitlines()
    assert said in error
    assert all(name.startswith(".env: FALLTHROUGH_") for name in names)
    assert SECRET not in done.stderr


def test_a_stack_passes_it_on_to_its_parts(tmp_path):
    gpu = Upstream("gpu-model")
    (tmp_path / ".env").write_text(
        f"FALLTHROUGH_GPU_URL={gpu.url}\nFALLTHROUGH_CPU_URL={gpu.url}\n"
        f"FALLTHROUGH_GPU_API_KEY={SECRET}\n"
    )
    up = Up(tmp_path / "data", cwd=tmp_path)
    try:
        assert "model" not in up.pids  # the CPU tier is the file's
        done = in_folder(tmp_path, *FALLTHROUGH, "submit", "Hello", "--url", up.url)
        assert done.stdout == "gpu-model: Hello\n"
        [asked] = [call for call in gpu.calls if call.prompt == "Hello"]  # `up` asks both tiers
        assert asked.headers["authorization"] == f"Bearer {SECRET}"
        assert up.said.splitlines()[0] == (
            ".env: FALLTHROUGH_CPU_URL, FALLTHROUGH_GPU_API_KEY, FALLTHROUGH_GPU_URL"
        )
        assert SECRET not in up.said
    finally:
        assert up.stop() == 0
        gpu.close()
