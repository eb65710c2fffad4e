"""Redis scripts and commands that are called together travel together.

One awaited round trip costs more CPU than the HTTP call that it accounts for.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from redis.exceptions import NoScriptError

from tasks.group_commit import GroupCommit

if TYPE_CHECKING:
    from collections.abc import Sequence

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

    @property
    def command(self) -> Sequence[Any]:
        if self.script is None:
            return self.args
        return ("EVALSHA", self.script.sha1, len(self.keys), *self.keys, *self.args)


class Trips(Protocol):
    """A client of Redis."""

    async def trip(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Have commands travel together; return their answers, an error in its place."""


class AutoPipeline:
    """Runs scripts and commands on one Redis; belongs to one event loop."""

    def __init__(self, trips: Trips) -> None:
        self._trips = trips
        self._calls: GroupCommit[_Call, Any] = GroupCommit(self._send, LARGEST_PIPELINE)

    async def run(self, script: ScriptText, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run a script and return its answer; raises what redis-py raises. Never retried."""
        return await self._calls.put(_Call(script, keys, args))

    async def command(self, *args: Any) -> Any:
        """Run a command and return its answer; raises what redis-py raises. Never retried."""
        return await self._calls.put(_Call(None, (), args))

    async def commands(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Run commands in this order and return their answers."""
        put = self._calls.put
        return list(await asyncio.gather(*[put(_Call(None, (), each)) for each in commands]))

    async def _send(self, calls: list[_Call]) -> list[Any]:
        answers = await self._pipeline(calls)
        unknown = [i for i, a in enumerate(answers) if isinstance(a, NoScriptError)]
        if unknown:  # those did not run: after a restart or SCRIPT FLUSH they may go again
            scripts = (calls[i].script for i in unknown)
            sources = {script.source for script in scripts if script}
            # Over the same connection: behind one address there may be several servers.
            await self._trips.trip([("SCRIPT LOAD", source) for source in sorted(sources)])
            again = await self._pipeline([calls[i] for i in unknown])
            for i, answer in zip(unknown, again, strict=True):
                answers[i] = answer
        return answers

    async def _pipeline(self, calls: list[_Call]) -> list[Any]:
        return await self._trips.trip([each.command for each in calls])
