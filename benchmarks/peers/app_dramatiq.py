"""dramatiq: `dramatiq app_dramatiq` works, `python app_dramatiq.py N` enqueues."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dramatiq
import httpx
import job
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

broker = RedisBroker(url=job.STORE)
broker.add_middleware(Results(backend=RedisBackend(url=job.STORE)))
dramatiq.set_broker(broker)
http = httpx.Client(limits=httpx.Limits(max_connections=job.AT_ONCE))


@dramatiq.actor(store_results=True)
def ask(prompt: str) -> Any:
    """Return the upstream's answer."""
    return http.post(job.UPSTREAM, json=job.body(prompt)).raise_for_status().json()


def enqueue() -> None:
    """Enqueue from a few threads."""
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda index: ask.send(job.prompt(index)), range(job.number())))


if __name__ == "__main__":
    enqueue()
