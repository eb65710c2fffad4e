"""The public wire format: what may be sent, and what comes back."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, get_args

import msgspec
from msgspec import Meta, Struct

from api.errors import bad
from api.paging import decimal
from api.tiers import NAMES_SCHEMA, Tiers
from fallback_chain import (
    LARGEST_ID,
    MOST_INPUTS,
    Body,
    Endpoint,
    UnshowableError,
    fault_of,
    read_answer,
)
from tasks.json_faults import UNREADABLE, fault_of_json, misfit_of
from tasks.jsonl.input import BOM
from tasks.process import no_collection
from tasks.records.files import FILE_SECONDS
from tasks.records.jobs import (
    BEGUN,
    LONGEST_MODEL,
    MAX_DEADLINE_SECONDS,
    JobRecord,
    Options,
    Queue,
    Status,
    Submission,
    new_job_id,
)
from tasks.records.outcomes import error_of
from tasks.records.policies import CachePolicy, ExhaustedPolicy, tier_names

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_REQUESTS = 1000  # in one POST /v1/jobs
MAX_WAIT_SECONDS = 60.0  # of a long poll
LARGEST_SHOWN = 65_536  # bytes of a request that an unfinished job shows
DEEPEST_SHOWN = 100  # lists and objects in one another; readers of JSON have limits of their own
SHORTEST_EXPIRY_SECONDS = 3600  # of a file

Deadline = Annotated[float, Meta(gt=0, le=MAX_DEADLINE_SECONDS)]
MOST_LABELS, LONGEST_LABEL, LONGEST_VALUE = 16, 64, 512  # of metadata, as OpenAI has them
Metadata = Annotated[
    dict[
        Annotated[str, Meta(max_length=LONGEST_LABEL)],
        Annotated[str, Meta(max_length=LONGEST_VALUE)],
    ],
    Meta(max_length=MOST_LABELS),
]
Model = Annotated[str, Meta(max_length=LONGEST_MODEL)]
Role = Annotated[str, Meta(min_length=1)]


class Message(Struct):
    """One message; its other fields go to the model as they are."""

    role: Role


class StreamOptions(Struct):
    """How a stream is to be sent; what else stands in it is no matter."""

    include_usage: bool | None = None


class Sampling(Struct, kw_only=True):
    """The fields of a request that we check, whatever it asks; all others pass through unread."""

    model: Model | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    n: Annotated[int, Meta(ge=1)] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None


class ChatRequest(Sampling, kw_only=True):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Meta(min_length=1)]


# Of several prompts each would have its own answer, of a tier of its own; and another tier's model
# reads other words in the ids of tokens.
OnePrompt = (
    Annotated[str, Meta(min_length=1)]
    | Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(min_length=1, max_length=1)]
)


class CompletionRequest(Sampling, kw_only=True):
    """POST /v1/completions: one prompt, as text."""

    prompt: OnePrompt


_ID = {"type": "integer", "minimum": 0, "exclusiveMaximum": LARGEST_ID}
_IDS = {"type": "array", "minItems": 1, "items": _ID}
_SOME = {"type": "array", "minItems": 1, "maxItems": MOST_INPUTS}
_WORDS = {"type": "string", "minLength": 1}
_INPUT = {"anyOf": [_WORDS, {**_SOME, "items": _WORDS}, _IDS, {**_SOME, "items": _IDS}]}


class EmbeddingRequest(Struct, kw_only=True):
    """POST /v1/embeddings; its other fields go to the model as they are."""

    model: Annotated[Model, Meta(min_length=1)]
    input: Annotated[Any, Meta(extra_json_schema=_INPUT)]
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None


class Handling(Struct, kw_only=True, forbid_unknown_fields=True):
    """How a request is to be answered, apart from what goes to the model."""

    cache: CachePolicy = "fallback"
    on_exhausted: ExhaustedPolicy = "degraded"
    tiers: Tiers | None = None
    deadline_seconds: Deadline | None = None
    metadata: Metadata | None = None


class JobRequest(Sampling, kw_only=True):
    """POST /v1/jobs: a prompt or messages, sampling parameters, and how to handle it."""

    messages: Annotated[list[Message], Meta(min_length=1)] | None = None
    prompt: Annotated[str, Meta(min_length=1)] | None = None
    cache: CachePolicy = "fallback"
    on_exhausted: ExhaustedPolicy = "degraded"
    tiers: Tiers | None = None
    deadline_seconds: Deadline | None = None
    metadata: Metadata | None = None


# What a JobRequest's type does not say, for the document: one of both, and only within a list.
_NULL, _ALONE = {"type": "null"}, {"requests": False, "fallthrough": False}
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


class BreakerChange(Struct, forbid_unknown_fields=True):
    """What may be said with a change of a breaker by hand."""

    why: Annotated[str, Meta(max_length=500)] = ""


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
    tier: str | None  # where an unfinished one stands
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
    answer_omitted: bool = False  # too large for a list: the job's own path has it
    streamed: bool = False
    first_token_at: float | None = None
    request: msgspec.Raw | None = None  # as it goes to the model; kept if it is small


class ErrorObject(Struct):
    """OpenAI's error."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorEnvelope(Struct):
    """What every error comes in."""

    error: ErrorObject


class _Counted(Struct):
    usage: Any = None


CHOICES = b'"choices"'  # what a completion has, and vectors have not
_counted = msgspec.json.Decoder(_Counted)
_NESTING = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
_HANDLING = frozenset(Handling.__struct_fields__)
HANDLING_PREFIX = "x-fallthrough-"
HANDLING_HEADERS = {
    HANDLING_PREFIX + name.replace("_", "-"): name
    for name in Handling.__struct_fields__
    if name != "metadata"
}
HANDLING_SCHEMAS: dict[str, Any] = {  # of these headers
    "x-fallthrough-cache": {"enum": list(get_args(CachePolicy))},
    "x-fallthrough-on-exhausted": {"enum": list(get_args(ExhaustedPolicy))},
    "x-fallthrough-tiers": NAMES_SCHEMA,
    "x-fallthrough-deadline-seconds": {
        "type": "number",
        "exclusiveMinimum": 0,
        "maximum": MAX_DEADLINE_SECONDS,
    },
}


def parse_json(content: bytes) -> Any:
    """Return the JSON value; a 400 says where it breaks."""
    try:
        with no_collection():
            # With the mark that Notepad and PowerShell put before it, as RFC 8259 lets us.
            return msgspec.json.decode(content.removeprefix(BOM))
    except UNREADABLE as error:
        fault = fault_of_json(content, error)
        raise bad(f"the body is not JSON: {fault}", code="invalid_json") from None


def check(value: Any, kind: type[Struct], place: str = "") -> Any:
    """Return value as that Struct; a 400 names the field that does not fit."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        path, what = misfit_of(error, kind)
        param = f"{place}.{path}".strip(".").replace(".[", "[") or None
        raise bad(f"{param or 'the body'}: {what}", param) from None


def jobs_of(
    value: Any, owner: str, default_deadline: float, headers: dict[str, str]
) -> tuple[list[Submission], bool]:
    """Read POST /v1/jobs: one request, or {"requests": [...]}; all are good or none is.

    Returns them, and whether it is a list. What a request does not say, x-fallthrough- headers do.
    """
    if not isinstance(value, dict):
        raise bad("the body must be a JSON object")
    defaults = _from_headers(headers)
    deadline = defaults.deadline_seconds or default_deadline
    if "requests" not in value:
        return [_job(value, owner, defaults, deadline)], False
    requests = value["requests"]
    if len(value) > 1:
        other = next(name for name in value if name != "requests")
        raise bad(f"{other}: beside requests, every field belongs into a request", other)
    if not isinstance(requests, list) or not 1 <= len(requests) <= MAX_REQUESTS:
        raise bad(f"requests: must be a list of 1 to {MAX_REQUESTS} requests", "requests")
    jobs = [
        _job(request, owner, defaults, deadline, f"requests[{i}]")
        for i, request in enumerate(requests)
    ]
    return jobs, True


def _job(
    value: Any, owner: str, defaults: Handling, deadline: float, place: str = ""
) -> Submission:
    """Read one request. place: of one in a list, at which nobody waits for each answer."""
    request: JobRequest = check(value, JobRequest, place)
    if (request.prompt is None) == (request.messages is None):
        param = f"{place}.prompt".strip(".")
        raise bad(f"{param}: give either prompt or messages", param)
    if "fallthrough" in value:  # no model knows it, and what it says would be lost
        param = f"{place}.fallthrough".strip(".")
        raise bad(f"{param}: a job takes tiers, cache and the like beside its other fields", param)
    body = {name: v for name, v in value.items() if name not in _HANDLING and name != "prompt"}
    if request.prompt is not None:
        body.pop("messages", None)
        body = {"messages": [{"role": "user", "content": request.prompt}], **body}
    return Submission(
        id=new_job_id(),
        owner=owner,
        queue=Queue.BATCH if place else Queue.INTERACTIVE,
        body=_sent(body),
        options=_options(_said(defaults, request, value), request),
        deadline_seconds=request.deadline_seconds or deadline,
        metadata=request.metadata or {},
    )


def _said(defaults: Handling, given: Handling | JobRequest, names: Iterable[str]) -> Handling:
    """Return how to handle what was given with these names; defaults: what it does not say."""
    own = {
        name: value
        for name in names
        if name in _HANDLING and (value := getattr(given, name)) is not None
    }
    return msgspec.structs.replace(defaults, **own)


def _sent(body: dict[str, Any]) -> Body:
    """Return what goes to the model; a 400 if it is nested just less deep than what can be read."""
    try:
        return Body.of(body)
    except RecursionError:
        raise bad("the body is nested too deep", code="invalid_json") from None


class Deadlines(NamedTuple):
    """Seconds that who waits for a completion is made to wait at most.

    stream: of one that comes in pieces, of which the first comes within `plain`.
    """

    plain: float
    stream: float


# What a caller who waits for the answer may send, by what he asks for.
REQUESTS: dict[Endpoint, type[Struct]] = {
    Endpoint.CHAT: ChatRequest,
    Endpoint.COMPLETIONS: CompletionRequest,
    Endpoint.EMBEDDINGS: EmbeddingRequest,
}


NO_SAMPLING = Sampling()


def submission_of(
    value: Any, endpoint: Endpoint, headers: dict[str, str], owner: str, deadlines: Deadlines
) -> Submission:
    """Read a request at an endpoint; "fallthrough" in its body, or x-fallthrough- headers."""
    if not isinstance(value, dict):
        raise bad("the body must be a JSON object")
    request: Struct = check(value, REQUESTS[endpoint])
    body = dict(value)
    if isinstance(request, CompletionRequest) and isinstance(request.prompt, list):
        [body["prompt"]] = request.prompt  # not every server takes a list
    if isinstance(request, EmbeddingRequest) and (fault := fault_of(request.input)):
        param = f"input{fault.place}"
        raise bad(f"{param}: {fault.what}", param)
    handling = _handling(headers, body.pop("fallthrough", None))
    sampling = request if isinstance(request, Sampling) else NO_SAMPLING
    own = handling.deadline_seconds
    return Submission(
        id=new_job_id(),
        owner=owner,
        queue=Queue.INTERACTIVE,
        body=_sent(body),
        options=msgspec.structs.replace(
            _options(handling, sampling),
            endpoint=endpoint.value,
            answer_by=deadlines.plain if sampling.stream and not own else 0.0,
        ),
        deadline_seconds=own or (deadlines.stream if sampling.stream else deadlines.plain),
        metadata=_labels(value.get("metadata")) if handling.metadata is None else handling.metadata,
    )


def _labels(metadata: Any) -> dict[str, str]:
    """Return what of a completion's own metadata, which the model gets whole, a job may have.

    Model servers take all kinds of it, nested and long; a job's is kept, listed and searched.
    """
    fitting = (
        (name, value)
        for name, value in (metadata.items() if isinstance(metadata, dict) else ())
        if len(name) <= LONGEST_LABEL and isinstance(value, str) and len(value) <= LONGEST_VALUE
    )
    return dict(itertools.islice(fitting, MOST_LABELS))


def _options(given: Handling, sampling: Sampling) -> Options:
    asked = sampling.stream_options
    return Options(
        given.cache,
        given.on_exhausted,
        tiers=tuple(given.tiers or ()),
        stream=bool(sampling.stream),
        usage=bool(sampling.stream and asked and asked.include_usage),
    )


def _handling(headers: dict[str, str], fallthrough: Any) -> Handling:
    """Return what a request's headers say, and what its body's "fallthrough" says instead."""
    by_header = _from_headers(headers)
    if fallthrough is None:
        return by_header
    handling: Handling = check(fallthrough, Handling, "fallthrough")
    return _said(by_header, handling, fallthrough)


def _from_headers(headers: dict[str, str]) -> Handling:
    fields: dict[str, Any] = {}
    for header, text in headers.items():
        if not header.startswith(HANDLING_PREFIX):
            continue
        name = HANDLING_HEADERS.get(header)
        if name is None:
            known = ", ".join(HANDLING_HEADERS)
            raise bad(f"{header}: there is no such header; there are {known}", header)
        readers = {"deadline_seconds": decimal, "tiers": tier_names}
        fields[name] = readers.get(name, str)(text)
        if fields[name] is None:
            raise bad(f"{header}: {text!r} is not a number", header)
    handling: Handling = check(fields, Handling, "x-fallthrough")
    return handling


def show_in_list(record: JobRecord) -> JobObject:
    """Return a job as lists show it: without its request, or an answer that is large."""
    shown = show(record)
    shown.answer_omitted = record.status is Status.SUCCEEDED and record.answer is None
    return shown


def show(record: JobRecord) -> JobObject:
    """Return a job as it is shown."""
    request = record.request
    answer, text, usage = record.answer, None, None
    error = record.error or _ending(record.status)
    if answer is not None:
        try:
            text, usage = _said_in(bytes(answer))
        except UnshowableError:  # kept by a release that did not look: it hides no other job
            answer = None
            error = error_of("the answer that was kept cannot be read", "unreadable_answer")
    return JobObject(
        id=record.id,
        status=record.status,
        queue=record.queue.removesuffix(BEGUN),
        tier=None if record.status.final else record.tier or None,
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
        streamed=bool(record.streamed),
        first_token_at=record.first_token_at,
        request=request if request and _is_readable(bytes(request)) else None,
    )


def _said_in(answer: bytes) -> tuple[str | None, dict[str, Any] | None]:
    """Return the text of an answer, if it can have any, and its usage; raises UnshowableError."""
    if CHOICES not in answer:  # vectors: of 16 MB all would take half a second to decode
        try:
            usage = _counted.decode(answer).usage
        except UNREADABLE as error:
            raise UnshowableError from error
        return None, usage if isinstance(usage, dict) else None
    read = read_answer(answer)
    return read.text if read.choices else None, read.usage


def accepted(job: Submission, created_at: float) -> JobObject:
    """Return a job as it is shown when it was just accepted."""
    return JobObject(
        id=job.id,
        status=Status.QUEUED,
        queue=job.queue.value,
        tier=None,
        created_at=created_at,
        started_at=None,
        finished_at=None,
        deadline_at=created_at + job.deadline_seconds,
        model=job.body.model or None,
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


def _is_readable(request: bytes) -> bool:
    """Whether whoever reads a job can read its request, too: it is neither long nor deep."""
    if len(request) > LARGEST_SHOWN:
        return False
    depth = deepest = 0
    for token in _NESTING.findall(request):
        depth += (token in b"[{") - (token in b"]}")
        deepest = max(deepest, depth)
    return deepest <= DEEPEST_SHOWN
