"""Flower with the project's own settings."""

from __future__ import annotations

import subprocess

import httpx
import pytest
from harness.flower import command, environ, flower
from harness.waiting import free_port, wait_until

ANN, BOB = "ann!=ft-0123456789abcdef", "bob=ft-fedcba9876543210"


@pytest.fixture
def settings(valkey):
    return {"FALLTHROUGH_REDIS_URL": valkey.url}


def test_on_loopback_it_shows_everything_and_changes_nothing(tmp_path, fleet, settings):
    worker = fleet.worker().start()
    with flower(tmp_path, **settings, FLOWER_BASIC_AUTH="") as url:
        wait_until(lambda: len(httpx.get(f"{url}/api/workers?refresh=1").json()) == 1)
        [name] = httpx.get(f"{url}/api/workers").json()
        reply = httpx.post(f"{url}/api/worker/shutdown/{name}")
        assert (reply.status_code, "Read only" in reply.text) == (403, True)
        assert httpx.post(f"{url}/api/task/async-apply/tasks.gpu", json={}).status_code == 403
        assert "flower_" in httpx.get(f"{url}/metrics").text
    assert worker.ready()


@pytest.mark.parametrize("path", ["/api/tasks", "/tasks", "/api/workers"])
def test_on_loopback_no_page_of_another_site_reads_it(tmp_path, settings, path):
    with flower(tmp_path, **settings, FALLTHROUGH_ALLOWED_HOSTS="box") as url:
        seen = httpx.get(f"{url}{path}", headers={"Origin": "https://evil.example"})
        assert seen.is_success
        assert not [name for name in seen.headers if name.startswith("access-control-")]
        assert seen.headers["x-content-type-options"] == "nosniff"
        for host, status in (("evil.example", 403), ("localhost:1", 200), ("box", 200)):
            assert httpx.get(f"{url}{path}", headers={"Host": host}).status_code == status, host


def test_its_state_outlives_it_and_shows_the_tier_of_a_task(tmp_path, fleet, gpu, settings):
    api = fleet.api().start()
    with flower(tmp_path, **settings) as url:
        fleet.worker().start()
        body = {"messages": [{"role": "user", "content": "a secret prompt"}]}
        assert httpx.post(f"{api.url}/v1/chat/completions", json=body).is_success
        wait_until(lambda: "tasks.gpu" in httpx.get(f"{url}/api/tasks").text)
    fleet.stop()
    with flower(tmp_path, **settings) as url:
        tasks = httpx.get(f"{url}/api/tasks").json()
        assert [task["name"] for task in tasks.values()] == ["tasks.gpu"]
        shown = httpx.get(f"{url}/api/tasks").text + httpx.get(f"{url}/tasks").text
        assert "job_" in shown
        assert "secret" not in shown


@pytest.mark.parametrize(
    ("variables", "right", "wrong"),
    [
        ({"FLOWER_BASIC_AUTH": "eve:open sesame"}, ("eve", "open sesame"), ("eve", "x")),
        (
            {"FALLTHROUGH_API_KEYS": f"{BOB},{ANN}"},
            ("ann", "ft-0123456789abcdef"),
            ("bob", "ft-fedcba9876543210"),
        ),
    ],
    ids=["a password", "an admin's key"],
)
def test_beyond_loopback_it_asks_who_comes(tmp_path, settings, variables, right, wrong):
    with flower(tmp_path, "0.0.0.0", **settings, **variables) as url:  # noqa: S104 - it is the point
        for page in ("/", "/tasks", "/api/workers"):
            assert httpx.get(url + page).status_code == 401
            assert httpx.get(url + page, auth=wrong).status_code == 401
            assert httpx.get(url + page, auth=right, follow_redirects=True).is_success


def test_a_password_on_the_command_line_is_one(tmp_path, settings):
    with flower(tmp_path, "0.0.0.0", "--basic-auth=eve:open", **settings) as url:  # noqa: S104
        assert httpx.get(url).status_code == 401
        assert httpx.get(url, auth=("eve", "open"), follow_redirects=True).is_success


@pytest.mark.parametrize(
    "consent", [{}, {"FALLTHROUGH_ALLOW_NO_KEYS": "1", "FALLTHROUGH_API_KEYS": BOB}]
)
def test_beyond_loopback_without_a_password_it_does_not_start(tmp_path, settings, consent):
    port = free_port()
    done = subprocess.run(
        command(port, "0.0.0.0"),  # noqa: S104 - it is the point
        env=environ(tmp_path, **settings, **consent),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 2
    assert "FLOWER_BASIC_AUTH" in done.stderr
    assert "Traceback" not in done.stderr
