"""LangChain: langchain-openai."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@tool
def weather(city: str) -> str:
    """Tell the weather."""
    return f"sunny in {city}"


def options(url: str) -> dict[str, Any]:
    return {
        "model": "gpu-model",
        "base_url": url,
        "api_key": "any",
        "max_retries": 0,
        "timeout": 20,
    }


def chat(url: str) -> ChatOpenAI:
    return ChatOpenAI(**options(url))


def plain(url: str, prompt: str) -> str:
    return str(chat(url).invoke(prompt).text)


async def plain_async(url: str, prompt: str) -> str:
    return str((await chat(url).ainvoke(prompt)).text)


def streamed(url: str, prompt: str) -> Iterator[str]:
    for chunk in chat(url).stream(prompt):
        yield str(chunk.text)


async def streamed_async(url: str, prompt: str) -> AsyncIterator[str]:
    async for chunk in chat(url).astream(prompt):
        yield str(chunk.text)


def tools(url: str, prompt: str) -> str:
    model = chat(url).bind_tools([weather])
    said = [HumanMessage(prompt)]
    answer = model.invoke(said)
    results = [weather.invoke(call) for call in answer.tool_calls]
    return str(model.invoke([*said, answer, *results]).text)


def tools_streamed(url: str, prompt: str) -> Iterator[str]:
    model = chat(url).bind_tools([weather])
    said = [HumanMessage(prompt)]
    whole = None
    for chunk in model.stream(said):
        whole = chunk if whole is None else whole + chunk
    answer = AIMessage(whole.content, tool_calls=whole.tool_calls)
    results = [weather.invoke(call) for call in answer.tool_calls]
    for chunk in model.stream([*said, answer, *results]):
        yield str(chunk.text)


def legacy(url: str, prompt: str) -> str:
    return str(OpenAI(**options(url)).invoke(prompt))


def legacy_streamed(url: str, prompt: str) -> Iterator[str]:
    yield from OpenAI(**options(url)).stream(prompt)
