"""A model server that fails on cue: the one thing in the tests that is not real."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.upstream_answers import calling_tools, choices_of, embeddings
from harness.upstream_streams import events_of, send

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

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
    "no-path": (404, {"detail": "Not Found"}, {}),
    "max-tokens": (
        400,
        {"error": {"message": "'max_tokens' is not supported: use 'max_completion_tokens'"}},
        {},
    ),
    "loading": (503, {"error": {"message": "Loading model", "type": "unavailable_error"}}, {}),
    "no-priority": (
        400,
        {"error": {"message": "Got priority 2 but Priority scheduling is not enabled."}},
        {},
    ),
    "no-stream-options": (
        400,
        {"error": {"message": "Unrecognized request argument supplied: stream_options"}},
        {},
    ),
    "too-many": (429, {"error": {"message": "too many requests"}}, {}),
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
    "overspent": (400, {"error": {"message": "Budget has been exceeded!", "code": "400"}}, {}),
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
    """What was asked for: a (chat) completion, or embeddings."""

    at: float
    body: dict[str, Any]
    headers: Headers
    path: str

    @property
    def prompt(self) -> str:
        for name in ("prompt", "input"):
            if name in self.body:
                said = self.body[name]  # LangChain sends a list of one
                alone = isinstance(said, list) and len(said) == 1
                return str(said[0] if alone else said)
        return str(self.body["messages"][-1]["content"])

    @property
    def wants_usage(self) -> bool:
        options = self.body.get("stream_options")
        return isinstance(options, dict) and options.get("include_usage") is True


@dataclass
class Upstream:
    """Runs in a thread. mode: ok, tools, echo-STATUS, a key of PLANS, garbage, half, reset or hang.

    Whose body has `stream: true` is answered by a stream, of what is no refusal; then mode may
    also be a key of upstream_streams.ODD, or plain-json. pace: seconds between two words of it.
    words: how many words an answer has; None: those of the prompt, behind the model's name.
    certificate: what it shows; None: it speaks no TLS. key: what it wants to see; "": none.
    """

    name: str = "stub-model"
    mode: str = "ok"
    delay: float = 0.0
    pace: float = 0.0
    words: int | None = None
    plan: Callable[[Call], str] | None = None  # a mode per call
    calls: list[Call] = field(default_factory=list)
    left: list[float] = field(default_factory=list)  # when its callers went, before their answer
    models: list[str] = field(default_factory=list)
    port: int = 0
    running: int = 0
    most_running: int = 0
    certificate: Path | None = None
    key: str = ""

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
        kind, host = ("https", "localhost") if self.certificate else ("http", "127.0.0.1")
        return f"{kind}://{host}:{self.port}"

    def prompts(self) -> list[str]:
        return [call.prompt for call in self.calls]

    def listen(self) -> None:
        """Be there (again), on the same port."""
        self._run(self._listen())

    def vanish(self) -> None:
        """Be gone: connections are refused."""
        self._run(self._vanish())

    def cut(self) -> None:
        """Break off every connection, and be there for new ones."""
        self._run(self._cut())

    @contextmanager
    def lent(self) -> Iterator[Upstream]:
        """Lend it to one test; afterwards it is as new, on the same port.

        A test that gives it a mode which nobody met has tested something else: as a rule a breaker
        that the test before it left open. Of a CPU tier's it may be that nobody comes to it.
        """
        try:
            yield self
            odd = self.mode != "ok" or self.plan is not None
            met = self.calls or self.name == "cpu-model"
            assert met or not odd, f"nobody met {self.name} as {self.mode}"
        finally:
            self.vanish()
            self._run(self._drain())
            self.mode, self.delay, self.plan = "ok", 0.0, None
            self.pace, self.words = 0.0, None
            self.calls, self.left, self.models, self.most_running = [], [], [self.name], 0
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
        secret = None
        if self.certificate:
            secret = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            secret.load_cert_chain(self.certificate)
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, ssl=secret)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _vanish(self) -> None:
        if self._server is not None:
            # asyncio leaves a connection open that it accepts while its server closes (3.11).
            for listener in self._server.sockets:
                self._loop.remove_reader(listener.fileno())
            await asyncio.sleep(0)
            self._server.close()
            self._server = None
        await self._cut()

    async def _cut(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _drain(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        serving = asyncio.get_running_loop().create_task(self._serve(reader, writer))

        def ended(_: asyncio.Task[None]) -> None:  # even of one that was cancelled before it began
            self._writers.discard(writer)
            writer.close()

        serving.add_done_callback(ended)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(
            ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError
        ):
            while await self._exchange(reader, writer):
                pass

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        path = first.split()[1]
        if self.key and headers.get("authorization") != f"Bearer {self.key}":
            return await _reply(writer, *PLANS["401"])
        if path == "/v1/models":
            return await _reply(writer, 200, {"data": [{"id": m} for m in self.models]}, {})
        if path not in {"/v1/chat/completions", "/v1/completions", "/v1/embeddings"}:
            return await _reply(writer, 404, {"detail": "Not Found"}, {})
        call = Call(time.monotonic(), json.loads(content), headers, path)
        self.calls.append(call)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        answer = asyncio.ensure_future(self._answer(call, writer))
        gone = asyncio.ensure_future(reader.read(1))  # nobody here asks before he was answered
        try:
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            if answer.done() and not isinstance(answer.exception(), ConnectionError):
                return answer.result()
            self.left.append(time.monotonic())
            return False
        finally:
            self.running -= 1
            answer.cancel()
            gone.cancel()
            await asyncio.gather(answer, gone, return_exceptions=True)

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
        status, said, headers = PLANS.get(mode) or (200, self._completion(call), {})
        if mode.startswith("echo-"):  # as FastAPI's servers refuse, vLLM among them
            fault = {"loc": ["body"], "msg": "Value error", "type": "value_error"}
            status, said = int(mode[5:]), {"detail": [{**fault, "input": call.body}]}
        if mode == "tools":
            said = calling_tools(said, call.body, call.prompt)
        if status == 200 and call.body.get("stream") is True and mode != "plain-json":
            return await send(writer, mode, events_of(said, usage=call.wants_usage), self.pace)
        return await _reply(writer, status, said, headers)

    def text(self, call: Call) -> str:
        """Return what it answers."""
        if self.words is None:
            return f"{self.name}: {call.prompt}"
        return " ".join(f"{call.prompt.replace(' ', '-')}.{n}" for n in range(self.words))

    def _completion(self, call: Call) -> dict[str, Any]:
        if call.path == "/v1/embeddings":
            return embeddings(call.body)
        legacy = call.path == "/v1/completions"  # a body may suit both
        body = {name: value for name, value in call.body.items() if legacy or name != "prompt"}
        return {
            "id": "chatcmpl-stub",
            "object": "text_completion" if legacy else "chat.completion",
            "created": 1,
            "model": call.body.get("model", self.name),
            "choices": choices_of(body, self.text(call)),
            "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
        }


async def _reply(writer: asyncio.StreamWriter, status: int, content: Any, headers: Headers) -> bool:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}"]
    lines += ["content-type: application/json", *(f"{k}: {v}" for k, v in headers.items())]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    await writer.drain()
    return True
