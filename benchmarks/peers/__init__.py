"""Others who run jobs or pass on chats, beside this product, in one run: `./run bench peers`.

Each gets what this product gets: one Valkey, one worker process with 64 jobs at once, the same
upstream, and keeps its answers. app_*.py and app_bullmq.cjs are their applications, as their own
guides have them. They run in an environment of their own (.venv/peers).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import httpx
import uvloop
from harness.valkey import ValkeyServer
from harness.waiting import free_port, wait_until

from benchmarks import batch, curve, lone_requests
from benchmarks.stack import bare_rate, empty_fleet, stub

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HERE = Path(__file__).parent
PEERS = HERE.parents[1] / ".venv" / "peers"
PYTHON = str(PEERS / "bin" / "python")
JOBS, WARM = 4000, 200
SECONDS = 4.0
CLIENTS = (1, 64)
BODY = {"model": "bench", **lone_requests.BODY}


class Queue(NamedTuple):
    """How a queue's worker and its producer are started."""

    worker: tuple[str, ...]
    producer: tuple[str, ...]


def _module(*arguments: str) -> tuple[str, ...]:
    return (PYTHON, "-m", *arguments)


QUEUES = {
    "celery_chain": Queue(
        _module("celery", "-A", "app_celery", "worker", "-P", "threads", "-c", "64", "-l", "ERROR"),
        (PYTHON, "app_celery.py"),
    ),
    "dramatiq": Queue(
        _module("dramatiq", "app_dramatiq", "--processes", "1", "--threads", "64"),
        (PYTHON, "app_dramatiq.py"),
    ),
    "taskiq": Queue(
        _module(
            "taskiq",
            "worker",
            "app_taskiq:broker",
            "-w",
            "1",
            "--max-async-tasks",
            "64",
            "--log-level",
            "WARNING",
        ),
        (PYTHON, "app_taskiq.py"),
    ),
    "saq": Queue(_module("saq", "app_saq.settings", "--quiet"), (PYTHON, "app_saq.py")),
    "bullmq": Queue(("node", "app_bullmq.cjs", "work"), ("node", "app_bullmq.cjs")),
}


def measure() -> dict[str, float]:
    """Return the jobs/s of each queue, and the rate and median latency through each proxy."""
    with stub(0.0) as upstream, _store() as store:
        figures = {"bare_rate": bare_rate(upstream, store)}
    figures |= {f"{name}_jobs_rate": _queue(queue) for name, queue in QUEUES.items()}
    figures["fallthrough_jobs_rate"] = lone_requests.end_to_end()["jobs_rate"]
    figures["fallthrough_lines_rate"] = batch.measure(20_000, 0.0, 64)["rate"]
    with stub(0.0) as upstream:
        figures |= _chats("direct", upstream, {})
        with _litellm(upstream) as url:
            figures |= _chats("litellm", url, {"Authorization": "Bearer sk-any"})
        with _portkey() as url:
            host = {"x-portkey-provider": "openai", "x-portkey-custom-host": f"{upstream}/v1"}
            figures |= _chats("portkey", url, {"Authorization": "Bearer sk-any", **host})
        with empty_fleet(upstream) as (fleet, _):
            api, _ = fleet.start(fleet.api(), fleet.worker("interactive"))
            figures |= _chats("fallthrough", api.url, {})
    return figures


def _queue(queue: Queue) -> float:
    with stub(0.0) as upstream, _store() as store:
        environ = {"PEERS_UPSTREAM": upstream, "PEERS_STORE": store}
        with _running(queue.worker, environ):
            _enqueue(queue, environ, WARM)
            wait_until(lambda: _called(upstream) >= WARM, 60, "the worker is warm")
            start = time.monotonic()
            producer = _start((*queue.producer, str(JOBS)), environ)
            wait_until(lambda: _called(upstream) >= WARM + JOBS, 300, "all jobs have run")
            seconds = time.monotonic() - start
            producer.wait(30)
    return JOBS / seconds


def _enqueue(queue: Queue, environ: Mapping[str, str], number: int) -> None:
    assert _start((*queue.producer, str(number)), environ).wait(60) == 0  # noqa: S101 - else no figure


def _called(upstream: str) -> int:
    return int(httpx.get(f"{upstream}/count").text)


@contextlib.contextmanager
def _store() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="fallthrough-bench-") as folder:
        valkey = ValkeyServer(Path(folder), free_port())
        valkey.start()
        try:
            yield valkey.url
        finally:
            valkey.kill()


def _start(command: tuple[str, ...], environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.Popen(  # noqa: S603 - our own list
        command,
        cwd=HERE,
        env={**clean, "NODE_PATH": str(PEERS / "node_modules"), **environ},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


@contextlib.contextmanager
def _running(command: tuple[str, ...], environ: Mapping[str, str]) -> Iterator[None]:
    process = _start(command, environ)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)  # some have children
        process.wait()


@contextlib.contextmanager
def _litellm(upstream: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="fallthrough-bench-") as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(
            "model_list:\n- model_name: bench\n  litellm_params:\n"
            f"    model: openai/bench\n    api_base: {upstream}/v1\n    api_key: any\n"
        )
        port = free_port()
        command = (str(PEERS / "bin" / "litellm"), "--config", str(config), "--port", str(port))
        with _running(command, {"LITELLM_MASTER_KEY": "sk-any"}):
            url = f"http://127.0.0.1:{port}"
            wait_until(lambda: _serves(f"{url}/health/liveliness"), 90, "LiteLLM serves")
            yield url


@contextlib.contextmanager
def _portkey() -> Iterator[str]:
    port = free_port()
    program = PEERS / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    with _running(("node", str(program), f"--port={port}", "--headless"), {}):
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: _serves(url), 30, "Portkey serves")
        yield url


def _serves(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.HTTPError:
        return False


def _chats(name: str, url: str, headers: Mapping[str, str]) -> dict[str, float]:
    figures = {}
    for clients in CLIENTS:
        chats = f"{url}/v1/chat/completions"
        uvloop.run(curve.closed_loop(chats, clients, 1.0, BODY, headers))  # warm
        latencies = sorted(uvloop.run(curve.closed_loop(chats, clients, SECONDS, BODY, headers)))
        figures[f"{name}_chat{clients}_rate"] = len(latencies) / SECONDS
        figures[f"{name}_chat{clients}_p50_ms"] = latencies[len(latencies) // 2]
    return figures
