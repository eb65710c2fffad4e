"""The processes that a measurement needs, and what they use."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import httpx
from harness.processes import Fleet
from harness.valkey import ValkeyServer
from harness.waiting import free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

TICK = os.sysconf("SC_CLK_TCK")
BARE_LINES, BARE_CALLS = 20_000, 64


def answers(url: str) -> bool:
    """Say whether somebody serves there."""
    try:
        return httpx.get(f"{url}/v1/models").is_success
    except httpx.HTTPError:
        return False


class Stub(NamedTuple):
    """A model server of ours."""

    url: str
    process: subprocess.Popen[bytes]

    def turn(self) -> None:
        """Make it fail from now on; or, if it does, be well again."""
        self.process.send_signal(signal.SIGUSR1)

    def calls(self) -> list[tuple[float, int]]:
        """Return when each completion was asked for (s, monotonic), and its status."""
        calls = httpx.get(f"{self.url}/calls", timeout=30).json()
        return [(at / 1000, status) for at, status in calls]


@contextlib.contextmanager
def stub(delay: float) -> Iterator[str]:
    """Yield the URL of a fast model server."""
    with stub_process(delay) as server:
        yield server.url


@contextlib.contextmanager
def stub_process(delay: float, slots: int | None = None) -> Iterator[Stub]:
    """Yield a fast model server. slots: calls that it runs at once; None: any number."""
    port = free_port()
    options = ["--port", str(port), "--delay", str(delay)]
    if slots is not None:
        options += ["--slots", str(slots)]
    process = subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-m", "benchmarks.upstream", *options]
    )
    url = f"http://127.0.0.1:{port}"

    try:
        wait_until(lambda: answers(url))
        yield Stub(url, process)
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def empty_fleet(upstream: str, **settings: str) -> Iterator[tuple[Fleet, ValkeyServer]]:
    """Yield a fleet on an empty Valkey; nothing of it is started."""
    with tempfile.TemporaryDirectory(prefix="fallthrough-bench-") as folder:
        valkey = ValkeyServer(Path(folder), free_port())
        valkey.start()
        environ = {
            "FALLTHROUGH_REDIS_URL": valkey.url,
            "FALLTHROUGH_GPU_URL": upstream,
            "FALLTHROUGH_FILES_URL": f"{folder}/files",
            "FALLTHROUGH_LOG_LEVEL": "WARNING",
            **settings,
        }
        fleet = Fleet(Path(folder), environ)
        try:
            yield fleet, valkey
        finally:
            fleet.stop()
            valkey.kill()


def bare(upstream: str, store: str, lines: int, at_once: int) -> dict[str, float]:
    """Return what the bare loop makes."""
    process = subprocess.run(  # noqa: S603 - our own module
        [sys.executable, "-m", "benchmarks.bare", upstream, store, str(lines), str(at_once)],
        capture_output=True,
        check=True,
    )
    figures: dict[str, float] = json.loads(process.stdout)
    return figures


def bare_rate(upstream: str, store: str) -> float:
    """Return the jobs/s of the bare loop, measured as for the first machine's 4883."""
    return bare(upstream, store, BARE_LINES, BARE_CALLS)["rate"]


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def resident_mb(pid: int) -> float:
    """Return a process's resident memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def store_reads(valkey: ValkeyServer) -> int:
    """Return how often the store has read from its clients: round trips."""
    with valkey.client() as client:
        return int(client.info("stats")["total_reads_processed"])


def store_calls(valkey: ValkeyServer, command: str) -> int:
    """Return how often a command of the store's was called."""
    with valkey.client() as client:
        stats = client.info("commandstats").get(f"cmdstat_{command}", {})
    return int(stats.get("calls", 0))


def store_mb(valkey: ValkeyServer) -> float:
    """Return the store's memory."""
    with valkey.client() as client:
        return float(client.info("memory")["used_memory"]) / 2**20
