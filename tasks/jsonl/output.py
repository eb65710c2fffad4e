"""The lines of a batch's output and error files, as OpenAI's clients read them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from fallback_chain import fit_of
from tasks.jsonl.one_line import one_line
from tasks.records.batches import LineResult
from tasks.records.jobs import BegunJob, Status

if TYPE_CHECKING:
    from tasks.records.outcomes import Finish


class _Response(msgspec.Struct):
    status_code: int
    request_id: str
    body: msgspec.Raw


class _OutputLine(msgspec.Struct):
    id: str
    custom_id: str | None
    response: _Response | None
    error: dict[str, Any] | None
    fallthrough: dict[str, Any]


def answered_line(index: int, custom_id: str, job: BegunJob, done: Finish) -> LineResult:
    """Return a line that has its result: of the output file, or of the error file."""
    line_id = f"batch_req_{job.id.removeprefix('batch_')}"
    good = done.status is Status.SUCCEEDED
    if good:
        status, body = 200, _compact(done.answer or b"null")
    else:
        status, body = done.error_status or 503, msgspec.json.encode({"error": done.error})
    provenance: dict[str, Any] = {"attempts": done.attempts}
    if done.tier_used:
        provenance["tier_used"] = done.tier_used
    last = done.attempts[-1] if good and done.attempts else None
    if last and (fit := fit_of(last.verdict, last.detail)):
        provenance["fit"] = fit
    response = _Response(status, line_id, msgspec.Raw(body))
    line = _OutputLine(line_id, custom_id, response, None, provenance)
    return LineResult(
        line=index,
        good=good,
        content=one_line(msgspec.json.encode(line)),
        counted_as=f"{done.tier_used or '-'}:{done.status.value}",
        tokens=done.tokens,
        model=done.model,
        milliseconds=done.milliseconds,
    )


def _compact(answer: bytes) -> bytes:
    # The model's words are in it as they came; a server that writes JSON over several lines may not
    # break ours.
    broken = b"\n" in answer or b"\r" in answer
    return msgspec.json.format(answer, indent=-1) if broken else answer


# Why a line has no answer -> its error's code and message.
UNANSWERED = {
    "cancelled": ("batch_cancelled", "the batch was cancelled before this line was answered"),
    "expired": ("batch_expired", "the batch expired before this line was answered"),
    # A batch with such lines completes only if nobody could read them.
    "completed": ("file_not_found", "the input file was gone before this line was answered"),
    "failed": ("batch_failed", "the batch was given up before this line was answered"),
    "unreadable": ("invalid_json_line", "this line is not parseable as valid JSON any more"),
}


def unanswered_line(batch: str, number: int, index: int, custom_id: str | None, why: str) -> bytes:
    """Return the error file's line for one without an answer. why: a key of UNANSWERED."""
    line_id = f"batch_req_{batch.removeprefix('batch_')}-{number}-{index}"
    code, message = UNANSWERED[why]
    error = {"code": code, "message": message}
    line = _OutputLine(line_id, custom_id, None, error, {"attempts": []})
    return one_line(msgspec.json.encode(line))


class Failed(NamedTuple):
    """A line of an error file: its place in its slice, and why it has no answer.

    status: HTTP's; None: it was never asked.
    """

    slice: int
    place: int
    custom_id: str | None
    code: str
    message: str
    status: int | None
    attempts: list[dict[str, Any]]


_output_line = msgspec.json.Decoder(_OutputLine)
_enveloped = msgspec.json.Decoder(dict[str, Any])


def read_failed(text: bytes) -> Failed:
    """Read what answered_line(), or unanswered_line(), wrote into an error file."""
    line = _output_line.decode(text)
    status, error = None, line.error
    if line.response is not None:
        status = line.response.status_code
        error = _enveloped.decode(line.response.body).get("error")
    error = error if isinstance(error, dict) else {"message": error}
    number, place = line.id.rsplit("-", 2)[1:]
    return Failed(
        *(int(number), int(place), line.custom_id),
        code=str(error.get("code") or error.get("type") or "error"),
        message=str(error.get("message") or ""),
        status=status,
        attempts=line.fallthrough.get("attempts", []),
    )


class _Answered(msgspec.Struct):
    tier_used: str = ""


class _Output(msgspec.Struct):
    custom_id: str
    fallthrough: _Answered


_output = msgspec.json.Decoder(_Output)


def answered_custom_id(text: bytes) -> str | None:
    """Return the custom_id of an output line; None if only the degraded message answers it."""
    line = _output.decode(text)
    return None if line.fallthrough.tier_used == "degraded" else line.custom_id
