"""The bare loop: pyreqwest, and one pipelined record write a job; nothing else. The yardstick.

`python -m benchmarks.bare UPSTREAM REDIS LINES CALLS_AT_ONCE` prints its jobs/s and CPU.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import deque

import redis.asyncio
import uvloop
from pyreqwest.client import ClientBuilder

BODY = {"model": "bench", "messages": [{"role": "user", "content": "A prompt of some words. " * 4}]}


async def run(upstream: str, store: str, lines: int, at_once: int) -> dict[str, float]:
    """Ask for every line; return jobs/s and CPU a job."""
    client = ClientBuilder().no_proxy().build()
    records = redis.asyncio.Redis.from_url(store)
    answers: deque[tuple[int, bytes]] = deque()
    arrived = asyncio.Event()
    left = lines
    content = json.dumps(BODY).encode()
    headers = {"content-type": "application/json"}

    async def call() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            request = client.post(f"{upstream}/v1/chat/completions").headers(headers)
            response = await request.body_bytes(content).build().send()
            answers.append((left, bytes(await response.bytes())))
            arrived.set()

    async def write() -> None:
        written = 0
        while written < lines:
            await arrived.wait()
            arrived.clear()
            pipeline = records.pipeline(transaction=False)
            while answers:
                number, answer = answers.popleft()
                record = {
                    "status": "succeeded",
                    "tier_used": "gpu",
                    "finished_ms": 1,
                    "answer": answer,
                }
                pipeline.hset(f"bare:{number}", mapping=record)
                written += 1
            await pipeline.execute()

    start, cpu_start = time.monotonic(), time.process_time()
    await asyncio.gather(write(), *(call() for _ in range(at_once)))
    seconds, cpu_seconds = time.monotonic() - start, time.process_time() - cpu_start
    await records.flushdb()
    await records.aclose()
    return {"rate": lines / seconds, "cpu_ms": 1000 * cpu_seconds / lines}


def main() -> None:
    """Run once and print JSON."""
    upstream, store, lines, at_once = sys.argv[1:]
    figures = uvloop.run(run(upstream, store, int(lines), int(at_once)))
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
