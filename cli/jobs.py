"""Jobs that the command line submits, and waits for with a progress bar."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cli.client import FINAL
from cli.json_body import encoded
from cli.patience import Patience
from cli.terminal import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console

    from cli.client import Client
    from cli.prompts import Prompt

CHUNK = 1000  # requests that one POST /v1/jobs takes
CHUNK_BYTES = 2 * 1024 * 1024  # well below what an API takes by default
POLLS_AT_ONCE = 16
POLL_SECONDS = 20.0


def submit_prompts(
    client: Client, prompts: Sequence[Prompt], defaults: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Submit prompts, in chunks; yield their jobs. defaults: fields where a prompt has none."""
    requests = [{**defaults, **prompt.request} for prompt in prompts]
    for chunk in _chunks(requests):
        yield from client.submit(chunk)


def _chunks(requests: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Yield requests in their order, as many at a time as one call takes."""
    chunk: list[dict[str, Any]] = []
    size = 0
    for request in requests:
        length = len(encoded(request)) + 1
        if chunk and (len(chunk) == CHUNK or size + length > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(request)
        size += length
    if chunk:
        yield chunk


def wait_for(
    client: Client,
    ids: Sequence[str],
    console: Console,
    on_finish: Callable[[dict[str, Any]], None] = lambda job: None,  # noqa: ARG005 - no listener
) -> dict[str, dict[str, Any]]:
    """Return the finished jobs by id; on_finish is called with each as it finishes.

    An API that is away is asked again for a while; raises ApiFailedError.
    """
    tiers: Counter[str] = Counter()
    jobs: dict[str, dict[str, Any]] = {}
    with _progress(console) as progress:
        bar = progress.add_task("answering", total=len(ids), tiers="")

        def say(text: str) -> None:
            progress.console.print(shown(text), markup=False)

        patience = Patience(say, "what was submitted goes on")
        for job in _finished_jobs(client, ids, patience):
            jobs[job["id"]] = job
            tiers[job["tier_used"] or job["status"]] += 1
            summary = "  ".join(f"{tier} {number}" for tier, number in tiers.most_common())
            progress.update(bar, advance=1, tiers=summary)
            on_finish(job)
    return jobs


def _progress(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("elapsed"),
        TextColumn("{task.fields[tiers]}"),
    )
    return Progress(*columns, console=console, transient=not console.is_terminal)


def _finished_jobs(
    client: Client, ids: Sequence[str], patience: Patience
) -> Iterator[dict[str, Any]]:
    """Yield each job as it finishes, with a few long polls at a time; one that fails ends all."""
    is_over = threading.Event()

    def finished_job(job_id: str) -> dict[str, Any]:
        while True:
            job = patience.ask(lambda: client.job(job_id, POLL_SECONDS))
            if job["status"] in FINAL or is_over.is_set():
                return job

    pool = ThreadPoolExecutor(POLLS_AT_ONCE)
    try:
        for poll in as_completed([pool.submit(finished_job, job_id) for job_id in ids]):
            yield poll.result()
    finally:
        is_over.set()
        pool.shutdown(wait=False, cancel_futures=True)


def milliseconds(job: dict[str, Any]) -> int | None:
    """Return how long a finished job took, from its acceptance."""
    if not job.get("finished_at"):
        return None
    seconds: float = job["finished_at"] - job["created_at"]
    return round(seconds * 1000)
