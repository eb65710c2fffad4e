"""Reading a request's body, up to the limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect

from api.errors import ApiError
from api.services import services_of

if TYPE_CHECKING:
    from starlette.requests import Request


async def read_body(request: Request) -> bytes:
    """Return the body; 413 as soon as it is known to be too large."""
    limit = services_of(request).largest_body
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limit:
        raise _too_large(limit)
    # Straight from the server: request.stream() adds a generator to every submission.
    content, more = b"", True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        content += message.get("body", b"")
        if len(content) > limit:
            raise _too_large(limit)
        more = message.get("more_body", False)
    return content


def _too_large(limit: int) -> ApiError:
    message = f"the body is larger than {limit} bytes (FALLTHROUGH_MAX_BODY_BYTES, or the store's)"
    # What is still under way is not read: the connection ends here.
    return ApiError(413, message, code="body_too_large", headers={"Connection": "close"})
