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
    """Ask for every line; return what it took."""
    client = ClientBuilder().no_proxy().build()
    kept = redis.asyncio.Redis.from_url(store)
    waiting: deque[tuple[int, bytes]] = deque()
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
            waiting.append((left, bytes(await response.bytes())))
            arrived.set()

    async def write() -> None:
        written = 0
        while written < lines:
            await arrived.wait()
            arrived.clear()
            pipeline = kept.pipeline(transaction=False)
            while waiting:
                number, answer = waiting.popleft()
                record = {
                    "status": "succeeded",
                    "tier_used": "gpu",
                    "finished_ms": 1,
                    "answer": answer,
                }
                pipeline.hset(f"bare:{number}", mapping=record)
                written += 1
            await pipeline.execute()

    began, cpu = time.monotonic(), time.process_time()
    await asyncio.gather(write(), *(call() for _ in range(at_once)))
    took, spent = time.monotonic() - began, time.process_time() - cpu
    await kept.flushdb()
    await kept.aclose()
    return {"rate": lines / took, "cpu_ms": 1000 * spent / lines}


def main() -> None:
    """Run once and print JSON."""
    upstream, store, lines, at_once = sys.argv[1:]
    found = uvloop.run(run(upstream, store, int(lines), int(at_once)))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
