"""HTTP as bytes: what is sent as it is, and what came back taken apart."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Reply:
    """One response. headers: the last of each name, in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def envelope(self) -> dict[str, Any]:
        """Return the error; AssertionError if it does not come in the envelope."""
        said = json.loads(self.body)
        assert set(said) == {"error"}, said
        error: dict[str, Any] = said["error"]
        assert set(error) == {"message", "type", "param", "code"}, error
        return error


def exchange(  # noqa: PLR0913 - an exchange is these
    port: int,
    pieces: Iterable[bytes],
    seconds: float = 10,
    pause: float = 0,
    *,
    half: bool = False,
    idle: float | None = None,
) -> bytes:
    """Send pieces to a port of this machine; return all that comes until the other side closes.

    pause: seconds between two pieces. half: say that nothing more comes. idle: seconds of silence
    after which a connection that has had an answer is kept for the next request. Raises
    TimeoutError when the connection is not closed within the seconds.
    """
    until = time.monotonic() + seconds
    with socket.create_connection(("127.0.0.1", port), seconds) as connection:
        # Who is refused in the middle of what he sends may find his connection closed.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for piece in pieces:
                connection.sendall(piece)
                if pause:
                    time.sleep(pause)
        if half:
            with contextlib.suppress(OSError):  # closed by the other side already
                connection.shutdown(socket.SHUT_WR)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while True:
                left = max(until - time.monotonic(), 0.01)
                is_kept = idle is not None and bool(received) and idle < left
                connection.settimeout(idle if is_kept else left)
                try:
                    chunk = connection.recv(65536)
                except TimeoutError:
                    if not is_kept:
                        raise
                    break
                if not chunk:
                    break
                received += chunk
        return received


def replies(received: bytes, *, to_head: bool = False) -> list[Reply]:
    """Return the responses that bytes are; ValueError if they are none.

    to_head: the requests were HEAD, whose responses have no body. 1xx are left out.
    """
    found: list[Reply] = []
    while received:
        head, end, received = received.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        version, status, *_ = first.split(" ")
        if not end or version != "HTTP/1.1":
            raise ValueError(f"no response: {head[:200]!r}")
        pairs = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        if status.startswith("1"):
            continue
        body = b""
        if headers.get("transfer-encoding") == "chunked":
            body, received = _chunks(received)
        elif not to_head:
            size = int(headers.get("content-length", 0))
            body, received = received[:size], received[size:]
            if len(body) < size:
                raise ValueError(f"{len(body)} bytes of {size}: {body[:200]!r}")
        found.append(Reply(int(status), headers, body))
    return found


def _chunks(received: bytes) -> tuple[bytes, bytes]:
    """Return a chunked body, and what follows it."""
    body = b""
    while True:
        size, end, received = received.partition(b"\r\n")
        if not end:
            raise ValueError("a chunk without an end")
        length = int(size, 16)
        if not length:
            return body, received.removeprefix(b"\r\n")
        body, received = body + received[:length], received[length + 2 :]
