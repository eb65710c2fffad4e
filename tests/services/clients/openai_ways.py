"""The openai SDK in the version that the other clients stand on, one major behind."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import openai

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "strict": True,  # as `.stream()` wants it
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def options(url: str) -> dict[str, Any]:
    return {"base_url": url, "api_key": "any", "max_retries": 0, "timeout": 20}


def body(prompt: str) -> dict[str, Any]:
    return {"model": "gpu-model", "messages": [{"role": "user", "content": prompt}]}


def plain(url: str, prompt: str) -> str:
    with openai.OpenAI(**options(url)) as client:
        return client.chat.completions.create(**body(prompt)).choices[0].message.content or ""


async def plain_async(url: str, prompt: str) -> str:
    async with openai.AsyncOpenAI(**options(url)) as client:
        answer = await client.chat.completions.create(**body(prompt))
        return answer.choices[0].message.content or ""


def streamed(url: str, prompt: str) -> Iterator[str]:
    with openai.OpenAI(**options(url)) as client:
        for chunk in client.chat.completions.create(**body(prompt), stream=True):
            yield chunk.choices[0].delta.content or ""


async def streamed_async(url: str, prompt: str) -> AsyncIterator[str]:
    async with openai.AsyncOpenAI(**options(url)) as client:
        async for chunk in await client.chat.completions.create(**body(prompt), stream=True):
            yield chunk.choices[0].delta.content or ""


def helper_streamed(url: str, prompt: str) -> Iterator[str]:
    with (
        openai.OpenAI(**options(url)) as client,
        client.chat.completions.stream(**body(prompt)) as stream,
    ):
        for event in stream:
            if event.type == "content.delta":
                yield event.delta


async def helper_streamed_async(url: str, prompt: str) -> AsyncIterator[str]:
    async with (
        openai.AsyncOpenAI(**options(url)) as client,
        client.chat.completions.stream(**body(prompt)) as stream,
    ):
        async for event in stream:
            if event.type == "content.delta":
                yield event.delta


def results(answer: Any) -> list[dict[str, Any]]:
    """Return what is to be said after an answer: itself, and what its tools say."""
    message = answer.choices[0].message
    told = []
    for call in message.tool_calls or ():
        city = json.loads(call.function.arguments)["city"]
        told.append({"role": "tool", "tool_call_id": call.id, "content": f"sunny in {city}"})
    return [message.model_dump(exclude_none=True, exclude={"parsed"}), *told]


def tools(url: str, prompt: str) -> str:
    asked = {**body(prompt), "tools": [TOOL]}
    with openai.OpenAI(**options(url)) as client:
        answer = client.chat.completions.create(**asked)
        asked["messages"] += results(answer)
        return client.chat.completions.create(**asked).choices[0].message.content or ""


def tools_streamed(url: str, prompt: str) -> Iterator[str]:
    asked = {**body(prompt), "tools": [TOOL]}
    with openai.OpenAI(**options(url)) as client:
        with client.chat.completions.stream(**asked) as stream:
            asked["messages"] += results(stream.get_final_completion())
        with client.chat.completions.stream(**asked) as stream:
            for event in stream:
                if event.type == "content.delta":
                    yield event.delta


def legacy(url: str, prompt: str) -> str:
    with openai.OpenAI(**options(url)) as client:
        return client.completions.create(model="gpu-model", prompt=prompt).choices[0].text


def legacy_streamed(url: str, prompt: str) -> Iterator[str]:
    with openai.OpenAI(**options(url)) as client:
        for chunk in client.completions.create(model="gpu-model", prompt=prompt, stream=True):
            yield chunk.choices[0].text
