"""An upload's form, where its temporary file cannot be written."""

from __future__ import annotations

import errno
import os

import pytest
from starlette import formparsers
from starlette.requests import Request

from api.files import upload_form
from tasks.errors import StoreUnavailable


class Full(formparsers.SpooledTemporaryFile):
    def write(self, _):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


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
