"""A model server that is no bottleneck: `python -m benchmarks.upstream --port N --delay S`.

With --slots it runs so many calls at once, and the others wait in their order, as an engine has it.
A SIGUSR1 makes it fail every completion from now on; another one makes it well again. GET /calls
tells when each was asked for (ms of the machine's monotonic clock), and its status; GET /count, how
many there were. What is asked for as a stream comes in paced words (benchmarks/paced.py).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import time
from collections import deque
from typing import ClassVar, cast

import uvloop

from benchmarks.paced import Paced, is_streamed

ANSWER = json.dumps(
    {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1,
        "model": "bench",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "An answer of some words. " * 8},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 20, "completion_tokens": 40, "total_tokens": 60},
    }
).encode()
MODELS = json.dumps({"object": "list", "data": [{"id": "bench", "object": "model"}]}).encode()


def _reply(body: bytes, status: str = "200 OK") -> bytes:
    kind = "content-type: application/json"
    head = f"HTTP/1.1 {status}\r\n{kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


CHAT, LIST = _reply(ANSWER), _reply(MODELS)
FAILURE = _reply(b'{"error": {"message": "it fails"}}', "500 Internal Server Error")


class Server(asyncio.Protocol):
    """Reads requests by their content-length; answers each after the delay."""

    delay = 0.0
    slots = 0  # free ones; below 0: so many calls wait
    fails = False
    calls: ClassVar[list[tuple[int, int]]] = []
    waiting: ClassVar[deque[Server]] = deque()

    def __init__(self) -> None:
        self._buffer = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep where to answer."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop has its own class

    def data_received(self, data: bytes) -> None:
        """Answer every request that is there."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._buffer) < end + 4 + length:
                return
            body = self._buffer[end + 4 : end + 4 + length]
            self._buffer = self._buffer[end + 4 + length :]
            if head.startswith(b"get"):
                self._send(self._told(head))
            elif is_streamed(body):
                Paced(self._transport, body).begin()
            else:
                self._complete()

    def _told(self, head: bytes) -> bytes:
        if b" /calls " in head:
            return _reply(json.dumps(self.calls).encode())
        return _reply(b"%d" % len(self.calls)) if b" /count " in head else LIST

    def _complete(self) -> None:
        self.calls.append((time.monotonic_ns() // 1_000_000, 500 if self.fails else 200))
        if self.fails:
            self._send(FAILURE)
        elif not self.delay:
            self._send(CHAT)
        else:
            Server.slots -= 1
            if Server.slots < 0:
                self.waiting.append(self)
            else:
                self.run()

    def run(self) -> None:
        """Answer a call when it has taken its time."""
        asyncio.get_running_loop().call_later(self.delay, self._end)

    def _end(self) -> None:
        Server.slots += 1
        if self.waiting:
            self.waiting.popleft().run()
        self._send(CHAT)

    def _send(self, reply: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(reply)


def _turn() -> None:
    Server.fails = not Server.fails


async def serve(port: int) -> None:
    """Serve for ever."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, _turn)
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", port)
    await server.serve_forever()


def main() -> None:
    """Parse the options and serve."""
    options = argparse.ArgumentParser()
    options.add_argument("--port", type=int, required=True)
    options.add_argument("--delay", type=float, default=0.0)
    options.add_argument("--slots", type=int, default=1_000_000)
    given = options.parse_args()
    Server.delay, Server.slots = given.delay, given.slots
    uvloop.run(serve(given.port))


if __name__ == "__main__":
    main()
