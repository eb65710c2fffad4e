"""pydantic-ai, whose agents run tools by themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


def weather(city: str) -> str:
    """Tell the weather."""
    return f"sunny in {city}"


def agent(url: str, *tools: object) -> Agent:
    client = AsyncOpenAI(base_url=url, api_key="any", max_retries=0, timeout=20)
    provider = OpenAIProvider(openai_client=client)
    return Agent(OpenAIChatModel("gpu-model", provider=provider), tools=tools)


def plain(url: str, prompt: str) -> str:
    return agent(url).run_sync(prompt).output


async def plain_async(url: str, prompt: str) -> str:
    return (await agent(url).run(prompt)).output


def streamed(url: str, prompt: str) -> Iterator[str]:
    yield from agent(url).run_stream_sync(prompt).stream_text(delta=True, debounce_by=None)


async def streamed_async(url: str, prompt: str) -> AsyncIterator[str]:
    async with agent(url).run_stream(prompt) as result:
        async for text in result.stream_text(delta=True, debounce_by=None):
            yield text


def tools(url: str, prompt: str) -> str:
    return agent(url, weather).run_sync(prompt).output


async def tools_streamed(url: str, prompt: str) -> AsyncIterator[str]:
    async with agent(url, weather).run_stream(prompt) as result:
        async for text in result.stream_text(delta=True, debounce_by=None):
            yield text
