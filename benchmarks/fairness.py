"""Who has little to be done, while others have much."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import httpx
from harness.waiting import wait_until

from benchmarks.batch import create, follow, upload_file
from benchmarks.lone_requests import BODY, load
from benchmarks.stack import empty_fleet, stub

if TYPE_CHECKING:
    from collections.abc import Callable

CALL_SECONDS = 0.2
BATCHES, LINES = 60, 5_000  # of those who have much
IN_ONE_REQUEST = 1_000
KEYS = {owner: "k" * 31 + owner[0] for owner in ("ann", "bob")}


def _seconds(work: Callable[[], Any]) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start


def of_batches() -> dict[str, float]:
    """Return when a batch of one line begins, and ends: sixty large ones run, or are just created.

    And how many lines each of the sixty has by then, at least and at most.
    """
    with stub(CALL_SECONDS) as upstream, empty_fleet(upstream) as (fleet, _):
        api, _ = fleet.start(fleet.api(), fleet.worker())
        with httpx.Client(base_url=api.url, timeout=120) as client:
            large, small = upload_file(client, LINES), upload_file(client, 1)
            many = [create(client, large) for _ in range(BATCHES)]

            def count(what: str, batch_id: str) -> int:
                return int(client.get(f"/v1/batches/{batch_id}").json()["request_counts"][what])

            def begins() -> None:
                one = create(client, small)
                path = f"/v1/batches/{one}/results"
                wait_until(lambda: client.get(path).json()["data"], 600)

            fresh = _seconds(begins)
            wait_until(lambda: all(count("total", each) for each in many), 600)
            wait_until(lambda: sum(count("completed", each) for each in many) >= LINES, 600)
            running = _seconds(begins)
            ends = _seconds(lambda: follow(client, create(client, small)))
            done = [count("completed", each) for each in many]
    return {
        "just_created_s": fresh,
        "running_s": running,
        "ends_s": ends,
        "least_lines": min(done),
        "most_lines": max(done),
    }


def of_owners() -> dict[str, float]:
    """Return when the jobs of an owner are answered while another has all that he may have.

    He sends single jobs and lists until he is refused.
    """
    keys = ",".join(f"{owner}={key}" for owner, key in KEYS.items())
    with (
        stub(CALL_SECONDS) as upstream,
        empty_fleet(upstream, FALLTHROUGH_API_KEYS=keys) as (fleet, _),
    ):
        api, _ = fleet.start(fleet.api(), fleet.worker())
        ann, bob = (
            httpx.Client(
                base_url=api.url, timeout=120, headers={"Authorization": f"Bearer {KEYS[owner]}"}
            )
            for owner in ("ann", "bob")
        )
        with ann, bob:
            job = {"prompt": "x", "cache": "off"}
            accepted, refused, number = 0, [], {True: IN_ONE_REQUEST, False: 1}
            for many in (False, True):
                body = {"requests": [job] * IN_ONE_REQUEST} if many else job
                most = 5_000 if not many else 200
                for _ in range(most):
                    reply = ann.post("/v1/jobs", json=body)
                    if reply.status_code != httpx.codes.ACCEPTED:
                        refused.append(reply)
                        break
                    accepted += number[many]

            def one(body: dict[str, Any]) -> None:
                made = bob.post("/v1/jobs", json=body).raise_for_status().json()
                made = made.get("data", [made])[0]
                path = f"/v1/jobs/{made['id']}"
                while bob.get(path, params={"wait": 60}).json()["status"] in {"queued", "running"}:
                    pass

            figures = {
                "single_s": _seconds(lambda: one(job)),
                "list_s": _seconds(lambda: one({"requests": [job]})),
                "chat_s": _seconds(lambda: bob.post("/v1/chat/completions", json=BODY)),
            }
    [refusal] = refused
    return {
        "accepted": accepted,
        **figures,
        "refused_status": refusal.status_code,
        "retry_after_s": float(refusal.headers["Retry-After"]),
    }


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
