"""What every route has in common."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from starlette import routing
from starlette.requests import Request

from api.errors import answer_to

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

    Endpoint = Callable[[Request], Awaitable[Response]]


class Route(routing.Route):
    """A path and what answers it: each request counted, each error answered.

    Starlette's own wraps every endpoint into the error handling that the application already has
    around all of them: a second time through it for every request.
    """

    def __init__(self, path: str, endpoint: Endpoint, *, methods: list[str]) -> None:
        async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
            start = time.perf_counter()
            request = Request(scope, receive, send)
            try:
                response = await endpoint(request)
            except Exception as error:  # noqa: BLE001 - each has its handler
                response = await answer_to(request, error)
            await response(scope, receive, send)
            scope["app"].state.metrics.answered(
                scope["method"], path, response.status_code, time.perf_counter() - start
            )

        super().__init__(path, endpoint, methods=methods)
        self.app = asgi
