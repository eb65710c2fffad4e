"""Memory of API, worker and store under floods of what clients may send; how a second one fares."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import httpx

from benchmarks.batch import create, follow, upload_file
from benchmarks.stack import empty_fleet, resident_mb, stub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.processes import Process
    from redis import Redis

MIB = 1024 * 1024
FLOODER, OTHER = "ft-flooder-of-this-server", "ft-another-of-its-owners"
SAMPLE_SECONDS, SETTLE_SECONDS = 0.1, 10.0
MAXMEMORY_MB = 700  # of the store, as in the compose file


class _Target(NamedTuple):
    api: Process
    worker: Process
    store: Redis
    batch: str  # one that has ended, whose results are large

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.api.port), 10)


def measure() -> dict[str, float]:
    """Return of each flood: the most MB, the MB after it, and the seconds of a second client."""
    figures: dict[str, float] = {}
    keys = f"flooder={FLOODER},other={OTHER}"
    with stub(0.0) as upstream, empty_fleet(upstream, FALLTHROUGH_API_KEYS=keys) as (fleet, valkey):
        store = valkey.client()
        store.config_set("maxmemory", MAXMEMORY_MB * MIB)
        worker = fleet.worker("batch").start()
        api = fleet.api().start()
        headers = {"Authorization": f"Bearer {FLOODER}"}
        with httpx.Client(base_url=api.url, timeout=120, headers=headers) as client:
            batch_id = create(client, upload_file(client, 50_000))
            follow(client, batch_id)
        api.stop()
        worker.stop()
        for name, flood in FLOODS.items():
            api, worker = fleet.start(fleet.api(), fleet.worker())
            target = _Target(api, worker, store, batch_id)
            figures |= {f"{name}_{what}": value for what, value in _watched(target, flood).items()}
            api.stop()
            worker.stop()
        store.close()
    return figures


def _watched(target: _Target, flood: Callable[[_Target], None]) -> dict[str, float]:
    over, sizes = threading.Event(), [_megabytes(target)]

    def sample() -> None:
        while not over.wait(SAMPLE_SECONDS):
            sizes.append(_megabytes(target))

    sampler = threading.Thread(target=sample)
    # A process of its own: it must not wait for those that flood.
    command = [sys.executable, "-m", "benchmarks.floods", target.api.url]
    second = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603 - our own module
    assert second.stdout  # noqa: S101 - it was asked for
    second.stdout.readline()
    sampler.start()
    flood(target)
    over.set()
    waits = json.loads(second.communicate()[0])
    sampler.join()
    time.sleep(SETTLE_SECONDS)
    peak, after = (list(map(max, zip(*sizes, strict=True))), _megabytes(target))
    return {
        "peak_mb": peak[0],
        "after_mb": after[0],
        "worker_peak_mb": peak[1],
        "worker_after_mb": after[1],
        "store_peak_mb": peak[2],
        "second_s": statistics.median(waits),
        "second_worst_s": max(waits),
    }


def _megabytes(target: _Target) -> tuple[float, float, float]:
    """Return what API, worker and store have."""
    assert target.api.process  # noqa: S101 - it was started
    assert target.worker.process  # noqa: S101 - as above
    store = float(target.store.info("memory")["used_memory"]) / MIB  # type: ignore[index]
    return resident_mb(target.api.process.pid), resident_mb(target.worker.process.pid), store


def _second_client(url: str) -> None:
    """Submit jobs until the standard input ends; print the seconds of each."""
    headers = {"Authorization": f"Bearer {OTHER}"}
    body = {"prompt": "Hello" * 10, "cache": "off"}
    waits: list[float] = []
    while not waits or not select.select([sys.stdin], [], [], SAMPLE_SECONDS)[0]:
        began = time.monotonic()
        reply = httpx.post(f"{url}/v1/jobs", json=body, headers=headers, timeout=60)
        assert reply.status_code == 202, reply.text  # noqa: S101, PLR2004 - else it was not served
        waits.append(time.monotonic() - began)
        if len(waits) == 1:
            print("ready", flush=True)  # noqa: T201 - a command
    print(json.dumps(waits))  # noqa: T201 - as above


@contextlib.contextmanager
def _connections(target: _Target, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(target.connect()) for _ in range(count)]


def _send(connection: socket.socket, *pieces: bytes, seconds: float = 20.0) -> bytes:
    """Send what goes; return the beginning of what is answered."""
    connection.settimeout(seconds)
    with contextlib.suppress(OSError):
        for piece in pieces:
            connection.sendall(piece)
        return connection.recv(4096)
    return b""


def _head(method: str, path: str, *fields: str) -> bytes:
    always = ("Host: localhost", f"Authorization: Bearer {FLOODER}", *fields)
    return f"{method} {path} HTTP/1.1\r\n".encode() + b"".join(
        f"{each}\r\n".encode() for each in always
    )


def _half_heads(target: _Target) -> None:
    with _connections(target, 2000) as flood:
        for each in flood:
            each.sendall(b"GET / HTTP/1.1\r\nHost: ")
        time.sleep(5)


def _long_heads(target: _Target) -> None:
    lines = b"a: b\r\n" * 200_000
    with ThreadPoolExecutor(8) as pool, _connections(target, 40) as flood:
        list(pool.map(lambda each: _send(each, b"GET / HTTP/1.1\r\n", *[lines] * 50), flood))


def _held_bodies(target: _Target) -> None:
    """Each but for its last bytes."""
    head = _head("POST", "/v1/jobs", f"Content-Length: {4 * MIB}") + b"\r\n"
    body = b'{"prompt": "' + b"x" * (4 * MIB - 100)
    with ThreadPoolExecutor(50) as pool, _connections(target, 300) as flood:
        list(pool.map(lambda each: _send(each, head, body, seconds=0.5), flood))


def _nested_bodies(target: _Target) -> None:
    """Whole ones, which take twenty times their bytes when they are decoded."""
    body = b'{"prompt": "x", "cache": "off", "y": [' + b"[]," * (4 * MIB // 3 - 100) + b"[]]}"
    head = _head("POST", "/v1/jobs", f"Content-Length: {len(body)}") + b"\r\n"
    with ThreadPoolExecutor(64) as pool, _connections(target, 64) as flood:
        list(pool.map(lambda each: _send(each, head, body), flood))


def _large_jobs(target: _Target) -> None:
    """Whole bodies of much text; more than the store takes."""
    body = b'{"cache": "off", "prompt": "' + b"x" * (4 * MIB - 100) + b'"}'
    head = _head("POST", "/v1/jobs", f"Content-Length: {len(body)}", "Connection: close") + b"\r\n"

    def post(_: int) -> None:
        with target.connect() as connection:
            _send(connection, head, body, seconds=60)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(post, range(300)))


def _forms(target: _Target) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    content = (part + b"x" * MIB + b"\r\n") * 40
    fields = ("Content-Type: multipart/form-data; boundary=x", f"Content-Length: {len(content)}")
    head = _head("POST", "/v1/files", *fields) + b"\r\n"
    with ThreadPoolExecutor(20) as pool, _connections(target, 20) as flood:
        list(pool.map(lambda each: _send(each, head, content), flood))


def _uploads(target: _Target) -> None:
    line = b'{"padding": "' + b"x" * 1000 + b'"}\n'
    content = (
        b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
        + line * (40 * MIB // len(line))
        + b"\r\n--x--\r\n"
    )
    fields = ("Content-Type: multipart/form-data; boundary=x", f"Content-Length: {len(content)}")
    head = _head("POST", "/v1/files", *fields) + b"\r\n"
    with ThreadPoolExecutor(40) as pool, _connections(target, 40) as flood:
        list(pool.map(lambda each: _send(each, head, content, seconds=60), flood))


def _unread_results(target: _Target) -> None:
    """Pages of results that are asked for, and not read."""
    head = _head("GET", f"/v1/batches/{target.batch}/results?limit=1000") + b"\r\n"
    with _connections(target, 500) as flood:
        for each in flood:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            each.sendall(head)
        time.sleep(5)


def _long_polls(target: _Target) -> None:
    headers = {"Authorization": f"Bearer {FLOODER}"}
    body = {"prompt": "nobody answers", "cache": "off"}
    job = httpx.post(f"{target.api.url}/v1/jobs", json=body, headers=headers).json()["id"]
    head = _head("GET", f"/v1/jobs/{job}?wait=60") + b"\r\n"
    with _connections(target, 3000) as flood:
        for each in flood:
            each.sendall(head)
        time.sleep(5)


def _wrong_keys(target: _Target) -> None:
    def guess(number: int) -> None:
        head = (
            f"GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ft-{number}\r\n\r\n"
        )
        with target.connect() as connection:
            _send(connection, head.encode())

    with ThreadPoolExecutor(64) as pool:
        list(pool.map(guess, range(2000)))


FLOODS: dict[str, Callable[[_Target], None]] = {
    "half_heads": _half_heads,
    "long_heads": _long_heads,
    "held_bodies": _held_bodies,
    "nested_bodies": _nested_bodies,
    "large_jobs": _large_jobs,
    "forms": _forms,
    "uploads": _uploads,
    "unread_results": _unread_results,
    "long_polls": _long_polls,
    "wrong_keys": _wrong_keys,
}


if __name__ == "__main__":
    _second_client(sys.argv[1])
