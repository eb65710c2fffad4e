"""Memory: an upload of 200 MB, a batch of 50 000 lines."""

from __future__ import annotations

import tempfile
import time

import httpx

from benchmarks.batch import create, follow, upload_file
from benchmarks.stack import empty_fleet, resident_mb, store_mb, stub


def upload() -> dict[str, float]:
    """Return by how much the API grows while 200 MB are uploaded."""
    with stub(0.0) as upstream, empty_fleet(upstream) as (fleet, _):
        api = fleet.api().start()
        assert api.process  # noqa: S101 - it was started
        with httpx.Client(base_url=api.url, timeout=300) as client:
            create(client, upload_file(client, 10))
            before = peak = resident_mb(api.process.pid)
            with tempfile.TemporaryFile() as large:
                line = b'{"padding": "' + b"x" * 1000 + b'"}\n'
                for _ in range(200 * 1024 * 1024 // len(line)):
                    large.write(line)
                large.seek(0)
                files = {"file": ("large.jsonl", large)}
                reply = client.post("/v1/files", files=files, data={"purpose": "batch"})
            assert reply.status_code == 200, reply.text  # noqa: S101, PLR2004 - else no figure
            peak = max(peak, resident_mb(api.process.pid))
    return {"api_grows_mb": peak - before}


def batch(lines: int = 50_000) -> dict[str, float]:
    """Return by how much worker and store grow, from the start and from line 10 000 on."""
    with stub(0.0) as upstream, empty_fleet(upstream) as (fleet, valkey):
        api, worker = fleet.api().start(), fleet.worker("batch").start()
        assert worker.process  # noqa: S101 - it was started
        with httpx.Client(base_url=api.url, timeout=120) as client:
            follow(client, create(client, upload_file(client, 200)))
            before = resident_mb(worker.process.pid), store_mb(valkey)
            batch_id = create(client, upload_file(client, lines))
            early, late = before, before
            while True:
                progress = client.get(f"/v1/batches/{batch_id}").json()
                now = resident_mb(worker.process.pid), store_mb(valkey)
                if progress["request_counts"]["completed"] < 10_000:  # noqa: PLR2004 - as it says
                    early = max(early[0], now[0]), max(early[1], now[1])
                late = max(late[0], now[0]), max(late[1], now[1])
                if progress["status"] == "completed":
                    break
                time.sleep(0.05)
    return {
        "worker_grows_mb": late[0] - before[0],
        "store_grows_mb": late[1] - before[1],
        "worker_after_10000_mb": late[0] - early[0],
        "store_after_10000_mb": late[1] - early[1],
    }
