"""A proxy that passes streams on, piece by piece, and does nothing else: `… PORT UPSTREAM`.

The API's own framework and server, and the client that the tiers have: the yardstick of streams.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import aiohttp
import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request


class Proxy:
    """One session for all streams."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._session: aiohttp.ClientSession | None = None

    async def chat(self, request: Request) -> Response:
        """Pass a request on, and its answer back as it comes."""
        body = await request.body()
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        answer = await self._session.post(self._upstream + request.url.path, data=body)
        return StreamingResponse(_pieces(answer), media_type="text/event-stream")


async def _pieces(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    async with answer:
        async for piece in answer.content.iter_any():
            yield piece


async def models(_: Request) -> Response:
    """Say that it serves."""
    return Response(b'{"data":[]}', media_type="application/json")


def main() -> None:
    """Serve for ever."""
    port, upstream = sys.argv[1:]
    routes = [
        Route("/v1/chat/completions", Proxy(upstream).chat, methods=["POST"]),
        Route("/v1/models", models),
    ]
    options = {"loop": "uvloop", "http": "httptools", "access_log": False, "log_level": "error"}
    uvicorn.run(Starlette(routes=routes), host="127.0.0.1", port=int(port), **options)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
