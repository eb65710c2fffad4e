"""One HTTP/1.1 connection, on asyncio's transports: requests go out, and httptools reads replies.

Who sends a request and no longer waits for its reply closes the connection.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Any, cast

import httptools

from fallback_chain.cancellable_http import OK, Exchange
from fallback_chain.errors import UpstreamError
from fallback_chain.http import LARGEST_ERROR, reason_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LARGEST_HEAD = 256 * 1024  # bytes of a head, or of whatever else is no body, at a stretch
READ_AHEAD = 256 * 1024  # bytes of a stream that lie here until its reader comes
INFORMATIONAL = range(100, 200)  # HTTP's statuses of a reply before the reply
LOWEST_STATUS = 100


class GoneError(Exception):
    """A connection ended before a reply began."""


class CutOffError(Exception):
    """A connection ended within a reply."""


def again(error: Exception) -> Exception:
    """Return an error as it was before it was raised.

    Who keeps one that was raised keeps, by its traceback, the request that it came of: in a circle,
    until the garbage is collected.
    """
    if isinstance(error, UpstreamError):
        return UpstreamError(str(error), error.kind)
    return type(error)(*error.args)


class Origin:
    """A server. connections: all that are open to it; idle: which nobody uses, the latest last."""

    def __init__(self, host: str, port: int, *, secure: bool) -> None:
        self.host, self.port, self.secure = host, port, secure
        self.connections: set[Connection] = set()
        self.idle: dict[Connection, None] = {}
        self.lookup: asyncio.Future[list[Any]] | None = None  # of its name, that runs


class ReplyOnWire(Exchange):
    """A reply as it comes. most: bytes of its body, if it is waited for to its end."""

    def __init__(self, connection: Connection, most: int | None) -> None:
        self._connection = connection
        self.most = most
        self.status = 0
        self.fields: list[tuple[bytes, bytes]] = []
        self.pieces: deque[bytes] = deque()
        self.ahead = 0  # bytes of them
        self.whole = False
        self.error: Exception | None = None
        self.waiter = connection.loop.create_future()

    def wake(self) -> None:
        """Wake who waits for it."""
        if not self.waiter.done():
            self.waiter.set_result(None)

    def fail(self, error: Exception) -> None:
        """Say that no more of it comes; a whole one stays whole."""
        if not self.whole:
            self.error = error
        self.wake()

    def time_out(self) -> None:
        """Say that it was waited for long enough."""
        self.fail(TimeoutError())

    def field(self, name: bytes) -> bytes:
        """Return a header's value; b"" if there is none. name: in lower case."""
        return next((value for key, value in self.fields if key.lower() == name), b"")

    def packing(self) -> str:
        """Return the body's Content-Encoding; "" for none."""
        return self.field(b"content-encoding").decode("latin-1")

    def headers(self) -> dict[str, str]:
        """Return the headers that are text, with names in lower case."""
        found = {}
        for name, value in self.fields:
            try:
                found[name.decode().lower()] = value.decode()
            except UnicodeDecodeError:
                continue
        return found

    async def body(self) -> AsyncIterator[bytes]:
        """Yield the body's pieces, as they come and as they are packed."""
        while True:
            if self.pieces:
                piece = self.pieces.popleft()
                self.ahead -= len(piece)
                self._connection.read_on(self)
                yield piece
            elif self.error:
                raise again(self.error)
            elif self.whole:
                return
            else:
                self.waiter = self._connection.loop.create_future()
                await self.waiter

    async def close(self) -> None:
        """Close the connection, or keep it if the body was read to its end."""
        self._connection.leave(self)


class Connection(asyncio.Protocol):
    """One connection to a server, which gets one reply after the other."""

    def __init__(self, origin: Origin) -> None:
        self.loop = asyncio.get_running_loop()
        self.idle_since = 0.0  # by time.monotonic()
        self._origin = origin
        self._reply: ReplyOnWire | None = None  # that comes now
        self._ended: Exception | None = None  # why it is closed
        self._heard = False  # a part of the reply that comes now
        self._answered = False  # a whole reply came before
        self._beside = 0  # bytes since the last request, or piece of a body
        self._reads, self._keeps = True, True
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        # As others read what servers send: llhttp's other leniencies are none of theirs.
        self._parser.set_dangerous_leniencies(
            lenient_headers=True,
            lenient_optional_cr_before_lf=True,
            lenient_spaces_after_chunk_size=True,
        )

    async def ask(self, request: bytes, most: int | None, until: float | None) -> ReplyOnWire:
        """Send a request; return its reply once its head is there, or, if most is given, its end.

        most: bytes that the body of a reply of status 200 may have; of another one its beginning is
        read. until: by time.monotonic(). Raises TimeoutError, GoneError and whatever else is wrong
        with a reply.
        """
        if self._ended:  # it was closed as soon as it had come about
            raise again(self._ended)
        self._reply = reply = ReplyOnWire(self, most)
        self._heard, self._beside = False, 0
        timer = None
        if until is not None:
            timer = self.loop.call_later(until - time.monotonic(), reply.time_out)
        try:
            self._transport.write(request)
            await reply.waiter
        except BaseException:
            self.leave(reply)
            raise
        finally:
            if timer:
                timer.cancel()
        if reply.error:
            self.leave(reply)
            raise again(reply.error)
        return reply

    def leave(self, reply: ReplyOnWire) -> None:
        """Close it at once, unless the reply is whole: then others may use it already."""
        if reply is self._reply:
            self.end()

    def end(self) -> None:
        """Close it at once."""
        self._reply = None
        self._ended = self._ended or GoneError()
        self._origin.idle.pop(self, None)
        self._transport.abort()

    def break_off(self, error: Exception) -> None:
        """Close it at once, and tell who waits for a reply."""
        reply = self._reply
        self.end()
        if reply:
            reply.fail(error)

    def read_on(self, reply: ReplyOnWire) -> None:
        """Read what else comes of a reply, if there is room for it."""
        if not self._reads and reply is self._reply and reply.ahead < READ_AHEAD:
            self._reads = True
            self._transport.resume_reading()

    # What the transport tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note that it is open."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop has its own class
        self._origin.connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Read a part of a reply."""
        reply = self._reply
        if reply is None:  # nobody asked for anything
            self.end()
            return
        self._heard = True
        self._beside += len(data)
        try:
            self._parser.feed_data(data)
        except Exception as error:  # noqa: BLE001 - what a server sends breaks its own call alone
            self.break_off(again(error))
            return
        if reply is not self._reply:  # its beginning was enough, or too much
            return
        if reply.whole:
            self._reply = None
            self._keep()
            reply.wake()
        elif self._beside > LARGEST_HEAD:
            message = f"more than {LARGEST_HEAD} bytes that are no body"
            self.break_off(UpstreamError(message, "protocol"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that it is closed, and what that says of a reply that was to come."""
        self._origin.connections.discard(self)
        self._origin.idle.pop(self, None)
        reply, self._reply = self._reply, None
        self._ended = self._ended or self._why(exc)
        if reply is None:
            return
        if reply.status and not exc and _ends_with_its_connection(reply):
            reply.whole = True
        reply.fail(self._ended)

    def _why(self, error: Exception | None) -> Exception:
        """Return what it means for a reply that is not whole that the connection was lost."""
        if self._heard:
            return CutOffError()
        # In TLS 1.3 a server says only now that it does not like its client.
        reason = None if self._answered else reason_of(str(error))
        return UpstreamError(reason.words, reason.kind) if reason else GoneError()

    def _keep(self) -> None:
        """Have others use it, unless a part of the request has still to be sent."""
        if self._keeps and not self._transport.get_write_buffer_size():
            if not self._reads:
                self._reads = True
                self._transport.resume_reading()
            self._answered = True
            self.idle_since = time.monotonic()
            self._origin.idle[self] = None
        else:
            self.end()

    # What the parser tells

    def on_message_begin(self) -> None:
        """Begin a reply, or the one that comes after an informational one."""
        if self._reply is None or self._reply.whole:
            message = "more than was asked for"
            raise UpstreamError(message, "protocol")
        self._reply.fields = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note a header; what comes behind the body is none."""
        if self._reply and not self._reply.status:
            self._reply.fields.append((name, value))

    def on_headers_complete(self) -> None:
        """Tell who waits for the head, unless it is an informational one."""
        status, reply = self._parser.get_status_code(), self._reply
        if status < LOWEST_STATUS:
            message = "no status"
            raise UpstreamError(message, "protocol")
        if reply is None or status in INFORMATIONAL:
            return
        reply.status = status
        if reply.most is None:
            reply.wake()
            return
        if status != OK:
            reply.most = LARGEST_ERROR
        if reply.packing():  # what cannot be packed is a little longer
            reply.most += READ_AHEAD

    def on_body(self, piece: bytes) -> None:
        """Take a piece of the body, as much of it as there may be."""
        reply = self._reply
        if reply is None:
            return
        self._beside = 0
        reply.pieces.append(piece)
        reply.ahead += len(piece)
        if reply.most is None:
            reply.wake()
            if self._reads and reply.ahead > READ_AHEAD:
                self._reads = False
                self._transport.pause_reading()
        elif reply.ahead > reply.most:
            reply.whole = reply.status != OK  # of an error its beginning will do
            self.break_off(UpstreamError(f"more than {reply.most} bytes", "too large"))

    def on_message_complete(self) -> None:
        """Note that the reply is whole."""
        if self._reply and self._reply.status:
            self._reply.whole = True
            self._keeps = self._parser.should_keep_alive()


def _ends_with_its_connection(reply: ReplyOnWire) -> bool:
    chunked = b"chunked" in reply.field(b"transfer-encoding").lower()
    return not chunked and not reply.field(b"content-length")
