"""Routes whose errors go straight to the application's handlers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette import routing
from starlette.requests import Request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

    Endpoint = Callable[[Request], Awaitable[Response]]


class Route(routing.Route):
    """A path and what answers it.

    Starlette's own wraps each endpoint into the error handling that the application already has
    around all of them: a second time through it for every request.
    """

    def __init__(self, path: str, endpoint: Endpoint, *, methods: list[str]) -> None:
        async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
            response = await endpoint(Request(scope, receive, send))
            await response(scope, receive, send)

        super().__init__(path, endpoint, methods=methods)
        self.app = asgi
