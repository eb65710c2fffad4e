"""Answers whose words come at a steady pace, each with the moment at which it was sent.

Who is asked `NAME WORDS PACE` says so many words, so many a second: `NAME.NUMBER.NANOSECONDS `, by
the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import NamedTuple

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
)
CHUNK = (
    b'{"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1,"model":"bench",'
    b'"choices":[{"index":0,"delta":%b,"logprobs":null,"finish_reason":%b}]}'
)


class Script(NamedTuple):
    """What a stream is asked to say. pace: words a second."""

    name: str
    words: int
    pace: float

    def body(self) -> bytes:
        """Return the request for it."""
        prompt = f"{self.name} {self.words} {self.pace}"
        asked = {"messages": [{"role": "user", "content": prompt}], "stream": True}
        return json.dumps(asked, separators=(",", ":")).encode()


def is_streamed(body: bytes) -> bool:
    """Whether a stream is asked for."""
    return b'"stream":true' in body


def script_of(body: bytes) -> Script:
    """Return what a request asks for."""
    name, words, pace = json.loads(body)["messages"][-1]["content"].split()
    return Script(name, int(words), float(pace))


class Paced:
    """Says its words to one client; a client that goes away ends it."""

    def __init__(self, transport: asyncio.Transport, body: bytes) -> None:
        self._transport, self._script = transport, script_of(body)
        self._loop = asyncio.get_running_loop()
        self._began = 0.0
        self._said = 0

    def begin(self) -> None:
        """Send the head and the role at once, and the first word a moment later."""
        self._transport.write(
            HEAD + _framed(CHUNK % (b'{"role":"assistant","content":""}', b"null"))
        )
        self._began = self._loop.time() + 1 / self._script.pace
        self._loop.call_at(self._began, self._say)

    def _say(self) -> None:
        if self._transport.is_closing():
            return
        name, words, pace = self._script
        word = f"{name}.{self._said}.{time.monotonic_ns()} "
        self._transport.write(_framed(CHUNK % (b'{"content":"%b"}' % word.encode(), b"null")))
        self._said += 1
        if self._said < words:
            self._loop.call_at(self._began + self._said / pace, self._say)
            return
        end = _framed(CHUNK % (b"{}", b'"stop"'))
        self._transport.write(end + _framed(b"[DONE]") + b"0\r\n\r\n")


def _framed(data: bytes) -> bytes:
    """Return an event as one chunk of HTTP."""
    return b"%x\r\ndata: %b\n\n\r\n" % (len(data) + 8, data)
