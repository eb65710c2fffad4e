"""No library's words reach whoever sent the JSON: each kind of fault, as it is told."""

from __future__ import annotations

import gzip
import re
from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta, Struct

from api.batch_checks import ValidationRequest
from api.schemas import (
    BreakerChange,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    ExpiresAfter,
    Handling,
    JobRequest,
)
from fallback_chain import Endpoint
from tasks.json_faults import UNREADABLE, fault_of_json, misfit_of
from tasks.jsonl.input import Line

# Words of msgspec, json, the codecs and Python's types.
FOREIGN = re.compile(
    r"Expected|Object |Invalid |`|\bgot\b|codec|decode|delimiter|malformed|truncated"
    r"|\b(str|int|float|bool|array|None|dict)\b|recursion|\(char \d"
)

ICONV = "iconv -f UTF-16"


class Odd(Struct, forbid_unknown_fields=True):
    """What no schema of ours asks for yet."""

    exact: Annotated[list[int], Meta(max_length=1)] | None = None
    below: Annotated[float, Meta(lt=5)] | None = None
    few: Annotated[dict[str, int], Meta(max_length=2)] | None = None
    pattern: Annotated[str, Meta(pattern="^a")] | None = None
    either: int | list[str] | None = None
    when: Literal["now", 7] | None = None


def told(value, kind):
    with pytest.raises(msgspec.ValidationError) as raised:
        msgspec.convert(value, kind)
    return tuple(misfit_of(raised.value, kind))


@pytest.mark.parametrize(
    ("kind", "value", "path", "what"),
    [
        (JobRequest, [], "", "must be an object, not a list"),
        (JobRequest, {"prompt": 7}, "prompt", "must be a text or null, not a whole number"),
        (JobRequest, {"prompt": ""}, "prompt", "must not be empty"),
        (JobRequest, {"messages": {}}, "messages", "must be a list or null, not an object"),
        (JobRequest, {"messages": []}, "messages", "must not be empty"),
        (JobRequest, {"messages": [{}]}, "messages[0].role", "is required"),
        (
            JobRequest,
            {"messages": [{"role": True}]},
            "messages[0].role",
            "must be a text, not true or false",
        ),
        (JobRequest, {"temperature": 3}, "temperature", "must be at most 2"),
        (JobRequest, {"temperature": -0.5}, "temperature", "must be at least 0"),
        (
            JobRequest,
            {"temperature": "hot"},
            "temperature",
            "must be a number or null, not a text",
        ),
        (JobRequest, {"max_tokens": 0}, "max_tokens", "must be at least 1"),
        (
            JobRequest,
            {"max_tokens": 1.5},
            "max_tokens",
            "must be a whole number or null, not a number with a decimal point",
        ),
        (JobRequest, {"stream": 1}, "stream", "must be true or false or null, not a whole number"),
        (
            JobRequest,
            {"cache": "often"},
            "cache",
            "must be one of fallback, first, off; not 'often'",
        ),
        (JobRequest, {"cache": 1}, "cache", "must be a text, not a whole number"),
        (
            JobRequest,
            {"on_exhausted": "cry"},
            "on_exhausted",
            "must be one of degraded, wait, fail; not 'cry'",
        ),
        (JobRequest, {"deadline_seconds": 0}, "deadline_seconds", "must be greater than 0"),
        (JobRequest, {"deadline_seconds": 1e9}, "deadline_seconds", "must be at most 604800"),
        (JobRequest, {"metadata": {"k": 1}}, "metadata[...]", "must be a text, not a whole number"),
        (
            JobRequest,
            {"metadata": {"k" * 65: ""}},
            "metadata",
            "each name must have at most 64 characters",
        ),
        (
            JobRequest,
            {"metadata": {"k": "v" * 513}},
            "metadata[...]",
            "must have at most 512 characters",
        ),
        (
            JobRequest,
            {"metadata": {str(n): "" for n in range(17)}},
            "metadata",
            "must have at most 16 fields",
        ),
        (Handling, {"tiers": []}, "tiers", "must not be empty"),
        (Handling, {"tiers": "gpu"}, "tiers", "must be a list or null, not a text"),
        (ChatRequest, {}, "messages", "is required"),
        (CompletionRequest, {"prompt": None}, "prompt", "must be a text or a list, not null"),
        (CompletionRequest, {"prompt": ["a", "b"]}, "prompt", "must have at most 1 entry"),
        (EmbeddingRequest, {"input": "x"}, "model", "is required"),
        (
            EmbeddingRequest,
            {"model": "m", "input": "x", "encoding_format": "hex"},
            "encoding_format",
            "must be one of float, base64; not 'hex'",
        ),
        (
            ValidationRequest,
            {"input_file_id": "f", "endpoint": "/v1/responses"},
            "endpoint",
            f"must be one of {', '.join(Endpoint)}; not '/v1/responses'",
        ),
        (BreakerChange, {"wy": "x"}, "wy", "there is no such field"),
        (BreakerChange, {"why": "x" * 501}, "why", "must have at most 500 characters"),
        (
            ExpiresAfter,
            {"anchor": "now", "seconds": 1},
            "anchor",
            "must be one of created_at; not 'now'",
        ),
        (
            ExpiresAfter,
            {"anchor": "created_at", "seconds": 1},
            "seconds",
            "must be at least 3600",
        ),
        (Line, {"custom_id": "a"}, "method", "is required"),
        (Line, [], "", "must be an object, not a list"),
        (Odd, {"exact": [1, 2]}, "exact", "must have at most 1 entry"),
        (Odd, {"below": 5.0}, "below", "must be less than 5"),
        (Odd, {"few": {"a": 1, "b": 2, "c": 3}}, "few", "must have at most 2 fields"),
        (Odd, {"pattern": "b"}, "pattern", "is a text of another form"),
        (
            Odd,
            {"either": "x"},
            "either",
            "must be a whole number or a list or null, not a text",
        ),
        (Odd, {"when": "then"}, "when", "must be one of now, 7; not 'then'"),
    ],
)
def test_a_value_that_does_not_fit_is_told_in_our_words(kind, value, path, what):
    assert told(value, kind) == (path, what)
    assert not FOREIGN.search(re.sub("one of .*", "", what)), "choices are OpenAI's words, or ours"


def test_what_a_library_may_say_one_day_is_not_repeated():
    surprise = msgspec.ValidationError("Expected `moon` to be full - at `$.sky`")
    assert misfit_of(surprise, Odd) == ("sky", "must be another value")
    assert misfit_of(msgspec.ValidationError("Oh no"), Odd) == (
        "",
        "has a value that it cannot have",
    )


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "line 1, column 1: a value is missing"),
        (b"{", "line 1, column 2: a field's name in double quotes is missing"),
        (b"{'a': 1}", "line 1, column 2: a field's name in double quotes is missing"),
        (b'{"a" 1}', "line 1, column 6: a colon is missing after a field's name"),
        (
            b'{"a": 1\n "b": 2}',
            "line 2, column 2: a comma, or the end of a list or an object, is missing",
        ),
        (b"[1, 2", "line 1, column 6: a comma, or the end of a list or an object, is missing"),
        (b'{"a": "b', "line 1, column 7: a text has no closing quote"),
        (
            b'{"a": "b\nc"}',
            "line 1, column 9: a text holds a line break or a tab: write it as \\n or \\t",
        ),
        (b'"\\q"', "line 1, column 2: a text holds a backslash before a character that takes none"),
        (b'"\\u12"', "line 1, column 3: a text holds a \\u without four hexadecimal digits"),
        (b"{} {}", "line 1, column 4: there is more after its end"),
        (b"nothing", "line 1, column 1: a value is missing"),
        (b"[NaN]", "byte 2: there is a character that JSON does not have"),
        (b'"\\ud800"', "a text holds half of a pair of \\u escapes"),
        (b"1" * 5000, "a number is out of range"),
        (b"[1e999]", "a number is out of range"),
        (b'{"a": "\xff"}', "it is no UTF-8: see byte 8"),
        (
            '{"a": 1}'.encode("utf-16"),
            f"UTF-16, not UTF-8; convert it first: {ICONV} -t UTF-8",
        ),
        ('{"a": 1}'.encode("utf-16-le"), f"convert it first: {ICONV}LE -t UTF-8"),
        ('{"a": 1}'.encode("utf-16-be"), "it has NULs, as UTF-16 has; convert it to UTF-8 first"),
        (gzip.compress(b"{}", mtime=0), "it is compressed; unpack it first: gunzip"),
        (b"PK\x03\x04\xff", "it is a zip archive, as .xlsx and .docx are"),
        (b"[" * 100_000, "it is nested too deep"),
    ],
)
def test_what_is_no_json_is_told_with_its_place(content, fault):
    with pytest.raises(UNREADABLE) as raised:
        msgspec.json.decode(content)
    found = fault_of_json(content, raised.value)
    assert found.endswith(fault), found
    assert not FOREIGN.search(found)


def test_a_comma_too_many_is_told():  # before Python 3.13 as a value that is missing
    with pytest.raises(UNREADABLE) as raised:
        msgspec.json.decode(b"[1,]")
    assert re.search(
        "comma before the end|a value is missing", fault_of_json(b"[1,]", raised.value)
    )


def test_a_byte_order_mark_is_called_so():
    content = "\ufeff{}".encode()
    assert "byte order mark" in fault_of_json(content, ValueError())
