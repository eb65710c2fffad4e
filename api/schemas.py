"""The public wire format: what may be sent, and what comes back."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from api.errors import bad
from api.paging import decimal
from fallback_chain import UnshowableError, read_answer
from tasks.process import no_collection
from tasks.records.files import FILE_SECONDS
from tasks.records.jobs import (
    MAX_DEADLINE_SECONDS,
    JobRecord,
    Options,
    Queue,
    Status,
    Submission,
    new_job_id,
)
from tasks.records.outcomes import error_of
from tasks.records.policies import CachePolicy, ExhaustedPolicy  # noqa: TC001 - msgspec reads them

MAX_REQUESTS = 1000  # in one POST /v1/jobs
MAX_WAIT_SECONDS = 60.0  # of a long poll
SHORTEST_EXPIRY_SECONDS = 3600  # of a file

Deadline = Annotated[float, Meta(gt=0, le=MAX_DEADLINE_SECONDS)]
Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]],
    Meta(max_length=16),
]
Role = Annotated[str, Meta(min_length=1)]
# A true one is refused with a code of its own.
Unstreamed = Annotated[bool, Meta(extra_json_schema={"const": False})]


class Message(Struct):
    """One message; its other fields go to the model as they are."""

    role: Role


class Sampling(Struct, kw_only=True):
    """The fields of a chat-completions body that we check; all others pass through unread."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    model: str | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    n: Annotated[int, Meta(ge=1)] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    stream: Unstreamed | None = None
    user: str | None = None


class Handling(Struct, kw_only=True):
    """How a request is to be answered, apart from what goes to the model."""

    cache: CachePolicy = "fallback"
    on_exhausted: ExhaustedPolicy = "degraded"
    deadline_seconds: Deadline | None = None
    metadata: Metadata | None = None


class JobRequest(Sampling, kw_only=True):
    """POST /v1/jobs: a prompt or messages, sampling parameters, and how to handle it."""

    messages: Annotated[list[Message], Meta(min_length=1)] | None = None  # type: ignore[assignment]
    prompt: Annotated[str, Meta(min_length=1)] | None = None
    cache: CachePolicy = "fallback"
    on_exhausted: ExhaustedPolicy = "degraded"
    deadline_seconds: Deadline | None = None
    metadata: Metadata | None = None


# What a JobRequest's type does not say, for the document: one of both, and only within a list.
_NULL, _ALONE = {"type": "null"}, {"requests": False}
_PROMPT = {"prompt": {"type": "string"}, "messages": _NULL, **_ALONE}
_MESSAGES = {"messages": {"type": "array"}, "prompt": _NULL, **_ALONE}
ONE_JOB: dict[str, Any] = {
    "oneOf": [
        {"allOf": [JobRequest, {"type": "object", "properties": fields, "required": [name]}]}
        for name, fields in (("prompt", _PROMPT), ("messages", _MESSAGES))
    ]
}
JOBS: dict[str, Any] = {
    "oneOf": [
        *ONE_JOB["oneOf"],
        {
            "type": "object",
            "properties": {
                "requests": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": MAX_REQUESTS,
                    "items": ONE_JOB,
                }
            },
            "required": ["requests"],
            "additionalProperties": False,
        },
    ]
}


class ExpiresAfter(Struct):
    """When a file is deleted: so many seconds after it was made."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Meta(ge=SHORTEST_EXPIRY_SECONDS, le=FILE_SECONDS)]


class JobObject(Struct, kw_only=True):
    """A job as it is shown. Times are epoch seconds."""

    id: str
    object: Literal["job"] = "job"
    status: Status
    queue: str
    created_at: float
    started_at: float | None
    finished_at: float | None
    deadline_at: float
    model: str | None
    tier_used: str | None
    degraded: bool
    cache_age_seconds: float | None
    fit: str | None  # failed, unchecked
    text: str | None
    answer: msgspec.Raw | None
    usage: dict[str, Any] | None
    attempts: list[dict[str, Any]]
    error: dict[str, Any] | None
    metadata: dict[str, str]


class ErrorObject(Struct):
    """OpenAI's error."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorEnvelope(Struct):
    """What every error comes in."""

    error: ErrorObject


_HANDLING = frozenset(Handling.__struct_fields__)
_PLACE = re.compile(r"^(?P<what>.*?)(?: - at (?P<key>`key` in )?`\$\.?(?P<path>.*)`)?$")


def parse_json(content: bytes) -> Any:
    """Return the JSON value; a 400 says at which byte it breaks."""
    try:
        with no_collection():
            return msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        place = _place_of(content, error)
        raise bad(f"the body is not JSON: {place}", code="invalid_json") from None


def _place_of(content: bytes, error: Exception) -> str:
    # msgspec does not always say where; the standard library does.
    try:
        json.loads(content)
    except (ValueError, RecursionError) as failure:
        return str(failure)
    return str(error)


def check(value: Any, kind: type[Any], place: str = "") -> Any:
    """Return value as that Struct; a 400 names the field that does not fit."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        match = _PLACE.match(str(error))
        path = (match and match["path"]) or ""
        what = match["what"] if match else str(error)
        missing = re.search(r"missing required field `(\w+)`", what)
        if missing:
            path = f"{path}.{missing[1]}".strip(".")
        if match and match["key"]:
            what = f"of a key: {what}"
        param = f"{place}.{path}".strip(".").replace(".[", "[") or None
        raise bad(f"{param or 'body'}: {what}", param) from None


def jobs_of(value: Any, owner: str, default_deadline: float) -> list[Submission]:
    """Read POST /v1/jobs: one request, or {"requests": [...]}; all are good or none is."""
    if not isinstance(value, dict):
        raise bad("the body must be a JSON object")
    if "requests" not in value:
        return [_job(value, owner, Queue.INTERACTIVE, default_deadline, "")]
    requests = value["requests"]
    if len(value) > 1:
        other = next(name for name in value if name != "requests")
        raise bad(f"{other}: beside requests, every field belongs into a request", other)
    if not isinstance(requests, list) or not 1 <= len(requests) <= MAX_REQUESTS:
        raise bad(f"requests: must be a list of 1 to {MAX_REQUESTS} requests", "requests")
    return [
        _job(request, owner, Queue.BATCH, default_deadline, f"requests[{i}]")
        for i, request in enumerate(requests)
    ]


def _job(value: Any, owner: str, queue: Queue, deadline: float, place: str) -> Submission:
    request: JobRequest = check(value, JobRequest, place)
    if (request.prompt is None) == (request.messages is None):
        param = f"{place}.prompt".strip(".")
        raise bad(f"{param}: give either prompt or messages", param)
    _refuse_stream(request, place)
    body = {name: v for name, v in value.items() if name not in _HANDLING and name != "prompt"}
    if request.prompt is not None:
        body.pop("messages", None)
        body = {"messages": [{"role": "user", "content": request.prompt}], **body}
    return Submission(
        id=new_job_id(),
        owner=owner,
        queue=queue,
        body=body,
        options=Options(request.cache, request.on_exhausted),
        deadline_seconds=request.deadline_seconds or deadline,
        metadata=request.metadata or {},
    )


def chat_of(value: Any, headers: dict[str, str], owner: str, default_deadline: float) -> Submission:
    """Read POST /v1/chat/completions; "fallthrough" in the body, or x-fallthrough- headers."""
    if not isinstance(value, dict):
        raise bad("the body must be a JSON object")
    sampling: Sampling = check(value, Sampling)
    _refuse_stream(sampling, "")
    body = dict(value)
    fallthrough = body.pop("fallthrough", None)
    handling = _from_headers(headers)
    if fallthrough is not None:
        handling = check(fallthrough, Handling, "fallthrough")
    metadata = value.get("metadata")
    labels = metadata if isinstance(metadata, dict) else {}
    return Submission(
        id=new_job_id(),
        owner=owner,
        queue=Queue.INTERACTIVE,
        body=body,
        options=Options(handling.cache, handling.on_exhausted),
        deadline_seconds=handling.deadline_seconds or default_deadline,
        metadata={str(k): str(v) for k, v in labels.items()},
    )


def _from_headers(headers: dict[str, str]) -> Handling:
    fields: dict[str, Any] = {}
    for name in ("cache", "on_exhausted", "deadline_seconds"):
        header = "x-fallthrough-" + name.replace("_", "-")
        text = headers.get(header)
        if text is None:
            continue
        fields[name] = decimal(text) if name == "deadline_seconds" else text
        if fields[name] is None:
            raise bad(f"{header}: {text!r} is not a number", header)
    handling: Handling = check(fields, Handling, "x-fallthrough")
    return handling


def _refuse_stream(request: Sampling, place: str) -> None:
    if request.stream:
        param = f"{place}.stream".strip(".")
        message = f"{param}: streaming is not supported yet; leave it out or send false"
        raise bad(message, param, "unsupported_parameter")


def show(record: JobRecord) -> JobObject:
    """Return a job as it is shown."""
    answer, text, usage = record.answer, None, None
    error = record.error or _ending(record.status)
    if answer is not None:
        try:
            read = read_answer(bytes(answer))
            text, usage = read.text, read.usage
        except UnshowableError:  # kept by a release that did not look: it hides no other job
            answer = None
            error = error_of("the answer that was kept cannot be read", "unreadable_answer")
    return JobObject(
        id=record.id,
        status=record.status,
        queue=record.queue,
        created_at=record.created_at,
        started_at=record.started_at,
        finished_at=record.finished_at,
        deadline_at=record.deadline_at,
        model=record.model,
        tier_used=record.tier_used,
        degraded=record.tier_used == "degraded",
        cache_age_seconds=record.cache_age_seconds,
        fit=record.fit,
        text=text,
        answer=answer,
        usage=usage,
        attempts=record.attempts,
        error=error,
        metadata=record.metadata,
    )


def accepted(job: Submission, created_at: float) -> JobObject:
    """Return a job as it is shown when it was just accepted."""
    return JobObject(
        id=job.id,
        status=Status.QUEUED,
        queue=job.queue.value,
        created_at=created_at,
        started_at=None,
        finished_at=None,
        deadline_at=created_at + job.deadline_seconds,
        model=job.body.get("model"),
        tier_used=None,
        degraded=False,
        cache_age_seconds=None,
        fit=None,
        text=None,
        answer=None,
        usage=None,
        attempts=[],
        error=None,
        metadata=job.metadata,
    )


def _ending(status: Status) -> dict[str, Any] | None:
    messages = {
        Status.EXPIRED: "the job was not answered before its deadline",
        Status.CANCELLED: "the job was cancelled",
    }
    if status not in messages:
        return None
    return {
        "message": messages[status],
        "type": "server_error",
        "param": None,
        "code": f"job_{status.value}",
    }
