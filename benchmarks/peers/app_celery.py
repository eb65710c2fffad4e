"""A plain Celery chain of three tiers: `celery -A app_celery worker` works, `… N` enqueues.

As a first version of this product would be: the first tier answers, the others pass it on.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import job
from celery import Celery, chain

app = Celery("peers", broker=job.STORE, backend=job.STORE)
app.conf.task_acks_late = True
app.conf.worker_prefetch_multiplier = 1
http = httpx.Client(limits=httpx.Limits(max_connections=job.AT_ONCE))


@app.task(name="gpu")
def gpu(prompt: str) -> Any:
    """Return the upstream's answer."""
    return http.post(job.UPSTREAM, json=job.body(prompt)).raise_for_status().json()


@app.task(name="cpu")
def cpu(answer: Any) -> Any:
    """Return what the tier before said."""
    return answer


@app.task(name="cache")
def cache(answer: Any) -> Any:
    """Return what the tiers before said."""
    return answer


def enqueue() -> None:
    """Enqueue from a few threads."""

    def send(index: int) -> None:
        chain(gpu.s(job.prompt(index)), cpu.s(), cache.s()).apply_async()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(send, range(job.number())))


if __name__ == "__main__":
    enqueue()
