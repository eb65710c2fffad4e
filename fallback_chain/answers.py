"""Chat completions as JSON: reading their text, and the one that we write ourselves."""

from __future__ import annotations

import os
import time
from typing import Any

import msgspec


def text_of(answer: bytes) -> str:
    """Return the text of a chat completion; empty for an answer that is only tool calls."""
    completion: Any = msgspec.json.decode(answer)
    content = completion["choices"][0]["message"].get("content")
    if isinstance(content, list):  # some servers answer in parts
        return "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def degraded_answer(message: str, model: str, job_id: str | None = None) -> bytes:
    """Return the honest answer when no tier could give one, marked as such."""
    return msgspec.json.encode(
        {
            "id": f"chatcmpl-{job_id or os.urandom(12).hex()}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": model or "fallthrough-degraded",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": message},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
            "fallthrough": {"degraded": True},
        }
    )
