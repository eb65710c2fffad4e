"""Model servers with every misbehaviour."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.upstream import ANSWERS, PLANS

from fallback_chain.errors import UpstreamError
from fallback_chain.http import Reply
from simulation.loop import BEGIN, FAULT_SECONDS, current

if TYPE_CHECKING:
    from simulation.loop import Node
    from simulation.world import World

# Those that are answers say nothing of what was asked, so that nobody could tell whose they are.
NO_ANSWERS = sorted(PLANS.keys() - ANSWERS)
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
        rng = self._rng
        mode = self._world.faults.mode_of(tier, rng)
        await asyncio.sleep(rng.random() * 0.01)
        if mode == "refused":
            raise UpstreamError("ConnectError", "connect")
        if path.endswith("/models"):
            return _reply(200, {"data": [{"id": f"{tier}-model"}]})
        body = json.loads(content or b"{}")
        prompt = str(body["messages"][-1]["content"])
        call = Call(tier, prompt, current.get(), self._world.loop.time())
        self.calls.append(call)
        if prompt in self._world.faults.poison:
            call.node.dies_after = call.node.steps + self._world.faults.poison[prompt]
        try:
            reply = await self._complete(tier, mode, prompt)
            call.answered = mode in {"ok", "slow"}
            return reply
        finally:
            call.ended = self._world.loop.time()

    async def _complete(self, tier: str, mode: str, prompt: str) -> Reply:
        rng = self._rng
        if mode == "hang":
            await asyncio.sleep(100_000)
        # Once nothing breaks any more they are as quick as their callers' time limits want it.
        seconds = self._world.plan.answer_seconds
        if self._world.loop.time() > BEGIN + FAULT_SECONDS:
            seconds = min(seconds, 1.0)
        await asyncio.sleep(rng.expovariate(1 / seconds) if mode != "slow" else rng.uniform(2, 40))
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

    async def aclose(self) -> None:
        pass
