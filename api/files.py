"""Files, as OpenAI's clients upload and download them."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, BinaryIO

from python_multipart.exceptions import MultipartParseError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.responses import Response, StreamingResponse

from api.errors import ApiError, bad, json_response, not_found
from api.once import once_keys
from api.paging import page_of
from api.routing import Route
from api.services import owner_of, services
from tasks.batch_store import FILE_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.datastructures import FormData
    from starlette.requests import Request

    from tasks.file_store import FileRecord

LARGEST_FILE = 200 * 1024 * 1024
FORM_BYTES = 64 * 1024  # what the form around the file may take
EXPIRY_SECONDS = (3600, FILE_SECONDS)
CHUNK = 1024 * 1024
SHOWN_PURPOSES = {"batch"}


def show_file(record: FileRecord) -> dict[str, object]:
    """Return a file as OpenAI's clients read it."""
    return {
        "id": record.id,
        "object": "file",
        "bytes": record.bytes,
        "created_at": record.created_at,
        "expires_at": record.expires_at,
        "filename": record.filename,
        "purpose": record.purpose,
        "status": "processed",  # deprecated, yet the SDK's type requires it
    }


async def create(request: Request) -> Response:
    """POST /v1/files: streamed to disk, then to the storage; never held in memory."""
    found, owner = services(request), owner_of(request)
    async with _form(request) as form:
        upload = form.get("file")
        if not isinstance(upload, UploadFile):
            raise bad("file: the form has no file", "file")
        _check_upload(form, upload)
        seconds = _expiry(form)
        content = upload.file
        digest = await asyncio.to_thread(_digest, content, upload.filename or "")
        keys = once_keys(request, digest)
        for key in keys:
            made = await found.files.once(owner, key)
            record = await found.files.get(made, owner) if made else None
            if record:
                return json_response(show_file(record))
        await found.submitter.check_room()
        record = await found.files.create(
            owner, upload.filename or "", str(form["purpose"]), content, seconds
        )
        for key in keys:
            await found.files.once(owner, key, record.id)
    return json_response(show_file(record))


class _form:  # noqa: N801 - a context manager, used as a function
    """The parsed form; its temporary file is closed at the end."""

    def __init__(self, request: Request) -> None:
        self._request = request

    async def __aenter__(self) -> FormData:
        request = self._request
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            raise bad("the body must be multipart/form-data with a file and a purpose")
        announced = request.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > LARGEST_FILE + FORM_BYTES:
            raise _too_large()
        parser = MultiPartParser(request.headers, _limited(request))
        try:
            self._form = await parser.parse()
        except (MultiPartException, MultipartParseError) as error:
            raise bad(f"the form cannot be read: {error}") from None
        return self._form

    async def __aexit__(self, *_: object) -> None:
        await self._form.close()


async def _limited(request: Request) -> AsyncGenerator[bytes, None]:
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > LARGEST_FILE + FORM_BYTES:
            raise _too_large()
        yield part


def _too_large() -> ApiError:
    message = f"file: a file holds at most {LARGEST_FILE} bytes (200 MB)"
    headers = {"Connection": "close"}
    return ApiError(413, message, code="file_too_large", param="file", headers=headers)


def _check_upload(form: FormData, upload: UploadFile) -> None:
    if (upload.size or 0) > LARGEST_FILE:
        raise _too_large()
    purpose = form.get("purpose")
    if purpose not in SHOWN_PURPOSES:
        raise bad(f"purpose: must be batch, not {purpose!r}", "purpose")
    if not (upload.filename or "").endswith(".jsonl"):
        message = f"file: the name of a batch's file must end in .jsonl, not {upload.filename!r}"
        raise bad(message, "file")


def _expiry(form: FormData) -> int:
    text = form.get("expires_after[seconds]")
    if text is None:
        return FILE_SECONDS
    anchor = form.get("expires_after[anchor]")
    if anchor != "created_at":
        raise bad("expires_after.anchor: must be created_at", "expires_after.anchor")
    low, high = EXPIRY_SECONDS
    if not (isinstance(text, str) and text.isdigit() and low <= int(text) <= high):
        message = f"expires_after.seconds: must be from {low} to {high}"
        raise bad(message, "expires_after.seconds")
    return int(text)


def _digest(content: BinaryIO, filename: str) -> bytes:
    # Of the content: a retried upload has other boundaries around the same file.
    digest = hashlib.blake2b(filename.encode())
    content.seek(0)
    while chunk := content.read(CHUNK):
        digest.update(chunk)
    return digest.digest()


async def list_files(request: Request) -> Response:
    """GET /v1/files: newest first."""
    files = services(request).files
    return await page_of(request, "file", files.list_files, files.get, show_file)


async def get(request: Request) -> Response:
    """GET /v1/files/{id}."""
    return json_response(show_file(await _found(request)))


async def content(request: Request) -> Response:
    """GET /v1/files/{id}/content: streamed."""
    record = await _found(request)
    headers = {
        "content-length": str(record.bytes),
        "content-disposition": f'attachment; filename="{record.id}.jsonl"',
    }
    stream = services(request).files.stream(record.id)
    return StreamingResponse(stream, headers=headers, media_type="application/octet-stream")


async def delete(request: Request) -> Response:
    """DELETE /v1/files/{id}; the input of a batch that runs stays until it has ended."""
    record = await _found(request)
    files = services(request).files
    batch = await files.in_use(record.id)
    if batch:
        message = f"{record.id} is the input of {batch}, which still runs: cancel that one first"
        headers = {"x-should-retry": "false"}
        raise ApiError(409, message, code="file_in_use", headers=headers)
    await files.delete(record)
    return json_response({"id": record.id, "object": "file", "deleted": True})


async def _found(request: Request) -> FileRecord:
    file_id = request.path_params["id"]
    record = await services(request).files.get(file_id, owner_of(request))
    if record is None:
        raise not_found("file", file_id)
    return record


def routes(prefix: str) -> list[Route]:
    """Return the routes under a prefix."""
    return [
        Route(f"{prefix}/files", create, methods=["POST"]),
        Route(f"{prefix}/files", list_files, methods=["GET"]),
        Route(f"{prefix}/files/{{id}}", get, methods=["GET"]),
        Route(f"{prefix}/files/{{id}}", delete, methods=["DELETE"]),
        Route(f"{prefix}/files/{{id}}/content", content, methods=["GET"]),
    ]
