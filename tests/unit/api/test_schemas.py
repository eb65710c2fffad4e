"""What the wire's schemas have in common."""

from __future__ import annotations

import msgspec
import pytest

from api.schemas import (
    Handling,
    JobRequest,
    _is_readable,
    show,
)
from tasks.records.jobs import JobRecord, Status


def test_a_job_and_a_chat_completion_are_handled_by_the_same_fields():
    fields = {field.name: field for field in msgspec.structs.fields(JobRequest)}
    for field in msgspec.structs.fields(Handling):
        assert (field.type, field.default) == (fields[field.name].type, fields[field.name].default)


@pytest.mark.parametrize(
    "answer", [b'{"choices": [7]}', b"{", b"7", b'{"choices": [], "x": 1e999}']
)
def test_a_kept_answer_that_cannot_be_read_is_told_and_hides_nothing(answer):
    told = {"id": "job_1", "status": Status.SUCCEEDED, "queue": "interactive.begun"}
    told["answer"] = msgspec.Raw(answer)
    record = JobRecord(**dict.fromkeys(JobRecord.__struct_fields__) | told)
    shown = msgspec.json.decode(msgspec.json.encode(show(record)))
    assert (shown["id"], shown["status"], shown["answer"]) == ("job_1", "succeeded", None)
    assert shown["error"]["code"] == "unreadable_answer"
    assert shown["queue"] == "interactive"


@pytest.mark.parametrize(
    ("request_bytes", "is_shown"),
    [
        (b'{"a": "[[[["}', True),
        (b"[" * 100 + b"]" * 100, True),
        (b"[" * 101 + b"]" * 101, False),
        (b'"' + b"x" * 65_536 + b'"', False),
    ],
)
def test_a_request_that_is_long_or_deep_is_not_shown(request_bytes, is_shown):
    assert _is_readable(request_bytes) is is_shown
