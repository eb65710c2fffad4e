"""What `fallthrough doctor` makes of what an API, processes and a disk say."""

from __future__ import annotations

import fcntl
import json
import shutil
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from harness.stub_api import StubApi
from harness.waiting import free_port

from cli.client import Client
from cli.doctor import row_of_disk, rows_of_api, rows_of_stack
from cli.main import main
from cli.stack.running import LOCK, Running, RunningPart

CALM = {
    "state": "closed",
    "configured": True,
    "share": 1.0,
    "override": None,
    "hold_reason": None,
    "changed": None,
}
IDLE = {
    "workers": 2,
    "queued_interactive": 0,
    "queued_batch": 0,
    "oldest_seconds": {"interactive": 0.0},
    "parked": 0,
    "running": 0,
}
ANY_API = Client("http://127.0.0.1:8000")
AN_ADMINS = {"error": {"message": "this is for admins"}}


@pytest.fixture
def server():
    server = StubApi()
    server.answers |= {
        "/health/ready": (200, {"ready": True, "reasons": []}),
        "/metrics": (200, {"metrics": IDLE}),
        "/circuit-breakers": (200, {"circuit_breakers": {"max_gpu": CALM}}),
    }
    yield server
    server.vanish()


def told(rows):
    return {(row["part"], row["check"]): row for row in rows}


def of_api(url):
    with Client(url) as client:
        return told(rows_of_api(client))


def test_a_fleet_that_is_well_has_no_failed_row(server):
    found = of_api(server.url)
    assert {key: row["state"] for key, row in found.items()} == {
        ("api", "reach"): "ok",
        ("api", "ready"): "ok",
        ("workers", "number"): "ok",
        ("queues", "waiting"): "ok",
        ("max_gpu", "breaker"): "ok",
    }
    assert found["queues", "waiting"]["detail"] == "nothing waits; 0 run"


def test_an_api_that_is_not_there_is_told_with_what_to_start():
    [row] = of_api(f"http://127.0.0.1:{free_port()}").values()
    assert (row["check"], row["state"]) == ("reach", "failed")
    assert row["detail"].endswith("nothing listens there")
    assert row["advice"].startswith("start `fallthrough up --port ")


def test_an_api_that_takes_no_work_says_why(server):
    server.answers["/health/ready"] = (503, {"ready": False, "reasons": ["no store", "no broker"]})
    row = of_api(server.url)["api", "ready"]
    assert (row["state"], row["detail"]) == ("failed", "no store, no broker")


def test_what_is_an_admins_to_see_is_no_fault(server):
    server.answers["/metrics"] = (403, AN_ADMINS)
    row = of_api(server.url)["api", "fleet"]
    assert (row["state"], row["detail"]) == ("none", "this is for admins")
    assert "keys create NAME --admin" in row["advice"]
    server.answers["/metrics"] = (503, AN_ADMINS)
    assert of_api(server.url)["api", "fleet"]["state"] == "failed"


def test_work_without_a_worker_fails_and_what_waits_is_told(server):
    waits = {"queued_batch": 3, "parked": 4, "running": 5, "oldest_seconds": {"batch": 61.4}}
    server.answers["/metrics"] = (200, {"metrics": {**IDLE, **waits, "workers": 0}})
    found = of_api(server.url)
    assert found["workers", "number"]["state"] == "failed"
    assert found["queues", "waiting"]["detail"] == (
        "3 in batch, the oldest for 61 s; 4 wait for a tier; 5 run"
    )


@pytest.mark.parametrize(
    ("view", "state", "advice"),
    [
        ({"configured": False}, "none", ""),
        ({"state": "open"}, "failed", "fallthrough breakers reset max_gpu"),
        ({"state": "half_open"}, "failed", "fallthrough breakers reset max_gpu"),
        ({"hold_reason": "misconfigured"}, "failed", "mend its server"),
        (
            {"troubles": [{"trouble": "silent", "host": "gpu-box", "reason": "timeout"}]},
            "failed",
            "mend its server",
        ),
        ({"override": "open", "state": "open"}, "failed", "fallthrough breakers auto max_gpu"),
        ({"override": "disabled"}, "failed", "fallthrough breakers auto max_gpu"),
    ],
)
def test_a_breaker_that_keeps_calls_away_is_told_with_its_command(server, view, state, advice):
    views = {"max_gpu": {**CALM, "retry_after_seconds": 3.0, **view}}
    server.answers["/circuit-breakers"] = (200, {"circuit_breakers": views})
    row = of_api(server.url)["max_gpu", "breaker"]
    assert row["state"] == state
    assert advice in row["advice"]


def test_each_process_of_a_stack_is_looked_at(server, tmp_path):
    server.answers["/health"] = (500, {})
    nobody = f"http://127.0.0.1:{free_port()}"
    parts = (
        RunningPart("valkey", "redis://127.0.0.1:1", 1, "valkey.log"),
        RunningPart("worker-interactive", server.url, 2, "worker.log"),
        RunningPart("worker-batch-1", nobody, 3, "batch.log"),
        RunningPart("model", server.url, 4, "model.log"),
        RunningPart("flower", nobody, None, "flower.log"),
    )
    found = told(rows_of_stack(Running(tmp_path, "", parts), ANY_API))
    states = {part: row["state"] for (part, check), row in found.items() if check == "process"}
    assert states == {
        "valkey": "ok",
        "worker-interactive": "ok",
        "worker-batch-1": "failed",
        "model": "failed",
        "flower": "failed",
    }
    assert found["model", "process"]["detail"].endswith("answers 500")
    assert "batch.log" in found["worker-batch-1", "process"]["advice"]
    server.answers["/health/ready"] = (503, {"reasons": ["draining"]})
    found = told(rows_of_stack(Running(tmp_path, "", parts), ANY_API))
    assert found["worker-interactive", "process"]["detail"].endswith("says: draining")


def test_a_stack_that_starts_is_told_as_such(tmp_path):
    [row, _] = rows_of_stack(Running(tmp_path), ANY_API)
    assert (row["state"], "is starting" in row["detail"]) == ("failed", True)


def test_of_a_stack_that_starts_nothing_else_is_asked(tmp_path):
    with (tmp_path / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = CliRunner().invoke(main, ["doctor", "--json", "--data-dir", str(tmp_path)])
    assert [row["part"] for row in json.loads(done.stdout)] == ["up", "disk"]


def test_a_disk_without_room_fails(tmp_path, monkeypatch):
    assert row_of_disk(tmp_path / "nowhere", ANY_API)["state"] == "failed"
    room = SimpleNamespace(free=2 * 1024**3, total=8 * 1024**3)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: room)
    row = row_of_disk(tmp_path, ANY_API)
    assert (row["state"], row["detail"]) == ("ok", f"2.0 of 8.0 GiB are free in {tmp_path}")
    room.free = 1024**3 - 1
    assert row_of_disk(tmp_path, ANY_API)["advice"].startswith("make room")


def test_of_a_server_elsewhere_only_its_api_is_asked(server):
    done = CliRunner().invoke(main, ["doctor", "--json", "--url", server.url])
    parts = {row["part"] for row in json.loads(done.stdout)}
    assert (done.exit_code, parts) == (0, {"api", "workers", "queues", "max_gpu"})


def test_where_nothing_runs_it_says_what_to_start(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv("FALLTHROUGH_API_URL", raising=False)
    done = CliRunner().invoke(main, ["doctor", "--json"])
    found = told(json.loads(done.stdout))
    assert found["up", "process"]["state"] == "none"
    assert found["up", "process"]["advice"].startswith("start one: fallthrough up")
    done = CliRunner().invoke(main, ["env"])
    assert (done.exit_code, "no `fallthrough up` runs on" in done.stderr) == (2, True)
