"""Waiting for jobs, a few long polls at a time, with a progress bar."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cli.client import FINAL

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console

    from cli.client import Client

POLLS_AT_ONCE = 16
POLL_SECONDS = 20.0


def wait_for(
    client: Client,
    ids: Sequence[str],
    console: Console,
    seen: Callable[[dict[str, Any]], None] = lambda job: None,  # noqa: ARG005 - nobody listens
) -> dict[str, dict[str, Any]]:
    """Return the finished jobs by id; seen is told of each as it finishes."""
    tiers: Counter[str] = Counter()
    finished: dict[str, dict[str, Any]] = {}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[tiers]}"),
    )
    with (
        Progress(*columns, console=console, transient=not console.is_terminal) as progress,
        ThreadPoolExecutor(POLLS_AT_ONCE) as pool,
    ):
        bar = progress.add_task("answering", total=len(ids), tiers="")
        for poll in as_completed([pool.submit(_one, client, job_id) for job_id in ids]):
            job = poll.result()
            finished[job["id"]] = job
            tiers[job["tier_used"] or job["status"]] += 1
            told = "  ".join(f"{tier} {number}" for tier, number in tiers.most_common())
            progress.update(bar, advance=1, tiers=told)
            seen(job)
    return finished


def _one(client: Client, job_id: str) -> dict[str, Any]:
    while True:
        job = client.job(job_id, POLL_SECONDS)
        if job["status"] in FINAL:
            return job


def milliseconds(job: dict[str, Any]) -> int | None:
    """Return how long a finished job took, from its acceptance."""
    if not job.get("finished_at"):
        return None
    took: float = job["finished_at"] - job["created_at"]
    return round(took * 1000)
