"""A TCP proxy whose connections end as badly as those of a balancer, a NAT or a cable."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
import time
from collections import deque
from urllib.parse import urlsplit, urlunsplit

import hiredis


class Proxy:
    """Forwards to a server; reset(), finish(), forget(), freeze(), refuse(): it at its worst.

    lead_to(): as a balancer, to another server. delay: seconds that every byte is on its way.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.lead_to(url)
        self._lock = threading.Lock()
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._frozen = False
        self._refusal = b""
        self._asked: dict[socket.socket, hiredis.Reader] = {}  # by client: what it asks of Redis
        self.delay = 0.0
        self._late: deque[tuple[float, socket.socket, bytes]] = deque()  # due, from, what was read
        self._listener: socket.socket | None = None
        self._selector = selectors.DefaultSelector()
        self._forgotten: list[socket.socket] = []
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._stopping = False
        self.port = 0
        self.accept()
        netloc = f"127.0.0.1:{self.port}"
        if "@" in parts.netloc:
            netloc = parts.netloc.rpartition("@")[0] + "@" + netloc
        self.url = urlunsplit(parts._replace(netloc=netloc))
        self._thread = threading.Thread(target=self._forward, daemon=True)
        self._thread.start()

    def lead_to(self, url: str) -> None:
        """Connect those who come from now on to this server."""
        parts = urlsplit(url)
        self._server = (parts.hostname, parts.port)

    def accept(self) -> None:
        """Take connections (again)."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(256)
        self.port = listener.getsockname()[1]
        with self._lock:
            self._listener = listener
            self._selector.register(listener, selectors.EVENT_READ)
        self._wake.send(b"x")

    def refuse(self) -> None:
        """Take no connections, and reset those that are."""
        with self._lock:
            if self._listener:
                self._selector.unregister(self._listener)
                self._listener.close()
                self._listener = None
        self.reset()

    def reset(self) -> None:
        """End every connection with a RST, to both sides."""
        self._end_all(reset=True)

    def finish(self) -> None:
        """End every connection with a FIN, to both sides."""
        self._end_all(reset=False)

    def _end_all(self, *, reset: bool) -> None:
        with self._lock:
            for end in list(self._pairs):
                self._drop(end, reset=reset)
        self._wake.send(b"x")

    def forget(self) -> None:
        """Lose the routes that are, without a word, as a NAT does; new connections are served."""
        with self._lock:
            for end in self._pairs:
                self._selector.unregister(end)
                self._forgotten.append(end)
            self._pairs.clear()
        self._wake.send(b"x")

    def freeze(self) -> None:
        """Forward nothing any more, and tell nobody; new connections are kept waiting."""
        self._frozen = True

    def thaw(self) -> None:
        """Forward again, what was held back too."""
        self._frozen = False
        self._wake.send(b"x")

    def answer_with(self, error: str) -> None:
        """Answer every command for Redis with an error; "": forward again."""
        with self._lock:
            self._refusal = f"-{error}\r\n".encode() if error else b""

    def close(self) -> None:
        self._stopping = True
        self.refuse()
        self._thread.join(5)
        for each in (*self._forgotten, self._wake, self._woken):
            each.close()
        self._selector.close()

    def _forward(self) -> None:
        while not self._stopping:
            events = self._selector.select(0.005 if self._late else 0.05)
            if self._frozen:  # what waits to be read does so all the time
                time.sleep(0.02)
            with self._lock:
                for key, _ in events:
                    self._serve(key.fileobj)
                while self._late and self._late[0][0] <= time.monotonic() and not self._frozen:
                    _, end, data = self._late.popleft()
                    self._send(end, data)

    def _serve(self, end: socket.socket) -> None:
        if end is self._woken:
            end.recv(64)
        elif self._frozen:
            pass
        elif end is self._listener:
            with contextlib.suppress(OSError):
                client, _ = end.accept()
                try:
                    self._join(client, socket.create_connection(self._server))
                    self._asked[client] = hiredis.Reader()
                except OSError:  # it is away, and so the client sees
                    client.close()
        elif end in self._pairs:
            self._pass_on(end)

    def _join(self, client: socket.socket, server: socket.socket) -> None:
        for one, other in ((client, server), (server, client)):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            one.settimeout(10)  # who reads nothing any more holds up no other
            self._pairs[one] = other
            self._selector.register(one, selectors.EVENT_READ)

    def _pass_on(self, end: socket.socket) -> None:
        try:
            data = end.recv(65536)
            if data and self._refusal and end in self._asked:
                self._refuse(end, data)
                return
        except OSError:
            data = b""
        if self.delay or self._late:  # an end does not overtake what came before it
            self._late.append((time.monotonic() + self.delay, end, data))
        else:
            self._send(end, data)

    def _send(self, end: socket.socket, data: bytes) -> None:
        other = self._pairs.get(end)
        if other is None:
            return
        try:
            if data:
                other.sendall(data)
                return
        except OSError:
            pass
        self._drop(end, reset=False)

    def _refuse(self, client: socket.socket, data: bytes) -> None:
        reader = self._asked[client]
        reader.feed(data)
        while reader.gets() is not False:
            client.sendall(self._refusal)

    def _drop(self, end: socket.socket, *, reset: bool) -> None:
        other = self._pairs.pop(end, None)
        if other is None:
            return
        self._pairs.pop(other, None)
        for each in (end, other):
            self._asked.pop(each, None)
            self._selector.unregister(each)
            if reset:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            each.close()
