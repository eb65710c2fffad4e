"""What the wire's schemas have in common."""

from __future__ import annotations

import msgspec

from api.schemas import Handling, JobRequest


def test_a_job_and_a_chat_completion_are_handled_by_the_same_fields():
    fields = {field.name: field for field in msgspec.structs.fields(JobRequest)}
    for field in msgspec.structs.fields(Handling):
        assert (field.type, field.default) == (fields[field.name].type, fields[field.name].default)
