"""Which lines of a batch are to be asked again, and what is told of those that failed."""

from __future__ import annotations

import io
import json

import pytest
from harness.batches import jsonl, line
from harness.records import begun_job

from fallback_chain import Attempt, Endpoint, Verdict
from tasks.jsonl.input import BOM, url_of
from tasks.jsonl.output import answered_line, read_failed, unanswered_line
from tasks.jsonl.retry import unanswered_lines
from tasks.records.jobs import Status
from tasks.records.outcomes import Finish, degraded, exhausted

GPU = (Attempt("gpu", Verdict.ANSWERED, 5.0),)
ANSWERED = Finish(status=Status.SUCCEEDED, attempts=GPU, tier_used="gpu", answer=b"{}")
CACHED = Finish(status=Status.SUCCEEDED, attempts=(), tier_used="cache", answer=b"{}")


def output(custom_id, finish):
    job = begun_job(id="batch_1a-0-0")
    return answered_line(0, custom_id, job, finish).content


def test_what_a_model_or_the_cache_answered_is_not_asked_again():
    lines = [line(name, "x") for name in "abcd"]
    outputs = [output("a", ANSWERED), output("b", CACHED), output("c", degraded((), b"{}"))]
    again = b"".join(unanswered_lines(io.BytesIO(jsonl(lines)), outputs))
    assert again == jsonl(lines[2:])


@pytest.mark.parametrize(
    "content",
    [
        BOM + jsonl([line("a", "x"), line("b", "y")]),
        b"\n  \n" + jsonl([line("a", "x"), line("b", "y")]),
        jsonl([line("a", "x"), line("b", "y")]).replace(b"\n", b"\r\n").rstrip(b"\r\n"),
        jsonl([line("a", "x"), line("b", "y")]) + b"\n{broken\n",
    ],
)
def test_an_input_is_read_as_validation_reads_it(content):
    again = list(unanswered_lines(io.BytesIO(content), [output("a", ANSWERED)]))
    assert [json.loads(text)["custom_id"] for text in again] == ["b"]
    assert all(text.endswith(b"\n") and b"\r" not in text for text in again)


def test_a_line_that_every_tier_failed_says_where_it_stood_and_why():
    tries = (Attempt("gpu", Verdict.FAILURE, 5.0, "HTTP 500"),)
    job = begun_job(id="batch_1a-3-17")
    told = read_failed(answered_line(17, "c17", job, exhausted(tries)).content)
    assert (told.slice, told.place, told.custom_id) == (3, 17, "c17")
    assert (told.code, told.status) == ("tiers_exhausted", 503)
    assert told.message == "no tier could answer: gpu failure"
    assert told.attempts[0]["detail"] == "HTTP 500"


@pytest.mark.parametrize(
    ("why", "code"), [("cancelled", "batch_cancelled"), ("expired", "batch_expired")]
)
def test_a_line_that_was_never_asked_has_no_status(why, code):
    told = read_failed(unanswered_line("batch_1a", 2, 5, None, why))
    assert (told.slice, told.place, told.code, told.status) == (2, 5, code, None)
    assert told.custom_id is None


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        ({"message": "n is too large", "type": "invalid_request_error", "code": None}, None, None),
        ({"message": None, "type": "x"}, "x", ""),
        ({}, "error", ""),
    ],
)
def test_an_upstreams_own_error_need_not_have_a_code(error, code, message):
    finish = Finish(status=Status.FAILED, attempts=GPU, error=error, error_status=400)
    told = read_failed(answered_line(0, "a", begun_job(id="batch_1a-0-0"), finish).content)
    assert told.code == (code or "invalid_request_error")
    assert told.message == (message if message is not None else "n is too large")


@pytest.mark.parametrize(
    ("head", "url"),
    [
        (jsonl([line("a", "x")]), Endpoint.CHAT),
        (b'\n{"url": "/v1/embeddings"}\n', Endpoint.EMBEDDINGS),
        (b'{"url": "/v2"}', None),
        (b"", None),
        (b"{", None),
    ],
)
def test_the_first_line_names_the_endpoint(head, url):
    assert url_of(head) == url
