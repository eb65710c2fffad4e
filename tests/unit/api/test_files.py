"""An upload's form: what is wrong with it, and where its temporary file cannot be written."""

from __future__ import annotations

import contextlib
import errno
import os
import re

import pytest
from starlette import formparsers
from starlette.requests import Request

from api.errors import ApiError
from api.files import _check_upload, upload_form
from tasks.errors import StoreUnavailable


class Full(formparsers.SpooledTemporaryFile):
    def write(self, _):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def uploading(body, content_type="multipart/form-data; boundary=x"):
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        return messages.pop(0)

    headers = [(b"content-type", content_type.encode())]
    scope = {"type": "http", "method": "POST", "path": "/v1/files", "headers": headers}
    return upload_form(Request(scope, receive), 10)


def part(name, content=b"a", filename=b""):
    head = b"--x\r\nContent-Disposition: form-data; name=" + name + filename
    return head + b"\r\n\r\n" + content + b"\r\n"


@pytest.mark.parametrize(
    ("body", "content_type", "said"),
    [
        (b"", "multipart/form-data", "names no boundary"),
        (b"nothing of the kind", "multipart/form-data; boundary=x", "is no multipart/form-data"),
        (
            part(b"f", filename=b'; filename="a"') * 2,
            "multipart/form-data; boundary=x",
            "has several files",
        ),
        (part(b"f") * 21, "multipart/form-data; boundary=x", "more than 20 fields"),
        (part(b"f", b"a" * 65_537), "multipart/form-data; boundary=x", "more than 64 KB"),
        (b"--x\r\n\x00: y\r\n\r\n", "multipart/form-data; boundary=x", "is no multipart/form-data"),
        (b"", "text/plain", "must be multipart/form-data"),
        (b"", "multipart/form-data; boundary=x; charset=idna", "charset must be utf-8"),
    ],
)
async def test_what_is_wrong_with_a_form_is_told_in_our_words(body, content_type, said):
    with pytest.raises(ApiError, match=said) as refused:
        async with uploading(body, content_type):
            pytest.fail("it was read")
    assert not re.search("Maximum|exceeded|Missing|Invalid|index", str(refused.value))


async def test_a_temporary_folder_that_is_full_is_told_as_storage_that_is(monkeypatch):
    monkeypatch.setattr(formparsers, "SpooledTemporaryFile", Full)
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    messages = [
        {"type": "http.request", "body": head + b"x" * 100, "more_body": True},
        {"type": "http.request", "body": b"\r\n--x--\r\n", "more_body": False},
    ]

    async def receive():
        return messages.pop(0)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/files",
        "headers": [(b"content-type", b"multipart/form-data; boundary=x")],
    }
    with pytest.raises(StoreUnavailable, match="temporary folder: No space left on device"):
        async with upload_form(Request(scope, receive), 10):
            pytest.fail("it was not written")


@pytest.mark.parametrize(
    ("name", "is_taken"), [("p.jsonl", True), ("P.JSONL", True), ("p.txt", False), ("", False)]
)
async def test_the_name_of_a_batchs_file_ends_in_jsonl(name, is_taken):
    filename = f'; filename="{name}"'.encode()
    body = part(b"file", filename=filename) + part(b"purpose", b"batch") + b"--x--\r\n"
    refused = contextlib.nullcontext() if is_taken else pytest.raises(ApiError, match="must end in")
    async with uploading(body) as form:
        with refused:
            _check_upload(form, form["file"])
