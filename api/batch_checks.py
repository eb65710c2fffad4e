"""What is wrong with a batch's input file, before a batch is made of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta, Struct

from api.body import body_of
from api.errors import bad, json_response
from api.routing import Description, Route
from api.schemas import check, parse_json
from api.services import is_id, owner_of, services_of
from fallback_chain import Endpoint
from tasks.jsonl.input import BOM, MAX_LINE_BYTES, examine, url_of
from tasks.storage import content_name

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from tasks.jsonl.input import Findings
    from tasks.storage import Storage

MOST_TOLD = 100
SLICE_LINES = 1000  # of slices that are only counted here


class ValidationRequest(Struct, kw_only=True):
    """POST /v1/validations. endpoint: the url of the first line, if it is not given."""

    input_file_id: Annotated[str, Meta(min_length=1)]
    endpoint: Endpoint | None = None


class Problem(Struct):
    """What is wrong with a line; line: its number from 1, null of the file as a whole."""

    line: int | None
    code: str
    message: str
    param: str | None


class ValidationObject(Struct, kw_only=True):
    """What validation would say of a file. problems: the first hundred of all."""

    object: Literal["validation"] = "validation"
    endpoint: Endpoint
    lines: int
    model: str | None
    problem_count: int
    problems: list[Problem]


async def validate(request: Request) -> Response:
    """POST /v1/validations: every problem of an uploaded file; no batch is made."""
    async with body_of(request) as body:
        asked: ValidationRequest = check(parse_json(body), ValidationRequest)
    services, name = services_of(request), asked.input_file_id
    missing = bad(f"input_file_id: no file {name!r}", "input_file_id")
    files = services.store.files
    if not is_id(name) or await files.get(name, owner_of(request)) is None:
        raise missing
    async with services.validations:  # one after the other: each takes a core for a while
        try:
            endpoint, findings = await asyncio.to_thread(
                _examined, files.storage, name, asked.endpoint
            )
        except FileNotFoundError:
            raise missing from None
    return json_response(_shown(endpoint, findings))


def _examined(
    storage: Storage, file_id: str, endpoint: Endpoint | None
) -> tuple[Endpoint, Findings]:
    if endpoint is None:
        head = storage.read(content_name(file_id), 0, len(BOM) + MAX_LINE_BYTES)
        endpoint = url_of(head) or Endpoint.CHAT
    with storage.open(content_name(file_id)) as file:
        return endpoint, examine(file, endpoint, SLICE_LINES)


def _shown(endpoint: Endpoint, findings: Findings) -> ValidationObject:
    told = findings.errors[:MOST_TOLD]
    return ValidationObject(
        endpoint=endpoint,
        lines=findings.total,
        model=findings.model or None,
        problem_count=findings.error_count,
        problems=[Problem(each.line, each.code, each.message, each.param) for each in told],
    )


def routes() -> list[Route]:
    """Return the routes."""
    about: Any = Description(
        "Say what is wrong with a file, line by line", ValidationObject, body=ValidationRequest
    )
    return [Route("POST", "/v1/validations", validate, about)]
