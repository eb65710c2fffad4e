"""Chat completions and models, as OpenAI's clients ask for them."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from typing import TYPE_CHECKING, get_args

import msgspec
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from api.body import body_of
from api.callers import Caller, unless_gone
from api.errors import ApiError, envelope, json_response, stopping
from api.idempotency import KEY_HEADER, REUSED, chat_keys
from api.request_ids import named
from api.routing import Description, Route, list_of, object_of
from api.schemas import Handling, Sampling, chat_of, parse_json
from api.services import Services, owner_of, services_of
from fallback_chain import UpstreamError
from tasks.errors import StoreUnavailable
from tasks.records.jobs import MAX_DEADLINE_SECONDS, JobRecord, Status
from tasks.records.policies import CachePolicy, ExhaustedPolicy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    from api.routing import Schema

ON_THE_WAY_SECONDS = 2.0  # of a client's patience that are not the job's
GRACE_SECONDS = 3.0  # what an expired job gets until the sweeper has said so
MODELS_SECONDS = 2.0  # that a tier gets to list its models


async def complete(request: Request) -> Response:
    """POST /v1/chat/completions: through the same chain as every job; waits for the answer."""
    services, owner = services_of(request), owner_of(request)
    async with body_of(request) as content:
        caller, deadline_seconds = await _submit(request, content)
    del content  # who waits for an answer holds no body meanwhile
    job_id = caller.job_id
    record = await _wait_or_leave(request, services, caller, deadline_seconds + GRACE_SECONDS)
    if not record.status.final and services.waiters.closed:
        with contextlib.suppress(StoreUnavailable):  # then he has the id
            await services.store.jobs.leave(job_id, owner, caller.unchosen)
        message = f"the server is stopping; the job goes on: GET /v1/jobs/{record.id}"
        raise stopping(message, {"x-fallthrough-job-id": record.id})
    return _answer(record)


async def _submit(request: Request, content: bytes) -> tuple[Caller, float]:
    """Accept a completion's job; return who waits for it, and the job's deadline in seconds."""
    services, owner = services_of(request), owner_of(request)
    headers = dict(request.headers)
    job = chat_of(parse_json(content), headers, owner, services.settings.chat_deadline_seconds)
    if job.options.on_exhausted == "degraded":  # else its retries find it, and wait on
        deadline = min(job.deadline_seconds, _patience(headers))
        job = msgspec.structs.replace(job, deadline_seconds=deadline)
    [job] = named(request, [job])
    keys = chat_keys(request, content)
    asking = [key for key in keys if key.own or key.lookup]
    _, earlier_ids = await services.submitter.submit([job], asking)
    job_id = job.id
    if earlier_ids:  # a retry: it waits for what the first one asked, if that can still answer
        earlier = await services.store.jobs.get(earlier_ids[0], owner)
        if earlier and (earlier.status is Status.SUCCEEDED or not earlier.status.final):
            job_id = earlier.id
        else:
            await services.submitter.submit([job], [key.noted() for key in keys if key.own])
    return Caller(job_id, owner, keys), job.deadline_seconds


def _patience(headers: Mapping[str, str]) -> float:
    """Return how long the SDK waits for this answer, less what it takes to get there."""
    try:
        seconds = float(headers.get("x-stainless-read-timeout", "inf"))
    except ValueError:
        return math.inf
    return max(seconds - ON_THE_WAY_SECONDS, seconds / 2) if seconds > 0 else math.inf


async def _wait_or_leave(
    request: Request, services: Services, caller: Caller, wait: float
) -> JobRecord:
    """Wait for the job; raises ClientDisconnect once the client has gone away."""
    waiting = services.waiters.wait(caller.job_id, caller.owner, wait)
    try:
        record = await unless_gone(request, waiting)
    except ClientDisconnect:
        services.callers.leave(caller)
        raise
    if record is None:  # the store lost its last second, and the job with it
        message = "the job is not known any more: send the request again"
        raise ApiError(503, message, code="job_lost", headers={"Retry-After": "0"})
    return record


def _answer(record: JobRecord) -> Response:
    headers = {"x-fallthrough-job-id": record.id}
    if record.tier_used:
        headers["x-fallthrough-tier"] = record.tier_used
    if record.tier_used == "degraded":
        headers["x-fallthrough-degraded"] = "true"
    if record.cache_age_seconds is not None:
        headers["x-fallthrough-cache-age"] = f"{record.cache_age_seconds:.0f}"
    if record.status is Status.SUCCEEDED and record.answer is not None:
        if record.fit:
            headers["x-fallthrough-fit"] = record.fit
        return Response(bytes(record.answer), headers=headers, media_type="application/json")
    return _failure(record, headers)


def _failure(record: JobRecord, headers: Mapping[str, str]) -> Response:
    if record.status is Status.FAILED and record.error is not None:
        return envelope(record.error_status or 503, record.error, headers)
    if record.status is Status.CANCELLED:
        # A client that asks again would run it again: what was cancelled stays so.
        headers = {**headers, "x-should-retry": "false"}
        message = "the job was cancelled"
        return ApiError(409, message, code="job_cancelled", headers=headers).response()
    message = "no answer before the deadline"
    return ApiError(504, message, code="deadline_exceeded", headers=headers).response()


async def models(request: Request) -> Response:
    """GET /v1/models: what the tiers serve now; a tier that is away is left out."""
    services = services_of(request)
    models_by_tier = await asyncio.gather(*(_models_of(services, name) for name in services.tiers))
    data = {
        model: {"id": model, "object": "model", "created": int(time.time()), "owned_by": tier}
        for tier, names in reversed(models_by_tier)
        for model in names
    }
    return json_response({"object": "list", "data": list(data.values())[::-1]})


async def _models_of(services: Services, name: str) -> tuple[str, list[str]]:
    tier = services.tiers[name]
    try:
        async with asyncio.timeout(MODELS_SECONDS):
            names = await tier.models()
    except (UpstreamError, TimeoutError):
        names = []
    own = [tier.config.model] if tier.config.model else []
    return name, own + [model for model in names if model not in own]


def routes() -> list[Route]:
    """Return the routes."""
    handling = {"anyOf": [Handling, {"type": "null"}]}
    in_the_body = {"type": "object", "properties": {"fallthrough": handling}}
    header: dict[str, Schema] = {
        "x-fallthrough-cache": {"enum": list(get_args(CachePolicy))},
        "x-fallthrough-on-exhausted": {"enum": list(get_args(ExhaustedPolicy))},
        "x-fallthrough-deadline-seconds": {
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": MAX_DEADLINE_SECONDS,
        },
    }
    completion = Description(
        "Answer now, through the same chain",
        object_of(choices={"type": "array"}),
        headers={**KEY_HEADER, **header},
        body={"allOf": [Sampling, in_the_body]},
        errors={
            **REUSED,
            "409": "the job was cancelled",
            "4XX": "what the model's server refused, with its own status",
            "500": "worker_lost: three workers died, or broke off, with this request",
            "504": "no answer before the deadline",
        },
        answer_headers={
            "x-fallthrough-job-id": "the job that answered",
            "x-fallthrough-tier": "gpu, cpu, cache or degraded",
            "x-fallthrough-degraded": "true: no model answered",
            "x-fallthrough-cache-age": "seconds since the answer was made",
            "x-fallthrough-fit": "failed, or unchecked: whether it is what was asked for",
        },
    )
    model = object_of(id={"type": "string"}, object={"const": "model"})
    listing = Description("List the tiers' models", list_of(model))
    return [
        Route("POST", "/v1/chat/completions", complete, completion),
        Route("GET", "/v1/models", models, listing),
    ]
