"""A client library as its users call it, in a process of its environment: the tests are its users.

`python tests/services/clients NAME` answers each line {way, url, prompt} of stdin by one of stdout:
{pieces: [[seconds, text], …]} of what came, and when since the asking; or {error}.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import os
import sys
import time
from typing import Any


async def pieces(answer: Any, began: float) -> list[tuple[float, str]]:
    """Return what a way to ask gave, be it a text, an iterator, or what is to be awaited."""
    found = []

    def came(text: str) -> None:
        if text:
            found.append((time.monotonic() - began, text))

    if inspect.isasyncgen(answer):
        async for text in answer:
            came(text)
    elif inspect.isgenerator(answer):
        for text in answer:
            came(text)
    else:
        came(await answer if inspect.isawaitable(answer) else answer)
    return found


def ask(client: Any, way: str, url: str, prompt: str, loop: asyncio.Runner) -> dict[str, Any]:
    """Ask as this way does."""
    began = time.monotonic()
    try:
        answer = getattr(client, way)(url, prompt)
        # Who needs no loop has none running: some start one of their own.
        waits = inspect.isasyncgen(answer) or inspect.isawaitable(answer)
        return {"pieces": (loop.run if waits else drive)(pieces(answer, began))}
    except Exception as error:  # noqa: BLE001 - it is what the test wants to see
        return {"error": f"{type(error).__name__}: {error}"}


def drive(work: Any) -> Any:
    """Run what waits for nothing."""
    try:
        work.send(None)
    except StopIteration as ended:
        return ended.value
    raise RuntimeError("it waits")


def main() -> None:
    with os.fdopen(os.dup(1), "w") as output, asyncio.Runner() as loop:
        os.dup2(2, 1)  # what else is printed
        client = importlib.import_module(f"{sys.argv[1]}_ways")
        for line in sys.stdin:
            print(json.dumps(ask(client, **json.loads(line), loop=loop)), file=output, flush=True)


main()
