"""A worker's own small HTTP port: /health, /health/ready, /metrics."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tasks.errors import StoreUnavailable
from tasks.telemetry.metrics import encoder_for

if TYPE_CHECKING:
    import socket

    from prometheus_client import CollectorRegistry
    from starlette.requests import Request

    from tasks.store.connection import Connection
    from workers.pulse import Pulse

READY_SECONDS = 2.0


def health_app(pulse: Pulse, connection: Connection, registry: CollectorRegistry) -> Starlette:
    """Return the port's application."""

    async def health(_: Request) -> Response:
        if pulse.alive:
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": "the consumer makes no progress"}, 503)

    async def ready(_: Request) -> Response:
        reasons = [] if pulse.connected else ["no broker"]
        if pulse.draining:
            reasons.append("draining")
        try:
            await asyncio.wait_for(connection.ping(), READY_SECONDS)
        except (StoreUnavailable, TimeoutError):
            reasons.append("no store")
        return JSONResponse({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    async def metrics(request: Request) -> Response:
        encoder, content_type = encoder_for(request.headers.get("accept", ""))
        return Response(encoder(registry), media_type=content_type)

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/health/ready", ready),
            Route("/metrics", metrics),
        ]
    )


class _Server(uvicorn.Server):
    # The process has its own signal handlers.
    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]  # noqa: ANN202
        yield


async def serve(app: Starlette, sock: socket.socket) -> None:
    """Serve until cancelled."""
    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", ws="none")
    await _Server(config).serve(sockets=[sock])
