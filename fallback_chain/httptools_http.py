"""The HTTP port by asyncio's transports and httptools: the default, as it costs the least.

What is hard in HTTP is done by libraries: replies are parsed by llhttp (httptools), URLs by yarl,
connections come about by aiohappyeyeballs, and TLS is asyncio's. Ours is who gets which connection.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import time
from base64 import b64encode
from functools import partial
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import aiohappyeyeballs
from yarl import URL

from fallback_chain.cancellable_http import OK, PACKING, CancellableHttp
from fallback_chain.errors import UpstreamError
from fallback_chain.http import (
    IDLE_CONNECTION_SECONDS,
    Reason,
    Reply,
    largest_of,
    reason_of,
    tls_context,
)
from fallback_chain.http_connection import Connection, CutOffError, GoneError, Origin, again

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractAsyncContextManager

    from fallback_chain.aiohttp_http import AiohttpHttp
    from fallback_chain.errors import Kind
    from fallback_chain.http import StreamedReply
    from fallback_chain.http_connection import ReplyOnWire

AUTHORIZATION = "authorization"  # a caller's own counts, and not what stands in the URL
NEXT_ADDRESS_SECONDS = 0.25  # until another address of the host is tried as well
LOOK_SECONDS = 5.0  # from one look for idle connections to the next


class HttptoolsHttp(CancellableHttp):
    """Its connections open on first use; belongs to one event loop.

    What goes through a proxy goes by aiohttp.
    """

    def __init__(self, **options: Any) -> None:
        """As HttpAdapter has them."""
        super().__init__(**options)
        self._options = options
        self._origins: dict[tuple[str, int, bool], Origin] = {}
        self._targets: dict[str, _Target] = {}  # by URL
        self._tls: ssl.SSLContext | None = None
        self._connecting: set[asyncio.Task[Connection]] = set()
        self._looking: asyncio.TimerHandle | None = None
        self._by_proxy: AiohttpHttp | None = None

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
        if self._goes_through_proxy(url):
            return await self._proxied().request(
                method, url, headers=headers, content=content, timeout_seconds=timeout_seconds
            )
        if timeout_seconds <= 0:
            message = "timed out"
            raise UpstreamError(message, "timeout")
        until = time.monotonic() + timeout_seconds
        try:
            asked = {**headers, "accept-encoding": PACKING}
            target = self._targets.get(url) or self._target(url)
            request = target.request(method, asked, content)
            reply = await self._asked(target, request, largest_of(method, self._largest), until)
            if reply.status == OK and not reply.packing():
                return Reply(OK, {}, b"".join(reply.pieces))
            body = b"".join([piece async for piece in self._pieces(method, reply)])
            return Reply(reply.status, {} if reply.status == OK else reply.headers(), body)
        except UpstreamError:
            raise
        except Exception as error:
            raise self._meaning(error) from error

    def stream(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        content: bytes | None,
        timeout_seconds: float,
    ) -> AbstractAsyncContextManager[StreamedReply]:
        """Send one request; the context begins once the reply's head is there."""
        stream = super().stream
        if self._goes_through_proxy(url):
            stream = self._proxied().stream
        return stream(
            method, url, headers=headers, content=content, timeout_seconds=timeout_seconds
        )

    async def _exchange(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes | None
    ) -> ReplyOnWire:
        target = self._targets.get(url) or self._target(url)
        return await self._asked(target, target.request(method, headers, content))

    async def _asked(
        self, target: _Target, request: bytes, most: int | None = None, until: float | None = None
    ) -> ReplyOnWire:
        """Send a request; once more, on a fresh connection, if it met an old one that is gone.

        Its server may have closed that as idle, or has restarted. Not more often: it may have died
        of the request. most, until: as Connection.ask() has them.
        """
        if idle := target.origin.idle:
            try:
                return await idle.popitem()[0].ask(request, most, until)  # the last one used
            except GoneError:
                pass
        async with asyncio.timeout(None if until is None else until - time.monotonic()):
            connection = await self._connected(target.origin)
        return await connection.ask(request, most, until)

    def _failure(self, error: Exception, *, over: bool) -> UpstreamError | None:  # noqa: ARG002 - as the others have it
        if isinstance(error, GoneError | CutOffError):
            return UpstreamError("cut off", "reset")
        return None

    # Where to

    def _target(self, text: str) -> _Target:
        url = URL(text)
        if url.scheme not in {"http", "https"} or not url.raw_host or not url.port:
            message = "no URL of a server"
            raise ValueError(message)
        where = Origin(url.raw_host, url.port, secure=url.scheme == "https")
        origin = self._origins.setdefault((where.host, where.port, where.secure), where)
        target = self._targets[text] = _Target(url, origin)
        return target

    def _goes_through_proxy(self, url: str) -> bool:
        if not self._proxy:
            return False
        try:
            return urlsplit(url).hostname not in self._direct
        except ValueError:  # no URL at all: the request says so
            return False

    def _proxied(self) -> AiohttpHttp:
        if self._by_proxy is None:
            from fallback_chain.aiohttp_http import AiohttpHttp  # noqa: PLC0415 - who uses it pays

            self._by_proxy = AiohttpHttp(**self._options)
        return self._by_proxy

    # Connections

    async def _connected(self, origin: Origin) -> Connection:
        """Open a connection; raises UpstreamError if none comes about in time."""
        connecting = asyncio.create_task(self._connect(origin))
        self._connecting.add(connecting)
        connecting.add_done_callback(self._connecting.discard)
        try:
            await self._wait_for(connecting)
        except BaseException:
            connecting.add_done_callback(_end)
            connecting.cancel()
            raise
        if connecting.cancelled():
            message = "closed"
            raise UpstreamError(message, "reset")
        if error := connecting.exception():
            raise again(cast("Exception", error))
        return connecting.result()

    async def _wait_for(self, connecting: asyncio.Task[Connection]) -> None:
        while not connecting.done():
            began = time.monotonic()
            await asyncio.wait({connecting}, timeout=self._connect_seconds)
            if not connecting.done() and not self._loop_stood_still(began):
                message = "timed out"
                raise UpstreamError(message, "connect")

    async def _connect(self, origin: Origin) -> Connection:
        loop = asyncio.get_running_loop()
        how: dict[str, Any] = {}
        if origin.secure:
            self._tls = self._tls or tls_context(self._authorities)
            how = {"ssl": self._tls, "server_hostname": origin.host}
        try:
            found = await _addresses(origin)
            reached = await aiohappyeyeballs.start_connection(
                found, happy_eyeballs_delay=NEXT_ADDRESS_SECONDS, interleave=1
            )
            _set_options(reached)
            connection = Connection(origin)
            try:
                await loop.create_connection(lambda: connection, sock=reached, **how)
            except BaseException:
                origin.connections.discard(connection)  # uvloop does not tell it of its end
                raise
        except OSError as error:
            reason = reason_of(str(error))
            if reason is None:
                kind: Kind = "tls" if isinstance(error, ssl.SSLError) else "connect"
                reason = Reason(kind, type(error).__name__)
            raise UpstreamError(reason.words, reason.kind) from error
        if self._looking is None:
            self._looking = loop.call_later(LOOK_SECONDS, self._look)
        return connection

    def _look(self) -> None:
        """Close what is idle for long."""
        loop, self._looking = asyncio.get_running_loop(), None
        for origin in self._origins.values():
            for connection in list(origin.idle):
                if time.monotonic() - connection.idle_since >= IDLE_CONNECTION_SECONDS:
                    connection.end()
        if any(origin.connections for origin in self._origins.values()):
            self._looking = loop.call_later(LOOK_SECONDS, self._look)

    async def aclose(self) -> None:
        """Close the connections."""
        if self._looking:
            self._looking.cancel()
            self._looking = None
        for connecting in self._connecting:
            connecting.cancel()
        if self._connecting:
            await asyncio.wait(self._connecting)
        for origin in self._origins.values():
            for connection in list(origin.connections):
                connection.break_off(CutOffError())
        if self._by_proxy:
            by_proxy, self._by_proxy = self._by_proxy, None
            await by_proxy.aclose()
        await asyncio.sleep(0)  # in which the transports close


def _end(connecting: asyncio.Task[Connection]) -> None:
    """Close a connection that came about though nobody waits for it any more."""
    if not connecting.cancelled() and not connecting.exception():
        connecting.result().end()


def _set_options(reached: socket.socket) -> None:
    try:
        reached.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        reached.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError:  # some systems have none for what was reset meanwhile
        reached.close()
        raise


async def _addresses(origin: Origin) -> list[Any]:
    """Look its name up: once at a time, as a lookup that hangs holds one of a few threads."""
    address = (origin.host, origin.port)
    if _is_address(origin.host):
        return aiohappyeyeballs.addr_to_addr_infos(address) or []
    if origin.lookup is None:
        loop = asyncio.get_running_loop()
        looking = loop.getaddrinfo(*address, type=socket.SOCK_STREAM)
        origin.lookup = asyncio.ensure_future(looking)
        origin.lookup.add_done_callback(partial(_looked_up, origin))
    return await asyncio.shield(origin.lookup)


def _looked_up(origin: Origin, lookup: asyncio.Future[list[Any]]) -> None:
    origin.lookup = None
    if not lookup.cancelled():
        lookup.exception()  # those who waited have it, if any still do


def _is_address(host: str) -> bool:
    try:
        return not getattr(ipaddress.ip_address(host), "scope_id", None)  # else it has to be found
    except ValueError:
        return False


class _Target:
    """A URL, as it is asked for."""

    def __init__(self, url: URL, origin: Origin) -> None:
        self.origin = origin
        lines = [f"{url.raw_path_qs} HTTP/1.1", f"host: {url.host_port_subcomponent}"]
        self._begin = "\r\n".join([*lines, "user-agent: fallthrough", ""])
        self._authorization = ""
        if url.user is not None or url.password is not None:
            secret = f"{url.user or ''}:{url.password or ''}".encode()
            self._authorization = f"authorization: Basic {b64encode(secret).decode()}\r\n"

    def request(self, method: str, headers: Mapping[str, str], content: bytes | None) -> bytes:
        """Return a request; raises ValueError for a header that would be several."""
        told = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        if not len(headers) == told.count("\n") == told.count("\r") or "\0" in told:
            message = "a header of several lines"
            raise ValueError(message)
        if self._authorization and AUTHORIZATION not in headers:
            told = f"{self._authorization}{told}"
        head = f"{method} {self._begin}{told}"
        if content is None:
            return f"{head}\r\n".encode()
        return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content
