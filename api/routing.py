"""What every route has in common: how it is answered, counted, and described."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from starlette import routing
from starlette.requests import Request

from api.errors import answer_to, stopping

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from msgspec import Struct
    from starlette.responses import Response
    from starlette.types import Message, Receive, Scope, Send

    Endpoint = Callable[[Request], Awaitable[Response]]
    # A Struct, or a JSON schema in which Structs stand for theirs.
    Schema = type[Struct] | Mapping[str, Any]

JSON, EVENT_STREAM = "application/json", "text/event-stream"
ABORT = "fallthrough.abort"  # what ends a connection in the middle of a body, in its scope
UNTIL_SENT = "fallthrough.until_sent"  # what is held for a request, in its scope


@dataclass(frozen=True, slots=True)
class Description:
    """What the OpenAPI document says of a route; its path tells its parameters there.

    errors: those that this route alone may answer; each may answer the document's COMMON ones.
    """

    summary: str
    answer: Schema
    status: int = 200
    query: Mapping[str, Schema] = field(default_factory=dict)  # parameter -> what it may be
    headers: Mapping[str, Schema] = field(default_factory=dict)  # of the request
    body: Schema | None = None
    body_type: str = JSON
    body_required: bool = True
    body_encoding: Mapping[str, Any] = field(default_factory=dict)  # of a form's parts
    errors: Mapping[str, Schema | str] = field(default_factory=dict)  # status -> what, or why
    answer_headers: Mapping[str, str] = field(default_factory=dict)  # what each tells
    answer_types: tuple[str, ...] = (JSON,)


async def until_sent(request: Request, held: AbstractAsyncContextManager[None]) -> None:
    """Hold something until the answer to a request is sent."""
    stack = request.scope.setdefault(UNTIL_SENT, AsyncExitStack())
    await stack.enter_async_context(held)


def _to_the_end(send: Send) -> Send:
    """Return what sends, and waits until it is taken: the server does before the next piece."""

    async def send_and_wait(message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body"):
            await send({**message, "more_body": True})
            message = {"type": "http.response.body", "body": b""}
        await send(message)

    return send_and_wait


class Undescribed(Enum):
    """Why the document leaves a route out."""

    PAGE = "it is for people"
    DOCUMENT = "it is the document"
    TWIN = "it is described at its other path"


def object_of(**properties: Schema) -> Schema:
    """Return the schema of an object that has all of these."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def list_of(items: Schema, **properties: Schema) -> Schema:
    """Return the schema of a list of these, and of what else is in its object."""
    return object_of(object={"const": "list"}, data={"type": "array", "items": items}, **properties)


def page_of_list(items: Schema) -> Schema:
    """Return the schema of one page of a list."""
    name = {"type": ["string", "null"]}
    return list_of(items, first_id=name, last_id=name, has_more={"type": "boolean"}, next=name)


class Route(routing.Route):
    """A method and a path, and what answers them: each request counted, each error answered.

    Starlette's own wraps every endpoint into the error handling that the application already has
    around all of them: a second time through it for every request.
    """

    def __init__(
        self, method: str, path: str, endpoint: Endpoint, description: Description | Undescribed
    ) -> None:
        async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
            start = time.perf_counter()
            request = Request(scope, receive, send)
            try:
                response = await endpoint(request)
            except asyncio.CancelledError:  # the server stops: its time for what runs is over
                response = stopping("the server is stopping; ask again").response()
            except Exception as error:  # noqa: BLE001 - each has its handler
                response = await answer_to(request, error)
            try:
                if UNTIL_SENT not in scope:
                    await response(scope, receive, send)
                else:
                    async with scope[UNTIL_SENT]:
                        await response(scope, receive, _to_the_end(send))
            except asyncio.CancelledError:  # as above: nobody may take what was sent for all of it
                scope["extensions"][ABORT]()
            scope["app"].state.metrics.answered(
                scope["method"], path, response.status_code, time.perf_counter() - start
            )

        super().__init__(path, endpoint, methods=[method])
        self.app = asgi
        self.method, self.description = method, description

    def without(self, prefix: str) -> Route:
        """Return the same route at its path without a prefix."""
        path = self.path.removeprefix(prefix)
        return Route(self.method, path, self.endpoint, Undescribed.TWIN)
