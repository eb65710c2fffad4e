"""Files, as OpenAI's clients upload and download them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import re
import time
from typing import TYPE_CHECKING, BinaryIO, Literal

from msgspec import Struct
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.responses import Response, StreamingResponse

from api.body import is_packed, length_of, packed, seconds_for, too_slow
from api.errors import ApiError, bad, json_response, not_found
from api.idempotency import KEY_HEADER, REUSED, idempotency_keys
from api.paging import page_of, page_query, whole
from api.routing import Description, Route, object_of, page_of_list
from api.schemas import SHORTEST_EXPIRY_SECONDS, ExpiresAfter, check
from api.services import id_of, owner_of, services_of
from tasks.errors import StoreUnavailable
from tasks.records.files import FILE_SECONDS, NewFile

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.datastructures import FormData
    from starlette.requests import Request

    from tasks.records.files import FileRecord
    from tasks.records.idempotency import IdempotencyKey
    from tasks.store.files import FileStore

LARGEST_FILE = 200 * 1024 * 1024
MOST_FIELDS = 20  # of the form beside the file
FORM_BYTES = 64 * 1024  # what the form around the file may take
LARGEST_LIST = 10_000
UNDER_WAY_SECONDS = 10.0  # that a repeated upload waits for the first one's end
LOOK_SECONDS = 0.2
CHUNK = 1024 * 1024
SHOWN_PURPOSES = {"batch"}
# Others are slow to read (punycode), or no text (idna, hex).
CHARSETS = frozenset({b"utf-8", b"utf8", b"us-ascii", b"ascii", b"iso-8859-1", b"latin-1"})
UPLOAD_FORM = {
    "type": "object",
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"type": "string", "enum": ["batch"]},
        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
        "expires_after[seconds]": {
            "type": "integer",
            "minimum": SHORTEST_EXPIRY_SECONDS,
            "maximum": FILE_SECONDS,
        },
    },
    "required": ["file", "purpose"],
    "dependentRequired": {
        "expires_after[anchor]": ["expires_after[seconds]"],
        "expires_after[seconds]": ["expires_after[anchor]"],
    },
}


PLAIN_NAME = re.compile(r"\w[\w.-]{0,99}", re.ASCII)

# What Starlette's parser says of a form: ours, by a part of its words.
FORM_FAULTS = {
    "Missing boundary": "its Content-Type names no boundary: leave that header to your HTTP client",
    "Too many files": "it has several files; upload each by itself",
    "Too many fields": f"it has more than {MOST_FIELDS} fields",
    "exceeded maximum size": f"a field has more than {FORM_BYTES // 1024} KB",
}
NO_FORM = "it is no multipart/form-data; send it as `curl -F file=@prompts.jsonl` does"
UPLOAD_ENCODING = {
    "file": {
        "headers": {
            "Content-Disposition": {
                "description": "with a filename that ends in .jsonl",
                "schema": {"type": "string"},
                "example": 'form-data; name="file"; filename="input.jsonl"',
            }
        }
    }
}


class FileObject(Struct, kw_only=True):
    """A file as OpenAI's clients read it. Times are epoch seconds."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: str = "processed"  # deprecated, yet the SDK's type requires it


def show_file(record: FileRecord) -> FileObject:
    """Return a file as it is shown."""
    return FileObject(
        id=record.id,
        bytes=record.bytes,
        created_at=record.created_at,
        expires_at=record.expires_at,
        filename=record.filename,
        purpose=record.purpose,
    )


async def create(request: Request) -> Response:
    """POST /v1/files: streamed to disk, then to the storage; never held in memory."""
    services = services_of(request)
    # Before a byte is taken. The rest of the body is read past: its sender reads no answer before.
    await services.submitter.check_room()
    held = services.uploads.hold(owner_of(request), _size_of(request))
    async with held, upload_form(request, services.settings.client_seconds) as form:
        return await _create(request, form)


async def _create(request: Request, form: FormData) -> Response:
    services, owner = services_of(request), owner_of(request)
    upload = form.get("file")
    if not isinstance(upload, UploadFile):
        raise bad("file: the form has no file", "file")
    _check_upload(form, upload)
    seconds = _expiry(form)
    content = upload.file
    name, purpose = upload.filename or "", str(form["purpose"])
    said = repr((name, purpose, seconds)).encode()
    keys = idempotency_keys(request, await asyncio.to_thread(_digest, content, said))
    file_id, record = await _begin(services.store.files, owner, keys, upload.size or 0)
    if record is None:
        new_file = NewFile(file_id, owner, name, purpose, seconds)
        record = await services.store.files.create(new_file, content, keys)
    else:
        await services.store.durability.file(file_id)
    return json_response(show_file(record))


async def _begin(
    files: FileStore, owner: str, keys: list[IdempotencyKey], size: int
) -> tuple[str, FileRecord | None]:
    """Return the id for an upload; with its record, if an earlier one with its key has made it."""
    until = time.monotonic() + UNDER_WAY_SECONDS
    while True:
        file_id, new = await files.begin(owner, keys, size)
        record = None if new else await files.get(file_id, owner)
        if new or record:
            return file_id, record
        if time.monotonic() > until:
            message = "this upload was sent before, and is still under way"
            headers = {"Retry-After": "5"}
            raise ApiError(409, message, code="upload_under_way", headers=headers)
        await asyncio.sleep(LOOK_SECONDS)


@contextlib.asynccontextmanager
async def upload_form(request: Request, client_seconds: float) -> AsyncGenerator[FormData, None]:
    """Parse the form; its temporary file is closed at the end."""
    kind, parameters = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data":
        raise bad("the body must be multipart/form-data with a file and a purpose")
    if parameters.get(b"charset", b"utf-8").lower() not in CHARSETS:
        raise bad("the form's charset must be utf-8: leave it out")
    parts = _parts(request, client_seconds)
    # Of many files each would be held in memory up to its first megabyte.
    parser = MultiPartParser(
        *(request.headers, parts),
        max_files=1,
        max_fields=MOST_FIELDS,
        max_part_size=FORM_BYTES,
    )
    parser.spool_max_size = FORM_BYTES  # what is larger goes to disk as it comes
    try:
        form = await parser.parse()
    except (MultiPartException, ValueError) as error:  # the parser's own are ValueErrors
        await _read_past(parts)
        if is_packed(request):
            raise packed() from None
        raise bad(f"the form cannot be read: {_fault_of(error)}") from None
    except OSError as error:
        await _read_past(parts)
        message = f"the upload does not fit into the temporary folder: {error.strerror}"
        raise StoreUnavailable(message) from error
    try:
        yield form
    finally:
        await form.close()


def _fault_of(error: Exception) -> str:
    """Return why a form is none, from the parser's own words."""
    said = str(error)
    return next((ours for theirs, ours in FORM_FAULTS.items() if theirs in said), NO_FORM)


async def _read_past(parts: AsyncGenerator[bytes, None]) -> None:
    """Take the rest of a body: its sender reads no answer before, and may close after."""
    async for _ in parts:
        pass


def _size_of(request: Request) -> int:
    most = LARGEST_FILE + FORM_BYTES
    size = length_of(request, most)
    if size > most:
        raise _too_large()
    return size


async def _parts(request: Request, client_seconds: float) -> AsyncGenerator[bytes, None]:
    size, began = 0, time.monotonic()
    async for part in request.stream():
        size += len(part)
        if size > LARGEST_FILE + FORM_BYTES:
            raise _too_large()
        if time.monotonic() - began > seconds_for(size, client_seconds):
            raise too_slow()
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
    if not (upload.filename or "").lower().endswith(".jsonl"):
        message = f"file: the name of a batch's file must end in .jsonl, not {upload.filename!r}"
        raise bad(message, "file")


def _expiry(form: FormData) -> int:
    if "expires_after" in form:
        message = "expires_after: give expires_after[anchor] and expires_after[seconds]"
        raise bad(message, "expires_after")
    fields: dict[str, object] = {}
    for name in ("anchor", "seconds"):
        value = form.get(f"expires_after[{name}]")
        if value is not None:
            number = whole(value) if isinstance(value, str) else None
            fields[name] = value if number is None else number
    if not fields:
        return FILE_SECONDS
    expiry: ExpiresAfter = check(fields, ExpiresAfter, "expires_after")
    return expiry.seconds


def _digest(content: BinaryIO, said: bytes) -> bytes:
    # Of what it says: a retried upload has other boundaries around the same file.
    digest = hashlib.blake2b(said)
    content.seek(0)
    while chunk := content.read(CHUNK):
        digest.update(chunk)
    return digest.digest()


async def list_files(request: Request) -> Response:
    """GET /v1/files?purpose=&order=&limit=&after=: newest first, unless the order is asc."""
    files, query = services_of(request).store.files, request.query_params
    order = query.get("order", "desc")
    if order not in {"asc", "desc"}:
        raise bad(f"order: must be asc or desc, not {order!r}", "order")
    find = functools.partial(
        files.list_files, purpose=query.get("purpose"), oldest_first=order == "asc"
    )
    return await page_of(
        request,
        what="file",
        find=find,
        show=show_file,
        limit=LARGEST_LIST,
        largest=LARGEST_LIST,
    )


async def get(request: Request) -> Response:
    """GET /v1/files/{id}."""
    return json_response(show_file(await _record_of(request)))


async def content(request: Request) -> Response:
    """GET /v1/files/{id}/content: streamed."""
    record = await _record_of(request)
    try:
        chunks = await services_of(request).store.files.open(record.id)
    except FileNotFoundError:
        message = f"the content of {record.id} is not on the storage any more"
        raise ApiError(404, message, code="file_not_found") from None
    headers = {
        "content-length": str(record.bytes),
        "content-disposition": f'attachment; filename="{_saved_as(record)}"',
    }
    return StreamingResponse(chunks, headers=headers, media_type="application/octet-stream")


def _saved_as(record: FileRecord) -> str:
    """Return the name that a browser saves it by: its own, if every system takes that."""
    return record.filename if PLAIN_NAME.fullmatch(record.filename) else f"{record.id}.jsonl"


async def delete(request: Request) -> Response:
    """DELETE /v1/files/{id}; the input of a batch that runs stays until it has ended."""
    record = await _record_of(request)
    files = services_of(request).store.files
    if batch := await files.delete(record):
        message = f"{record.id} is the input of {batch}, which still runs: cancel that one first"
        headers = {"x-should-retry": "false"}
        raise ApiError(409, message, code="file_in_use", headers=headers)
    return json_response({"id": record.id, "object": "file", "deleted": True})


async def _record_of(request: Request) -> FileRecord:
    file_id = id_of(request, "file")
    record = await services_of(request).store.files.get(file_id, owner_of(request))
    if record is None:
        raise not_found("file", file_id)
    return record


def routes() -> list[Route]:
    """Return the routes."""
    upload = Description(
        "Upload a batch's input, up to 200 MB",
        FileObject,
        headers=KEY_HEADER,
        body=UPLOAD_FORM,
        body_type="multipart/form-data",
        body_encoding=UPLOAD_ENCODING,
        errors={**REUSED, "409": "this upload was sent before, and is still under way"},
    )
    query = {
        **page_query("file", LARGEST_LIST, LARGEST_LIST),
        "order": {"enum": ["desc", "asc"], "description": "asc: oldest first"},
        "purpose": {"type": "string", "description": "batch or batch_output: only those"},
    }
    listing = Description("List files, newest first", page_of_list(FileObject), query=query)
    deleted = object_of(id={"type": "string"}, object={"const": "file"}, deleted={"const": True})
    deletion = Description(
        "Delete a file", deleted, errors={"409": "it is the input of a batch that still runs"}
    )
    download = Description("Download a file", {}, answer_types=("application/octet-stream",))
    return [
        Route("POST", "/v1/files", create, upload),
        Route("GET", "/v1/files", list_files, listing),
        Route("GET", "/v1/files/{id}", get, Description("Describe a file", FileObject)),
        Route("DELETE", "/v1/files/{id}", delete, deletion),
        Route("GET", "/v1/files/{id}/content", content, download),
    ]
