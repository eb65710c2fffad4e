"""Jobs that the command line submits, and waits for with a progress bar."""

from __future__ import annotations

import re
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cli.client import (
    FINAL,
    ApiBusyError,
    ApiFailedError,
    ApiRefusedError,
    ApiTooLargeError,
)
from cli.interrupt import interrupt_held
from cli.json_body import encoded
from cli.patience import Patience
from cli.terminal import echo, shown

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
    client: Client,
    prompts: Sequence[Prompt],
    defaults: dict[str, Any],
    jobs: list[dict[str, Any]],
) -> None:
    """Submit prompts, in chunks. defaults: fields where a prompt has none.

    jobs: theirs, as they are accepted, in their order; whatever ends it, those are there. An API
    that goes away meanwhile is asked again, and one that has no room for a chunk for less of it;
    raises ApiFailedError.
    """
    requests = [{**defaults, **prompt.request} for prompt in prompts]
    most = CHUNK

    def say(text: str) -> None:
        echo(f"{text} ({len(jobs)} of {len(requests)} are accepted)", err=True)

    patience = Patience(say, "none is asked twice", is_known=False)
    while len(jobs) < len(requests):
        chunk = _chunk(requests, len(jobs), most)
        try:
            is_accepted = patience.once(partial(_accepted, client, chunk, jobs))
        except ApiFailedError as error:
            is_its_own = len(chunk) == 1 and isinstance(error, ApiRefusedError)
            message = _placed(str(error), prompts[len(jobs) :], is_its_own=is_its_own)
            raise type(error)(message) from None
        most = min(2 * most, CHUNK) if is_accepted else len(chunk) // 2


def _placed(message: str, prompts: Sequence[Prompt], *, is_its_own: bool) -> str:
    """Return what the API says of a request with its place in the user's file.

    is_its_own: the first prompt was sent by itself, and what is said of it has no number.
    """
    found = re.match(r"requests\[(\d+)\][.:]? ?", message)
    if not found and not is_its_own:
        return message
    number, end = (int(found[1]), found.end()) if found else (0, 0)
    where = prompts[number].where
    return f"{where}: {message[end:]}" if where else message


def _accepted(
    client: Client, chunk: Sequence[dict[str, Any]], jobs: list[dict[str, Any]], key: str
) -> bool:
    """Submit requests, and note their jobs; False: there is no room for as many at once."""
    try:
        with interrupt_held():
            jobs += client.submit(chunk, key)
    except (ApiBusyError, ApiTooLargeError):  # a server may be set to take less
        if len(chunk) == 1:
            raise
        return False
    return True


def _chunk(requests: Sequence[dict[str, Any]], first: int, most: int) -> Sequence[dict[str, Any]]:
    """Return requests from the first on, as many as one call takes, and at most so many."""
    size = 0
    for number, request in enumerate(requests[first : first + most]):
        size += len(encoded(request)) + 1
        if number and size > CHUNK_BYTES:
            return requests[first : first + number]
    return requests[first : first + most]


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
