"""What the clients have in common whose calls close their connections when they are cut off."""

from __future__ import annotations

import asyncio
import math
import time
import zlib
from abc import ABC, abstractmethod
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from fallback_chain.errors import UpstreamError
from fallback_chain.http import (
    LARGEST_ERROR,
    TIMER_SECONDS,
    HttpAdapter,
    Reply,
    StreamedReply,
    largest_of,
)

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Awaitable,
        Callable,
        Generator,
        Mapping,
    )
    from contextlib import AbstractAsyncContextManager

OK = 200  # HTTP's status
LATE_SECONDS = 0.05  # by which a timer is later only on a loop that was busy
MOST_TRIES = 3  # to reach a server, of a loop that was too busy to see whether it did
PACKING = "gzip"  # how a whole reply may be packed
NOT_PACKED = "identity"  # what a stream is to be: who packs may keep back what there is
GZIP = zlib.MAX_WBITS | 16


class Exchange(ABC):
    """A request that was sent, and its reply from the head on. Its errors are the client's."""

    status: int

    @abstractmethod
    def packing(self) -> str:
        """Return the body's Content-Encoding; "" for none."""

    @abstractmethod
    def headers(self) -> dict[str, str]:
        """Return the headers that are text, with names in lower case."""

    @abstractmethod
    def body(self) -> AsyncIterator[bytes]:
        """Return the body's pieces, as they come and as they are packed."""

    @abstractmethod
    async def close(self) -> None:
        """Close the connection, or keep it if the body was read to its end."""


class Pieces:
    """The pieces of an exchange's body, unpacked: all of them, or, of an error, its beginning.

    Raises UpstreamError: what is too large, cut off, or cannot be unpacked.
    """

    def __init__(
        self, exchange: Exchange, largest: int, failure: Callable[[Exception], UpstreamError]
    ) -> None:
        """largest: bytes, unpacked, of a reply of status 200. failure: what an error means."""
        self._body, self._largest, self._failure = exchange.body(), largest, failure
        self._whole = exchange.status == OK
        self._broken = False  # a piece was not waited for, or failed: no other comes
        self._left = largest + 1 if self._whole else LARGEST_ERROR
        self._packing = exchange.packing().strip().lower()
        self._unpacking = zlib.decompressobj(GZIP)

    def __aiter__(self) -> Pieces:
        return self

    async def __anext__(self) -> bytes:
        if self._broken:
            raise _cut_off()
        self._broken = True
        piece = await self._next()
        self._broken = False
        if not piece:
            raise StopAsyncIteration
        return piece

    async def _next(self) -> bytes:
        """Return the next piece that has something in it; b"" at the end."""
        while self._left:
            try:
                piece = self._unpacked(await anext(self._body))
            except StopAsyncIteration:
                break
            except UpstreamError:
                raise
            except Exception as error:
                raise self._failure(error) from error
            self._left -= len(piece)
            if self._whole and not self._left:
                message = f"more than {self._largest} bytes"
                raise UpstreamError(message, "too large")
            if piece:
                return piece
        if self._left and self._is_gzip and not self._unpacking.eof:
            raise _cut_off()
        return b""

    @property
    def _is_gzip(self) -> bool:
        return self._packing in {"gzip", "x-gzip"}

    def _unpacked(self, packed: bytes) -> bytes:
        """Return what is in a piece, or as much of it as there may be."""
        if not self._is_gzip:
            if self._packing not in {"", NOT_PACKED}:
                message = "packed as nobody asked for"
                raise UpstreamError(message, "protocol")
            return packed[: self._left]
        piece = bytearray()
        while packed and len(piece) < self._left:
            if self._unpacking.eof:  # another part follows
                self._unpacking = zlib.decompressobj(GZIP)
            piece += self._unpacking.decompress(packed, self._left - len(piece))
            packed = self._unpacking.unused_data or self._unpacking.unconsumed_tail
        return bytes(piece)


def _cut_off() -> UpstreamError:
    return UpstreamError("cut off", "reset")


class CancellableHttp(HttpAdapter, ABC):
    """The port by a client that gives an Exchange. Belongs to one event loop."""

    @abstractmethod
    async def _exchange(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes | None
    ) -> Exchange:
        """Send a request and wait for the reply's head; raises the client's errors."""

    @abstractmethod
    def _failure(self, error: Exception, *, over: bool) -> UpstreamError | None:
        """Return what an error of the client means; None for another's error.

        over: the time limit is over.
        """

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
        asked = {**headers, "accept-encoding": PACKING}
        with self._translation(timeout_seconds):
            async with asyncio.timeout(timeout_seconds):
                exchange = await self._exchange(method, url, asked, content)
                try:
                    pieces = self._pieces(method, exchange)
                    body = b"".join([piece async for piece in pieces])
                finally:
                    await exchange.close()
                return Reply(
                    exchange.status, {} if exchange.status == OK else exchange.headers(), body
                )

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
        return self._streamed(method, url, headers, content, timeout_seconds)

    @asynccontextmanager
    async def _streamed(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        content: bytes | None,
        timeout_seconds: float,
    ) -> AsyncGenerator[StreamedReply]:
        asked = {**headers, "accept-encoding": NOT_PACKED}
        with self._translation(timeout_seconds):
            async with asyncio.timeout(timeout_seconds):
                exchange = await self._exchange(method, url, asked, content)
        try:
            yield StreamedReply(exchange.status, exchange.headers(), self._pieces(method, exchange))
        finally:
            with self._translation():
                await exchange.close()

    def _pieces(self, method: str, exchange: Exchange) -> Pieces:
        return Pieces(exchange, largest_of(method, self._largest), self._meaning)

    @contextmanager
    def _translation(self, seconds: float = math.inf) -> Generator[None]:
        """Raise UpstreamError for whatever goes wrong. seconds: the time limit from now."""
        until = time.monotonic() + seconds
        try:
            yield
        except UpstreamError:
            raise
        except Exception as error:
            over = time.monotonic() >= until - TIMER_SECONDS
            raise self._meaning(error, over=over) from error

    def _meaning(self, error: Exception, *, over: bool = False) -> UpstreamError:
        """Return what an error means: what a server sends breaks nothing but its own call."""
        failure = self._failure(error, over=over)
        if failure is None and isinstance(error, TimeoutError):
            failure = UpstreamError("timed out", "timeout")
        return failure or UpstreamError(type(error).__name__, "protocol")

    async def _reached(
        self, too_late: type[Exception], reach: Callable[[], Awaitable[Exchange]]
    ) -> Exchange:
        """Do what needs a connection; again, if our own loop was too late to see one.

        too_late: the client's error, for no connection in time.
        """
        for _ in range(MOST_TRIES - 1):
            began = time.monotonic()
            try:
                return await reach()
            except too_late:
                if not self._loop_stood_still(began):
                    raise
        return await reach()

    def _loop_stood_still(self, began: float) -> bool:
        """Whether the event loop came too late to say that no connection came about in time.

        It was busy: the server may have been there at once. began: when it was asked to connect.
        """
        return time.monotonic() - began > self._connect_seconds + LATE_SECONDS
