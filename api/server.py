"""uvicorn's HTTP/1.1, bounded: how much a client may send before it is known, and how slowly.

uvicorn's parser in C (httptools) has no limits of its own; h11, which has, is all Python.
"""

from __future__ import annotations

import resource
import sys
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.errors import ApiError
from api.request_ids import HEADER, new_request_id
from api.routing import ABORT

if TYPE_CHECKING:
    import asyncio

    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

MOST_HEADERS, MOST_HEAD, MOST_URL = 100, 64 * 1024, 16 * 1024  # the last two are bytes
MOST_CONNECTIONS, SPARE_FILES = 10_000, 128  # files: those that are no client's
# How long a connection is kept that nobody uses: longer than most proxies keep theirs. Who closes
# first may do so just as a request comes, and of that a proxy makes a 502 if it is a POST.
IDLE_SECONDS = 75
READER_SECONDS, LEAST_READ = 60.0, 64 * 1024  # in which one who is sent much takes so many bytes
# What is read, and dropped, of a request that was answered before its end; and for how long.
LINGER_BYTES, LINGER_SECONDS = 64 * 1024 * 1024, 5.0

TOO_SLOW = "this request took too long to arrive"
HEAD = f"a request's head may have {MOST_HEAD} bytes and {MOST_HEADERS} headers"
URL = f"a URL may have {MOST_URL} bytes"
FULL = "this server has as many connections as it can"
UNREADABLE = "this is no request of HTTP/1.1: its head, or the frame of its body, cannot be read"


def raise_file_limit() -> int:
    """Have this process open as many files as it needs, and may; return how many clients fit."""
    wanted = MOST_CONNECTIONS + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    may = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    if may > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (may, hard))
    return min(max(may, soft) - SPARE_FILES, MOST_CONNECTIONS)


def protocol(most_connections: int, client_seconds: float) -> type[HttpToolsProtocol]:
    """Return the protocol of a server that takes so many connections at once.

    client_seconds: for the whole head of a request, and between two pieces of its body.
    """
    bounds = {"most_connections": most_connections, "client_seconds": client_seconds}
    return type("Bounded", (_Bounded,), {**bounds, "idle": OrderedDict()})


class _Transport:
    """A transport whose last words get through to who is still sending.

    The kernel resets a connection that is closed with bytes of it unread, and a proxy that is
    sending then makes a 502 of our answer. So our half is closed first; what still comes is
    dropped, for a bounded time, until its sender closes his.
    """

    def __init__(self, transport: asyncio.Transport, protocol: _Bounded) -> None:
        self._transport, self._protocol = transport, protocol
        self._left = LINGER_BYTES
        self._patient = True
        self._end: asyncio.TimerHandle | None = None
        self.write = transport.write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    @property
    def lingers(self) -> bool:
        """Whether our half is closed, and what comes is dropped."""
        return self._end is not None

    def is_closing(self) -> bool:
        return self.lingers or self._transport.is_closing()

    def close(self) -> None:
        if self.is_closing() or not (self._patient and self._protocol.under_way):
            self._transport.close()
            return
        self._end = self._protocol.loop.call_later(LINGER_SECONDS, self._transport.close)
        self._transport.write_eof()
        self._protocol.flow.resume_reading()

    def hurry(self) -> None:
        """Wait for nobody's end any more: this process has come to its own."""
        self._patient = False
        if self.lingers:
            self._transport.close()

    def drop(self, data: bytes) -> None:
        """Drop what comes after our last words."""
        self._left -= len(data)
        if self._left < 0:
            self._transport.close()


class _Bounded(HttpToolsProtocol):
    most_connections, client_seconds = 0, 0.0
    idle: OrderedDict[_Bounded, None]  # the server's that wait for a next request; longest first
    _head = True  # a request's head is awaited, or under way
    _head_bytes = 0
    _body = False  # a request's body is under way
    _moved = False  # some of it came since the last look
    _timer: asyncio.TimerHandle | None = None
    _reader: asyncio.TimerHandle | None = None  # looks whether the client takes what it asked for
    _running: RequestResponseCycle | None = None  # which is answered now
    _broken = False  # what comes cannot be read
    _piece = b""  # what is read now
    _unread = b""  # what is to be read then
    _plain_head = b""  # of a request with an upgrade and a body: it is read again, as this

    @property
    def under_way(self) -> bool:
        """Whether some of a request may still come, or lie unread."""
        return self._body or self._head_bytes > 0 or self._broken

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.timeout_keep_alive = IDLE_SECONDS
        self._last = _Transport(transport, self)
        self.transport = self._last  # type: ignore[assignment]
        if len(self.connections) > self.most_connections and not self._close_an_idle_one():
            self._end(503, FULL, "too_many_connections")
        else:
            self._wait()

    def _close_an_idle_one(self) -> bool:
        """Make room by the connection that has waited longest; return whether there was one."""
        while self.idle:
            other, _ = self.idle.popitem(last=False)
            if not other.transport.is_closing():
                other.transport.close()
                return True
        return False

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.timeout_keep_alive_task is not None and not self.under_way:
            self.idle[self] = None

    def _unset_keepalive_if_required(self) -> None:
        self.idle.pop(self, None)
        super()._unset_keepalive_if_required()

    def eof_received(self) -> None:
        self._tell_of_the_end()  # the transport closes now

    def connection_lost(self, exc: Exception | None) -> None:
        self.idle.pop(self, None)
        self._wait_no_more()
        self._read_again()
        self._tell_of_the_end()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        self._last.hurry()
        super().shutdown()

    def data_received(self, data: bytes) -> None:
        if self._last.lingers:
            self._last.drop(data)
            return
        self._moved, self._unread = True, data
        while self._unread:
            self._piece, self._unread = self._unread, b""
            super().data_received(self._piece)
        self._piece = b""
        if self._head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD:
                self._end(431, HEAD, "head_too_large")
        # A request that comes in one piece, as most do, costs no timer.
        if self._head_bytes or self._body:
            if self._timer is None:
                self._wait()
        elif self.cycle is not None and self.cycle.response_complete:
            self._wait_for_the_next()

    def on_message_begin(self) -> None:
        self._head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if plain_head := self._head_without_upgrade():
            self._plain_head = plain_head
            return
        self._head, self._head_bytes = False, 0
        self._wait_no_more()
        self.scope["extensions"] = {ABORT: self._abort}  # type: ignore[dict-item]
        app, self.app = self.app, self._refusal() or self.app
        try:
            super().on_headers_complete()
            self._body = True
        finally:
            self.app = app

    def on_message_complete(self) -> None:
        if self._plain_head:  # its body is still to come
            return
        self._body = False
        self._wait_no_more()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words
        """Refuse what cannot be parsed; whoever asked before it in this connection is answered."""
        cycle, self._broken = self.cycle, True
        if self._body and self.pipeline:  # in its turn
            self.pipeline[0] = cycle, _refusing(400, UNREADABLE, "invalid_http")
        elif self._body or cycle is None or cycle.response_complete:
            self._end(400, UNREADABLE, "invalid_http")
            return
        cycle.keep_alive = False  # its answer ends the connection, too
        self.flow.pause_reading()

    def _head_without_upgrade(self) -> bytes:
        """Return this request's head without its upgrade, if it has one, and a body; else nothing.

        Java's own client asks for h2c with whatever it sends. The parser takes all that follows an
        upgrade for another protocol's: the body, too.
        """
        if not self.parser.should_upgrade():
            return b""
        fields = dict(self.headers)
        has_body = b"transfer-encoding" in fields or fields.get(b"content-length", b"").strip(b"0")
        if not has_body or b"upgrade" not in fields:  # the latter: of CONNECT
            return b""
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"\r\n"])

    def _unsupported_upgrade_warning(self) -> None:
        """Answer as HTTP/1.1 and hang up: nobody here reads what would follow an upgrade.

        The body of a request belongs to it, whatever was asked with it: HTTP/1.1 goes on behind it.
        """
        if self._plain_head:
            upgrade = sys.exception()  # uvicorn calls this where it has caught it
            assert upgrade is not None  # noqa: S101
            self._unread = self._plain_head + self._piece[upgrade.args[0] :]
            self._plain_head = b""
            # By a parser that has seen nothing: one that has read of an end (HTTP/1.0, or
            # Connection: close) takes nothing more.
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            return
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            self.transport.close()
        else:
            cycle.keep_alive = False

    def _refusal(self) -> Any:
        """Return what answers in the application's place; None: it may."""
        size = sum(len(name) + len(value) for name, value in self.headers)
        if len(self.url) > MOST_URL:
            return _refusing(414, URL, "url_too_long")
        if len(self.headers) > MOST_HEADERS or size > MOST_HEAD:
            return _refusing(431, HEAD, "head_too_large")
        return None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _abort(self) -> None:
        """End the connection in the middle of an answer, so that nobody takes it for whole."""
        if self._running is not None:
            self._running.disconnected = True
        self.transport.close()

    def _tell_of_the_end(self) -> None:
        """Have who is at work on an answer know that nobody reads it: he must not write it."""
        for cycle in (self._running, self.cycle):  # which may wait behind that one
            if cycle is not None:
                cycle.disconnected = True
                cycle.message_event.set()

    def _wait(self) -> None:
        self._moved = False
        self._timer = self.loop.call_later(self.client_seconds, self._look)

    def _wait_for_the_next(self) -> None:
        """Wait again, as after an answer: what came was the rest of a request that had its own."""
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )
        self.idle[self] = None

    def _wait_no_more(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        """End who is too slow. What we do not read now is not its sender's fault."""
        self._timer = None
        if self.transport.is_closing():
            return
        answering = self._head and self.cycle is not None and not self.cycle.response_complete
        if answering or (self._body and (self._moved or self.flow.read_paused)):
            self._wait()
        elif self._head or self._body:
            self._end(408, TOO_SLOW, "request_timeout")

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        self._read_again()
        super().resume_writing()

    def _read_again(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None

    def _watch_reader(self) -> None:
        unread = self.transport.get_write_buffer_size()
        self._reader = self.loop.call_later(READER_SECONDS, self._look_at_reader, unread)

    def _look_at_reader(self, before: int) -> None:
        """Drop who does not take what it asked for: all of that lies in our memory meanwhile."""
        if before - self.transport.get_write_buffer_size() < LEAST_READ:
            self.transport.abort()
        else:
            self._watch_reader()

    def _end(self, status: int, message: str, code: str) -> None:
        """Answer who has no request yet, or half of one, and hang up."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            response = _closing(status, message, code)
            head = "".join(f"{name}: {value}\r\n" for name, value in response.headers.items())
            self.transport.write(f"HTTP/1.1 {status} \r\n{head}\r\n".encode() + response.body)
        self._tell_of_the_end()
        self.transport.close()


def _refusing(status: int, message: str, code: str) -> Any:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await _closing(status, message, code)(scope, receive, send)

    return refuse


def _closing(status: int, message: str, code: str) -> Response:
    headers = {"Connection": "close", HEADER.decode(): new_request_id().decode()}
    return ApiError(status, message, code=code, headers=headers).response()
