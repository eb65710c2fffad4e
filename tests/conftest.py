"""Fixtures of all tests: real servers, started by this project's own files."""

from __future__ import annotations

import gc
import signal
from typing import TYPE_CHECKING

import pytest
from harness import contexts
from harness.processes import Fleet
from harness.timeouts import (  # noqa: F401 - hooks
    pytest_runtest_call,
    pytest_runtest_setup,
    pytest_runtest_teardown,
    pytest_timeout_cancel_timer,
    pytest_timeout_set_timer,
)
from harness.upstream import Upstream
from harness.valkey import ValkeyServer
from harness.waiting import free_port

from circuit_breaker import forget_circuit_breakers
from tasks import process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def pytest_configure() -> None:
    """Have each client of the tests begin at once, and the commands that they start interrupted."""
    contexts.share()
    process.pass_cancels_on()  # as each process of ours does
    # Which a shell's `&` has ignored.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Leave what is there now, a million objects, out of every look for garbage that follows."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def valkey_session(tmp_path_factory) -> Iterator[ValkeyServer]:
    server = ValkeyServer(tmp_path_factory.mktemp("valkey"), free_port())
    server.start()
    yield server
    server.kill()


@pytest.fixture
def valkey(valkey_session) -> ValkeyServer:
    """An empty Valkey that tests share; not to be killed."""
    with valkey_session.client() as client:
        client.flushall()
        client.script_flush()
    return valkey_session


@pytest.fixture(scope="session")
def clustered_valkey_session(tmp_path_factory) -> Iterator[ValkeyServer]:
    server = ValkeyServer(tmp_path_factory.mktemp("clustered"), free_port(), clustered=True)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def clustered_valkey(clustered_valkey_session) -> ValkeyServer:
    """An empty Valkey in cluster mode that tests share: one node that owns all slots."""
    with clustered_valkey_session.client() as client:
        client.flushall()
        client.script_flush()
    return clustered_valkey_session


@pytest.fixture(scope="module")
def module_valkey(tmp_path_factory) -> Iterator[ValkeyServer]:
    """A Valkey for the fleet that the tests of a file share: other tests empty the shared one."""
    server = ValkeyServer(tmp_path_factory.mktemp("valkey"), free_port())
    server.start()
    yield server
    server.kill()


@pytest.fixture
def own_valkey(tmp_path) -> Iterator[ValkeyServer]:
    """A Valkey of the test's own, that it may kill."""
    server = ValkeyServer(tmp_path, free_port())
    server.start()
    yield server
    server.kill()


@pytest.fixture
def gpu() -> Iterator[Upstream]:
    upstream = Upstream("gpu-model")
    yield upstream
    upstream.close()


@pytest.fixture
def cpu() -> Iterator[Upstream]:
    upstream = Upstream("cpu-model")
    yield upstream
    upstream.close()


@pytest.fixture(scope="module")
def module_gpu() -> Iterator[Upstream]:
    upstream = Upstream("gpu-model")
    yield upstream
    upstream.close()


@pytest.fixture(scope="module")
def module_cpu() -> Iterator[Upstream]:
    upstream = Upstream("cpu-model")
    yield upstream
    upstream.close()


def quick_settings(url: str, gpu: Upstream, cpu: Upstream, files: Path) -> dict[str, str]:
    """Settings of a fleet whose outages are short."""
    return {
        "FALLTHROUGH_REDIS_URL": url,
        "FALLTHROUGH_GPU_URL": gpu.url,
        "FALLTHROUGH_CPU_URL": cpu.url,
        "FALLTHROUGH_GPU_TIMEOUT_SECONDS": "1",
        "FALLTHROUGH_CPU_TIMEOUT_SECONDS": "5",
        "FALLTHROUGH_CPU_CONCURRENCY": "8",
        "FALLTHROUGH_CONNECT_TIMEOUT_SECONDS": "0.5",
        "FALLTHROUGH_BREAKER_RECOVERY_SECONDS": "1",
        "FALLTHROUGH_BREAKER_RECOVERY_MULTIPLIER": "1",
        "FALLTHROUGH_BREAKER_RAMP_SECONDS": "0",
        "FALLTHROUGH_SWEEP_SECONDS": "0.25",
        "FALLTHROUGH_FILES_URL": str(files),
        "FALLTHROUGH_DISPATCH_GRACE_SECONDS": "2",
    }


@pytest.fixture
def fleet(tmp_path, valkey, gpu, cpu) -> Iterator[Fleet]:
    """A fleet on the shared Valkey; nothing of it is started."""
    fleet = Fleet(tmp_path, quick_settings(valkey.url, gpu, cpu, tmp_path / "files"))
    yield fleet
    fleet.stop()


@pytest.fixture(scope="module")
def module_fleet(tmp_path_factory, module_valkey, module_gpu, module_cpu) -> Iterator[Fleet]:
    """A fleet that the tests of a file share, each of which leaves it as it was."""
    folder = tmp_path_factory.mktemp("fleet")
    settings = quick_settings(module_valkey.url, module_gpu, module_cpu, folder / "files")
    fleet = Fleet(folder, settings)
    yield fleet
    fleet.stop()


@pytest.fixture
def own_fleet(tmp_path, own_valkey, gpu, cpu) -> Iterator[Fleet]:
    """A fleet on a Valkey that the test may kill."""
    fleet = Fleet(tmp_path, quick_settings(own_valkey.url, gpu, cpu, tmp_path / "files"))
    yield fleet
    fleet.stop()


@pytest.fixture(autouse=True)
def _empty_registry() -> Iterator[None]:
    forget_circuit_breakers()
    yield
    forget_circuit_breakers()
