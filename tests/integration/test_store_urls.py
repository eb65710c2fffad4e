"""Every form of a store's URL, for all who read it, on a real Valkey with a hard password."""

from __future__ import annotations

import json
import string
from urllib.parse import quote

import httpx
import pytest
from harness.commands import environ, run
from harness.flower import flower
from harness.processes import python
from harness.valkey import ValkeyServer
from harness.waiting import free_port, wait_until

# Every sign of ASCII; its middle is looked for in what is shown.
SECRET = "hunter2"  # noqa: S105 - made up
PASSWORD = string.punctuation[:16] + SECRET + string.punctuation[16:] + " é"
RAW = "".join(sign for sign in PASSWORD if sign not in "#/?;[]%\\")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("v")
    server = ValkeyServer(folder, free_port(), password=PASSWORD, socket=folder / "s")
    server.start()
    with server.client() as client:
        client.acl_setuser(
            "u@ser",
            enabled=True,
            passwords=[f"+{RAW}"],
            categories=["+@all"],
            keys="*",
            channels="*",
        )
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def _emptied(server):
    with server.client() as client:
        client.flushall()


QUOTED = quote(PASSWORD, safe="")
FORMS = {
    "a password of every sign": ("redis://:{quoted}@127.0.0.1:{port}/15", ""),
    "a user, and signs as they are": ("redis://u%40ser:{raw}@localhost:{port}", ""),
    "IPv6": ("REDIS://default:{quoted}@[::1]:{port}//3", ""),
    "a socket": ("unix://default:{quoted}@{socket}?db=1", "redis://:{quoted}@127.1:{port}/2"),
    "options": (
        "redis://localhost:{port}?db=4&password={quoted}&socket_timeout=3",
        "redis://:{quoted}@localhost:{port}/5",
    ),
}


def settings_of(server, form):
    known = {"quoted": QUOTED, "raw": RAW, "port": server.port, "socket": server.socket}
    store, broker = (url.format(**known) for url in FORMS[form])
    return {"FALLTHROUGH_REDIS_URL": f" {store}\n", "FALLTHROUGH_BROKER_URL": broker}


@pytest.fixture
def shown():
    """Notes what was shown; at the end, no part of the password was."""
    said = []
    yield said.append
    assert len(said) > 3
    assert not [text for text in said if SECRET in text]


@pytest.mark.parametrize("form", FORMS)
def test_a_form_that_is_taken_works_for_all(server, fleet, tmp_path, shown, form):
    settings = settings_of(server, form)
    fleet.settings |= settings
    api, worker = fleet.start(fleet.api(log_level="DEBUG"), fleet.worker(log_level="DEBUG"))
    job = httpx.post(f"{api.url}/v1/jobs", json={"prompt": "Hello"}, timeout=10).json()
    job = httpx.get(f"{api.url}/v1/jobs/{job['id']}?wait=20", timeout=30).json()
    assert job["tier_used"] == "gpu"
    words = ("celery", "-A", "tasks", "inspect", "ping", "--json")
    ping = python(*words, environ=environ(**settings))
    assert ping.returncode == 0
    assert [answer["ok"] for answer in json.loads(ping.stdout).values()] == ["pong"]
    with flower(tmp_path, **settings) as url:
        wait_until(lambda: len(httpx.get(f"{url}/api/workers?refresh=1").json()) == 1)
        queues = httpx.get(f"{url}/api/queues/length").json()["active_queues"]
        assert {queue["name"] for queue in queues} >= {"interactive", "batch"}
        for page in ("/", "/broker", "/tasks", "/workers"):
            seen = httpx.get(f"{url}{page}", follow_redirects=True)
            assert seen.is_success or page == "/workers"
            shown(seen.text)
    shown((tmp_path / "flower.log").read_text())
    config = run("config", **settings)
    assert config.returncode == 0
    for text in (config.stdout, ping.stdout, ping.stderr, api.log, worker.log):
        shown(text)


@pytest.mark.parametrize("form", FORMS)
def test_a_password_that_is_wrong_is_told_and_not_shown(server, fleet, shown, form):
    wrong = {
        name: url.replace(QUOTED, f"x{QUOTED}").replace(RAW, f"x{RAW}")
        for name, url in settings_of(server, form).items()
    }
    fleet.settings |= wrong
    for process in (fleet.api(), fleet.worker()):
        process.start(ready=False)
        assert process.wait() == 2
        assert "the store refuses us: " in process.log
        assert len(process.log.splitlines()) == 1
        shown(process.log)
    shown(run("config", **wrong).stdout)
    shown(run("status", "job_1", "--url", "http://127.0.0.1:1", **wrong).stderr)


def test_a_password_that_changes_is_no_part_of_the_reasons(server, fleet, shown):
    fleet.settings |= settings_of(server, "a password of every sign")
    api, worker = fleet.start(fleet.api(log_level="DEBUG"), fleet.worker(log_level="DEBUG"))
    with server.client() as client:
        client.config_set("requirepass", "another")
        client.client_kill_filter(_type="normal", skipme=True)
    try:
        for process in (api, worker):
            url = f"{process.url}/health/ready"
            wait_until(lambda url=url: httpx.get(url, timeout=10).status_code == 503, 20)
            shown(httpx.get(url, timeout=10).text)
        refused = httpx.post(f"{api.url}/v1/jobs", json={"prompt": "Hello"}, timeout=20)
        assert refused.status_code == 503
        shown(refused.text)
    finally:
        with ValkeyServer(server.folder, server.port, password="another").client() as client:  # noqa: S106
            client.config_set("requirepass", PASSWORD)
    wait_until(api.ready, 20)
    shown(api.log)
    shown(worker.log)


@pytest.mark.parametrize("database", [16, 999_999_999])
def test_a_database_that_the_server_has_not_is_told_in_one_line(server, fleet, database):
    url = f"redis://:{QUOTED}@127.0.0.1:{server.port}/{database}"
    for process in (fleet.api(redis_url=url), fleet.worker(redis_url=url)):
        process.start(ready=False)
        assert process.wait() == 2
        assert len(process.log.splitlines()) == 1
        assert SECRET not in process.log
