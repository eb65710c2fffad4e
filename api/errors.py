"""Errors as OpenAI's clients expect them: one envelope, the right status."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match, Route

from circuit_breaker import ChangeLostError
from tasks.errors import (
    KeyReused,
    PublishError,
    StoreFull,
    StoreUnavailable,
    TooManyFiles,
    TooManyQueued,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

RETRY_AFTER_SECONDS = 5
RETRY = {"Retry-After": str(RETRY_AFTER_SECONDS)}
CLIENT_CLOSED = 499

log = logging.getLogger(__name__)


class ApiError(Exception):
    """A request that gets an error. param: the field at fault, if it is one's."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """Return the envelope."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"  # noqa: PLR2004
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return envelope(self.status, error, self.headers)


class TurnedAwayError(ApiError):
    """A request that is told to come again."""


def envelope(
    status: int, error: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> Response:
    """Return an error object in OpenAI's envelope."""
    headers = headers or {}
    if (seconds := headers.get("Retry-After", "")).isdigit():
        headers = {**headers, "retry-after-ms": f"{seconds}000"}  # which the SDK reads first
    return json_response({"error": error}, status, headers)


def poll_after(milliseconds: int) -> dict[str, str]:
    """Return the header that tells the SDK when to look again at what is not final."""
    return {"openai-poll-after-ms": str(milliseconds)}


def json_response(
    content: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return content as JSON."""
    return Response(
        msgspec.json.encode(content), status, headers=headers, media_type="application/json"
    )


def bad(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """Return a 400 that names the field."""
    return ApiError(400, message, code=code, param=param)


def not_found(what: str, name: str) -> ApiError:
    """Return a 404."""
    code = f"{what}_not_found".replace(" ", "_")
    return ApiError(404, f"no {what} {name!r}", code=code)


def stopping(message: str, headers: Mapping[str, str] | None = None) -> ApiError:
    """Return the 503 of a server that stops before it has an answer."""
    retry = {"Retry-After": str(RETRY_AFTER_SECONDS), **(headers or {})}
    return ApiError(503, message, code="stopping", headers=retry)


def goes_on(job_id: str) -> str:
    """Return what is said to whom this process leaves before his job has ended."""
    return f"the server is stopping; the job goes on: GET /v1/jobs/{job_id}"


async def on_api_error(_: Request, error: Exception) -> Response:
    """Answer an ApiError."""
    assert isinstance(error, ApiError)  # noqa: S101 - registered for this class
    return error.response()


async def on_turned_away(request: Request, error: Exception) -> Response:
    """Answer, and count, who is told to come again."""
    assert isinstance(error, TurnedAwayError)  # noqa: S101 - registered for this class
    request.app.state.metrics.turned_away(error.code)
    return error.response()


async def on_http_error(request: Request, error: Exception) -> Response:
    """Answer what the framework raised: no such route, wrong method; OPTIONS with the methods."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class
    message, headers = error.detail, dict(error.headers or {})
    if error.status_code == 404:  # noqa: PLR2004 - HTTP's own number
        if meant := _without_slash(request):
            return Response(status_code=307, headers={"Location": meant})
        message = f"no route {request.method} {request.url.path}; /docs lists them"
    methods = _methods_of(request, request.scope["path"])
    if request.method == "OPTIONS" and methods:
        return Response(status_code=204, headers={"Allow": ", ".join(methods)})
    request.app.state.metrics.refused(request.method, error.status_code)
    if error.status_code == 405 and methods:  # noqa: PLR2004
        # The framework tells those of the first route alone.
        headers["Allow"] = ", ".join(methods)
        message = f"{request.url.path} takes {headers['Allow']}, not {request.method}"
    return ApiError(error.status_code, message, headers=headers).response()


def _without_slash(request: Request) -> str | None:
    """Return where a path leads that has a slash too many.

    Relative: a proxy before us may have been reached by another scheme, and at another path.
    """
    path, query = request.scope["path"], request.url.query
    if not path.endswith("/") or not _methods_of(request, path[:-1]):
        return None
    return f"../{quote(path[:-1].rpartition('/')[2])}{'?' if query else ''}{query}"


def _methods_of(request: Request, path: str) -> list[str]:
    """Return the methods that a path takes, of all its routes."""
    found: set[str] = set()
    scope = {**request.scope, "path": path}
    for route in request.app.routes:
        if isinstance(route, Route) and route.matches(scope)[0] is not Match.NONE:
            found |= (route.methods or set()) | {"OPTIONS"}
    return sorted(found)


async def on_outage(request: Request, error: Exception) -> Response:
    """Answer that the store or the broker is away."""
    return _turn_away(request, error, 503, "unavailable")


async def on_full(request: Request, error: Exception) -> Response:
    """Answer that the store is full; what was accepted goes on, and makes room."""
    return _turn_away(request, error, 429, "store_full")


async def on_too_many(request: Request, error: Exception) -> Response:
    """Answer that as much as may be is unfinished."""
    return _turn_away(request, error, 429, "too_many_queued")


async def on_too_many_files(request: Request, error: Exception) -> Response:
    """Answer that as many files as may be are kept: to come again alone makes no room."""
    return _turn_away(request, error, 429, "too_many_files", {"x-should-retry": "false"})


def _turn_away(
    request: Request,
    error: Exception,
    status: int,
    code: str,
    headers: Mapping[str, str] = RETRY,
) -> Response:
    request.app.state.refusals.note(error)
    request.app.state.metrics.turned_away(code)
    return ApiError(status, str(error), code=code, headers=headers).response()


async def on_storage_outage(request: Request, error: Exception) -> Response:
    """Answer that the storage of files is away; its own words may name what is not the caller's."""
    log.warning("%r refused: %s", request.url.path, type(error).__name__)
    reason = error.strerror if isinstance(error, OSError) else None
    message = "the storage of files did not answer" + (f": {reason}" if reason else "")
    retry = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return ApiError(503, message, code="unavailable", headers=retry).response()


async def on_key_reused(_: Request, error: Exception) -> Response:
    """Answer that a key stands for something else."""
    return ApiError(422, str(error), code="idempotency_key_reused").response()


async def on_client_gone(_: Request, __: Exception) -> Response:
    """Answer nobody: the client left in the middle of its request."""
    return Response(status_code=CLIENT_CLOSED)


async def on_crash(request: Request, error: Exception) -> Response:
    """Answer a defect of ours without its details; the log has them."""
    log.error("%s %r broke off", request.method, request.url.path, exc_info=error)
    # What breaks outside of a route ends its connection, too: the client must know.
    headers = {"Connection": "close"}
    message = "an error of the server's own; its log says more"
    return ApiError(500, message, headers=headers).response()


HANDLERS: dict[Any, Any] = {
    ApiError: on_api_error,
    TurnedAwayError: on_turned_away,
    HTTPException: on_http_error,
    ClientDisconnect: on_client_gone,
    StoreUnavailable: on_outage,
    PublishError: on_outage,
    ChangeLostError: on_outage,
    StoreFull: on_full,
    TooManyQueued: on_too_many,
    TooManyFiles: on_too_many_files,
    KeyReused: on_key_reused,
    OSError: on_storage_outage,
    Exception: on_crash,
}


async def answer_to(request: Request, error: Exception) -> Response:
    """Return the response to what an endpoint raised."""
    handler = next(HANDLERS[kind] for kind in type(error).__mro__ if kind in HANDLERS)
    response: Response = await handler(request, error)
    return response
