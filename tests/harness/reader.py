"""A client that has the bytes of its stream as they came off the socket."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import struct
import time
from typing import TYPE_CHECKING, Any, ClassVar, Self
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

CHAT = "/v1/chat/completions"
DONE = b"data: [DONE]"


def chat(prompt: str, **fields: Any) -> dict[str, Any]:
    """Return the body of a chat that is streamed."""
    return {"messages": [{"role": "user", "content": prompt}], "stream": True, **fields}


class Reader:
    """Asks on a connection of its own. body: None asks by GET; buffer: bytes that wait for it."""

    opened: ClassVar[list[Reader]] = []

    def __init__(
        self,
        url: str,
        body: Any = None,
        path: str = CHAT,
        headers: dict[str, str] | None = None,
        buffer: int = 0,
    ) -> None:
        self.opened.append(self)
        self.raw, self.closed = b"", False
        self._came: list[tuple[float, int]] = []  # when, and up to which byte
        content = b"" if body is None else json.dumps(body).encode()
        said = {
            "Host": "localhost",
            "Connection": "close",
            "Content-Length": str(len(content)),
            **(headers or {}),
        }
        lines = [f"{'GET' if body is None else 'POST'} {path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in said.items()]
        where = urlsplit(url)
        self.socket = socket.socket()
        if buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.connect((where.hostname, where.port))
        self.socket.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + content)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    # Reading

    def take(self, seconds: float = 20.0, most: int = 65_536) -> bytes:
        """Wait for some bytes; b"" at the connection's end."""
        self.socket.settimeout(seconds)
        try:
            data = self.socket.recv(most)
        except ConnectionError:
            data = b""
        self.closed = not data
        self.raw += data
        self._came.append((time.monotonic(), len(self.raw)))
        return data

    def until(self, condition: Callable[[Reader], Any], seconds: float = 20.0) -> Reader:
        """Read until that is true of it; fail the test if it does not become so."""
        until = time.monotonic() + seconds
        while not condition(self):
            left = until - time.monotonic()
            with contextlib.suppress(TimeoutError):
                if left > 0 and not self.closed and (self.take(left) or condition(self)):
                    continue
            pytest.fail(f"not within {seconds:g} s: {self.raw[-2000:]!r}")
        return self

    def words(self, number: int) -> Reader:
        """Read until there are so many words."""
        return self.until(lambda me: len(me.text.split()) >= number)

    def to_the_end(self, seconds: float = 30.0) -> Reader:
        """Read until the connection is closed."""
        return self.until(lambda me: me.closed, seconds)

    def leave(self, *, reset: bool = False) -> float:
        """Go away; return when."""
        if reset:
            linger = struct.pack("ii", 1, 0)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.socket.close()
        return time.monotonic()

    # What it has

    @property
    def status(self) -> int:
        return int(self.raw.split(b" ", 2)[1])

    @property
    def head(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[0].lower()

    def header(self, name: str) -> str:
        """Return a header; "" if it is not there."""
        for line in self.head.decode().split("\r\n")[1:]:
            key, _, value = line.partition(": ")
            if key == name:
                return value
        return ""

    @property
    def body(self) -> bytes:
        """The body, without the frame of its chunks."""
        return self._unframed()[0]

    @property
    def is_whole(self) -> bool:
        """Whether the body was ended as HTTP has it, and is not merely over."""
        return self._unframed()[1]

    def _unframed(self) -> tuple[bytes, bool]:
        rest = self.raw.partition(b"\r\n\r\n")[2]
        if b"transfer-encoding: chunked" not in self.head:
            length = self.header("content-length")
            return rest, bool(length) and len(rest) == int(length)
        body = b""
        while b"\r\n" in rest:
            size, _, after = rest.partition(b"\r\n")
            if int(size, 16) == 0:
                return body, after == b"\r\n"
            body += after[: int(size, 16)]
            rest = after[int(size, 16) + 2 :]
        return body, False

    @property
    def frames(self) -> list[bytes]:
        """Its events and comments, those that have come whole."""
        return self.body.split(b"\n\n")[:-1]

    @property
    def comments(self) -> list[bytes]:
        return [frame for frame in self.frames if frame.startswith(b":")]

    @property
    def events(self) -> list[bytes]:
        return [frame for frame in self.frames if frame.startswith(b"data: ")]

    @property
    def chunks(self) -> list[dict[str, Any]]:
        said = [json.loads(event[6:]) for event in self.events if event != DONE]
        return [chunk for chunk in said if "error" not in chunk]

    @property
    def text(self) -> str:
        choices = (choice for chunk in self.chunks for choice in chunk["choices"])
        return "".join(choice["delta"].get("content") or "" for choice in choices)

    @property
    def error(self) -> str:
        """The code of the error, with which it ended, or that was its answer; "": there is none."""
        if not self.events:
            return str(json.loads(self.body)["error"]["code"]) if self.is_whole else ""
        said = [json.loads(event[6:]) for event in self.events if event != DONE]
        codes = [str(each["error"]["code"]) for each in said if "error" in each]
        assert len(codes) <= 1
        return codes[0] if codes else ""

    @property
    def answered(self) -> bool:
        """Whether it has one answer that is whole, and said to be."""
        reasons = [choice["finish_reason"] for chunk in self.chunks for choice in chunk["choices"]]
        ends = [reason for reason in reasons if reason]
        return self.is_whole and ends == ["stop"] and self.events[-1] == DONE

    @property
    def broke_off(self) -> bool:
        """Whether it ended so that nobody takes what it has for an answer."""
        return self.closed and not self.is_whole and DONE not in self.events and bool(self.error)

    @property
    def pauses(self) -> list[float]:
        """Seconds between two moments in which something came."""
        times = [at for at, _ in self._came]
        return [later - earlier for earlier, later in itertools.pairwise(times)]
