"""A try whose answer comes in pieces: its reader gets them as they come, its tier the whole."""

from __future__ import annotations

import asyncio
import contextlib
import time
from array import array
from codecs import BOM_UTF8
from typing import TYPE_CHECKING

from fallback_chain.classify import status_told
from fallback_chain.errors import BrokenStreamError, UpstreamError
from fallback_chain.http import LARGEST_ERROR, Reply
from fallback_chain.streams import (
    DONE,
    EVENT_STREAM,
    Chunks,
    StreamedAnswer,
    events_of,
    usage_chunk,
)
from fallback_chain.trial import INTERRUPTED, Pace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from fallback_chain.http import StreamedReply
    from fallback_chain.streams import Sink
    from fallback_chain.tier import TierConfig

GOOD = 200  # HTTP's status
# A timer costs more than a word: the limit from one word to the next is longer by so much, and is
# moved on as often.
SLACK_SHARE, MOST_SLACK_SECONDS = 0.1, 1.0
LAST_SECONDS = 1.0  # for what comes behind an answer's last word
# The same, where that came with its reason to finish: some gateways give one with every word.
DOUBT_SECONDS = 5.0
END_SECONDS = 0.1  # for the end of a body after its last event
# What events begin with, and no JSON does: some servers and proxies call them something else.
FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")
LONGEST_FIELD = max(map(len, FIELDS))
MOST_BLANKS = 1024  # bytes before them that are looked past


class Streaming:
    """Reads one stream, and gives it to a sink from its first word on.

    The last chunks, which end its choices, stay here until it is known to be whole.
    """

    def __init__(self, sink: Sink, config: TierConfig, *, legacy: bool, buffered: bool) -> None:
        """legacy: see StreamedAnswer. buffered: its reader gets it once it was checked."""
        self._sink, self._config = sink, config
        self._legacy, self._buffered = legacy, buffered
        self._answer = StreamedAnswer(legacy=legacy)
        self._held: list[bytes] = []  # what its reader has not got yet
        self._began = time.monotonic()
        self._slack = min(config.next_token_seconds * SLACK_SHARE, MOST_SLACK_SECONDS)
        self._moved = 0.0  # when the limit was, on the monotonic clock
        self._record: Callable[[float], Awaitable[None]] | None = None
        self._recording: asyncio.Future[None] | None = None
        self.first_seconds: float | None = None  # from its beginning to its first word
        self._doubtful = False  # the last piece said something, and that nothing follows
        self._goes_on = False  # something followed: its reasons to finish prove nothing
        self._waits_to_the_end = False  # for the next word, as its deadline is no later
        self._pauses = array("d")  # seconds between two pieces that said something
        self._said = 0.0  # when the last one did

    def at_first(self, record: Callable[[float], Awaitable[None]]) -> None:
        """Have record(seconds) called at the first word."""
        self._record = record

    @property
    def committed(self) -> bool:
        """Whether its reader has got a part of this answer."""
        return self._sink.committed

    @property
    def stalled(self) -> bool:
        """Of one that ran out of time after its first word: whether that is its server's fault."""
        return not self._waits_to_the_end

    @property
    def pace(self) -> Pace | None:
        """How fast it came, if it said anything."""
        return None if self.first_seconds is None else Pace(self.first_seconds, self._pauses)

    async def recorded(self) -> None:
        """Wait for what was to happen at the first word."""
        if self._recording is not None:
            await asyncio.shield(self._recording)

    def rest(self) -> Chunks | None:
        """Return what its reader has not got of an answer that is whole; None: all of it."""
        if not self.committed:
            return None
        return Chunks(b"", self._held, usage_chunk(self._answer.head, self._answer.usage))

    async def read(self, streamed: StreamedReply, limit: asyncio.Timeout) -> Reply:
        """Read it to its end; return it as if it had come whole.

        limit: until the first word; moved on with each further one. Raises BrokenStreamError.
        """
        if streamed.status != GOOD:
            return await _whole(streamed)
        pieces = streamed.pieces
        if EVENT_STREAM not in streamed.headers.get("content-type", "").lower():
            begin = await _begin(pieces)
            pieces = _all(begin, pieces)
            if not _words_in(begin).startswith(FIELDS):
                return await _whole(streamed._replace(pieces=pieces))
        try:
            await self._follow(pieces, limit)
        except BrokenStreamError as error:
            if self.committed or (told := _told_in(error.event)) is None:
                raise
            return told
        return Reply(GOOD, {}, self._answer.document())

    async def _follow(self, pieces: AsyncIterator[bytes], limit: asyncio.Timeout) -> None:
        answer = self._answer = StreamedAnswer(legacy=self._legacy)
        self._held = []
        events = events_of(pieces)
        while (data := await self._next(events)) is not None:
            if data.startswith(DONE):  # as the SDK reads it
                break
            was_whole = answer.is_whole
            piece = answer.add(data)
            if piece is None:
                continue
            self._doubtful = piece.says and piece.ends
            self._goes_on |= self._doubtful and was_whole
            self._held.append(piece.choices)
            if piece.says:
                self._note()
            if self.first_seconds is None:
                continue
            self._move(limit)
            if self._buffered or (piece.ends and not self._goes_on):
                continue
            last = [self._held.pop()] if piece.ends else []
            self._sink.write(self._config.name, answer.head, self._held)
            self._held = last
        if not answer.is_whole:
            raise BrokenStreamError(INTERRUPTED)
        # Whose body is read to its end has his connection used again.
        with contextlib.suppress(TimeoutError, UpstreamError):
            async with asyncio.timeout(END_SECONDS):
                async for _ in events:
                    pass

    async def _next(self, events: AsyncIterator[bytes]) -> bytes | None:
        """Return the next event; None: there is none.

        Of an answer that is whole there may come its usage, and no more words: nobody waits long
        for that, and it is whole though its connection breaks instead.
        """
        if self._goes_on or not self._answer.is_whole:
            return await anext(events, None)
        seconds = LAST_SECONDS
        if self._doubtful:
            seconds = max(min(DOUBT_SECONDS, self._config.next_token_seconds / 2), seconds)
        with contextlib.suppress(TimeoutError, UpstreamError):
            async with asyncio.timeout(seconds):
                return await anext(events, None)
        return None

    def _note(self) -> None:
        """Note when a piece came."""
        now = time.monotonic()
        if self.first_seconds is None:
            self.first_seconds = now - self._began
            if self._record is not None:
                self._recording = asyncio.ensure_future(self._record(self.first_seconds))
        else:
            self._pauses.append(now - self._said)
        self._said = now

    def _move(self, limit: asyncio.Timeout) -> None:
        now = time.monotonic()
        if now < self._moved + self._slack:
            return
        self._moved = now
        left = max(self._sink.until - now, 0.0)
        pause = self._config.next_token_seconds + self._slack
        self._waits_to_the_end = left <= pause
        limit.reschedule(asyncio.get_running_loop().time() + min(pause, left))


async def _begin(pieces: AsyncIterator[bytes]) -> bytes:
    """Return as much of a body as tells whether it is of events."""
    begin = b""
    async for piece in pieces:
        begin += piece
        if len(_words_in(begin)) >= LONGEST_FIELD or len(begin) > MOST_BLANKS:
            break
    return begin


def _words_in(begin: bytes) -> bytes:
    """Return the beginning of a body without its mark, and what is blank."""
    return begin.removeprefix(BOM_UTF8).lstrip()


async def _all(begin: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield begin
    async for piece in rest:
        yield piece


async def _whole(streamed: StreamedReply) -> Reply:
    """Return a reply that is no stream; of an error, its beginning."""
    most = LARGEST_ERROR if streamed.status != GOOD else None
    content = bytearray()
    async for piece in streamed.pieces:
        content += piece
        if most and len(content) >= most:
            break
    headers = {} if streamed.status == GOOD else streamed.headers
    return Reply(streamed.status, headers, bytes(content[:most]))


def _told_in(event: bytes) -> Reply | None:
    """Return an error that a stream begins with as the reply that it would be without one."""
    status = status_told(event)
    return None if status is None else Reply(status, {}, event)
