"""The HTTP port by pyreqwest: the default, as it costs the least."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING

from pyreqwest.client import ClientBuilder
from pyreqwest.exceptions import (
    ConnectError,
    ConnectTimeoutError,
    DetailedPyreqwestError,
    NetworkError,
    PyreqwestError,
    RequestTimeoutError,
)
from pyreqwest.proxy import ProxyBuilder

from fallback_chain.errors import UpstreamError
from fallback_chain.http import (
    IDLE_CONNECTION_SECONDS,
    LARGEST_ERROR,
    TIMER_SECONDS,
    HttpAdapter,
    Reply,
    largest_of,
    reason_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractAsyncContextManager

    from pyreqwest.client import Client
    from pyreqwest.http import HeaderMap
    from pyreqwest.response import Response

    from fallback_chain.aiohttp_http import AiohttpHttp
    from fallback_chain.http import StreamedReply

CONNECTING = "client error (Connect)"  # the cause of an error before the request was sent
CUT_OFF = "end of file before message length reached"  # of one while the body is read


class PyreqwestHttp(HttpAdapter):
    """One client, and a pool that does not scan itself. Connections open on first use.

    A small call costs 0.12 ms CPU; over the same client's transport for httpx it costs 0.28 ms,
    as an httpx.AsyncClient 0.58 ms; and httpx's own pool makes 45 calls/s at 256 connections.
    """

    _client: Client | None = None
    _streams: AiohttpHttp | None = None

    def _open(self) -> Client:
        if self._client is None:
            builder = (
                ClientBuilder()
                .connect_timeout(timedelta(seconds=self._connect_seconds))
                .pool_idle_timeout(timedelta(seconds=IDLE_CONNECTION_SECONDS))
                .no_proxy()
                .follow_redirects(enable=False)
            )
            if self._proxy:
                direct = ",".join(self._direct)
                builder = builder.proxy(ProxyBuilder.all(self._proxy).no_proxy(direct))
            if self._authorities:
                builder = builder.add_root_certificate_pem(self._authorities)
            self._client = builder.build()
        return self._client

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        content: bytes | None,
        timeout_seconds: float,
    ) -> Reply:
        """Send one request and read the whole reply; of an error, its beginning."""
        if timeout_seconds <= 0:
            message = "timed out"
            raise UpstreamError(message, "timeout")
        limit = timedelta(seconds=timeout_seconds)
        until = time.monotonic() + timeout_seconds
        try:
            builder = self._open().request(method, url).headers(headers).timeout(limit)
            if content is not None:
                builder = builder.body_bytes(content)
            async with builder.build_streamed() as response:
                if response.status == 200:  # noqa: PLR2004 - HTTP's own number
                    largest = largest_of(method, self._largest)
                    return Reply(200, {}, await _bounded(response, largest))
                told = _readable(response.headers)
                return Reply(response.status, told, await _up_to(response, LARGEST_ERROR))
        except UpstreamError:
            raise
        except PyreqwestError as error:
            over = time.monotonic() >= until - TIMER_SECONDS
            raise _translated(error, over=over) from error
        except Exception as error:  # what a server sends must break nothing but its own call
            raise UpstreamError(type(error).__name__, "protocol") from error

    def stream(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        content: bytes | None,
        timeout_seconds: float,
    ) -> AbstractAsyncContextManager[StreamedReply]:
        """Send one request by aiohttp, whose calls can be cut off; a stream lasts."""
        if self._streams is None:
            from fallback_chain.aiohttp_http import AiohttpHttp  # noqa: PLC0415 - who uses it pays

            self._streams = AiohttpHttp(
                connect_timeout_seconds=self._connect_seconds,
                largest_reply=self._largest,
                proxy=self._proxy,
                direct=self._direct,
                authorities=self._authorities,
            )
        return self._streams.stream(
            method, url, headers=headers, content=content, timeout_seconds=timeout_seconds
        )

    async def aclose(self) -> None:
        """Close the connections."""
        if self._streams is not None:
            streams, self._streams = self._streams, None
            await streams.aclose()
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()


def _readable(headers: HeaderMap) -> dict[str, str]:
    """Return the headers that are text."""
    found = {}
    for name in headers.keys():  # noqa: SIM118 - of the map itself a value is read with each name
        try:
            found[name] = headers[name]
        except ValueError:
            continue
    return found


async def _bounded(response: Response, largest: int) -> bytes:
    body = await _up_to(response, largest + 1)
    if len(body) > largest:
        message = f"more than {largest} bytes"
        raise UpstreamError(message, "too large")
    return body


async def _up_to(response: Response, most: int) -> bytes:
    """Read a body, whatever its length is said to be, or so many bytes of one without end."""
    try:
        said = response.get_header("content-length") or ""
    except ValueError:
        said = ""
    body = bytes(await response.body_reader.read(most) or b"")
    if said.isdigit() and len(body) == int(said):
        return body
    while len(body) < most and (more := await response.body_reader.read(most - len(body))):
        body += bytes(more)
    return body


def _translated(error: PyreqwestError, *, over: bool) -> UpstreamError:
    name = type(error).__name__
    if isinstance(error, RequestTimeoutError):
        # The client names every timeout before the reply's head after the connecting.
        connecting = isinstance(error, ConnectTimeoutError) and not over
        return UpstreamError("timed out", "connect" if connecting else "timeout")
    if not isinstance(error, DetailedPyreqwestError):
        return UpstreamError(name, "protocol")
    causes = [cause["message"] for cause in error.details["causes"] or ()]
    if not isinstance(error, NetworkError):
        return UpstreamError(name, "reset" if CUT_OFF in causes else "protocol")
    # The first names the URL.
    reason = reason_of(" ".join(causes[1:]))
    if reason and (reason.kind == "tls" or CONNECTING in causes):
        return UpstreamError(reason.words, reason.kind)
    if isinstance(error, ConnectError) and CONNECTING in causes:
        return UpstreamError(name, "connect")
    return UpstreamError(name, "reset")
