"""The lines of a batch, while it runs and after: finished, failed, and how fast they came."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from api.batches import batch_of
from api.errors import json_response
from api.line_numbers import LineNumbers
from api.paging import page_query, whole, whole_of
from api.results import PAGE_BYTES, Results, no_cursor
from api.routing import Description, Route, list_of, object_of, until_sent
from api.services import owner_of, services_of
from tasks.jsonl.output import read_failed
from tasks.records.batches import FINAL
from tasks.records.pace import history

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from tasks.records.batches import BatchRecord

DEFAULT_LINES, LARGEST_LINES = 100, 1000  # of a page
CURSOR = r"^[0-9]{1,9}\.[0-9]{1,9}$"
Place = tuple[int, int]


class FailedLine(Struct, kw_only=True):
    """A line without an answer. line: its number in the input file from 1, if that can be told.

    status: HTTP's, of the error. param: what is wrong with a line that validation refused.
    """

    line: int | None
    custom_id: str | None = None
    code: str
    message: str
    param: str | None = None
    status: int | None = None
    attempts: list[dict[str, Any]] = []


class Bucket(Struct):
    """Lines that were finished in so many seconds from a time on (epoch s)."""

    at: int
    seconds: int
    lines: int


async def results(request: Request) -> Response:
    """GET /v1/batches/{id}/results?after=&limit=: lines as they are finished, while it runs.

    A cursor stays good when the batch ends. next is where the following page begins; has_more
    says that some of that is there already.
    """
    services, record = services_of(request), await batch_of(request)
    limit, after = _asked(request)
    parts = await services.store.batches.parts(record.id)
    await until_sent(request, services.bodies.hold(owner_of(request), PAGE_BYTES))
    finished_lines = Results(services.store.files.storage, record, parts)
    lines, place = await asyncio.to_thread(finished_lines.page, *after, limit)
    data = [msgspec.Raw(text) for text in lines]
    return json_response(_page(record, data, place, len(parts)))


async def errors(request: Request) -> Response:
    """GET /v1/batches/{id}/errors?after=&limit=: lines without an answer, and why.

    First what validation found, or what ended the batch; then failed lines as those above.
    """
    services, record = services_of(request), await batch_of(request)
    limit, (part, offset) = _asked(request)
    told = msgspec.json.decode(record.errors)["data"] if record.errors else []
    data = [_told(each) for each in told[offset : offset + limit]] if part == 0 else []
    parts = await services.store.batches.parts(record.id)
    place = (part, offset)
    if part == 0:
        place = (0, offset + limit) if offset + limit < len(told) else (1, 0)
    if place[0] and len(data) < limit:
        await until_sent(request, services.bodies.hold(owner_of(request), PAGE_BYTES))
        storage = services.store.files.storage
        failed_lines = Results(storage, record, parts, ("error",))
        numbers = LineNumbers(storage, record, await services.store.batches.ranges(record.id))
        lines, (number, byte) = await asyncio.to_thread(
            failed_lines.page, place[0] - 1, place[1], limit - len(data)
        )
        data += await asyncio.to_thread(_failed, lines, numbers)
        place = (number + 1, byte)
    return json_response(_page(record, data, place, len(parts) + 1))


def _failed(lines: list[bytes], numbers: LineNumbers) -> list[FailedLine]:
    read = [read_failed(line) for line in lines]
    return [
        FailedLine(
            line=numbers.of(each.slice, each.place),
            custom_id=each.custom_id,
            code=each.code,
            message=each.message,
            status=each.status,
            attempts=each.attempts,
        )
        for each in read
    ]


def _told(error: dict[str, Any]) -> FailedLine:
    return FailedLine(
        line=error.get("line"),
        code=error["code"],
        message=error["message"],
        param=error.get("param"),
    )


def _asked(request: Request) -> tuple[int, Place]:
    """Return the limit of the page that is asked for, and where it begins."""
    limit = whole_of(request, "limit", DEFAULT_LINES, 1, LARGEST_LINES)
    text = request.query_params.get("after", "0.0")
    first, _, second = text.partition(".")
    part, offset = whole(first), whole(second)
    if part is None or offset is None:
        raise no_cursor(text)
    return limit, (part, offset)


def _page(record: BatchRecord, data: list[Any], place: Place, parts: int) -> dict[str, Any]:
    more = place[0] < parts
    return {
        "object": "list",
        "data": data,
        "next": f"{place[0]}.{place[1]}",
        "has_more": more,
        "status": record.status.value,
        "done": record.status in FINAL and not data and not more,
    }


async def pace(request: Request) -> Response:
    """GET /v1/batches/{id}/history: finished lines over the time that the batch runs, or ran."""
    services, record = services_of(request), await batch_of(request)
    began = record.times.get("in_progress")
    buckets: list[Any] = []
    if began is not None:
        times = await services.store.batches.times(record.id)
        until = record.times.get("finalizing") or int(await services.store.connection.server_time())
        buckets = [each._asdict() for each in history(times, began, until)]
    return json_response({"object": "history", "buckets": buckets})


def routes() -> list[Route]:
    """Return the routes."""
    text, flag = {"type": "string"}, {"type": "boolean"}
    around = {"next": text, "has_more": flag, "status": text, "done": flag}
    lines = list_of(object_of(custom_id={"type": ["string", "null"]}), **around)
    cursor = {"type": "string", "pattern": CURSOR, "description": "the page before's next"}
    query = {**page_query("line", DEFAULT_LINES, LARGEST_LINES), "after": cursor}
    finished = Description("Read finished lines, while it runs and after", lines, query=query)
    failed = Description(
        "Read failed lines, and what validation found", list_of(FailedLine, **around), query=query
    )
    buckets = {"type": "array", "items": Bucket}
    over_time = Description(
        "Finished lines over the batch's time",
        object_of(object={"const": "history"}, buckets=buckets),
    )
    return [
        Route("GET", "/v1/batches/{id}/results", results, finished),
        Route("GET", "/v1/batches/{id}/errors", errors, failed),
        Route("GET", "/v1/batches/{id}/history", pace, over_time),
    ]
