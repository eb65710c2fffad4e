"""Answers for whoever waits: of chats and of prompts, as OpenAI's clients ask for them."""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import TYPE_CHECKING

import msgspec
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from api.body import body_of
from api.callers import BACK_SECONDS, Caller, unless_gone
from api.errors import RETRY_AFTER_SECONDS, ApiError, envelope, goes_on, stopping
from api.idempotency import KEY_HEADER, REUSED, back_seconds, chat_keys
from api.request_ids import named
from api.routing import EVENT_STREAM, JSON, Description, Route, object_of
from api.schemas import (
    HANDLING_SCHEMAS,
    REQUESTS,
    Deadlines,
    Handling,
    parse_json,
    submission_of,
)
from api.services import Services, headers_of, owner_of, services_of
from api.streams import PLAIN_SECONDS, Answering, EventStream
from api.tiers import check_tiers
from fallback_chain import Endpoint, Verdict
from tasks.errors import StoreUnavailable
from tasks.records.jobs import JobRecord, Status
from tasks.records.outcomes import WORKER_LOST

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    from api import routing
    from api.routing import Schema
    from api.waiters import Woken
    from tasks.records.jobs import Submission

ON_THE_WAY_SECONDS = 2.0  # of a client's patience that are not the job's
# Of OpenAI's SDKs: Python's says the first, JavaScript's and Go's the second, Java's both.
PATIENCE_HEADERS = ("x-stainless-read-timeout", "x-stainless-timeout")
UNAVAILABLE = 503  # HTTP's status
# Of a tier that would not answer at another time either.
_NEVER = {Verdict.NOT_ALLOWED, Verdict.UNFIT}
GRACE_SECONDS = 3.0  # what an expired job gets until the sweeper has said so


def answering(endpoint: Endpoint) -> routing.Endpoint:
    """Return what answers requests at an endpoint of a model server's, through our chain."""

    async def answer(request: Request) -> Response:
        return await _answer_now(request, endpoint)

    return answer


async def _answer_now(request: Request, endpoint: Endpoint) -> Response:
    """Send a request through the same chain as every job; wait for the answer."""
    services = services_of(request)
    with contextlib.ExitStack() as waiting:
        async with body_of(request) as content:
            job = _job_of(request, content, endpoint)
            # From before it begins: its end is not missed.
            woken = waiting.enter_context(services.waiters.waiting_for(job.id))
            caller = await _submit(request, content, job)
        del content  # who waits for an answer holds no body meanwhile
        try:
            if job.options.stream:
                return await _stream(request, caller)
            wait = job.deadline_seconds + GRACE_SECONDS
            entered = woken if caller.job_id == job.id else None
            record = await _wait_or_leave(request, caller, wait, entered)
            if not record.status.final and services.waiters.closed:
                raise await _let_go(services, caller)
        except asyncio.CancelledError:  # the server stops, and the store does not answer
            raise _left(caller.job_id) from None
    return await _answer(services, record)


async def _let_go(services: Services, caller: Caller) -> ApiError:
    """Return what a caller is told whose job goes on when this process has stopped."""
    job_id = caller.job_id
    with contextlib.suppress(StoreUnavailable):  # then he has the id
        await services.store.jobs.leave(job_id, caller.owner, caller.unchosen)
    return _left(job_id)


def _left(job_id: str) -> ApiError:
    return stopping(goes_on(job_id), {"x-fallthrough-job-id": job_id})


async def _stream(request: Request, caller: Caller) -> Response:
    """Answer as the answer comes; what is refused at once has a status of its own."""
    services = services_of(request)
    stream = Answering(services, caller.job_id, caller.owner)
    try:
        first = await unless_gone(request.receive, stream.begin(PLAIN_SECONDS))
    except ClientDisconnect:
        services.callers.leave(caller)
        raise
    if first is None:
        raise _lost()
    if isinstance(first, JobRecord) and first.status.final:
        await stream.close()
        return await _answer(services, first)
    if isinstance(first, JobRecord) and services.waiters.closed:
        await stream.close()
        raise await _let_go(services, caller)
    headers = {"x-fallthrough-job-id": caller.job_id}
    if stream.tier == "cache":
        record = await services.store.jobs.get(caller.job_id, caller.owner)
        headers = _headers_of(record) if record else headers
    elif stream.tier:
        headers |= _tier_headers(stream.tier)
    # No client sends again by itself what it has begun to read.
    reader = caller._replace(keys=[key for key in caller.keys if key.own])
    return EventStream(stream, first, headers, lambda: services.callers.leave(reader))


def _job_of(request: Request, content: bytes, endpoint: Endpoint) -> Submission:
    """Return the job that a request asks for."""
    services, owner = services_of(request), owner_of(request)
    headers = headers_of(request)
    settings = services.settings
    deadlines = Deadlines(settings.chat_deadline_seconds, settings.stream_deadline_seconds)
    job = submission_of(parse_json(content), endpoint, headers, owner, deadlines)
    check_tiers(job.options.tiers, services.tier_names, "fallthrough.tiers")
    # One that fails or waits is found by its retries; a stream says that it is still waited for.
    if job.options.on_exhausted == "degraded" and not job.options.stream:
        deadline = min(job.deadline_seconds, _patience(headers))
        job = msgspec.structs.replace(job, deadline_seconds=deadline)
    if not job.options.stream:
        options = msgspec.structs.replace(job.options, waiter=services.waiters.name)
        job = msgspec.structs.replace(job, options=options)
    [job] = named(request, [job])
    return job


async def _submit(request: Request, content: bytes, job: Submission) -> Caller:
    """Accept a request's job; return who waits for it."""
    services, owner = services_of(request), owner_of(request)
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
    back = back_seconds(request)
    return Caller(job_id, owner, keys, BACK_SECONDS if back is None else back)


def _patience(headers: Mapping[str, str]) -> float:
    """Return how long the SDK waits for this answer, less what it takes to get there."""
    return min(_patience_of(headers.get(name, "inf")) for name in PATIENCE_HEADERS)


def _patience_of(told: str) -> float:
    try:
        seconds = float(told)
    except ValueError:
        return math.inf
    return max(seconds - ON_THE_WAY_SECONDS, seconds / 2) if seconds > 0 else math.inf


async def _wait_or_leave(
    request: Request, caller: Caller, wait: float, entered: Woken | None
) -> JobRecord:
    """Wait for the job; raises ClientDisconnect once the client has gone away."""
    services = services_of(request)
    waiting = services.waiters.wait(caller.job_id, caller.owner, wait, entered)
    try:
        record = await unless_gone(request.receive, waiting)
    except ClientDisconnect:
        services.callers.leave(caller)
        raise
    if record is None:  # the store lost its last second, and the job with it
        raise _lost()
    return record


def _lost() -> ApiError:
    message = "the job is not known any more: send the request again"
    return ApiError(503, message, code="job_lost", headers={"Retry-After": "0"})


def _tier_headers(tier: str) -> dict[str, str]:
    headers = {"x-fallthrough-tier": tier}
    if tier == "degraded":
        headers["x-fallthrough-degraded"] = "true"
    return headers


def _headers_of(record: JobRecord) -> dict[str, str]:
    headers = {"x-fallthrough-job-id": record.id}
    if record.tier_used:
        headers |= _tier_headers(record.tier_used)
    if record.cache_age_seconds is not None:
        headers["x-fallthrough-cache-age"] = f"{record.cache_age_seconds:.0f}"
    return headers


async def _answer(services: Services, record: JobRecord) -> Response:
    headers = _headers_of(record)
    if record.status is Status.SUCCEEDED and record.answer is not None:
        if record.fit:
            headers["x-fallthrough-fit"] = record.fit
        return Response(bytes(record.answer), headers=headers, media_type="application/json")
    return await _failure(services, record, headers)


async def _failure(services: Services, record: JobRecord, headers: Mapping[str, str]) -> Response:
    if record.status is Status.FAILED and record.error is not None:
        status = record.error_status or UNAVAILABLE
        if record.error.get("code") == WORKER_LOST:  # its next try would end as many workers
            headers = {**headers, "x-should-retry": "false"}
        elif status == UNAVAILABLE:
            headers = {**headers, "Retry-After": str(await _retry_seconds(services, record))}
        return envelope(status, record.error, headers)
    if record.status is Status.CANCELLED:
        # A client that asks again would run it again: what was cancelled stays so.
        headers = {**headers, "x-should-retry": "false"}
        message = "the job was cancelled"
        return ApiError(409, message, code="job_cancelled", headers=headers).response()
    message = "no answer before the deadline"
    return ApiError(504, message, code="deadline_exceeded", headers=headers).response()


async def _retry_seconds(services: Services, record: JobRecord) -> int:
    """Return the seconds until the first of a job's tiers may be asked again.

    One that takes calls, and has failed at this one, is given a little time as well.
    """
    never = {
        attempt["tier"]
        for attempt in record.attempts
        if attempt["verdict"] in _NEVER and not attempt.get("endpoint")  # of several servers, all
    }
    tiers = [tier for name, tier in services.tiers.items() if name not in never]
    # Nobody asks them here: what this process has seen of them may be old.
    waits = await asyncio.gather(*(tier.due_seconds() for tier in tiers))
    seconds = [wait or RETRY_AFTER_SECONDS for wait in waits] or [RETRY_AFTER_SECONDS]
    return max(math.ceil(min(seconds)), 1)


def described(
    endpoint: Endpoint, summary: str, answer: Schema, *, streams: bool = False
) -> Description:
    """Return what the document says of a route that answers requests at an endpoint."""
    handling = {"anyOf": [Handling, {"type": "null"}]}
    in_the_body = {"type": "object", "properties": {"fallthrough": handling}}
    return Description(
        summary,
        answer,
        headers={**KEY_HEADER, **HANDLING_SCHEMAS},
        body={"allOf": [REQUESTS[endpoint], in_the_body]},
        answer_types=(JSON, EVENT_STREAM) if streams else (JSON,),
        errors={
            **REUSED,
            "409": "the job was cancelled",
            "4XX": "what the model's server refused, with its own status",
            "500": "worker_lost: three workers died, or broke off, with this request",
            "504": "no answer before the deadline",
        },
        answer_headers={
            "x-fallthrough-job-id": "the job that answered",
            "x-fallthrough-tier": "the tier, as gpu or cpu; cache or degraded",
            "x-fallthrough-degraded": "true: no model answered",
            "x-fallthrough-cache-age": "seconds since the answer was made",
            "x-fallthrough-fit": "failed, or unchecked: whether it is what was asked for",
        },
    )


def routes() -> list[Route]:
    """Return the routes."""
    answer = object_of(choices={"type": "array"})
    summaries = {
        Endpoint.CHAT: "Answer now, through the same chain",
        Endpoint.COMPLETIONS: "Complete a prompt now, through the same chain",
    }
    return [
        Route(
            "POST",
            endpoint.value,
            answering(endpoint),
            described(endpoint, summary, answer, streams=True),
        )
        for endpoint, summary in summaries.items()
    ]
