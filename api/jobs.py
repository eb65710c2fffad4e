"""Jobs: submit, poll, list, cancel."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from starlette.background import BackgroundTask

from api.body import body_of
from api.callers import unless_gone
from api.errors import json_response, not_found, poll_after
from api.idempotency import KEY_HEADER, REUSED, idempotency_keys
from api.paging import LONGEST_TEXT, choice_of, found_page, number_of, page_of, page_query, text_of
from api.request_ids import named
from api.routing import Description, Route, list_of, page_of_list
from api.schemas import (
    HANDLING_SCHEMAS,
    JOBS,
    MAX_WAIT_SECONDS,
    JobObject,
    accepted,
    jobs_of,
    parse_json,
    show,
    show_in_list,
)
from api.services import headers_of, id_of, owner_of, services_of
from api.tiers import NAME_SCHEMA, check_tiers
from tasks.errors import StoreUnavailable
from tasks.records.jobs import LONGEST_MODEL, Status
from tasks.store.search import Search

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from api.routing import Schema
    from tasks.records.idempotency import IdempotencyKey
    from tasks.records.jobs import JobRecord
    from tasks.store.jobs import JobStore


POLL = poll_after(milliseconds=500)


async def create(request: Request) -> Response:
    """POST /v1/jobs: accept one request, or up to 1 000 under "requests"."""
    async with body_of(request) as content:
        return await _create(request, content)


async def _create(request: Request, content: bytes) -> Response:
    services = services_of(request)
    owner = owner_of(request)
    deadline = services.settings.job_deadline_seconds
    jobs, listed = jobs_of(parse_json(content), owner, deadline, headers_of(request))
    for number, job in enumerate(jobs):
        place = f"requests[{number}].tiers" if listed else "tiers"
        check_tiers(job.options.tiers, services.tier_names, place)
    jobs = named(request, jobs)
    keys = idempotency_keys(request, content)
    created_at, earlier_ids = await services.submitter.submit(jobs, keys)
    objects = [accepted(job, created_at) for job in jobs]
    if earlier_ids:  # this is a retry: what the first one made, as it stands now
        records = [await services.store.jobs.get(job_id, owner) for job_id in earlier_ids]
        objects = [show(record) for record in records if record]
    if not objects:  # past their time between the two looks: as if it had not been sent before
        created_at, _ = await services.submitter.submit(jobs, [key.noted() for key in keys])
        objects = [accepted(job, created_at) for job in jobs]
    if listed:
        page = {"object": "list", "data": objects}
        response = json_response(page, 202, {"Location": "/v1/jobs", **POLL})
    else:
        headers = {"Location": f"/v1/jobs/{objects[0].id}", **POLL}
        response = json_response(objects[0], 202, headers)
    unchosen = [key for key in keys if not key.own]
    # Once this caller was told, the same words are another's; if he has left, he may be back.
    if unchosen and not await request.is_disconnected():
        ids = [each.id for each in objects]
        response.background = BackgroundTask(_forget, services.store.jobs, owner, ids, unchosen)
    return response


async def _forget(jobs: JobStore, owner: str, ids: list[str], keys: list[IdempotencyKey]) -> None:
    with contextlib.suppress(StoreUnavailable):  # then they end by themselves
        await jobs.forget(owner, ids, keys)


async def get(request: Request) -> Response:
    """GET /v1/jobs/{id}?wait=SECONDS: the job, as soon as it is finished."""
    wait = number_of(request, "wait", 0.0, 0.0, MAX_WAIT_SECONDS)
    job_id = id_of(request, "job")
    waiting = services_of(request).waiters.wait(job_id, owner_of(request), wait)
    record = await (unless_gone(request.receive, waiting) if wait else waiting)
    if record is None:
        raise not_found("job", job_id)
    return _shown(record)


def _shown(record: JobRecord) -> Response:
    return json_response(show(record), headers=None if record.status.final else POLL)


async def list_jobs(request: Request) -> Response:
    """GET /v1/jobs?status=&tier=&model=&q=&limit=&after=: newest first."""
    services = services_of(request)
    jobs, search = services.store.jobs, _search(request, (*services.tier_names, "degraded"))
    if search == Search():
        return await page_of(request, "job", jobs.list_jobs, show_in_list)

    async def find(owner: str, limit: int, after: str | None) -> tuple[list[JobRecord], str | None]:
        return await jobs.search_jobs(owner, search, limit, after)

    return await found_page(request, "job", find, show_in_list)


def _search(request: Request, tiers: tuple[str, ...]) -> Search:
    """Return what a list's query looks for."""
    tests = {
        "status": choice_of(request, "status", Status),
        "tier_used tier": choice_of(request, "tier", tiers),  # of an unfinished one, where it is
        "answer_model model": text_of(request, "model", LONGEST_MODEL),
    }
    return Search(text_of(request, "q"), tuple((f, value) for f, value in tests.items() if value))


async def cancel(request: Request) -> Response:
    """POST /v1/jobs/{id}/cancel: a finished job stays as it is."""
    job_id, owner = id_of(request, "job"), owner_of(request)
    jobs = services_of(request).store.jobs
    if not await jobs.cancel(job_id, owner):
        raise not_found("job", job_id)
    record = await jobs.get(job_id, owner)
    if record is None:
        raise not_found("job", job_id)
    return _shown(record)


def routes() -> list[Route]:
    """Return the routes."""
    submission = Description(
        "Submit one request, or up to 1 000 under requests",
        {"oneOf": [JobObject, list_of(JobObject)]},
        status=202,
        headers={**KEY_HEADER, **HANDLING_SCHEMAS},
        body=JOBS,
        errors=REUSED,
        answer_headers={
            "Location": "the job's path, or that of the list",
            "openai-poll-after-ms": "until one looks again",
        },
    )
    text = {"type": "string"}
    filters: dict[str, Schema] = {
        "status": {"enum": [*Status, ""]},
        "tier": {
            "anyOf": [NAME_SCHEMA, {"enum": ["degraded", ""]}],
            "description": "that answered, or where it stands",
        },
        "model": {**text, "maxLength": LONGEST_MODEL},
        "q": {**text, "maxLength": LONGEST_TEXT, "description": "part of an id or metadata value"},
    }
    listing = Description(
        "List jobs, newest first", page_of_list(JobObject), query={**filters, **page_query("job")}
    )
    about = "seconds to wait for its end"
    number = {"type": "number", "minimum": 0, "maximum": MAX_WAIT_SECONDS, "description": about}
    wait = {"wait": number}
    return [
        Route("POST", "/v1/jobs", create, submission),
        Route("GET", "/v1/jobs", list_jobs, listing),
        Route("GET", "/v1/jobs/{id}", get, Description("Poll a job", JobObject, query=wait)),
        Route("POST", "/v1/jobs/{id}/cancel", cancel, Description("Cancel a job", JobObject)),
    ]
