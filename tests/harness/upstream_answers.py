"""What the stub model server says when all is well."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from typing import Any

from harness.upstream_streams import pieces


def choices_of(body: dict[str, Any], text: str) -> list[dict[str, Any]]:
    """Return as many choices as were asked for, each with this text."""
    n = body.get("n")
    count = n if type(n) is int and 0 < n <= 128 else 1
    return [{"index": i, **_choice(body, text), "finish_reason": "stop"} for i in range(count)]


def _choice(body: dict[str, Any], text: str) -> dict[str, Any]:
    tokens, asked = pieces(text), body.get("logprobs")
    if "prompt" in body:
        told = {"tokens": tokens, "token_logprobs": [-0.5] * len(tokens)}
        return {"text": text, **({"logprobs": told} if asked is not None else {})}
    told = [{"token": t, "logprob": -0.5, "bytes": None, "top_logprobs": []} for t in tokens]
    message = {"role": "assistant", "content": text}
    return {"message": message, **({"logprobs": {"content": told}} if asked else {})}


def calling_tools(answer: dict[str, Any], body: dict[str, Any], argument: str) -> dict[str, Any]:
    """Return the answer as calls of every tool that was offered; as it is behind their results."""
    tools = body.get("tools")
    if not tools or body["messages"][-1].get("role") == "tool":
        return answer
    calls = [_call(number, tool["function"], argument) for number, tool in enumerate(tools)]
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    said = {"message": message, "finish_reason": "tool_calls"}
    return {**answer, "choices": [{"index": c["index"], **said} for c in answer["choices"]]}


def _call(number: int, function: dict[str, Any], argument: str) -> dict[str, Any]:
    """Return a call with the argument for each of the function's parameters."""
    names = function.get("parameters", {}).get("properties", {})
    arguments = json.dumps(dict.fromkeys(names, argument))
    told = {"name": function["name"], "arguments": arguments}
    return {"id": f"call_{number}", "type": "function", "function": told}


def embeddings(body: dict[str, Any]) -> dict[str, Any]:
    """Return a vector of each input, in the form that is asked for; each is its text's alone."""
    given = body["input"]
    one = isinstance(given, str) or isinstance(given[0], int)
    data = []
    for index, text in enumerate([given] if one else given):
        digest = hashlib.sha256(f"{body['model']} {text}".encode()).digest()
        vector: Any = [byte / 256 - 0.5 for byte in digest[: body.get("dimensions") or 8]]
        if body.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": vector})
    usage = {"prompt_tokens": len(data), "total_tokens": len(data)}
    return {"object": "list", "model": body["model"], "data": data, "usage": usage}
