"""Model servers with every misbehaviour."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.upstream import ANSWERS, PLANS

from fallback_chain.errors import UpstreamError
from fallback_chain.http import Reply, StreamedReply
from simulation.loop import BEGIN, FAULT_SECONDS, current

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from simulation.loop import Node
    from simulation.world import World

# Those that are answers say nothing of what was asked, so that nobody could tell whose they are.
NO_ANSWERS = sorted(PLANS.keys() - ANSWERS)
# Ways in which a stream says less than all, as "half" has them.
BREAKS = ("protocol", "not JSON", "no end", "error")
MODES = (*NO_ANSWERS, "garbage", "half", "reset", "refused", "hang", "slow")


@dataclass(eq=False)
class Call:
    """A completion that was asked for, and from when to when."""

    tier: str
    prompt: str
    node: Node
    began: float
    ended: float | None = None
    answered: bool = False

    def gone(self) -> float:
        """Return when it ended, or its process did; for ever otherwise."""
        ended = float("inf") if self.ended is None else self.ended
        return min(ended, self.node.died_at)


class ModelServers:
    """The GPU's and the CPU's."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = world.rng("upstream")
        self.calls: list[Call] = []

    async def answer(self, tier: str, path: str, content: bytes | None) -> Reply:
        """Answer a request, or misbehave."""
        mode = await self._reached(tier)
        if path.endswith("/models"):
            return _reply(200, {"data": [{"id": f"{tier}-model"}]})
        call = self._called(tier, content)
        try:
            reply = await self._complete(tier, mode, call.prompt)
            call.answered = mode in {"ok", "slow"}
            return reply
        finally:
            call.ended = self._world.loop.time()

    @asynccontextmanager
    async def stream(self, tier: str, content: bytes | None) -> AsyncGenerator[StreamedReply]:
        """Answer with a stream, or misbehave before it or in its middle."""
        mode = await self._reached(tier)
        call = self._called(tier, content)
        try:
            if mode in PLANS or mode == "garbage":
                reply = await self._complete(tier, mode, call.prompt)
                yield StreamedReply(reply.status, reply.headers, _pieces_of(reply.content))
            else:
                headers = {"content-type": "text/event-stream"}
                yield StreamedReply(200, headers, self._pieces(call, mode))
        finally:
            call.ended = self._world.loop.time()

    async def _reached(self, tier: str) -> str:
        """Return how a server behaves once it is reached."""
        mode = self._world.faults.mode_of(tier, self._rng)
        await asyncio.sleep(self._rng.random() * 0.01)
        if mode == "refused":
            raise UpstreamError("ConnectError", "connect")
        return mode

    def _called(self, tier: str, content: bytes | None) -> Call:
        body = json.loads(content or b"{}")
        prompt = str(body["messages"][-1]["content"])
        call = Call(tier, prompt, current.get(), self._world.loop.time())
        self.calls.append(call)
        if prompt in self._world.faults.poison:
            call.node.dies_after = call.node.steps + self._world.faults.poison[prompt]
        return call

    def _seconds(self, mode: str) -> float:
        """Return how long an answer takes."""
        # Once nothing breaks any more they are as quick as their callers' time limits want it.
        seconds = self._world.plan.answer_seconds
        if self._world.loop.time() > BEGIN + FAULT_SECONDS:
            seconds = min(seconds, 1.0)
        rng = self._rng
        return rng.expovariate(1 / seconds) if mode != "slow" else rng.uniform(2, 40)

    async def _pieces(self, call: Call, mode: str) -> AsyncIterator[bytes]:
        """Yield an answer word by word; what goes wrong does so before the first, or after any."""
        words = f"{call.tier}: {call.prompt}".split(" ")
        seconds, good = self._seconds(mode), mode in {"ok", "slow"}
        until = len(words) if good else self._rng.randrange(len(words) + 1)
        yield _event(call.tier, {"role": "assistant", "content": ""})
        for number, word in enumerate(words[:until]):
            await asyncio.sleep(seconds / len(words))
            yield _event(call.tier, {"content": " " * bool(number) + word})
        if not good:
            await asyncio.sleep(seconds / len(words))
            ending = "reset" if mode == "reset" else self._rng.choice(BREAKS)
            if mode == "hang":
                await asyncio.sleep(100_000)
            elif ending in {"reset", "protocol"}:
                raise UpstreamError("ReadError", ending)
            elif ending == "not JSON":
                yield b"data: {not JSON\n\n"
            elif ending == "error":
                yield b'data: {"error": {"message": "it died", "code": 500}}\n\n'
            yield b"data: [DONE]\n\n"
            return
        yield _event(call.tier, {}, "stop")
        call.answered = True
        yield b"data: [DONE]\n\n"

    async def _complete(self, tier: str, mode: str, prompt: str) -> Reply:
        if mode == "hang":
            await asyncio.sleep(100_000)
        await asyncio.sleep(self._seconds(mode))
        if mode == "reset":
            raise UpstreamError("ReadError", "reset")
        if mode == "half":
            raise UpstreamError("DecodeError", "protocol")
        if mode == "garbage":
            return Reply(200, {}, b"<html>not what was asked for</html>")
        if mode in PLANS:
            status, value, headers = PLANS[mode]
            return _reply(status, value, headers)
        message = {"role": "assistant", "content": f"{tier}: {prompt}"}
        return _reply(
            200,
            {
                "id": "chatcmpl-simulated",
                "object": "chat.completion",
                "created": 1,
                "model": f"{tier}-model",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
            },
        )


async def _pieces_of(content: bytes) -> AsyncIterator[bytes]:
    yield content


def _event(tier: str, delta: dict[str, str], reason: str | None = None) -> bytes:
    chunk = {
        "id": "chatcmpl-simulated",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": f"{tier}-model",
        "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
    }
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def _reply(status: int, value: Any, headers: dict[str, str] | None = None) -> Reply:
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Reply(status, headers or {}, content)


class Http:
    """What the product takes for its HTTP client."""

    world: World  # set for each run

    def __init__(self, **_: Any) -> None:
        pass

    async def request(
        self, method: str, url: str, *, headers: Any, content: bytes | None, timeout_seconds: float
    ) -> Reply:
        tier = url.partition("//")[2].partition("/")[0]
        try:
            async with asyncio.timeout(timeout_seconds):
                return await self.world.models.answer(tier, url, content)
        except TimeoutError:
            raise UpstreamError("ReadTimeout", "timeout") from None

    @asynccontextmanager
    async def stream(
        self, method: str, url: str, *, headers: Any, content: bytes | None, timeout_seconds: float
    ) -> AsyncGenerator[StreamedReply]:
        tier = url.partition("//")[2].partition("/")[0]
        streamed = self.world.models.stream(tier, content)
        try:
            async with asyncio.timeout(timeout_seconds):
                reply = await streamed.__aenter__()
        except TimeoutError:
            raise UpstreamError("ReadTimeout", "timeout") from None
        try:
            yield reply
        finally:
            await streamed.__aexit__(None, None, None)

    async def aclose(self) -> None:
        pass
