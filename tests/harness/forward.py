"""A forward proxy, as companies have one: whole URLs over http://, CONNECT for the rest."""

from __future__ import annotations

import contextlib
import socket
import threading
from http.client import HTTPConnection, parse_headers
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from email.message import Message
    from urllib.parse import SplitResult


class ForwardProxy:
    """Connects every request to one server, whatever host it names; notes what it was asked.

    asked: "METHOD target" of every request; told: its Proxy-Authorization, or "".
    """

    def __init__(self, server: str) -> None:
        parts = urlsplit(server)
        self._server = (parts.hostname, parts.port)
        self.asked: list[str] = []
        self.told: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), client.makefile("rb") as asked:
            first = asked.readline().decode().split()
            if len(first) != 3:
                return
            headers = parse_headers(asked)
            self.asked.append(f"{first[0]} {first[1]}")
            self.told.append(headers["Proxy-Authorization"] or "")
            if first[0] == "CONNECT":
                self._join(client, asked)
            else:
                content = asked.read(int(headers["Content-Length"] or 0))
                client.sendall(self._ask(first[0], urlsplit(first[1]), content, headers))

    def _join(self, client: socket.socket, asked: BinaryIO) -> None:
        with socket.create_connection(self._server) as server:
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            threading.Thread(target=_pass, args=(asked, server), daemon=True).start()
            while data := server.recv(65536):
                client.sendall(data)

    def _ask(self, method: str, url: SplitResult, content: bytes, headers: Message) -> bytes:
        """Return the server's reply, after which this connection ends."""
        path = url.path + (f"?{url.query}" if url.query else "")
        with contextlib.closing(HTTPConnection(*self._server)) as server:
            hops = ("proxy-", "connection", "content-length")
            own = {n: v for n, v in headers.items() if not n.lower().startswith(hops)}
            server.request(method, path, content or None, own)
            reply = server.getresponse()
            body = reply.read()
        head = f"HTTP/1.1 {reply.status} {reply.reason}\r\nConnection: close\r\n"
        kind = f"Content-Type: {reply.headers['Content-Type']}\r\n"
        return f"{head}{kind}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _pass(asked: BinaryIO, server: socket.socket) -> None:
    with contextlib.suppress(OSError, ValueError):
        while data := asked.read1(65536):
            server.sendall(data)
