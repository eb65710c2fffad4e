"""Chat completions as JSON: reading their text, and the one that we write ourselves."""

from __future__ import annotations

import os
import time
from typing import Any

import msgspec


def text_of(answer: bytes) -> str:
    """Return the text of a chat completion; empty for an answer that is only tool calls."""
    completion: Any = msgspec.json.decode(answer)
    choice = completion["choices"][0]
    content = choice["message"].get("content") if "message" in choice else choice.get("text")
    if isinstance(content, list):  # some servers answer in parts
        return "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def degraded_answer(
    message: str, model: str, job_id: str | None = None, *, legacy: bool = False
) -> bytes:
    """Return the honest answer when no tier could give one, marked as such.

    legacy: as /v1/completions answers, not as /v1/chat/completions does.
    """
    said = {"text": message} if legacy else {"message": {"role": "assistant", "content": message}}
    return msgspec.json.encode(
        {
            "id": f"{'cmpl' if legacy else 'chatcmpl'}-{job_id or os.urandom(12).hex()}",
            "object": "text_completion" if legacy else "chat.completion",
            "created": int(time.time()),
            "model": model or "fallthrough-degraded",
            "choices": [{"index": 0, **said, "logprobs": None, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
            "fallthrough": {"degraded": True},
        }
    )
