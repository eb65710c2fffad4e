"""Jobs: submit, poll, list, cancel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Route

from api.body import read_json
from api.errors import bad, json_response, not_found
from api.schemas import MAX_WAIT_SECONDS, accepted, jobs_of, show
from api.services import owner_of, services

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

LARGEST_PAGE = 100


async def create(request: Request) -> Response:
    """POST /v1/jobs: accept one request, or up to 1 000 under "requests"."""
    found = services(request)
    value = await read_json(request)
    jobs = jobs_of(value, owner_of(request), found.settings.job_deadline_seconds)
    created_at = await found.submitter.submit(jobs)
    shown = [accepted(job, created_at) for job in jobs]
    if "requests" in value:
        return json_response({"object": "list", "data": shown}, 202, {"Location": "/v1/jobs"})
    return json_response(shown[0], 202, {"Location": f"/v1/jobs/{jobs[0].id}"})


async def get(request: Request) -> Response:
    """GET /v1/jobs/{id}?wait=SECONDS: the job, as soon as it is finished."""
    job_id = request.path_params["id"]
    wait = _number(request, "wait", 0.0, 0.0, MAX_WAIT_SECONDS)
    record = await services(request).waiters.wait(job_id, owner_of(request), wait)
    if record is None:
        raise not_found("job", job_id)
    return json_response(show(record))


async def list_jobs(request: Request) -> Response:
    """GET /v1/jobs?limit=&after=: newest first."""
    limit = int(_number(request, "limit", 20, 1, LARGEST_PAGE))
    after = request.query_params.get("after")
    found = services(request)
    owner = owner_of(request)
    if after is not None and await found.store.get(after, owner) is None:
        raise bad(f"after: no job {after!r}", "after")
    records, more = await found.store.list_jobs(owner, limit, after)
    page = {
        "object": "list",
        "data": [show(record) for record in records],
        "first_id": records[0].id if records else None,
        "last_id": records[-1].id if records else None,
        "has_more": more,
    }
    return json_response(page)


async def cancel(request: Request) -> Response:
    """POST /v1/jobs/{id}/cancel: a finished job stays as it is."""
    job_id, owner = request.path_params["id"], owner_of(request)
    store = services(request).store
    if not await store.cancel(job_id, owner):
        raise not_found("job", job_id)
    record = await store.get(job_id, owner)
    if record is None:
        raise not_found("job", job_id)
    return json_response(show(record))


def _number(request: Request, name: str, default: float, low: float, high: float) -> float:
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise bad(f"{name}: must be a number from {low:g} to {high:g}, not {text!r}", name)
    return value


def routes(prefix: str) -> list[Route]:
    """Return the routes under a prefix."""
    return [
        Route(f"{prefix}/jobs", create, methods=["POST"]),
        Route(f"{prefix}/jobs", list_jobs, methods=["GET"]),
        Route(f"{prefix}/jobs/{{id}}", get, methods=["GET"]),
        Route(f"{prefix}/jobs/{{id}}/cancel", cancel, methods=["POST"]),
    ]
