"""The `llm` tool: its library, and its command with its defaults."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import llm

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


def weather(city: str) -> str:
    """Tell the weather."""
    return f"sunny in {city}"


def configure(url: str) -> None:
    """Write the file in which its users name their own servers (YAML, of which JSON is a part)."""
    server = {"model_name": "gpu-model", "api_base": url, "supports_tools": True}
    models = [
        {"model_id": "chat", **server},
        {"model_id": "legacy", **server, "completion": True},
    ]
    folder = Path(os.environ["LLM_USER_PATH"])
    (folder / "extra-openai-models.yaml").write_text(json.dumps(models))


def model(url: str, name: str = "chat") -> llm.Model:
    configure(url)
    return llm.get_model(name)


def plain(url: str, prompt: str) -> str:
    return model(url).prompt(prompt, stream=False).text()


def streamed(url: str, prompt: str) -> Iterator[str]:
    yield from model(url).prompt(prompt)


async def streamed_async(url: str, prompt: str) -> AsyncIterator[str]:
    configure(url)
    async for text in llm.get_async_model("chat").prompt(prompt):
        yield text


async def plain_async(url: str, prompt: str) -> str:
    configure(url)
    return await llm.get_async_model("chat").prompt(prompt, stream=False).text()


def tools(url: str, prompt: str) -> str:
    return model(url).chain(prompt, tools=[weather], stream=False).text()


def tools_streamed(url: str, prompt: str) -> Iterator[str]:
    yield from model(url).chain(prompt, tools=[weather])


def legacy(url: str, prompt: str) -> str:
    return model(url, "legacy").prompt(prompt, stream=False).text()


def legacy_streamed(url: str, prompt: str) -> Iterator[str]:
    yield from model(url, "legacy").prompt(prompt)


def command(url: str, prompt: str) -> Iterator[str]:
    """Yield what the command prints, as it comes."""
    configure(url)
    line = [sys.executable, "-m", "llm", "prompt", "-m", "chat", prompt]
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(line, stdin=nothing, stdout=pipe, stderr=pipe) as process:
        while piece := os.read(process.stdout.fileno(), 65_536):
            yield piece.decode()
        complaint = process.stderr.read().decode()
    if process.returncode:
        raise RuntimeError(complaint)
