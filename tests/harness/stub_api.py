"""An API that answers what a test says."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from harness.waiting import free_port

HANG_UP = object()  # instead of an answer


class Asked(NamedTuple):
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class StubApi:
    """Answers GETs and POSTs as `answers` says: path -> status and content."""

    def __init__(self) -> None:
        self.port = free_port()
        self.answers: dict[str, tuple[int, Any]] = {}
        self.asked: list[str] = []
        self.requests: list[Asked] = []
        self._server: ThreadingHTTPServer | None = None
        self.listen()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, path: str) -> tuple[int, Any]:
        return self.answers[path]

    def listen(self) -> None:
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                stub.requests.append(Asked(self.command, self.path, headers, body))
                stub.asked.append(self.path)
                status, content = stub.answer(self.path)
                if content is HANG_UP:
                    self.close_connection = True
                    return
                sent = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            do_POST = do_GET  # noqa: N815 - as the server calls it

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def vanish(self) -> None:
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
