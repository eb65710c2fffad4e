"""What the wire's schemas have in common."""

from __future__ import annotations

import re

import msgspec
import pytest

from api.errors import ApiError
from api.schemas import (
    Deadlines,
    Handling,
    JobRequest,
    _is_readable,
    jobs_of,
    parse_json,
    show,
    show_in_list,
    submission_of,
)
from fallback_chain import Endpoint
from tasks.records.jobs import JobRecord, Status


def test_a_job_and_a_chat_completion_are_handled_by_the_same_fields():
    fields = {field.name: field for field in msgspec.structs.fields(JobRequest)}
    for field in msgspec.structs.fields(Handling):
        assert (field.type, field.default) == (fields[field.name].type, fields[field.name].default)


def submitted(**fields):
    body = {"messages": [{"role": "user", "content": "Hi"}], **fields}
    return submission_of(body, Endpoint.CHAT, {}, "ann", Deadlines(60.0, 600.0))


FITS = {f"k{n}": "v" * 512 for n in range(16)}


@pytest.mark.parametrize(
    ("metadata", "kept"),
    [
        (FITS, FITS),
        ({**FITS, "one more": "v"}, FITS),
        ({"k" * 65: "v", "k" * 64: "v"}, {"k" * 64: "v"}),
        ({"long": "v" * 513, "k": "v"}, {"k": "v"}),
        ({"a": True, "b": 1, "c": None, "d": ["x"], "e": {"f": 1}, "k": "v"}, {"k": "v"}),
        (["k", "v"], {}),
        ("k", {}),
        (None, {}),
    ],
)
def test_a_completions_own_metadata_goes_to_the_model_and_a_jobs_part_of_it_is_kept(metadata, kept):
    """It is kept and searched for as long as the job: 4 MB of it kept the store busy for 40 ms."""
    job = submitted(metadata=metadata)
    assert job.metadata == kept
    assert job.body.decoded()["metadata"] == metadata


def test_metadata_under_fallthrough_is_the_jobs_and_no_models():
    own = {"k": "v"}
    job = submitted(metadata={"for": "the model"}, fallthrough={"metadata": own})
    assert job.metadata == own
    assert job.body.decoded()["metadata"] == {"for": "the model"}
    with pytest.raises(ApiError, match=r"fallthrough\.metadata"):
        submitted(fallthrough={"metadata": {"k": "v" * 513}})


def test_a_models_name_has_a_length():
    assert submitted(model="m" * 256).body.model
    with pytest.raises(ApiError, match="model: "):
        submitted(model="m" * 257)


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


def record_of(answer):
    told = {"id": "job_1", "status": Status.SUCCEEDED, "queue": "interactive", "answer": answer}
    return JobRecord(**dict.fromkeys(JobRecord.__struct_fields__) | told)


def test_of_vectors_the_usage_is_told_and_a_list_says_what_it_leaves_out():
    vectors = b'{"object": "list", "data": [{"embedding": [0.1]}], "usage": {"total_tokens": 2}}'
    shown = show_in_list(record_of(msgspec.Raw(vectors)))
    assert (shown.text, shown.usage, shown.answer_omitted) == (None, {"total_tokens": 2}, False)
    assert show_in_list(record_of(None)).answer_omitted
    assert not show(record_of(None)).answer_omitted


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


def test_a_body_may_begin_with_a_byte_order_mark():
    assert parse_json('\ufeff{"prompt": "x"}'.encode()) == {"prompt": "x"}


def handled(headers, fallthrough=None):
    body = {"messages": [{"role": "user", "content": "hi"}], "fallthrough": fallthrough}
    return submission_of(body, Endpoint.CHAT, headers, "ann", Deadlines(60.0, 600.0))


@pytest.mark.parametrize(
    "body", [None, {}, {"cache": "off"}, {"metadata": {"team": "a"}}, {"tiers": None}]
)
def test_headers_say_what_the_body_does_not(body):
    headers = {
        "x-fallthrough-tiers": "cpu",
        "x-fallthrough-on-exhausted": "fail",
        "x-fallthrough-deadline-seconds": "7",
    }
    job = handled(headers, body)
    assert (job.options.tiers, job.options.on_exhausted) == (("cpu",), "fail")
    assert job.deadline_seconds == 7
    assert job.options.cache == ("off" if body == {"cache": "off"} else "fallback")


def test_what_the_body_says_counts():
    headers = {"x-fallthrough-tiers": "cpu", "x-fallthrough-cache": "off"}
    job = handled(headers, {"tiers": ["gpu"], "cache": "fallback"})
    assert (job.options.tiers, job.options.cache) == (("gpu",), "fallback")


@pytest.mark.parametrize("listed", [False, True])
def test_headers_say_what_a_job_does_not(listed):
    headers = {
        "x-fallthrough-tiers": "gpu, cache",
        "x-fallthrough-cache": "first",
        "x-fallthrough-deadline-seconds": "7",
    }
    one = {"prompt": "x", "cache": "off", "tiers": None}
    [job], _ = jobs_of({"requests": [one]} if listed else one, "ann", 60.0, headers)
    assert (job.options.tiers, job.options.cache) == (("gpu", "cache"), "off")
    assert job.deadline_seconds == 7
    with pytest.raises(ApiError, match="x-fallthrough-tier: there is no such header"):
        jobs_of(one, "ann", 60.0, {"x-fallthrough-tier": "gpu"})


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": "x", "fallthrough": {"tiers": ["gpu"]}}, "fallthrough"),
        ({"requests": [{"prompt": "x", "fallthrough": None}]}, "requests[0].fallthrough"),
    ],
)
def test_a_job_that_says_how_to_handle_it_where_a_completion_does_is_told_where(body, param):
    """It went to the model, and anybody answered."""
    with pytest.raises(ApiError, match="beside its other fields") as refused:
        jobs_of(body, "ann", 60.0, {})
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("headers", "body", "said"),
    [
        ({}, {"on_exhaused": "fail"}, "fallthrough.on_exhaused: there is no such field"),
        ({}, {"tier": ["cpu"]}, "fallthrough.tier: there is no such field"),
        (
            {"x-fallthrough-tier": "cpu"},
            None,
            "x-fallthrough-tier: there is no such header; there are x-fallthrough-cache, x-",
        ),
    ],
)
def test_a_way_of_handling_that_does_not_exist_is_refused(headers, body, said):
    with pytest.raises(ApiError, match=re.escape(said)):
        handled(headers, body)
