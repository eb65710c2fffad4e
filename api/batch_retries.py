"""What nobody answered of a batch, asked again as a batch of its own."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import PurePath
from typing import TYPE_CHECKING, BinaryIO

from api.batches import BatchObject, batch_of, options_of, shown
from api.errors import ApiError
from api.idempotency import KEY_HEADER, REUSED, idempotency_keys
from api.results import Results
from api.routing import Description, Route
from api.services import services_of
from fallback_chain import Endpoint
from tasks.errors import StoreUnavailable
from tasks.jsonl.retry import unanswered_lines
from tasks.records.batches import FINAL, NewBatch, new_batch_id
from tasks.records.files import FILE_SECONDS, NewFile
from tasks.storage import content_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request
    from starlette.responses import Response

    from api.services import Services
    from tasks.records.batches import BatchOptions, BatchRecord, Part
    from tasks.records.files import FileRecord
    from tasks.records.idempotency import IdempotencyKey
    from tasks.storage import Storage

RETRY_OF = "fallthrough_retry_of"  # in the new batch's metadata


async def retry(request: Request) -> Response:
    """POST /v1/batches/{id}/retry: a new batch of the lines that have no answer."""
    services, record = services_of(request), await batch_of(request)
    _check(record)
    metadata = {**record.metadata, RETRY_OF: record.id}
    options = options_of(services, metadata)
    source = await services.store.files.get(record.input_file_id, record.owner)
    if source is None:
        raise _gone(record)
    await services.submitter.check_room()
    async with services.uploads.hold(record.owner, source.bytes):
        file = await _keep_input(services, record, source)
    batch = _new_batch(record, file.id, metadata, options)
    batch_id = await _submitted(services, batch, file, idempotency_keys(request, b""))
    found = await services.store.batches.get(batch_id, record.owner)
    if found is None:
        message = "the new batch was lost by the store as it was made; try again"
        raise StoreUnavailable(message)
    return await shown(services, found)


def _check(record: BatchRecord) -> None:
    """Raise a 409 that says why a batch has no line to be asked again."""
    if record.status not in FINAL:
        message = (
            f"{record.id} is {record.status.value}: its lines can be retried once it has ended; "
            "cancel it to end it now"
        )
        raise _conflict(message, "batch_not_final")
    if not record.slices:
        message = (
            f"no line of {record.id} was ever asked: its input did not pass validation "
            f"(GET /v1/batches/{record.id}/errors); mend the file and start a new batch"
        )
        raise _conflict(message, "batch_never_began")
    if record.answered >= record.total:
        message = f"every line of {record.id} was answered: there is nothing to retry"
        raise _conflict(message, "nothing_to_retry")


def _conflict(message: str, code: str) -> ApiError:
    return ApiError(409, message, code=code, headers={"x-should-retry": "false"})


def _gone(record: BatchRecord) -> ApiError:
    message = f"{record.input_file_id}, the input file of {record.id}, was deleted: upload it again"
    return ApiError(404, message, code="file_not_found")


async def _keep_input(services: Services, record: BatchRecord, source: FileRecord) -> FileRecord:
    """Keep the lines to be asked again as a file of their own."""
    files, parts = services.store.files, await services.store.batches.parts(record.id)
    with tempfile.TemporaryFile() as lines:
        try:
            size = await asyncio.to_thread(_write, files.storage, record, parts, lines)
        except FileNotFoundError:
            raise _gone(record) from None
        if not size:
            message = f"the lines of {record.id} without an answer cannot be read any more"
            raise _conflict(message, "nothing_to_retry")
        file_id, _ = await files.begin(record.owner, [], size)
        stem = PurePath(source.filename).stem.removesuffix("-retry")
        name = f"{stem}-retry.jsonl"
        return await files.create(
            NewFile(file_id, record.owner, name, "batch", FILE_SECONDS), lines
        )


def _write(storage: Storage, record: BatchRecord, parts: Sequence[Part], target: BinaryIO) -> int:
    """Write the lines; return their bytes."""
    outputs = Results(storage, record, parts, ("output",)).all()
    with storage.open(content_name(record.input_file_id)) as inputs:
        target.writelines(unanswered_lines(inputs, outputs))
    return target.tell()


def _new_batch(
    record: BatchRecord, file_id: str, metadata: dict[str, str], options: BatchOptions
) -> NewBatch:
    return NewBatch(
        id=new_batch_id(),
        owner=record.owner,
        endpoint=Endpoint(record.endpoint),
        input_file_id=file_id,
        completion_window=record.completion_window,
        metadata=metadata,
        options=options,
        output_seconds=record.output_seconds,
    )


async def _submitted(
    services: Services, batch: NewBatch, file: FileRecord, keys: list[IdempotencyKey]
) -> str:
    """Accept the batch, and return its id; or that of an earlier retry with one of the keys."""
    files = services.store.files
    try:
        batch_id = await services.submitter.submit_batch(batch, keys)
    except BaseException:
        await files.delete(file)  # it stays if the batch was accepted
        raise
    if batch_id != batch.id:
        await files.delete(file)
    return batch_id


def routes() -> list[Route]:
    """Return the routes."""
    retrying = Description(
        "Retry what nobody answered, as a new batch",
        BatchObject,
        headers=KEY_HEADER,
        errors={**REUSED, "409": "the batch runs, never began, or has nothing to retry"},
    )
    return [Route("POST", "/v1/batches/{id}/retry", retry, retrying)]
