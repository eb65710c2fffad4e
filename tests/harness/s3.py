"""An S3 server on loopback, as far as s3fs asks one: objects, ranges, parts, lists, deletes.

Its rules are S3's: every part but the last has 5 MiB at least, and nobody makes a bucket.
"""

from __future__ import annotations

import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable

SMALLEST_PART = 5 * 1024 * 1024
LIST = """<ListBucketResult><Name>b</Name><IsTruncated>false</IsTruncated>{}</ListBucketResult>"""
ENTRY = (
    "<Contents><Key>{}</Key><Size>{}</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
    '<ETag>"x"</ETag></Contents>'
)


class S3Server:
    """One bucket. objects: key -> content. asked: "METHOD what" of every request.

    before: is called with "METHOD what" before the request is served, in a thread of its own.
    """

    def __init__(self, bucket: str = "bucket") -> None:
        self.bucket = bucket
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.asked: list[str] = []
        self.before: Callable[[str], None] = lambda _: None
        handler = type("Handler", (_Handler,), {"s3": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )
        self._thread.start()

    @property
    def environ(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._server.server_port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    s3: S3Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Tell nobody: the tests read `asked`."""

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        query = {k: v[0] for k, v in parse_qs(parts.query, keep_blank_values=True).items()}
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if "aws-chunked" in self.headers.get("content-encoding", ""):
            body = _unchunked(body)
        what = f"{self.command} {'key' if key else 'bucket'} {' '.join(query)}"
        self.s3.asked.append(what)
        self.s3.before(what)
        if bucket != self.s3.bucket:
            self._answer(404, b"<Error><Code>NoSuchBucket</Code></Error>")
        elif key:
            self._object(key, query, body)
        else:
            self._bucket(query, body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815 - http.server's names

    def _bucket(self, query: dict[str, str], body: bytes) -> None:
        objects = self.s3.objects
        if self.command == "PUT":
            self._answer(403, b"<Error><Code>AccessDenied</Code></Error>")
        elif "delete" in query:
            for key in re.findall(r"<Key>(.*?)</Key>", body.decode()):
                objects.pop(key, None)
            self._answer(200, b"<DeleteResult></DeleteResult>")
        else:
            prefix = query.get("prefix", "")
            found = (ENTRY.format(k, len(v)) for k, v in objects.items() if k.startswith(prefix))
            self._answer(200, LIST.format("".join(found)).encode())

    def _object(self, key: str, query: dict[str, str], body: bytes) -> None:
        objects, uploads = self.s3.objects, self.s3.uploads
        if "uploads" in query:
            uploads[key] = {}
            told = f"<UploadId>{hashlib.sha256(key.encode()).hexdigest()}</UploadId>"
            told = f"<InitiateMultipartUploadResult>{told}</InitiateMultipartUploadResult>"
            self._answer(200, told.encode())
        elif "partNumber" in query:
            uploads[key][int(query["partNumber"])] = body
            self._answer(200, etag='"part"')
        elif "uploadId" in query and self.command == "DELETE":
            uploads.pop(key, None)
            self._answer(204)
        elif "uploadId" in query:
            sent = [uploads[key][number] for number in sorted(uploads[key])]
            if any(len(part) < SMALLEST_PART for part in sent[:-1]):
                self._answer(400, b"<Error><Code>EntityTooSmall</Code></Error>")
                return
            objects[key] = b"".join(sent)
            del uploads[key]
            told = (
                b'<CompleteMultipartUploadResult><ETag>"x"</ETag></CompleteMultipartUploadResult>'
            )
            self._answer(200, told)
        elif self.command == "PUT":
            objects[key] = body
            self._answer(200, etag='"x"')
        elif self.command == "DELETE":
            objects.pop(key, None)
            self._answer(204)
        elif key not in objects:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        else:
            self._content(objects[key])

    def _content(self, content: bytes) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
        if not asked:
            self._answer(200, content, etag='"x"')
            return
        first, last = int(asked[1]), min(int(asked[2]), len(content) - 1)
        self._answer(206, content[first : last + 1], etag='"x"')

    def _answer(self, status: int, content: bytes = b"", etag: str = "") -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.send_header("last-modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        if etag:
            self.send_header("etag", etag)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _unchunked(body: bytes) -> bytes:
    content = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size.split(b";")[0], 16)
        if not length:
            break
        content, body = content + body[:length], body[length + 2 :]
    return content
