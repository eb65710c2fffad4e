"""The ASGI application.

Bare Starlette with msgspec: on this work it made 2.7 times the requests of FastAPI with
pydantic, and Litestar with msgspec 1.4 times.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.middleware import Middleware

from api import (
    batch_checks,
    batch_lines,
    batch_retries,
    batches,
    chat,
    embeddings,
    files,
    history,
    jobs,
    models,
    openapi,
    operations,
    pages,
    streams,
)
from api.access import Access
from api.cors import Cors
from api.errors import HANDLERS
from api.metrics import ApiMetrics
from api.refusals import Refusals
from api.request_ids import answering
from api.services import open_services
from api.tiers import names_of
from tasks.keys import key_ring

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from prometheus_client import CollectorRegistry
    from starlette.types import Receive, Scope, Send

    from tasks.settings import Settings

PREFIX = "/v1"  # clients give their base URL with or without it


class _Application(Starlette):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            send = answering(scope, send)
        await super().__call__(scope, receive, send)


def create_app(settings: Settings, told: CollectorRegistry | None = None) -> Starlette:
    """Return the application; it opens its store and broker when it starts.

    told: what GET /metrics tells of several processes; None: this is the only one.
    """
    metrics = ApiMetrics(told)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with open_services(settings, metrics) as services:
            app.state.services = services
            yield

    of_batches = (batches, batch_lines, batch_retries, batch_checks)
    parts = (jobs, streams, chat, embeddings, models, files, *of_batches, history)
    routes = [route for part in parts for route in part.routes()]
    twins = [route.without(PREFIX) for route in routes]
    cors = [Middleware(Cors, settings=settings, routes=routes)] if settings.cors_origins else []
    app = _Application(
        routes=[*routes, *twins, *operations.routes(), *openapi.routes(), *pages.routes()],
        exception_handlers=HANDLERS,
        middleware=[*cors, Middleware(Access, settings=settings, keys=key_ring(settings))],
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # to an absolute URL, of a scheme that is not known here
    app.state.metrics = metrics
    app.state.refusals = Refusals()
    app.state.tier_names = names_of(settings)
    return app
