"""`fallthrough up` where Flower cannot start: the others start and serve, and one line says so."""

from __future__ import annotations

import json
import os
import signal
import socket

import httpx
import pytest
from harness.commands import Up, run
from harness.upstream import Upstream
from harness.waiting import wait_until


@pytest.fixture(scope="module")
def cpu():
    upstream = Upstream("cpu-model")
    yield upstream
    upstream.close()


@pytest.fixture
def start(tmp_path, cpu):
    """Starts a stack in data/; at the end it is stopped."""
    stacks = []

    def start_up(*options, **settings):
        stacks.append(Up(tmp_path / "data", *options, FALLTHROUGH_CPU_URL=cpu.url, **settings))
        return stacks[-1]

    yield start_up
    for each in stacks:
        assert each.stop() == 0


def serves_without_flower(up, *, off):
    """The one line that says so."""
    assert run("submit", "Hello", "--url", up.url).stdout == "cpu-model: Hello\n"
    said = [line for line in up.said.splitlines() if "go on without it" in line]
    assert len(said) == 1, up.said
    assert "Traceback" not in up.said
    if off:
        assert "off" in said[0]
        assert up.told["flower_url"] == ""
        assert "flower" not in up.pids
        assert "flower restarted" not in up.said
    return said[0]


def test_where_its_port_is_taken(start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        up = start("--flower-port", port)
        assert f"port {port} for Flower cannot be used" in serves_without_flower(up, off=True)
    reply = httpx.get(f"{up.url}/metrics", headers={"Accept": "application/json"})
    assert reply.json()["metrics"]["flower_url"] is None  # the web page links to nobody's


@pytest.mark.parametrize(
    "variable",
    [
        {"FLOWER_MAX_TASKS": "many"},
        {"FLOWER_KEYFILE": "/nowhere"},
        {"FLOWER_BASIC_AUTH": "admin:a,password"},
    ],
)
def test_where_its_variables_make_no_sense(start, variable):
    said = serves_without_flower(start(**variable), off=True)
    assert "flower is off" in said
    assert "flower.log" in said


def test_where_it_listens_elsewhere(start, tmp_path):
    up = start(FLOWER_UNIX_SOCKET=str(tmp_path / "flower.sock"))
    assert "flower does not answer yet" in serves_without_flower(up, off=False)


@pytest.mark.parametrize(
    "variable",
    [
        {"FLOWER_PORT": "tcp://10.0.0.1:5555", "FLOWER_SERVICE_HOST": "10.0.0.1"},
        {
            "FLOWER_URL_PREFIX": "some/flower",
            "FLOWER_PORT": "1",
            "FLOWER_ADDRESS": "10.0.0.1",
            "FLOWER_DB": "/nowhere/else",
        },
    ],
)
def test_a_variable_that_it_can_live_with_is_lived_with(start, variable):
    up = start(**variable)
    assert "go on without it" not in up.said
    url = up.told["flower_url"]
    assert url.endswith(variable.get("FLOWER_URL_PREFIX", ""))
    assert httpx.get(f"{url}/api/workers", timeout=10).is_success


def test_where_its_state_is_damaged_it_begins_anew(start, tmp_path, cpu):
    up = start()
    workers = f"{up.told['flower_url']}/api/workers?refresh=1"  # else it asks once, at its start
    wait_until(lambda: httpx.get(workers, timeout=30).json())
    assert up.stop() == 0
    states = [path for path in (tmp_path / "data").glob("flower*") if path.is_file()]
    assert states
    for path in states:
        path.write_bytes(os.urandom(3000))
    again = start()
    assert "go on without it" not in again.said
    assert httpx.get(f"{again.told['flower_url']}/api/workers", timeout=10).is_success
    assert list((tmp_path / "data").glob("flower*.corrupt"))


def test_where_its_state_can_be_no_file(start, tmp_path):
    for suffix in ("", ".dat", ".dir", ".bak", ".db"):
        (tmp_path / "data" / f"flower{suffix}").mkdir(parents=True)
        (tmp_path / "data" / f"flower{suffix}" / "x").write_text("")
    up = start()
    assert run("submit", "Hello", "--url", up.url).stdout == "cpu-model: Hello\n"


def test_one_that_dies_later_is_restarted(start):
    up = start()
    os.kill(up.pids["flower"], signal.SIGKILL)
    wait_until(lambda: "flower restarted" in up.said, 10)
    assert json.loads(run("breakers", "--json", "--url", up.url).stdout)
