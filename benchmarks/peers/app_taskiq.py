"""taskiq: `taskiq worker app_taskiq:broker` works, `python app_taskiq.py N` enqueues."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import job
from taskiq import TaskiqEvents, TaskiqState
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

results: RedisAsyncResultBackend[Any] = RedisAsyncResultBackend(job.STORE, result_ex_time=600)
broker = RedisStreamBroker(job.STORE).with_result_backend(results)


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def open_client(state: TaskiqState) -> None:
    """Open what all jobs of a worker share."""
    state.http = httpx.AsyncClient(limits=httpx.Limits(max_connections=job.AT_ONCE))


@broker.task
async def ask(prompt: str) -> Any:
    """Return the upstream's answer."""
    answer = await broker.state.http.post(job.UPSTREAM, json=job.body(prompt))
    return answer.raise_for_status().json()


async def enqueue() -> None:
    """Enqueue from so many tasks at once."""
    await broker.startup()
    left = iter(range(job.number()))

    async def work() -> None:
        for index in left:
            await ask.kiq(job.prompt(index))

    await asyncio.gather(*(work() for _ in range(job.AT_ONCE)))
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(enqueue())
