"""`python -m api`: the HTTP API, set up by FALLTHROUGH_ variables."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

import uvicorn
import uvloop

from api.access import check_exposure, key_ring
from api.app import create_app
from tasks.errors import FallthroughError, SettingsError
from tasks.settings import Settings
from tasks.store.connection import connect
from tasks.store.jobs import JobStore
from tasks.telemetry import logs

if TYPE_CHECKING:
    from types import FrameType

    from starlette.applications import Starlette

    from api.services import Services

GARBAGE_THRESHOLDS = (20_000, 20, 20)
LAST_SECONDS = 1.0  # of the drain, in which those who still wait are told

log = logging.getLogger("api")


class _Server(uvicorn.Server):
    """Says that it is draining before it closes."""

    def __init__(self, config: uvicorn.Config, app: Starlette) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if hasattr(self._app.state, "services"):
            services: Services = self._app.state.services
            services.draining = True
            # Before the framework cuts off who still waits for a job, each gets an answer.
            drain = services.settings.drain_seconds
            services.waiters.close_in(max(drain - LAST_SECONDS, drain / 2))
        super().handle_exit(sig, frame)


def main() -> int:
    """Serve until told to stop; return the exit status: 2 if it could not start."""
    try:
        settings = Settings.from_env(os.environ)
        logs.configure(settings, "api")
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        check_exposure(settings, key_ring(settings))
        listener = _listen(settings)
        uvloop.run(_check(settings))
    except FallthroughError as error:
        sys.stderr.write(f"api: {error}\n")
        return 2
    app = create_app(settings)
    # What is there now stays; looking through it again and again is a part of a busy server's time.
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,  # nothing here asks who called, or by which scheme
        timeout_graceful_shutdown=max(int(settings.drain_seconds), 1),
    )
    server = _Server(config, app)
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises again, at its end, the signal that ended it: being asked is no failure.
        signal.signal(number, lambda *_: None)
    host, port = listener.getsockname()[:2]
    log.info("listening on http://%s:%d", host, port)
    server.run(sockets=[listener])
    return 0 if server.started else 2


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        message = f"FALLTHROUGH_PORT: cannot listen on {settings.host}:{settings.port}: {error}"
        raise SettingsError(message) from None
    return listener


async def _check(settings: Settings) -> None:
    """Say what is wrong with the store in one line, before the framework would in a hundred."""
    store = JobStore(connect(settings.redis_url), settings)
    try:
        await asyncio.wait_for(store.check(), 10)
    finally:
        await store.close()


if __name__ == "__main__":
    sys.exit(main())
