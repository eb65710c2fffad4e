"""The HTTP port by httpx: for who knows it, and for clients of a user's own."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

import httpx

from fallback_chain.cancellable_http import CancellableHttp, Exchange
from fallback_chain.errors import UpstreamError
from fallback_chain.http import IDLE_CONNECTION_SECONDS, reason_of, tls_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping

POOL_CALLS = 8  # at once in one of httpx's pools
CUT_OFF = ("disconnected without sending a response", "peer closed connection")


class HttpxHttp(CancellableHttp):
    """One httpx.AsyncClient, opened on first use; or a user's own, by of(), which is left open."""

    _client: httpx.AsyncClient | None = None
    _owned = True

    @classmethod
    def of(cls, client: httpx.AsyncClient, connect_timeout_seconds: float) -> Self:
        """Return the port by a user's own client, on the event loop where it is used.

        It keeps its authentication, certificates, proxies and hooks; time limits and redirects are
        the port's. Raises TypeError for what is no httpx.AsyncClient.
        """
        if not isinstance(client, httpx.AsyncClient):
            message = f"client must be an httpx.AsyncClient, not {type(client).__qualname__}"
            if isinstance(client, httpx.Client):
                message = "client must be an httpx.AsyncClient: this httpx.Client is synchronous"
            raise TypeError(message)
        http = cls(connect_timeout_seconds=connect_timeout_seconds)
        http._client, http._owned = client, False
        return http

    def _open(self) -> httpx.AsyncClient:
        if self._client is None:
            context = tls_context(self._authorities)
            direct = _Pools(context)
            self._client = httpx.AsyncClient(
                trust_env=False,
                transport=_Pools(context, self._proxy) if self._proxy else direct,
                mounts={f"all://{_in_url(host)}": direct for host in self._direct},
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            )
        return self._client

    async def _exchange(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes | None
    ) -> Exchange:
        send = partial(self._sent, method, url, headers, content)
        return await self._reached(httpx.ConnectTimeout, send)

    async def _sent(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes | None
    ) -> Exchange:
        client = self._open()
        request = client.build_request(
            method,
            with_ascii_host(url),
            headers=headers,
            content=content,
            timeout=httpx.Timeout(None, connect=self._connect_seconds),
        )
        return _Exchange(await client.send(request, stream=True, follow_redirects=False))

    def _failure(self, error: Exception, *, over: bool) -> UpstreamError | None:
        return _translated(error, over=over) if isinstance(error, httpx.TransportError) else None

    async def aclose(self) -> None:
        """Close the connections, unless they are a user's own."""
        if self._client is not None and self._owned:
            client, self._client = self._client, None
            await client.aclose()


@dataclass(eq=False)
class _Pool:
    """One of httpx's. calls: that run now; idle_since: when the last one ended."""

    transport: httpx.AsyncHTTPTransport
    calls: int = 0
    idle_since: float = 0.0

    def ended(self) -> None:
        """Note that a call is over."""
        self.calls -= 1
        self.idle_since = time.monotonic()

    @property
    def stale(self) -> bool:
        """Whether its connections have been idle for too long."""
        return not self.calls and time.monotonic() - self.idle_since > IDLE_CONNECTION_SECONDS


class _Pools(httpx.AsyncBaseTransport):
    """Small pools side by side: one pool takes time by the square of its calls.

    64 calls at once took 7.2 ms of CPU time each in one pool, 0.8 ms in eight; 256 came to a stop.
    """

    def __init__(self, context: ssl.SSLContext, proxy: str = "") -> None:
        self._context, self._proxy = context, proxy or None
        self._pools: list[_Pool] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request by the first pool that has room, so that the last ones fall idle."""
        pool = next((pool for pool in self._pools if pool.calls < POOL_CALLS), None)
        if pool is None:
            pool = self._another()
        pool.calls += 1
        try:
            await self._close([each for each in self._pools if each.stale])
            response = await pool.transport.handle_async_request(request)
        except BaseException:
            pool.ended()
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)  # noqa: S101 - for the types
        response.stream = _Stream(response.stream, pool.ended)
        return response

    def _another(self) -> _Pool:
        limits = httpx.Limits(keepalive_expiry=IDLE_CONNECTION_SECONDS)
        transport = httpx.AsyncHTTPTransport(
            verify=self._context, trust_env=False, limits=limits, proxy=self._proxy
        )
        self._pools.append(_Pool(transport))
        return self._pools[-1]

    async def _close(self, pools: Iterable[_Pool]) -> None:
        for pool in pools:
            self._pools.remove(pool)
            await pool.transport.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._close(list(self._pools))


class _Stream(httpx.AsyncByteStream):
    """A reply's body that says when it is closed."""

    def __init__(self, stream: httpx.AsyncByteStream, ended: Callable[[], None]) -> None:
        self._stream, self._ended = stream, ended

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._stream.__aiter__()

    async def aclose(self) -> None:
        """Give the connection back."""
        ended, self._ended = self._ended, _nothing
        try:
            await self._stream.aclose()
        finally:
            ended()


def _nothing() -> None:
    """Do nothing: it has ended before."""


def with_ascii_host(url: str) -> str:
    """Return a URL as httpx takes it: it knows fewer letters of hosts than there are."""
    if url.isascii():
        return url
    parts = urlsplit(url)
    user, at, place = parts.netloc.rpartition("@")
    host, colon, port = place.partition(":")
    ascii_host = host.encode("idna").decode()
    return parts._replace(netloc=f"{user}{at}{ascii_host}{colon}{port}").geturl()


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


class _Exchange(Exchange):
    def __init__(self, response: httpx.Response) -> None:
        self._response, self.status = response, response.status_code

    def packing(self) -> str:
        return str(self._response.headers.get("content-encoding", ""))

    def headers(self) -> dict[str, str]:
        told = {}
        for name, value in self._response.headers.raw:
            with contextlib.suppress(UnicodeDecodeError):
                told[name.decode().lower()] = value.decode()
        return told

    def body(self) -> AsyncIterator[bytes]:
        return self._response.aiter_raw()

    async def close(self) -> None:
        await self._response.aclose()


def _translated(error: httpx.TransportError, *, over: bool) -> UpstreamError:
    name = type(error).__name__
    if isinstance(error, httpx.TimeoutException):
        connecting = isinstance(error, httpx.ConnectTimeout) and not over
        return UpstreamError("timed out", "connect" if connecting else "timeout")
    if isinstance(error, httpx.ProxyError):
        return UpstreamError("refused by the proxy", "connect")
    if isinstance(error, httpx.NetworkError):
        reason = reason_of(_said(error))
        connecting = isinstance(error, httpx.ConnectError)
        if reason and (reason.kind == "tls" or connecting):
            return UpstreamError(reason.words, reason.kind)
        return UpstreamError(name, "connect" if connecting else "reset")
    cut_off = any(words in str(error) for words in CUT_OFF)
    return UpstreamError(name, "reset" if cut_off else "protocol")


def _said(error: BaseException) -> str:
    """Return the words of an error and of all that it came from."""
    said: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(said) < 10:  # noqa: PLR2004 - deep enough
        said.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    return " ".join(said)
