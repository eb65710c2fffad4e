"""Clients that read streams cheaply, note when each piece came, and check what they were told."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import httptools

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.paced import Script

OK = 200


class WrongTextError(Exception):
    """A reader was told something else than what its stream says; the message has the name."""


class Reading(NamedTuple):
    """What came of one stream. late_ms: of each word, after the upstream sent it."""

    late_ms: list[float]
    began: float  # monotonic seconds, as the two below
    first: float
    ended: float


class _Reader(asyncio.Protocol):
    """Asks for one stream; keeps the pieces of the answer until its end."""

    def __init__(self, request: bytes, ended: asyncio.Future[None]) -> None:
        self._request, self._ended = request, ended
        self._parser = httptools.HttpResponseParser(self)
        self.pieces: list[tuple[int, bytes]] = []  # ns, and what came then

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self.pieces.append((time.monotonic_ns(), body))

    def on_message_complete(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._ended.done():
            told = b"".join(piece for _, piece in self.pieces)[-500:]
            self._ended.set_exception(WrongTextError(f"it broke off: {exc}: {told!r}"))

    @property
    def status(self) -> int:
        return int(self._parser.get_status_code())


async def read_all(
    url: str, scripts: Sequence[Script], starts: float, at_most: Callable[[], None]
) -> list[Reading]:
    """Read streams, so many of which start a second; return what came of each.

    at_most: called once the last one has said its first words. Raises WrongTextError.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def started(number: int, script: Script) -> Reading:
        await asyncio.sleep(began + number / starts - loop.time())
        return await _read(url, script)

    async def look() -> None:
        await asyncio.sleep(len(scripts) / starts + 1)
        at_most()

    looking = asyncio.create_task(look())
    readings = await asyncio.gather(*(started(*each) for each in enumerate(scripts)))
    await looking
    return readings


async def _read(url: str, script: Script) -> Reading:
    loop = asyncio.get_running_loop()
    address, body = urlsplit(url), script.body()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {address.netloc}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    ended = loop.create_future()
    began = time.monotonic()
    transport, reader = await loop.create_connection(
        lambda: _Reader(head.encode() + body, ended), address.hostname, address.port
    )
    try:
        await ended
    finally:
        transport.close()
    return _checked(script, reader, began)


def _checked(script: Script, reader: _Reader, began: float) -> Reading:
    """Return when each word came; raises WrongTextError unless all came once, in their order."""
    late_ms: list[float] = []
    first, reason, last, rest = 0.0, None, b"", b""
    for at, piece in reader.pieces:
        *events, rest = (rest + piece).split(b"\n\n")
        for event in events:
            last = event
            if not event.startswith(b"data: {"):
                continue
            chunk: dict[str, Any] = json.loads(event[6:])
            for choice in chunk["choices"]:
                reason = choice["finish_reason"] or reason
                if word := choice["delta"].get("content"):
                    late_ms.append(_late_ms(script, len(late_ms), word, at))
                    first = first or at / 1e9
    whole = len(late_ms) == script.words and reason == "stop" and last == b"data: [DONE]"
    if reader.status != OK or rest or not whole:
        message = f"{script.name}: status {reader.status}, {len(late_ms)} words, {reason}, {last!r}"
        raise WrongTextError(message)
    return Reading(late_ms, began, first, reader.pieces[-1][0] / 1e9)


def _late_ms(script: Script, number: int, word: str, at: int) -> float:
    name, _, told = word.strip().partition(".")
    numbered, _, sent = told.partition(".")
    if (name, numbered) != (script.name, str(number)):
        message = f"{script.name}: word {number} is {word!r}"
        raise WrongTextError(message)
    return (at - int(sent)) / 1e6
