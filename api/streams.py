"""Answers as they come: server-sent events for OpenAI's clients, and for who follows a job."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from api.callers import unless_gone
from api.errors import ApiError, goes_on, not_found
from api.followers import follow
from api.paging import whole_of
from api.routing import ABORT, EVENT_STREAM, Description, Route
from api.services import id_of, owner_of, services_of
from fallback_chain import joined
from tasks.errors import StoreUnavailable
from tasks.records.jobs import JobRecord, Status
from tasks.records.outcomes import error_of
from tasks.records.streams import Entry

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Mapping

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from api.services import Services

MOST_CHUNKS = 10**9 - 1  # of an answer
# Two looks of a follower's, less what a timer may be early.
PLAIN_SECONDS = 9.9  # in which what is refused gets a status of its own
PLACE_SECONDS = 1.0  # that a comment waits for the number of those who stand before its job
SILENCE_SECONDS = 9.9  # after which a comment says that the answer is still waited for
LAST_SECONDS = 0.5  # that a client has to read why a stream ends as the server does
DONE = b"data: [DONE]\n\n"
HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


class EventStream(Response):
    """An answer that is sent as it comes."""

    def __init__(
        self,
        answering: Answering,
        first: Entry | JobRecord,
        headers: Mapping[str, str],
        gone: Callable[[], None],
    ) -> None:
        """first: what answering began with. gone: called if the client leaves before the end."""
        super().__init__(headers={**HEADERS, **headers})
        del self.headers["content-length"]
        self._answering, self._first, self._gone = answering, first, gone

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; stop, and say so, once the client has gone away."""
        sent = scope["app"].state.services.metrics.streams
        try:
            with sent.track_inprogress():
                await unless_gone(receive, self._send(scope, send))
        except ClientDisconnect:
            self._gone()
        except asyncio.CancelledError:  # the server stops, and the store does not answer
            # Nobody waits for who does not read, and nobody cuts this off once more.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_SECONDS):
                    await _break_off(scope, send, self._answering.stopping())
        finally:
            await self._answering.close()

    async def _send(self, scope: Scope, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        try:
            async for part in self._answering.parts(self._first):
                await send({"type": "http.response.body", "body": part, "more_body": True})
        except BrokenOffError as error:
            await _break_off(scope, send, error)
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _break_off(scope: Scope, send: Send, error: BrokenOffError) -> None:
    """Say why a stream ends before its answer does, and end it so that it does not look whole."""
    told = joined([msgspec.json.encode({"error": error.error})])
    try:
        await send({"type": "http.response.body", "body": told, "more_body": True})
    finally:
        scope["extensions"][ABORT]()


class BrokenOffError(Exception):
    """A stream that ends before its answer does. error: OpenAI's error object."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(error.get("message"))
        self.error = error


class Answering:
    """An answer as it comes from the chain to one client."""

    def __init__(
        self,
        services: Services,
        job_id: str,
        owner: str,
        after: int = 0,
        *,
        numbered: bool = False,
    ) -> None:
        """after: chunks that the client has. numbered: each chunk says its number."""
        self._services, self.job_id = services, job_id
        self._events = follow(services.store, services.waiters, job_id, owner, after)
        self._numbered = numbered
        self._head = b""
        self.tier = ""

    async def begin(self, seconds: float) -> Entry | JobRecord | None:
        """Return the first thing that is known for good, or the job as it is after so long."""
        until = time.monotonic() + seconds
        async for event in self._events:
            still = isinstance(event, JobRecord) and not event.status.final
            if still and time.monotonic() < until and not self._services.waiters.closed:
                continue
            if isinstance(event, Entry):
                self._note(event)
            return event
        return None

    def _note(self, entry: Entry) -> None:
        if entry.head:
            self._head, self.tier = entry.head, entry.tier

    async def parts(self, first: Entry | JobRecord) -> AsyncGenerator[bytes]:
        """Yield what goes to the client, from what begin() gave on."""
        said = time.monotonic()
        event: Entry | JobRecord | None = first
        while True:
            if isinstance(event, Entry):
                self._note(event)
                yield self._frames(event)
                said = time.monotonic()
                if event.ends:
                    return
            elif event is None:
                raise BrokenOffError(error_of("the job is not known any more", "job_lost"))
            elif event.status.final:
                raise BrokenOffError(ending_of(event))
            elif self._services.waiters.closed:
                raise self.stopping()
            elif event is first or time.monotonic() >= said + SILENCE_SECONDS:
                yield await self._comment(event)
                said = time.monotonic()
            try:
                event = await anext(self._events, None)
            except StoreUnavailable as error:
                raise BrokenOffError(error_of(str(error), "unavailable")) from error
            except ApiError as error:
                raise BrokenOffError(error_of(str(error), error.code or "")) from error

    def stopping(self) -> BrokenOffError:
        """Return how it breaks off as this process stops."""
        return BrokenOffError(error_of(goes_on(self.job_id), "stopping"))

    def _frames(self, entry: Entry) -> bytes:
        frames: Iterator[bytes] = entry.frames(self._head)
        if self._numbered:
            numbers = range(max(entry.first, 0), entry.upto)
            frames = (
                b'{"sequence_number":%d,%b' % (number, frame[1:])
                for number, frame in zip(numbers, frames, strict=True)
            )
        return joined(frames) + (DONE if entry.ends else b"")

    async def _comment(self, record: JobRecord) -> bytes:
        if record.status is not Status.QUEUED:
            return f": at {record.tier}\n\n".encode()
        place = None
        with contextlib.suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(PLACE_SECONDS):
                place = await self._services.store.jobs.place(record)
        return b": queued\n\n" if place is None else b": queued %d\n\n" % place

    async def close(self) -> None:
        """Follow no longer."""
        await self._events.aclose()


def ending_of(record: JobRecord) -> Mapping[str, Any]:
    """Return the error of a job that has ended without a (whole) answer."""
    if record.error is not None:
        return record.error
    if record.status is Status.CANCELLED:
        return error_of("the job was cancelled", "cancelled")
    return error_of("no whole answer before the deadline", "deadline_exceeded")


async def job_stream(request: Request) -> Response:
    """GET /v1/jobs/{id}/stream?starting_after=N: a job's answer as it comes, from any place."""
    services, owner = services_of(request), owner_of(request)
    job_id = id_of(request, "job")
    after = 0
    if "starting_after" in request.query_params:
        after = whole_of(request, "starting_after", 0, 0, MOST_CHUNKS) + 1
    answering = Answering(services, job_id, owner, after, numbered=True)
    first = await answering.begin(0.0)
    if first is None:
        raise not_found("job", job_id)
    return EventStream(answering, first, {"x-fallthrough-job-id": job_id}, _nothing)


def _nothing() -> None:
    """Do nothing: a job that is only followed goes on."""


def routes() -> list[Route]:
    """Return the routes."""
    after = {
        "type": "integer",
        "minimum": 0,
        "maximum": MOST_CHUNKS,
        "description": "the last sequence_number that was seen; without it, all are sent",
    }
    description = Description(
        "Follow a job's answer as it comes, and after its end",
        {"type": "string"},
        query={"starting_after": after},
        errors={"410": "stream_gone: its log is kept no longer; from its beginning it is told"},
        answer_types=(EVENT_STREAM,),
    )
    return [Route("GET", "/v1/jobs/{id}/stream", job_stream, description)]
