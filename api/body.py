"""Reading a request's body, up to the limit."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect

from api.errors import ApiError
from api.in_flight import SMALL
from api.paging import whole
from api.services import owner_of, services_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.requests import Request

PACKINGS = frozenset({"gzip", "x-gzip", "deflate", "br", "zstd", "compress", "x-compress"})
SLOWEST = 16 * 1024  # bytes a second, of what is held while it arrives


@contextlib.asynccontextmanager
async def body_of(request: Request) -> AsyncGenerator[bytes, None]:
    """Yield the body, which counts as under way until it is left.

    Raises ApiError: 413 as soon as it is known to be too large, 408 if it comes too slowly, 415 if
    it is packed, 429 if there is no room for it.
    """
    services, owner = services_of(request), owner_of(request)
    limit = services.largest_body
    size = length_of(request, limit)
    if size > limit:
        raise _too_large(limit)
    if size <= SMALL:
        content = await _read(request, limit)
        _check_unpacked(request, content)
        yield content
        return
    async with services.bodies.hold(owner, size):
        try:
            async with asyncio.timeout(seconds_for(size, services.settings.client_seconds)):
                content = await _read(request, limit)
        except TimeoutError:
            raise too_slow() from None
        _check_unpacked(request, content)
        # Decoded, small values take twenty times their bytes; and it is copied on its way.
        async with services.decoded.hold(owner, len(content)):
            yield content


def length_of(request: Request, limit: int) -> int:
    """Return the bytes that a request says it has; as many as it may, if it does not say."""
    text = request.headers.get("content-length")
    if text is None:
        return limit if "transfer-encoding" in request.headers else 0
    length = whole(text.lstrip("0") or "0")
    return limit + 1 if length is None else length


def is_packed(request: Request) -> bool:
    """Whether a request says that its body is."""
    codings = request.headers.get("content-encoding", "").lower().split(",")
    return not PACKINGS.isdisjoint(coding.strip() for coding in codings)


def _check_unpacked(request: Request, content: bytes) -> None:
    # Some say so of what is none.
    if is_packed(request) and content.lstrip()[:1] not in {b"", b"{", b"["}:
        raise packed()


def packed() -> ApiError:
    """Return the 415 to a body that is packed."""
    message = "the body is packed, as its Content-Encoding says: send it as it is"
    headers = {"Accept-Encoding": "identity"}
    return ApiError(415, message, code="unsupported_content_encoding", headers=headers)


def seconds_for(size: int, client_seconds: float) -> float:
    """Return the seconds within which so many bytes must have come."""
    return 2 * client_seconds + size / SLOWEST


def too_slow() -> ApiError:
    """Return the 408 to a body that holds room, and comes too slowly for it."""
    message = f"the body comes too slowly: it must come with {SLOWEST} bytes a second"
    return ApiError(408, message, code="request_timeout", headers={"Connection": "close"})


async def _read(request: Request, limit: int) -> bytes:
    # Straight from the server: request.stream() adds a generator to every submission.
    content: bytes | bytearray = b""
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        piece = message.get("body", b"")
        if not content:
            content = piece  # most come whole
        else:  # to a bytearray: bytes would be copied for each of many small pieces
            content = content if isinstance(content, bytearray) else bytearray(content)
            content += piece
        if len(content) > limit:
            raise _too_large(limit)
        more = message.get("more_body", False)
    return bytes(content)


def _too_large(limit: int) -> ApiError:
    message = f"the body is larger than {limit} bytes (FALLTHROUGH_MAX_BODY_BYTES, or the store's)"
    # What is still under way is not read: the connection ends here.
    return ApiError(413, message, code="body_too_large", headers={"Connection": "close"})
