"""A reverse proxy that serves a server's all under a path, as a company's front door does."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx


class PrefixProxy:
    """Passes what is asked under a path on, without it; nothing else is there.

    asked: "METHOD path" of every request, as it came.
    """

    def __init__(self, server: str, prefix: str) -> None:
        self.asked: list[str] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                proxy.asked.append(f"{self.command} {self.path}")
                inside = self.path.startswith(f"{prefix}/")
                url = server + self.path.removeprefix(prefix) if inside else ""
                length = int(self.headers["Content-Length"] or 0)
                self._send(self._ask(url, self.rfile.read(length)) if url else httpx.Response(404))

            do_POST = do_GET  # noqa: N815 - http.server finds it by that name

            def _ask(self, url: str, content: bytes) -> httpx.Response:
                own = {"host", "connection", "content-length", "accept-encoding"}
                headers = {n: v for n, v in self.headers.items() if n.lower() not in own}
                return httpx.request(self.command, url, content=content, headers=headers)

            def _send(self, reply: httpx.Response) -> None:
                self.send_response(reply.status_code)
                for name in ("content-type", "content-security-policy", "location"):
                    if name in reply.headers:
                        self.send_header(name, reply.headers[name])
                self.send_header("Content-Length", str(len(reply.content)))
                self.end_headers()
                self.wfile.write(reply.content)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}{prefix}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
