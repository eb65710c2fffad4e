"""Batches, as OpenAI's clients create and follow them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from api.body import body_of
from api.errors import bad, json_response, not_found, poll_after
from api.idempotency import KEY_HEADER, REUSED, idempotency_keys
from api.paging import LONGEST_TEXT, choice_of, found_page, page_of, page_query, text_of
from api.routing import Description, Route, page_of_list
from api.schemas import ExpiresAfter, Metadata, check, parse_json
from api.services import Services, id_of, is_id, owner_of, services_of
from api.tiers import TierText, check_tiers
from fallback_chain import Endpoint  # noqa: TC001 - msgspec reads it
from tasks.errors import NoSuchInput
from tasks.records.batches import (
    FINAL,
    WINDOW,
    BatchOptions,
    BatchStatus,
    NewBatch,
    new_batch_id,
    window_seconds,
)
from tasks.records.pace import eta_seconds, lines_per_second
from tasks.records.policies import CachePolicy, ExhaustedPolicy, tier_names
from tasks.store.search import Search

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from api.routing import Schema
    from tasks.records.batches import BatchRecord

POLL = poll_after(milliseconds=2000)
OPTION_PREFIX = "fallthrough_"


# A wrong one is told which there are.
Window = Annotated[str, Meta(extra_json_schema={"pattern": f"^{WINDOW}$"})]


class BatchRequest(Struct, kw_only=True):
    """POST /v1/batches. metadata may hold what MetadataOptions names."""

    input_file_id: Annotated[str, Meta(min_length=1)]
    endpoint: Endpoint
    completion_window: Window
    metadata: Metadata | None = None
    output_expires_after: ExpiresAfter | None = None


class MetadataOptions(
    Struct,
    rename={
        name: f"{OPTION_PREFIX}{name}" for name in ("cache", "on_exhausted", "tiers", "retry_of")
    },
):
    """What a batch's metadata may say of how it is answered; and which one it repeats lines of."""

    cache: CachePolicy = "off"
    on_exhausted: ExhaustedPolicy = "wait"
    tiers: TierText | None = None
    priority: Literal["low", "normal", "high"] = "normal"
    retry_of: str | None = None


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
    fallthrough: dict[str, Any]  # beside OpenAI's: lines by tier, outcome and model; the rate


def show_batch(record: BatchRecord, now: float) -> BatchObject:
    """Return a batch as it is shown at a time (epoch s)."""
    usage = None
    tokens = record.tokens
    if tokens.prompt or tokens.answer:
        usage = {
            "input_tokens": tokens.prompt,
            "input_tokens_details": {"cached_tokens": tokens.cached},
            "output_tokens": tokens.answer,
            "output_tokens_details": {"reasoning_tokens": tokens.reasoning},
            "total_tokens": tokens.prompt + tokens.answer,
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
        fallthrough={
            "tiers": record.by_tier,
            "models": record.by_model,
            "slices": record.slices,
            "slices_done": record.done,
            "outcomes": record.outcomes,
            **_pace(record, now),
        },
    )


def _pace(record: BatchRecord, now: float) -> dict[str, float | None]:
    """Return how fast a batch's lines are answered now, and in how many seconds all will be."""
    if record.status is not BatchStatus.IN_PROGRESS:
        return {"lines_per_second": None, "eta_seconds": None}
    rate = lines_per_second(record.recent, record.times["in_progress"], now)
    left = record.total - record.completed - record.failed
    return {"lines_per_second": rate, "eta_seconds": eta_seconds(left, rate)}


async def create(request: Request) -> Response:
    """POST /v1/batches: accepted at once, validated in the background."""
    async with body_of(request) as body:
        return await _create(request, body)


async def _create(request: Request, body: bytes) -> Response:
    services, owner = services_of(request), owner_of(request)
    batch_request: BatchRequest = check(parse_json(body), BatchRequest)
    if window_seconds(batch_request.completion_window) is None:
        message = "completion_window: must be 24h, or another time such as 90m or 2d, up to 7d"
        raise bad(message, "completion_window")
    metadata = batch_request.metadata or {}
    options = options_of(services, metadata)
    file_id = batch_request.input_file_id
    missing = bad(f"input_file_id: no file {file_id!r}", "input_file_id")
    if not is_id(file_id):
        raise missing
    expiry = batch_request.output_expires_after
    batch = NewBatch(
        id=new_batch_id(),
        owner=owner,
        endpoint=batch_request.endpoint,
        input_file_id=file_id,
        completion_window=batch_request.completion_window,
        metadata=metadata,
        options=options,
        output_seconds=expiry.seconds if expiry else None,
    )
    try:
        batch_id = await services.submitter.submit_batch(batch, idempotency_keys(request, body))
    except NoSuchInput:
        raise missing from None
    return await shown(services, await _record(services, batch_id, owner))


async def shown(services: Services, record: BatchRecord) -> Response:
    """Return the answer that shows a batch."""
    now = await services.store.connection.server_time()
    headers = None if record.status in FINAL else POLL
    return json_response(show_batch(record, now), headers=headers)


def options_of(services: Services, metadata: dict[str, str]) -> BatchOptions:
    """Return how a batch's metadata wants it answered; a 400 names what it may not say."""
    names = MetadataOptions.__struct_encode_fields__
    unknown = [name for name in metadata if name.startswith(OPTION_PREFIX) and name not in names]
    if unknown:
        name = f"metadata.{min(unknown)}"
        raise bad(f"{name}: there is no such option; there are {', '.join(names)}", name)
    options: MetadataOptions = check(metadata, MetadataOptions, "metadata")
    tiers = services.batch_tiers
    if options.tiers is not None:
        tiers = tier_names(options.tiers) or ("",)  # none at all is no list of them either
        check_tiers(tiers, services.tier_names, "metadata.fallthrough_tiers")
    return BatchOptions(options.cache, options.on_exhausted, options.priority, tiers)


async def list_batches(request: Request) -> Response:
    """GET /v1/batches?status=&q=&limit=&after=: newest first."""
    store = services_of(request).store
    show = partial(show_batch, now=await store.connection.server_time())
    status, text = choice_of(request, "status", BatchStatus), text_of(request, "q")
    if not status and not text:
        return await page_of(request, "batch", store.batches.list_batches, show)
    search = Search(text, (("status", status),) if status else ())

    async def find(
        owner: str, limit: int, after: str | None
    ) -> tuple[list[BatchRecord], str | None]:
        return await store.batches.search_batches(owner, search, limit, after)

    return await found_page(request, "batch", find, show)


async def get(request: Request) -> Response:
    """GET /v1/batches/{id}."""
    return await shown(services_of(request), await batch_of(request))


async def cancel(request: Request) -> Response:
    """POST /v1/batches/{id}/cancel: one flag; a batch that has ended stays as it is."""
    services, owner = services_of(request), owner_of(request)
    batch_id = id_of(request, "batch")
    if not await services.submitter.cancel_batch(batch_id, owner):
        raise not_found("batch", batch_id)
    return await shown(services, await _record(services, batch_id, owner))


async def batch_of(request: Request) -> BatchRecord:
    """Return the batch that a path names; a 404 if its caller has none of this id."""
    return await _record(services_of(request), id_of(request, "batch"), owner_of(request))


async def _record(services: Services, batch_id: str, owner: str) -> BatchRecord:
    record = await services.store.batches.get(batch_id, owner)
    if record is None:
        raise not_found("batch", batch_id)
    return record


def routes() -> list[Route]:
    """Return the routes."""
    names = {"enum": list(MetadataOptions.__struct_encode_fields__)}
    others = {"not": {"pattern": f"^{OPTION_PREFIX}"}}
    options = {"allOf": [MetadataOptions, {"propertyNames": {"anyOf": [names, others]}}]}
    metadata = {"metadata": {"anyOf": [options, {"type": "null"}]}}
    creation = Description(
        "Create a batch from an uploaded file",
        BatchObject,
        headers=KEY_HEADER,
        body={"allOf": [BatchRequest, {"type": "object", "properties": metadata}]},
        errors=REUSED,
    )
    about = "part of an id or metadata value"
    filters: dict[str, Schema] = {
        "status": {"enum": [*BatchStatus, ""]},
        "q": {"type": "string", "maxLength": LONGEST_TEXT, "description": about},
    }
    listing = Description(
        "List batches, newest first",
        page_of_list(BatchObject),
        query={**filters, **page_query("batch")},
    )
    return [
        Route("POST", "/v1/batches", create, creation),
        Route("GET", "/v1/batches", list_batches, listing),
        Route("GET", "/v1/batches/{id}", get, Description("Follow a batch", BatchObject)),
        Route(
            "POST", "/v1/batches/{id}/cancel", cancel, Description("Cancel a batch", BatchObject)
        ),
    ]
