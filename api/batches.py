"""Batches, as OpenAI's clients create and follow them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct

from api.body import read_body
from api.errors import bad, json_response, not_found
from api.once import once_keys
from api.paging import number_of, page_of
from api.routing import Route
from api.schemas import Metadata, check, parse_json
from api.services import Services, owner_of, services
from tasks.batches import (
    FINAL,
    WINDOWS,
    BatchOptions,
    Endpoint,
    NewBatch,
    new_batch_id,
    window_seconds,
)
from tasks.file_store import content_name, part_name
from tasks.phases import joined_name

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from tasks.batches import BatchRecord

OPTION_PREFIX = "fallthrough_"
LARGEST_RESULTS = 1000


class BatchRequest(Struct, kw_only=True):
    """POST /v1/batches. metadata may hold priority, fallthrough_cache, fallthrough_on_exhausted."""

    input_file_id: Annotated[str, Meta(min_length=1)]
    endpoint: Endpoint
    completion_window: str
    metadata: Metadata | None = None


class RequestCounts(Struct):
    """How many lines there are, and what became of them so far."""

    total: int
    completed: int
    failed: int


class BatchObject(Struct, kw_only=True):
    """A batch as OpenAI's clients read it. Times are epoch seconds."""

    id: str
    object: str = "batch"
    endpoint: str
    model: str | None
    errors: msgspec.Raw | None
    input_file_id: str
    completion_window: str
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int | None
    in_progress_at: int | None
    expires_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: dict[str, Any] | None
    metadata: dict[str, str] | None
    fallthrough: dict[str, Any]  # beside OpenAI's: lines by the tier that answered them


def show_batch(record: BatchRecord) -> BatchObject:
    """Return a batch as it is shown."""
    usage = None
    if record.input_tokens or record.output_tokens:
        usage = {
            "input_tokens": record.input_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": record.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": record.input_tokens + record.output_tokens,
        }
    at = record.times.get
    return BatchObject(
        id=record.id,
        endpoint=record.endpoint,
        model=record.model,
        errors=record.errors,
        input_file_id=record.input_file_id,
        completion_window=record.completion_window,
        status=record.status.value,
        output_file_id=record.output_file_id,
        error_file_id=record.error_file_id,
        created_at=at("created"),
        in_progress_at=at("in_progress"),
        expires_at=at("expires"),
        finalizing_at=at("finalizing"),
        completed_at=at("completed"),
        failed_at=at("failed"),
        expired_at=at("expired"),
        cancelling_at=at("cancelling"),
        cancelled_at=at("cancelled"),
        request_counts=RequestCounts(record.total, record.completed, record.failed),
        usage=usage,
        metadata=record.metadata or None,
        fallthrough={"tiers": record.by_tier, "slices": record.slices, "slices_done": record.done},
    )


async def create(request: Request) -> Response:
    """POST /v1/batches: accepted at once, validated in the background."""
    found, owner = services(request), owner_of(request)
    body = await read_body(request)
    asked: BatchRequest = check(parse_json(body), BatchRequest)
    if window_seconds(asked.completion_window) is None:
        message = "completion_window: must be 24h, or another time such as 90m or 2d, up to 7d"
        raise bad(message, "completion_window")
    metadata = asked.metadata or {}
    options = _options(metadata)
    file = await found.files.get(asked.input_file_id, owner)
    if file is None:
        raise bad(f"input_file_id: no file {asked.input_file_id!r}", "input_file_id")
    await found.submitter.check_room()
    new = NewBatch(
        *(new_batch_id(), owner, asked.endpoint, file.id, asked.completion_window),
        *(metadata, options),
    )
    batch_id = await found.batches.create(new, once_keys(request, body))
    if batch_id == new.id:
        unit = f"unit_{batch_id}_validate"
        await found.publisher.dispatch([(unit, 0, "validate", "phases")])
    return json_response(show_batch(await _record(found, batch_id, owner)))


def _options(metadata: dict[str, str]) -> BatchOptions:
    asked = {
        name.removeprefix(OPTION_PREFIX): value
        for name, value in metadata.items()
        if name.startswith(OPTION_PREFIX) or name == "priority"
    }
    unknown = set(asked) - {"cache", "on_exhausted", "priority"}
    if unknown:
        name = f"metadata.{OPTION_PREFIX}{min(unknown)}"
        raise bad(f"{name}: there is no such option; there are cache and on_exhausted", name)
    if asked.get("priority", "normal") not in WINDOWS:
        message = f"metadata.priority: must be one of {', '.join(WINDOWS)}"
        raise bad(message, "metadata.priority")
    options: BatchOptions = check(asked, BatchOptions, f"metadata.{OPTION_PREFIX}")
    return options


async def list_batches(request: Request) -> Response:
    """GET /v1/batches: newest first."""
    batches = services(request).batches
    return await page_of(request, "batch", batches.list_batches, batches.get, show_batch)


async def get(request: Request) -> Response:
    """GET /v1/batches/{id}."""
    record = await _record(services(request), request.path_params["id"], owner_of(request))
    return json_response(show_batch(record))


async def cancel(request: Request) -> Response:
    """POST /v1/batches/{id}/cancel: one flag; a batch that has ended stays as it is."""
    found, owner = services(request), owner_of(request)
    batch_id = request.path_params["id"]
    dispatches = await found.batches.cancel(batch_id, owner)
    if dispatches is None:
        raise not_found("batch", batch_id)
    await found.publisher.dispatch(dispatches)
    return json_response(show_batch(await _record(found, batch_id, owner)))


async def results(request: Request) -> Response:
    """GET /v1/batches/{id}/results?after=&limit=: lines as they are finished, while it runs.

    A cursor stays good when the batch ends. next is where the following page begins.
    """
    found = services(request)
    record = await _record(found, request.path_params["id"], owner_of(request))
    limit = int(number_of(request, "limit", 100, 1, LARGEST_RESULTS))
    part, line = _cursor(request.query_params.get("after", "0.0"))
    lines: list[bytes] = []
    while len(lines) < limit:
        page = await found.batches.parts(record.id, 0, part)
        if len(page) <= part:
            break
        there = await asyncio.to_thread(_part_lines, found, record, page)
        taken = there[line : line + limit - len(lines)]
        lines += taken
        line += len(taken)
        if line >= len(there):
            part, line = part + 1, 0
    shown = {
        "object": "list",
        "data": [msgspec.Raw(text) for text in lines],
        "next": f"{part}.{line}",
        "status": record.status.value,
        "done": record.status in FINAL and not lines,
    }
    return json_response(shown)


def _cursor(text: str) -> tuple[int, int]:
    part, dot, line = text.partition(".")
    if not (part.isdigit() and dot and line.isdigit()):
        raise bad(f"after: {text!r} is not a cursor that `next` gave", "after")
    return int(part), int(line)


def _part_lines(
    found: Services, record: BatchRecord, parts: list[tuple[int, int, int]]
) -> list[bytes]:
    """Return the lines of the last of these parts, from its own files or from the joined ones."""
    storage, (number, *sizes) = found.files.storage, parts[-1]
    content = b""
    for column, kind in enumerate(("output", "error")):
        size = sizes[column]
        if not size:
            continue
        joined = record.output_file_id if kind == "output" else record.error_file_id
        if joined is None:
            try:
                content += storage.read(part_name(record.id, str(number), kind), 0, size)
                continue
            except FileNotFoundError:  # joined since the record was read
                joined = joined_name(record.id, kind)
        offset = sum(part[column + 1] for part in parts[:-1])
        content += storage.read(content_name(joined), offset, size)
    return content.splitlines()


async def _record(found: Services, batch_id: str, owner: str) -> BatchRecord:
    record = await found.batches.get(batch_id, owner)
    if record is None:
        raise not_found("batch", batch_id)
    return record


def routes(prefix: str) -> list[Route]:
    """Return the routes under a prefix."""
    return [
        Route(f"{prefix}/batches", create, methods=["POST"]),
        Route(f"{prefix}/batches", list_batches, methods=["GET"]),
        Route(f"{prefix}/batches/{{id}}", get, methods=["GET"]),
        Route(f"{prefix}/batches/{{id}}/cancel", cancel, methods=["POST"]),
        Route(f"{prefix}/batches/{{id}}/results", results, methods=["GET"]),
    ]
