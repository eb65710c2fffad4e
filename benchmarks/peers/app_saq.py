"""saq: `saq app_saq.settings` works, `python app_saq.py N` enqueues."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import job
from saq import Queue

queue = Queue.from_url(job.STORE)


async def open_client(context: dict[str, Any]) -> None:
    """Open what all jobs of a worker share."""
    context["http"] = httpx.AsyncClient(limits=httpx.Limits(max_connections=job.AT_ONCE))


async def ask(context: dict[str, Any], *, prompt: str) -> Any:
    """Return the upstream's answer."""
    answer = await context["http"].post(job.UPSTREAM, json=job.body(prompt))
    return answer.raise_for_status().json()


settings = {
    "queue": queue,
    "functions": [ask],
    "concurrency": job.AT_ONCE,
    "startup": open_client,
}


async def enqueue() -> None:
    """Enqueue from so many tasks at once."""
    await queue.connect()
    left = iter(range(job.number()))

    async def work() -> None:
        for index in left:
            await queue.enqueue("ask", prompt=job.prompt(index))

    await asyncio.gather(*(work() for _ in range(job.AT_ONCE)))
    await queue.disconnect()


if __name__ == "__main__":
    asyncio.run(enqueue())
