"""Settings as real processes read them: what can be meant is done, the rest is told in one line."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from harness.commands import environ
from harness.processes import python

SECRET = "hunter2"  # noqa: S105 - made up
ROOT = Path(__file__).parents[2]
ENTRIES = {
    "api": ("api",),
    "workers": ("workers",),
    "celery": ("celery", "-A", "tasks", "worker"),
    "flower": ("celery", "-A", "tasks", "flower"),
    "up": ("cli.main", "up"),
    "config": ("cli.main", "config"),
    "status": ("cli.main", "status", "job_1"),
}


def told(settings):
    return environ(**{f"FALLTHROUGH_{name}": value for name, value in settings.items()})


def ended(*arguments, cwd=ROOT, **settings):
    """What such a process says before it ends."""
    return one_line(python(*arguments, environ=told(settings), folder=cwd))


def ended_in_its_folder(cwd, *arguments, **settings):
    """The same of a new interpreter, which looks for modules where it stands."""
    return one_line(
        subprocess.run(
            [sys.executable, *arguments],
            env=told(settings),
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    )


def one_line(done):
    """What a process has said that ended with status 2: one line, and no secret."""
    said = done.stdout + done.stderr
    assert done.returncode == 2, said
    assert len(said.strip().splitlines()) == 1, said
    assert SECRET not in said
    return said


@pytest.mark.parametrize("entry", ["api", "workers"])
def test_a_folder_with_files_of_our_names_is_not_looked_into(tmp_path, entry):
    for name in ("tasks", "circuit_breaker", "fallback_chain", "json", "logging", "uvicorn"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('MINE was imported')\n")
    said = ended_in_its_folder(tmp_path, "-m", entry, LOG_LEVEL="LOUD")
    assert "FALLTHROUGH_LOG_LEVEL: 'LOUD'" in said


@pytest.mark.parametrize("name", ["circuit_breaker", "fallback_chain"])
def test_celery_does_not_start_beside_a_file_of_our_names(tmp_path, name):
    (tmp_path / f"{name}.py").write_text("raise SystemExit('MINE was imported')\n")
    said = ended_in_its_folder(tmp_path, "-m", *ENTRIES["celery"])
    assert f"{name} is found at {tmp_path / name}.py: start it in another folder" in said


def job(api):
    reply = httpx.post(f"{api.url}/v1/jobs", json={"prompt": "Hello"}, timeout=10)
    return httpx.get(f"{api.url}/v1/jobs/{reply.json()['id']}?wait=20", timeout=30).json()


def test_a_key_from_a_file_is_sent_without_the_line_break_at_its_end(fleet, gpu):
    api, worker = fleet.start(fleet.api(), fleet.worker(gpu_api_key=f"{SECRET}\n"))
    assert job(api)["tier_used"] == "gpu"
    assert gpu.calls[-1].headers["authorization"] == f"Bearer {SECRET}"
    assert SECRET not in worker.log + api.log


def test_a_password_in_a_tiers_url_is_sent_and_not_shown(fleet, gpu):
    url = gpu.url.replace("://", f"://user:{SECRET}@")
    api, worker = fleet.start(fleet.api(gpu_url=url), fleet.worker(gpu_url=f" {url}/v1/\n"))
    assert job(api)["tier_used"] == "gpu"
    basic = base64.b64encode(f"user:{SECRET}".encode()).decode()
    assert gpu.calls[-1].headers["authorization"] == f"Basic {basic}"
    gpu.vanish()
    assert job(api)["tier_used"] == "cpu"
    assert httpx.get(f"{api.url}/v1/models", timeout=10).is_success
    assert SECRET not in worker.log + api.log
    assert SECRET not in httpx.get(f"{api.url}/metrics", timeout=10).text


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_key_with_a_line_break_inside_starts_nothing(entry):
    said = ended(*ENTRIES[entry], GPU_API_KEY=f"sk-{SECRET}\n{SECRET}")
    assert "FALLTHROUGH_GPU_API_KEY: it has characters that no request can carry" in said


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("GPU_URL", f"http://user:{SECRET}@ho st", "its host or port cannot be one"),
        ("REDIS_URL", f"redis://:{SECRET}@ho st", "its host or port cannot be one"),
        ("REDIS_URL", f"redis://:{SECRET}@127.0.0.1:1?password={SECRET}", "Celery cannot use"),
        ("BROKER_URL", f"amqp://u:{SECRET}@127.0.0.1:1/?x={SECRET}", "Celery cannot use"),
        ("FILES_URL", f"nothing://u:{SECRET}@bucket", "no URL that fsspec knows"),
        ("FILES_URL", "/proc/nothing/here", "cannot be made: No such file"),
    ],
)
@pytest.mark.parametrize("entry", ["api", "workers"])
def test_what_cannot_be_a_url_starts_nothing(valkey, entry, name, value, fault):
    settings = {"REDIS_URL": valkey.url, "PORT": "0", name: value}
    assert f"FALLTHROUGH_{name}: " in (said := ended(*ENTRIES[entry], **settings))
    assert fault in said


@pytest.mark.parametrize(
    ("url", "settings", "fault"),
    [
        (f"http://user:{SECRET}@ho st", {}, "--url: it is no URL"),
        (
            f"http://user:{SECRET}@127.0.0.1",
            {"API_KEY": "sk-0"},
            "--url: it has a user or password",
        ),
        (f"http://user:{SECRET}@127.0.0.1:1", {}, "cannot reach the API at http://***@127.0.0.1:1"),
        (f"http://user:{SECRET}@ⅷ", {}, "http://***@ⅷ is no URL of an API"),
        ("http://127.0.0.1:1", {"API_KEY": f"sk-{SECRET} x"}, "FALLTHROUGH_API_KEY: it has"),
    ],
)
def test_what_the_command_line_is_given_is_looked_at_too(url, settings, fault):
    assert fault in ended(*ENTRIES["status"], "--url", url, **settings)


# One of every kind of setting; all of them in one process: tests/unit/test_odd_settings.py.
ODD = [
    *(("REDIS_URL", f"redis://:{SECRET}@h/1/2"), ("BROKER_URL", f"amqp://a//;redis://:{SECRET}@b")),
    *(("GPU_URL", f"http://{SECRET}:x@"), ("API_URL", ""), ("PROXY", f"socks5://u:{SECRET}@h")),
    *(("NO_PROXY", "a b"), ("GPU_MODEL", "a\x1bb"), ("CPU_API_KEY", f"{SECRET} {SECRET}")),
    *(("GPU_CONCURRENCY", "1e3"), ("CPU_CONCURRENCY", ""), ("SWEEP_SECONDS", "nan")),
    *(("JOB_DEADLINE_SECONDS", "1e400"), ("GPU_ACCEPTS", "x" * 10_240), ("STRICT_FINISH", "yes")),
    *(("HOST", "a\nb"), ("ALLOWED_HOSTS", "http://a"), ("PORT", "70000"), ("LOG_LEVEL", "info")),
    *(("CORS_ORIGINS", "https://a.example/"), ("CORS_ORIGINS", "*, https://a.example")),
    *(("FLOWER_URL", f"https://u:{SECRET}@h"), ("DEGRADED_MESSAGE", "\udcff"), ("DURABLE", "1")),
    *(("WORKER_QUEUES", ","), ("KEYS_FILE", "a\tb"), ("FILES_URL", "a\nb"), ("NOTHING", "\x1b")),
]


@pytest.mark.parametrize(
    ("entry", "name", "value"),
    [(entry, *ODD[n]) for n in range(len(ODD)) for entry in (list(ENTRIES) * 2)[n % 7 : n % 7 + 2]],
)
def test_an_odd_value_starts_nothing(entry, name, value):
    said = ended(*ENTRIES[entry], **{name: value})
    assert f"FALLTHROUGH_{name}: " in said
    assert len(said) < 700


@pytest.mark.parametrize("entry", ["api", "workers"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("FILES_URL", "/dev/null/x"), ("FILES_URL", "x/" * 3000), ("FILES_URL", "nothing://b")),
        *(("BROKER_URL", "amqp://h//?ssl=true"), ("BROKER_URL", "unix:///run/v.sock")),
    ],
)
def test_a_place_that_cannot_be_one_starts_nothing(valkey, tmp_path, entry, name, value):
    settings = {"REDIS_URL": valkey.url, "PORT": "0", name: value}
    assert f"FALLTHROUGH_{name}: " in ended(*ENTRIES[entry], cwd=tmp_path, **settings)


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"[" * 100_000, b'{"keys": 5}', None])
def test_a_file_of_keys_that_is_none_starts_no_server(tmp_path, content):
    file = tmp_path / "keys.json"
    file.mkdir() if content is None else file.write_bytes(content)
    assert "FALLTHROUGH_KEYS_FILE: " in ended(*ENTRIES["api"], KEYS_FILE=str(file))


def test_the_load_test_tells_a_key_that_cannot_be_one():
    assert "FALLTHROUGH_API_KEY: it has" in ended_in_its_folder(
        ROOT, "load_test.py", API_KEY=f"{SECRET} {SECRET}"
    )


def test_config_shows_no_part_of_a_password():
    # Of two readers, each finds another host in it.
    assert "REDIS_URL: " in ended(*ENTRIES["config"], REDIS_URL=f"redis://:1/{SECRET}@host/0")
    url = f"redis://:1{SECRET}@host/0?password={SECRET}"
    settings = {"REDIS_URL": url, "API_KEYS": f"ann={SECRET}{SECRET}\n"}
    done = python(*ENTRIES["config"], environ=told(settings))
    assert done.returncode == 0
    assert SECRET not in done.stdout + done.stderr
    assert "FALLTHROUGH_REDIS_URL=redis://***@host/0?password=***" in done.stdout
