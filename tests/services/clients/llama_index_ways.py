"""LlamaIndex: llama-index-llms-openai-like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama_index.core.agent.workflow import AgentStream, FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


def weather(city: str) -> str:
    """Tell the weather."""
    return f"sunny in {city}"


def model(url: str, **options: Any) -> OpenAILike:
    fixed = {"model": "gpu-model", "api_base": url, "api_key": "any", "max_retries": 0}
    kinds = {"is_chat_model": True, "is_function_calling_model": True}
    return OpenAILike(**{**fixed, **kinds, "timeout": 20, **options})


def said(prompt: str) -> list[ChatMessage]:
    return [ChatMessage(role="user", content=prompt)]


def plain(url: str, prompt: str) -> str:
    return str(model(url).chat(said(prompt)).message.content)


async def plain_async(url: str, prompt: str) -> str:
    return str((await model(url).achat(said(prompt))).message.content)


def streamed(url: str, prompt: str) -> Iterator[str]:
    for response in model(url).stream_chat(said(prompt)):
        yield response.delta or ""


async def streamed_async(url: str, prompt: str) -> AsyncIterator[str]:
    async for response in await model(url).astream_chat(said(prompt)):
        yield response.delta or ""


def tools(url: str, prompt: str) -> str:
    """Return what the tool said: who asks so shows the model's words to nobody."""
    tool = FunctionTool.from_defaults(weather)
    return str(model(url).predict_and_call([tool], user_msg=prompt, error_on_no_tool_call=False))


async def tools_streamed(url: str, prompt: str) -> AsyncIterator[str]:
    agent = FunctionAgent(tools=[weather], llm=model(url))
    run = agent.run(prompt)
    async for event in run.stream_events():
        if isinstance(event, AgentStream):
            yield event.delta
    await run


def legacy(url: str, prompt: str) -> str:
    return str(model(url, is_chat_model=False).complete(prompt).text)


def legacy_streamed(url: str, prompt: str) -> Iterator[str]:
    for response in model(url, is_chat_model=False).stream_complete(prompt):
        yield response.delta or ""
