"""Lone requests while a large batch runs, beside the same on an idle fleet."""

from __future__ import annotations

import httpx

from benchmarks.batch import create, upload_file
from benchmarks.lone_requests import BODY, load
from benchmarks.stack import empty_fleet, stub


def measure() -> dict[str, float]:
    """Return the p95 of lone requests against a 200 ms upstream, idle and behind a batch."""
    with stub(0.2) as upstream, empty_fleet(upstream) as (fleet, _):
        api = fleet.api().start()
        fleet.worker("interactive").start()
        fleet.worker("batch").start()
        chat = f"{api.url}/v1/chat/completions"
        load(chat, BODY, 20, 1)
        idle = load(chat, BODY, 200, 8)
        with httpx.Client(base_url=api.url, timeout=120) as client:
            batch_id = create(client, upload_file(client, 50_000))
            while client.get(f"/v1/batches/{batch_id}").json()["status"] == "validating":
                pass
            busy = load(chat, BODY, 200, 8)
            client.post(f"/v1/batches/{batch_id}/cancel")
    return {"idle_p95_ms": idle["p95"], "busy_p95_ms": busy["p95"], "x": busy["p95"] / idle["p95"]}
