"""A model server that fails on cue: the one thing in the tests that is not real."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Headers = dict[str, str]


def completion(content: Any, reason: str | None = "stop", **message: Any) -> dict[str, Any]:
    """Return a chat completion of one choice."""
    said = {"role": "assistant", "content": content, **message}
    choice = {"index": 0, "message": said, "finish_reason": reason}
    return {"object": "chat.completion", "model": "stub-model", "choices": [choice]}


PLANS: dict[str, tuple[int, Any, Headers]] = {
    "500": (500, {"error": {"message": "boom", "type": "server_error"}}, {}),
    "400": (
        400,
        {"error": {"message": "n is too large", "type": "invalid_request_error", "code": "bad_n"}},
        {},
    ),
    "401": (401, {"error": {"message": "wrong key"}}, {}),
    "429": (429, {"error": {"message": "slow down"}}, {"retry-after": "7"}),
    "busy": (503, {"error": {"message": "server busy, please try again"}}, {}),
    "no-model": (
        404,
        {"error": {"message": "The model `x` does not exist.", "code": "model_not_found"}},
        {},
    ),
    "too-long": (
        400,
        {"error": {"message": "too long", "code": "context_length_exceeded"}},
        {},
    ),
    "no-choices": (200, {"object": "chat.completion", "choices": []}, {}),
    # Statuses of 200 that are no answer, or a strange one.
    "abort": (200, completion("Hal", "abort"), {}),
    "load": (200, completion("", "load"), {}),
    "no-reason": (200, completion("Hal", None), {}),
    "one-of-two-aborted": (
        200,
        {"choices": [*completion("Hi")["choices"], *completion("Hal", "abort")["choices"]]},
        {},
    ),
    "error-beside": (200, {**completion("Hal"), "error": {"message": "worker died"}}, {}),
    "error-in-a-choice": (
        200,
        {"choices": [{**completion("Hal")["choices"][0], "error": {"message": "worker died"}}]},
        {},
    ),
    "error-alone": (200, {"error": {"message": "CUDA out of memory", "code": 500}}, {}),
    "beyond-a-double": (200, b'{"choices": [], "x": 1e999}', {}),
    "content-is-an-object": (200, completion({"text": "Hi"}), {}),
    "thinking": (200, completion(None, "length", reasoning_content="Well,"), {}),
    # As deep as a worker can read, but not the API, which stands deeper in its stack.
    "deep": (
        200,
        json.dumps({**completion("Hi"), "x": "?"}).replace('"?"', "[" * 979 + "]" * 979).encode(),
        {},
    ),
    "null-part": (200, completion([{"type": "text", "text": None}, {"text": "Hi"}]), {}),
    "message-null": (
        200,
        {"choices": [{"message": None, "text": "Hi", "finish_reason": "stop"}]},
        {},
    ),
    "cut-without-a-word": (200, completion(None, "length"), {}),
    "huge": (200, completion("x" * 2 * 1024 * 1024), {}),
    # Whose fault is it?
    "402": (402, {"error": {"message": "out of credit"}}, {}),
    "409": (409, {"error": {"message": "conflict"}}, {}),
    "424": (424, {"error": "Request failed during generation"}, {}),
    "dead-engine": (400, {"error": {"message": "EngineDeadError"}}, {}),
    "dead-inside": (400, {"detail": {"error": {"message": "EngineDeadError"}}}, {}),
    "413": (413, {"error": {"message": "request entity too large"}}, {}),
    "page": (400, b"<html><h1>400 Bad Request</h1></html>", {}),  # of a proxy in between
    "422": (422, {"detail": [{"loc": ["body", "n"], "msg": "must be 1"}]}, {}),
    "no-tools": (400, {"error": {"message": "this model does not support tools"}}, {}),
    "one-choice": (400, {"error": "Only one completion choice is allowed"}, {}),
}


# Modes that are answers, if strange ones.
ANSWERS = {"thinking", "null-part", "message-null", "cut-without-a-word", "huge"}


@dataclass
class Call:
    """A chat completion that was asked for."""

    at: float
    body: dict[str, Any]
    headers: Headers

    @property
    def prompt(self) -> str:
        if "prompt" in self.body:
            return str(self.body["prompt"])
        return str(self.body["messages"][-1]["content"])


@dataclass
class Upstream:
    """Runs in a thread. mode: ok, a key of PLANS, garbage, half, reset or hang."""

    name: str = "stub-model"
    mode: str = "ok"
    delay: float = 0.0
    plan: Callable[[Call], str] | None = None  # a mode per call
    calls: list[Call] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    port: int = 0
    running: int = 0
    most_running: int = 0

    def __post_init__(self) -> None:
        self.models = self.models or [self.name]
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.listen()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def prompts(self) -> list[str]:
        return [call.prompt for call in self.calls]

    def listen(self) -> None:
        """Be there (again), on the same port."""
        self._run(self._listen())

    def vanish(self) -> None:
        """Be gone: connections are refused."""
        self._run(self._vanish())

    @contextmanager
    def lent(self) -> Iterator[Upstream]:
        """Lend it to one test; afterwards it is as new, on the same port."""
        try:
            yield self
        finally:
            self.vanish()
            self._run(self._drain())
            self.mode, self.delay, self.plan = "ok", 0.0, None
            self.calls, self.models, self.most_running = [], [self.name], 0
            for replaced in ("_answer", "_completion"):
                self.__dict__.pop(replaced, None)
            self.listen()

    def close(self) -> None:
        self.vanish()
        self._run(self._drain())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _run(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _vanish(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()

    async def _drain(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        path = first.split()[1]
        if path == "/v1/models":
            return await _reply(writer, 200, {"data": [{"id": m} for m in self.models]}, {})
        if path not in {"/v1/chat/completions", "/v1/completions"}:
            return await _reply(writer, 404, {"detail": "Not Found"}, {})
        call = Call(time.monotonic(), json.loads(content), headers)
        self.calls.append(call)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            return await self._answer(call, writer)
        finally:
            self.running -= 1

    async def _answer(self, call: Call, writer: asyncio.StreamWriter) -> bool:
        mode = self.plan(call) if self.plan else self.mode
        if mode == "hang":
            await asyncio.Event().wait()
        if self.delay:
            await asyncio.sleep(self.delay)
        if mode == "reset":
            writer.transport.abort()
            return False
        if mode == "garbage":
            return await _reply(writer, 200, b"<html>not what was asked for</html>", {})
        if mode == "half":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{")
            await writer.drain()
            writer.close()
            return False
        if mode in PLANS:
            return await _reply(writer, *PLANS[mode])
        return await _reply(writer, 200, self._completion(call), {})

    def _completion(self, call: Call) -> dict[str, Any]:
        text, legacy = f"{self.name}: {call.prompt}", "prompt" in call.body
        message = {"role": "assistant", "content": text}
        said = {"text": text} if legacy else {"message": message}
        return {
            "id": "chatcmpl-stub",
            "object": "text_completion" if legacy else "chat.completion",
            "created": 1,
            "model": call.body.get("model", self.name),
            "choices": [{"index": 0, **said, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
        }


async def _reply(writer: asyncio.StreamWriter, status: int, content: Any, headers: Headers) -> bool:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}"]
    lines += ["content-type: application/json", *(f"{k}: {v}" for k, v in headers.items())]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    await writer.drain()
    return True
