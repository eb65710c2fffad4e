"""The HTTP port by aiohttp: cheap, and a call that is cut off closes its connection at once."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp

from fallback_chain.cancellable_http import CancellableHttp, Exchange
from fallback_chain.errors import UpstreamError
from fallback_chain.http import IDLE_CONNECTION_SECONDS, Reason, reason_of, tls_context

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from types import SimpleNamespace

LOOK_SECONDS = 1.0  # from one look at a connection to the next


@dataclass(slots=True)
class _Way:
    """How a request went. used: over a connection that others had used before."""

    used: bool = False


async def _note_use(_: object, context: SimpleNamespace, __: object) -> None:
    context.trace_request_ctx.used = True


class AiohttpHttp(CancellableHttp):
    """Its connections open on first use; belongs to one event loop."""

    _session: aiohttp.ClientSession | None = None  # whose connections are used again
    _fresh: aiohttp.ClientSession | None = None  # each of whose requests has one of its own

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = self._opened(keepalive_timeout=IDLE_CONNECTION_SECONDS)
        return self._session

    def _opened(self, **how: Any) -> aiohttp.ClientSession:
        tracing = aiohttp.TraceConfig()
        tracing.on_connection_reuseconn.append(_note_use)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=tls_context(self._authorities), **how),
            trace_configs=[tracing],
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=self._connect_seconds, ceil_threshold=math.inf
            ),
            auto_decompress=False,
        )

    async def _exchange(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes | None
    ) -> Exchange:
        send = partial(self._sent, method, url, headers, content)
        return await self._reached(aiohttp.ConnectionTimeoutError, send)

    async def _sent(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes | None
    ) -> Exchange:
        """Send a request; once more, on a fresh connection, if it met an old one that is gone.

        Its server may have closed that as idle, or has restarted. Not more often: it may have died
        of the request.
        """
        session, way = self._open(), _Way()
        proxy = None if urlsplit(url).hostname in self._direct else self._proxy or None
        sent: dict[str, Any] = {
            "headers": headers,
            "data": content,
            "allow_redirects": False,
            "proxy": proxy,
            "trace_request_ctx": way,
        }
        try:
            return _Exchange(await session.request(method, url, **sent))
        except _GONE:
            if not way.used:
                raise
        if self._fresh is None:
            self._fresh = self._opened(force_close=True)
        return _Exchange(await self._fresh.request(method, url, **sent))

    def _failure(self, error: Exception, *, over: bool) -> UpstreamError | None:
        return _translated(error, over=over) if isinstance(error, aiohttp.ClientError) else None

    async def aclose(self) -> None:
        """Close the connections."""
        sessions, self._session, self._fresh = (self._session, self._fresh), None, None
        for session in filter(None, sessions):
            await session.close()


# A connection that ended, or was reset, before a reply began.
_GONE = (
    aiohttp.ServerDisconnectedError,
    aiohttp.ClientOSError,
    aiohttp.ClientConnectionResetError,
)
# A body that is not well formed is another error of aiohttp's: ClientResponseError.
_CUT_OFF = (*_GONE, aiohttp.ClientPayloadError)


class _Exchange(Exchange):
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response, self.status = response, response.status
        self._loop = asyncio.get_running_loop()
        self._next_look = self._loop.call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        """Tell the reader if its connection is closed.

        aiohttp closes that of a chunk that is not well formed, and tells nobody (3.14.5).
        """
        connection, body = self._response.connection, self._response.content
        if connection is None or body.is_eof() or body.exception():
            return
        protocol = connection.protocol  # a queue, too: it is false while nothing lies in it
        if protocol is not None and protocol.is_connected():
            self._next_look = self._loop.call_later(LOOK_SECONDS, self._look)
        else:
            body.set_exception(aiohttp.ClientError())

    def packing(self) -> str:
        return self._response.headers.get("content-encoding", "")

    def headers(self) -> dict[str, str]:
        headers = self._response.headers.items()
        return {name.lower(): value for name, value in headers if _is_text(value)}

    def body(self) -> AsyncIterator[bytes]:
        return self._response.content.iter_any()

    async def close(self) -> None:
        self._next_look.cancel()
        if not self._response.content.at_eof():  # its end may be further away than anybody waits
            self._response.close()
        self._response.release()


def _is_text(value: str) -> bool:
    """Whether it has no bytes that are no UTF-8."""
    return value.isascii() or not any("\udc80" <= letter <= "\udcff" for letter in value)


def _translated(error: aiohttp.ClientError, *, over: bool) -> UpstreamError:
    reason = Reason("protocol", type(error).__name__)
    if isinstance(error, aiohttp.ServerTimeoutError):
        connecting = isinstance(error, aiohttp.ConnectionTimeoutError) and not over
        reason = Reason("connect" if connecting else "timeout", "timed out")
    elif isinstance(error, aiohttp.ClientHttpProxyError):
        reason = Reason("connect", "refused by the proxy")
    elif isinstance(error, aiohttp.ClientConnectorDNSError):
        reason = Reason("connect", "no such host")
    elif isinstance(error, aiohttp.ClientConnectorError):
        said = f"{error.os_error} {getattr(error, 'certificate_error', '')}"
        reason = reason_of(said) or reason._replace(kind="connect")
    elif isinstance(error, _CUT_OFF):
        reason = reason._replace(kind="reset")
    return UpstreamError(reason.words, reason.kind)
