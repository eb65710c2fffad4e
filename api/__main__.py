"""`python -m api`: the HTTP API, set up by FALLTHROUGH_ variables."""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import TYPE_CHECKING

import uvicorn
import uvloop

from api.app import create_app
from api.processes import COULD_NOT_START, Processes
from api.server import protocol, raise_file_limit
from api.shared_counts import counts_folder, share_counts, shared_registry
from api.tiers import batch_tiers
from tasks import process
from tasks.app import check_broker
from tasks.errors import FallthroughError, SettingsError
from tasks.hosts import http_url
from tasks.keys import check_exposure, key_ring
from tasks.settings import Settings
from tasks.storage import Storage
from tasks.store import prepare_store
from tasks.telemetry import logs

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from types import FrameType

    from prometheus_client import CollectorRegistry
    from starlette.applications import Starlette

    from api.services import Services

LAST_SECONDS = 1.0  # of the drain, in which those who still wait are told

log = logging.getLogger("api")


class _Server(uvicorn.Server):
    """Says that it is draining before it closes."""

    def __init__(
        self, config: uvicorn.Config, app: Starlette, serves: Callable[[], object]
    ) -> None:
        super().__init__(config)
        self._app, self._serves = app, serves

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._serves()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if hasattr(self._app.state, "services"):
            services: Services = self._app.state.services
            if not services.draining:
                process.end_after(services.settings.drain_seconds)
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
        for name in ("uvicorn.error", "python_multipart"):  # they warn of each request that is odd
            logging.getLogger(name).setLevel(logging.ERROR)
        check_exposure(settings, key_ring(settings))
        batch_tiers(settings)
        listener = _listen(settings)
    except FallthroughError as error:
        return _refuse(error)
    if settings.api_processes == 1:
        return _serve(settings, listener)
    with counts_folder() as counts:
        return Processes(
            settings.api_processes,
            listener,
            lambda number, serves: _serve_beside(settings, listener, counts, number, serves),
        ).run()


def _serve_beside(
    settings: Settings,
    listener: socket.socket,
    counts: str,
    number: int,
    serves: Callable[[], object],
) -> int:
    share_counts(counts, number)
    return _serve(settings, listener, shared_registry(counts), serves)


def _serve(
    settings: Settings,
    listener: socket.socket,
    told: CollectorRegistry | None = None,
    serves: Callable[[], object] = lambda: None,
) -> int:
    process.pass_cancels_on()
    try:
        # In one line, before the framework would say it in a hundred.
        check_broker(settings)
        Storage(settings.files_url)
        uvloop.run(prepare_store(settings))
    except FallthroughError as error:
        return _refuse(error)
    app = create_app(settings, told)
    process.freeze_garbage()
    process.give_back_memory()
    config = uvicorn.Config(
        app,
        loop="uvloop",
        ws="none",  # whatever else is installed here
        http=protocol(raise_file_limit(), settings.client_seconds),
        headers=[("x-content-type-options", "nosniff")],
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,  # nothing here asks who called, or by which scheme
        timeout_graceful_shutdown=max(int(settings.drain_seconds), 1),
    )
    server = _Server(config, app, serves)
    for number in (signal.SIGTERM, signal.SIGINT):
        # One that comes before uvicorn listens for it counts; and uvicorn raises again, at its end,
        # the signal that ended it: being asked is no failure.
        signal.signal(number, server.handle_exit)
    log.info("listening on %s", http_url(*listener.getsockname()[:2]))
    server.run(sockets=[listener])
    return 0 if server.started else COULD_NOT_START


def _refuse(error: FallthroughError) -> int:
    sys.stderr.write(f"api: {error}\n")
    return COULD_NOT_START


def _listen(settings: Settings) -> socket.socket:
    try:
        return process.listen(settings.host, settings.port)
    except OSError as error:
        why = error.strerror or "it is no address of this machine"
        message = f"FALLTHROUGH_PORT: cannot listen on {settings.host}:{settings.port}: {why}"
        raise SettingsError(message) from None


if __name__ == "__main__":
    sys.exit(main())
