"""Redis scripts and commands that are called together travel together.

One awaited round trip costs more CPU than the HTTP call that it accounts for.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from redis.exceptions import NoScriptError, TimeoutError  # noqa: A004

from tasks.group_commit import GroupCommit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis.asyncio import Redis

LARGEST_PIPELINE = 512  # commands


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


class AutoPipeline:
    """Runs scripts and commands on one Redis; belongs to one event loop."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._calls: GroupCommit[_Call, Any] = GroupCommit(self._send, LARGEST_PIPELINE)

    async def run(self, script: ScriptText, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run a script and return its answer; raises what redis-py raises. Never retried."""
        return await self._calls.submit(_Call(script, keys, args))

    async def command(self, *args: Any) -> Any:
        """Run a command and return its answer; raises what redis-py raises. Never retried."""
        return await self._calls.submit(_Call(None, (), args))

    async def commands(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Run commands in this order and return their answers."""
        return list(await asyncio.gather(*(self.command(*command) for command in commands)))

    async def _send(self, calls: list[_Call]) -> list[Any]:
        answers = await self._pipeline(calls)
        unknown = [i for i, a in enumerate(answers) if isinstance(a, NoScriptError)]
        if unknown:  # those did not run: after a restart or SCRIPT FLUSH they may go again
            scripts = (calls[i].script for i in unknown)
            for source in {script.source for script in scripts if script}:
                await self._redis.script_load(source)
            again = await self._pipeline([calls[i] for i in unknown])
            for i, answer in zip(unknown, again, strict=True):
                answers[i] = answer
        return answers

    async def _pipeline(self, calls: list[_Call]) -> list[Any]:
        pipeline = self._redis.pipeline(transaction=False)
        for call in calls:
            if call.script:
                pipeline.evalsha(call.script.sha1, len(call.keys), *call.keys, *call.args)
            else:
                pipeline.execute_command(*call.args)
        try:
            return list(await pipeline.execute(raise_on_error=False))
        except TimeoutError:
            # The route may be lost without a word. So would those of the idle connections be, each
            # of which would have the next ones wait as long.
            await self._redis.connection_pool.disconnect(inuse_connections=False)
            raise
