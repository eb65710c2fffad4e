"""A server that sends bytes as a test has them, whatever HTTP says."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


class Server:
    """Answers each request on its own connection. heads: what it was asked; left: who went away.

    pieces: what it sends, and between two of them `pause` seconds; then it waits for its client,
    unless `closes`, or `resets` the connection.
    """

    def __init__(self) -> None:
        self.pieces, self.pause, self.closes = [OK], 0.0, False
        self.resets = False
        self.heads: list[str] = []
        self.connections = self.left = 0
        self._serving: set[asyncio.Task[None]] = set()

    async def open(self) -> Server:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def close(self) -> None:
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader, writer):
        self.connections += 1
        self._serving.add(asyncio.current_task())
        try:
            await self._converse(reader, writer)
        except asyncio.CancelledError:  # the test is over
            writer.transport.abort()
        finally:
            if self.resets:
                linger = struct.pack("ii", 1, 0)  # on, for no second: what is unsent is dropped
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, linger
                )
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            self.left += 1

    async def _converse(self, reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while not (self.closes or self.resets) or not self.heads:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                self.heads.append(head.lower())
                for piece in self.pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(self.pause)


def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
