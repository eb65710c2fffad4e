"""Pages of other sites that may call the API from their visitors' browsers, by a setting."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.middleware.cors import CORSMiddleware

from api.access import LIMIT_HEADERS
from api.errors import ApiError
from api.openapi import RETRY
from api.request_ids import HEADER
from api.routing import Description
from tasks.hosts import origins_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.datastructures import Headers
    from starlette.responses import Response
    from starlette.types import ASGIApp

    from api.routing import Route
    from tasks.settings import Settings

# What no description of a route names.
OTHERS = (*RETRY, *LIMIT_HEADERS, HEADER.decode(), "x-should-retry")
REMEMBERED_SECONDS = 600  # by a browser, what it was told of a page


class Cors(CORSMiddleware):
    """ASGI middleware in front of Access: a browser asks without a key whether a page may call.

    A key is in a header that the page sets; credentials of the browser's own are never allowed.
    """

    def __init__(self, app: ASGIApp, settings: Settings, routes: Sequence[Route]) -> None:
        descriptions = [each.description for each in routes]
        described = [each for each in descriptions if isinstance(each, Description)]
        told = {name for each in described for name in each.answer_headers}
        super().__init__(
            app,
            allow_origins=origins_of(settings.cors_origins),
            allow_methods=sorted({method for each in routes for method in each.methods or ()}),
            allow_headers=["*"],
            allow_private_network=True,
            expose_headers=sorted({*told, *OTHERS}, key=str.lower),
            max_age=REMEMBERED_SECONDS,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer a browser that asks whether a page may call; a refusal as every other."""
        response = super().preflight_response(request_headers)
        if response.status_code == 200:  # noqa: PLR2004 - HTTP's own number
            return response
        message = (
            "a page of this origin may not call this server, or not so: "
            "FALLTHROUGH_CORS_ORIGINS names those that may"
        )
        return ApiError(403, message, code="unknown_origin").response()
