"""What the fleet did in the last day, minute by minute."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from api.errors import json_response
from api.paging import whole_of
from api.routing import Description, Route, object_of
from api.sampler import OVERRIDDEN
from api.services import services_of
from circuit_breaker import CircuitState
from tasks.store.history import MOST_MINUTES, Minute

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

DEFAULT_MINUTES = 180


class History(Struct):
    """Minutes, oldest first; the last one is not over."""

    minutes: list[Minute]
    object: str = "history"


async def history(request: Request) -> Response:
    """GET /v1/operations/history?minutes=: answers, latency, queue and breakers by minute."""
    number = whole_of(request, "minutes", DEFAULT_MINUTES, 1, MOST_MINUTES)
    return json_response(History(await services_of(request).store.history.minutes(number)))


def routes() -> list[Route]:
    """Return the routes."""
    whole = {"type": "integer", "minimum": 1, "maximum": MOST_MINUTES, "default": DEFAULT_MINUTES}
    states = {"enum": [*CircuitState, *OVERRIDDEN.values()]}
    named = {"type": "object", "additionalProperties": states}
    minute = {"allOf": [Minute, {"type": "object", "properties": {"breakers": named}}]}
    about = Description(
        "What the fleet did, minute by minute",
        object_of(object={"const": "history"}, minutes={"type": "array", "items": minute}),
        query={"minutes": whole},
    )
    return [Route("GET", "/v1/operations/history", history, about)]
