"""Batches as the stock openai SDK submits and reads them."""

from __future__ import annotations

import io
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from harness.waiting import wait_until

if TYPE_CHECKING:
    import openai
    from openai.types import Batch

FINAL = {"completed", "failed", "expired", "cancelled"}
CHAT = "/v1/chat/completions"


def line(custom_id: str, prompt: str, **body: Any) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": prompt}], **body}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body}


def jsonl(lines: list[Any]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in lines)


def upload(sdk: openai.OpenAI, content: bytes, name: str = "input.jsonl", **fields: Any) -> str:
    return sdk.files.create(file=(name, io.BytesIO(content)), purpose="batch", **fields).id


def start(sdk: openai.OpenAI, lines: list[Any], **fields: Any) -> Batch:
    fields = {"endpoint": CHAT, "completion_window": "24h", **fields}
    return sdk.batches.create(input_file_id=upload(sdk, jsonl(lines)), **fields)


def ended(sdk: openai.OpenAI, batch_id: str, seconds: float = 60) -> Batch:
    def found() -> Batch | None:
        batch = sdk.batches.retrieve(batch_id)
        return batch if batch.status in FINAL else None

    batch = wait_until(found, seconds, f"{batch_id} ends")
    assert batch is not None
    return batch


def read(sdk: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    if file_id is None:
        return []
    return [json.loads(text) for text in sdk.files.content(file_id).text.splitlines()]


def check_every_line_once(
    sdk: openai.OpenAI, batch: Batch, custom_ids: list[str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return output and error lines, which together hold every input line exactly once."""
    output, errors = read(sdk, batch.output_file_id), read(sdk, batch.error_file_id)
    seen = Counter(each["custom_id"] for each in output + errors)
    assert seen == Counter(custom_ids)
    counts = batch.request_counts
    assert counts is not None
    assert (counts.total, counts.completed, counts.failed) == (
        len(custom_ids),
        len(output),
        len(errors),
    )
    return output, errors
