"""An id for each request: its caller's own, or ours; in its answer, and in what is logged."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import msgspec

from tasks.telemetry import logs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.requests import Request
    from starlette.types import Message, Scope, Send

    from tasks.records.jobs import Submission

HEADER = b"x-request-id"
_GOOD = re.compile(rb"[!-~]{1,128}")  # what is no more than this is taken over


def new_request_id() -> bytes:
    """Return an id of ours."""
    return b"req_" + os.urandom(16).hex().encode()


def answering(scope: Scope, send: Send) -> Send:
    """Return what sends a request's answer with its id; from now on the log has it, too."""
    given = next((value for name, value in scope["headers"] if name == HEADER), b"")
    own = bool(_GOOD.fullmatch(given))
    request_id = given if own else new_request_id()
    scope.setdefault("state", {})["callers_request_id"] = given.decode() if own else ""
    logs.about.set({"request_id": request_id.decode()})

    async def send_with_id(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), (HEADER, request_id)]
        await send(message)

    return send_with_id


def named(request: Request, jobs: Iterable[Submission]) -> list[Submission]:
    """Return jobs that know their caller's id, if he gave one: their workers log it."""
    request_id = request.scope["state"]["callers_request_id"]
    if not request_id:
        return list(jobs)
    replace = msgspec.structs.replace
    return [replace(job, options=replace(job.options, request_id=request_id)) for job in jobs]
