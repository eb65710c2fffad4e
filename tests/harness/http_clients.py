"""The HTTP clients of the tiers, as tests open them."""

from __future__ import annotations

import gc
import warnings
from contextlib import asynccontextmanager, contextmanager

import httpx

from fallback_chain.httpx_http import HttpxHttp


@asynccontextmanager
async def opened(kind):
    """Open one of ours, or a user's own client, as it is by default."""
    if kind is httpx.AsyncClient:
        async with httpx.AsyncClient() as client:
            yield HttpxHttp.of(client, 0.5)
        return
    client = kind(connect_timeout_seconds=0.5)
    yield client
    await client.aclose()


@contextmanager
def collected():
    """What asyncio leaves of a TLS handshake that failed is closed by the collector alone."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
