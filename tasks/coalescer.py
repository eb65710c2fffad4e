"""Redis scripts and commands that are called together travel together.

One awaited round trip costs more CPU than the HTTP call that it accounts for. So what is asked
while a write is in flight waits for it, and then shares the next one. An idle store answers at
once: there is no timer.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from redis.exceptions import NoScriptError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis.asyncio import Redis

LARGEST_FLIGHT = 512  # commands in one pipeline


class ScriptText(Protocol):
    """A Lua script, and the SHA-1 by which the server knows it."""

    @property
    def source(self) -> str: ...  # noqa: D102
    @property
    def sha1(self) -> str: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script of ours."""

    source: str
    sha1: str

    @classmethod
    def of(cls, source: str) -> Script:
        """Name a script by its content."""
        return cls(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


@dataclass(slots=True)
class _Call:
    script: ScriptText | None  # None: args are a command
    keys: Sequence[str]
    args: Sequence[Any]
    answer: asyncio.Future[Any]


class Coalescer:
    """Runs scripts on one Redis; belongs to one event loop."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._waiting: deque[_Call] = deque()
        self._flight: asyncio.Task[None] | None = None

    async def run(self, script: ScriptText, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run a script and return its answer; raises what redis-py raises. Never retried."""
        return await self._join(script, keys, args)

    async def command(self, *args: Any) -> Any:
        """Run a command and return its answer; raises what redis-py raises. Never retried."""
        return await self._join(None, (), args)

    async def commands(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Run commands in this order and return their answers."""
        return list(await asyncio.gather(*(self.command(*command) for command in commands)))

    async def _join(
        self, script: ScriptText | None, keys: Sequence[str], args: Sequence[Any]
    ) -> Any:
        call = _Call(script, keys, args, asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        if self._flight is None:
            self._flight = asyncio.create_task(self._fly())
        return await call.answer

    async def _fly(self) -> None:
        try:
            while self._waiting:
                # A call whose asker went away while it waited must not run any more.
                size = min(len(self._waiting), LARGEST_FLIGHT)
                taken = (self._waiting.popleft() for _ in range(size))
                calls = [call for call in taken if not call.answer.done()]
                await self._send(calls)
        finally:
            self._flight = None

    async def _send(self, calls: list[_Call]) -> None:
        try:
            answers = await self._pipeline(calls)
            unknown = [i for i, a in enumerate(answers) if isinstance(a, NoScriptError)]
            if unknown:  # those did not run: after a restart or SCRIPT FLUSH they may go again
                scripts = (calls[i].script for i in unknown)
                for source in {script.source for script in scripts if script}:
                    await self._redis.script_load(source)
                again = await self._pipeline([calls[i] for i in unknown])
                for i, answer in zip(unknown, again, strict=True):
                    answers[i] = answer
        except Exception as error:  # noqa: BLE001 - every asker is told, whatever it was
            answers = [error] * len(calls)
        for call, answer in zip(calls, answers, strict=True):
            if call.answer.done():
                continue
            if isinstance(answer, Exception):
                call.answer.set_exception(answer)
            else:
                call.answer.set_result(answer)

    async def _pipeline(self, calls: list[_Call]) -> list[Any]:
        if not calls:
            return []
        pipeline = self._redis.pipeline(transaction=False)
        for call in calls:
            if call.script:
                pipeline.evalsha(call.script.sha1, len(call.keys), *call.keys, *call.args)
            else:
                pipeline.execute_command(*call.args)
        return list(await pipeline.execute(raise_on_error=False))
