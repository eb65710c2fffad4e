"""The command line's side of the HTTP API."""

from __future__ import annotations

import os
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, BinaryIO, Self
from urllib.parse import quote, urlencode, urlsplit

import httpx

from cli import advice
from cli.json_body import NoJsonError, decoded, encoded
from tasks.hosts import is_loopback
from tasks.setting_kinds import masked_url

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 30.0
UPLOAD_SECONDS = 600.0
LARGEST_PAGE = 100  # of a list of the API's
DEFAULT_PORT = 8000  # of `fallthrough up`
PORTS = {"http": 80, "https": 443}  # where a URL names none
LOOPBACK = "localhost"  # and all its other names
FINAL = frozenset({"succeeded", "failed", "cancelled", "expired"})


class ApiFailedError(Exception):
    """The API refused, or could not be reached; the message is for the user."""


class ApiRefusedError(ApiFailedError):
    """What was sent is at fault."""


class ApiTooLargeError(ApiRefusedError):
    """More was sent at once than the API takes."""


class ApiAwayError(ApiFailedError):
    """The API could not be reached, or could not answer now; the same call may go well later."""


class ApiBusyError(ApiAwayError):
    """The API is there, and turned the call away: too much at once."""


class ApiCutOffError(ApiAwayError):
    """The call was sent, and its answer did not come: nobody knows whether it was carried out."""


class ApiUnderWayError(ApiAwayError):
    """The API still does the same call, which was sent before and cut off."""


def _authorities() -> ssl.SSLContext:
    """Return whom to believe a certificate; SSL_CERT_FILE and SSL_CERT_DIR may say."""
    try:
        return httpx.create_ssl_context()
    except OSError as error:  # one that is no certificate is an SSLError, which is one
        message = f"SSL_CERT_FILE or SSL_CERT_DIR cannot be used: {error.strerror or error}"
        raise ApiFailedError(message) from None


def check_name(name: str) -> None:
    """Raise ApiFailedError for an empty name, as "$batch" is in a shell that has none."""
    if not name:
        message = "the id or name is empty"
        raise ApiFailedError(message)


def _segment(name: str) -> str:
    """Return a name as one segment of a path, whatever a user has typed; raises ApiFailedError."""
    check_name(name)
    return quote(name, safe="", errors="surrogateescape")


def _lines(pieces: Iterable[bytes]) -> Iterator[str]:
    """Yield the lines of a text that comes in pieces; only a line's end parts them."""
    left = b""
    for piece in pieces:
        *lines, left = (left + piece).split(b"\n")
        yield from (line.decode(errors="replace") for line in lines)


def base_of(url: str) -> str:
    """Return where an API is, with or without /v1 or /v1/chat/completions in its URL."""
    base = url.strip().rstrip("/")
    for ending in ("/chat/completions", "/v1"):
        base = base.removesuffix(ending).rstrip("/")
    return base


def is_same_api(one: str, other: str) -> bool:
    """Whether two URLs lead to one API, however each is written."""
    return _place_of(one) == _place_of(other)


def _place_of(url: str) -> tuple[str, str, int, str]:
    parts = urlsplit(base_of(url))
    host = (parts.hostname or "").removesuffix(".")
    port = parts.port or PORTS.get(parts.scheme, 0)
    return parts.scheme, LOOPBACK if is_loopback(host) else host, port, parts.path


# What these statuses mean; of the others those from 500 on: that it is away.
ERROR_TYPES: dict[int, type[ApiFailedError]] = {
    HTTPStatus.BAD_REQUEST: ApiRefusedError,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: ApiTooLargeError,
    HTTPStatus.UNPROCESSABLE_ENTITY: ApiRefusedError,
    HTTPStatus.TOO_MANY_REQUESTS: ApiBusyError,
    HTTPStatus.BAD_GATEWAY: ApiCutOffError,
    HTTPStatus.GATEWAY_TIMEOUT: ApiCutOffError,
}


def _error_type(reply: httpx.Response) -> type[ApiFailedError]:
    if reply.headers.get("x-should-retry") == "false":
        return ApiFailedError
    if reply.status_code == HTTPStatus.CONFLICT and "retry-after" in reply.headers:
        return ApiUnderWayError
    if reply.status_code in ERROR_TYPES:
        return ERROR_TYPES[reply.status_code]
    return ApiAwayError if reply.is_server_error else ApiFailedError


class Client:
    """Calls the API; every method raises ApiFailedError.

    What creates something takes a key: sent again with the same one, it creates nothing more.
    """

    def __init__(
        self, url: str, key: str = "", proxy: str = "", options: Sequence[str] = ()
    ) -> None:
        """proxy: its URL; "": none. The environment names none.

        options: those by which a command finds this API; (): the settings name it.
        """
        self._options = options
        base = base_of(url)
        self.url = masked_url(base)  # as it is shown
        timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            self._http = httpx.Client(
                base_url=base,
                timeout=timeout,
                headers=headers,
                trust_env=False,
                proxy=proxy or None,
                verify=_authorities() if base.lower().startswith("https:") else False,
            )
        except httpx.InvalidURL:
            message = f"{self.url} is no URL of an API"
            raise ApiFailedError(message) from None

    def submit(self, requests: Sequence[dict[str, Any]], key: str = "") -> list[dict[str, Any]]:
        """Submit requests (1 to 1 000); return their jobs."""
        if len(requests) == 1:
            return [self._call("POST", "/v1/jobs", requests[0], key=key)]
        answer = self._call("POST", "/v1/jobs", {"requests": list(requests)}, key=key)
        jobs: list[dict[str, Any]] = answer["data"]
        return jobs

    def job(self, job_id: str, wait: float = 0.0) -> dict[str, Any]:
        """Return a job, waiting for its end up to so many seconds."""
        job: dict[str, Any] = self._call(
            "GET", f"/v1/jobs/{_segment(job_id)}?wait={wait:g}", seconds=wait + ANSWER_SECONDS
        )
        return job

    def stream(self, job_id: str, after: int) -> Iterator[dict[str, Any] | str]:
        """Yield a job's answer as it comes, after a sequence number; -1: from its beginning.

        A dict is a chunk; a str says what is waited for. It ends where the API ends it: whether
        that is the answer's end, the job says.
        """
        path = f"/v1/jobs/{_segment(job_id)}/stream"
        query = {"starting_after": after} if after >= 0 else {}
        try:
            with self._http.stream("GET", path, params=query) as reply:
                if not reply.is_success:
                    reply.read()
                    self._answer(path, reply)
                for line in _lines(reply.iter_bytes()):
                    if line.startswith(": "):
                        yield line.removeprefix(": ")
                    elif line.startswith("data: {"):
                        chunk = decoded(line.removeprefix("data: "))
                        if "error" in chunk:
                            return
                        yield chunk
        except httpx.HTTPError as error:
            raise self._away(error) from None
        except NoJsonError as error:
            message = f"{self.url}{path} told what is no JSON ({error}): is it the API?"
            raise ApiAwayError(message) from None

    def latest(self, what: str, limit: int, **filters: str) -> tuple[list[dict[str, Any]], bool]:
        """Return the latest jobs, files or batches, and whether there are more.

        filters: as the API names them.
        """
        found: list[dict[str, Any]] = []
        after: dict[str, str] = {}
        while True:  # one request searches so many jobs: it may find none, and not be at the end
            wanted = {"limit": min(limit - len(found), LARGEST_PAGE), **filters, **after}
            query = urlencode(wanted, errors="surrogateescape")
            page = self._call("GET", f"/v1/{what}?{query}")
            found += page["data"]
            more = bool(page.get("next"))
            if len(found) >= limit or not more:
                return found, more
            after = {"after": page["next"]}

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Cancel a job."""
        job: dict[str, Any] = self._call("POST", f"/v1/jobs/{_segment(job_id)}/cancel")
        return job

    def upload(self, path: Path, key: str) -> dict[str, Any]:
        """Upload a batch's input, streamed from disk."""
        # A form takes no byte that is no UTF-8; a file's name may have one.
        name = os.fsencode(path.stem).decode(errors="replace")
        with path.open("rb") as content:
            form = {
                "files": {"file": (f"{name}.jsonl", content, "application/jsonl")},
                "data": {"purpose": "batch"},
            }
            file: dict[str, Any] = self._call(
                "POST", "/v1/files", key=key, seconds=UPLOAD_SECONDS, **form
            )
        return file

    def create_batch(
        self, file_id: str, endpoint: str, window: str, metadata: Mapping[str, str], key: str
    ) -> Any:
        """Create a batch; return it."""
        body = {"input_file_id": file_id, "endpoint": endpoint, "completion_window": window}
        return self._call("POST", "/v1/batches", {**body, "metadata": dict(metadata)}, key=key)

    def batch(self, batch_id: str) -> dict[str, Any]:
        """Return a batch."""
        batch: dict[str, Any] = self._call("GET", f"/v1/batches/{_segment(batch_id)}")
        return batch

    def every_batch(self) -> Iterator[dict[str, Any]]:
        """Yield all batches, newest first."""
        after = ""
        while True:
            page = self._call("GET", f"/v1/batches?limit=100{after}")
            yield from page["data"]
            if not page.get("has_more") or not page["data"]:
                return
            after = f"&after={_segment(page['data'][-1]['id'])}"

    def retry_batch(self, batch_id: str, key: str) -> dict[str, Any]:
        """Ask again the lines of a batch that had no answer; return their new batch."""
        path = f"/v1/batches/{_segment(batch_id)}/retry"
        batch: dict[str, Any] = self._call("POST", path, key=key)
        return batch

    def results(self, batch_id: str) -> Iterator[dict[str, Any]]:
        """Yield the lines of a batch that are finished by now."""
        after = "0.0"
        while True:
            path = f"/v1/batches/{_segment(batch_id)}/results?limit=1000&after={after}"
            page = self._call("GET", path)
            yield from page["data"]
            if page["next"] == after or not page["data"]:
                return
            after = page["next"]

    def errors(self, batch_id: str, limit: int) -> list[dict[str, Any]]:
        """Return the first lines of a batch that have no answer, and why."""
        path = f"/v1/batches/{_segment(batch_id)}/errors?limit={limit}"
        errors: list[dict[str, Any]] = self._call("GET", path)["data"]
        return errors

    def cancel_batch(self, batch_id: str) -> dict[str, Any]:
        """Cancel a batch."""
        batch: dict[str, Any] = self._call("POST", f"/v1/batches/{_segment(batch_id)}/cancel")
        return batch

    def download(self, file_id: str, target: BinaryIO) -> None:
        """Write a file's content, streamed; raises ApiAwayError if nothing was written yet."""
        path = f"/v1/files/{_segment(file_id)}/content"
        is_begun = False
        try:
            with self._http.stream("GET", path) as reply:
                if not reply.is_success:
                    reply.read()
                    self._answer(path, reply)
                for piece in reply.iter_bytes():
                    is_begun = True
                    target.write(piece)
        except httpx.HTTPError as error:
            if not is_begun:
                raise self._away(error) from None
            message = f"the download of {file_id} broke off ({error})"
            raise ApiFailedError(message) from None

    def not_ready(self) -> list[str]:
        """Return why the API takes no work now; nothing if it does."""
        reasons: list[str] = self._call("GET", "/health/ready")["reasons"]
        return reasons

    def metrics(self) -> dict[str, Any]:
        """Return what the fleet counts: for an admin."""
        counts: dict[str, Any] = self._call("GET", "/metrics")["metrics"]
        return counts

    def breakers(self) -> dict[str, dict[str, Any]]:
        """Return the breakers by name."""
        answer = self._call("GET", "/circuit-breakers")
        views: dict[str, dict[str, Any]] = answer["circuit_breakers"]
        return views

    def change_breaker(self, name: str, action: str, why: str) -> dict[str, Any]:
        """Open, disable, reset a breaker, or have it decide by itself (auto)."""
        path = f"/circuit-breakers/{_segment(name)}/{action}"
        view: dict[str, Any] = self._call("POST", path, {"why": why} if why else None)
        return view

    def command(self, *words: str) -> str:
        """Return a command that the user is advised to give next: it asks this API, too."""
        return advice.command(*words, *self._options)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(
        self,
        method: str,
        path: str,
        body: Any = None,
        seconds: float = ANSWER_SECONDS,
        key: str = "",
        **form: Any,
    ) -> Any:
        timeout = httpx.Timeout(seconds, connect=CONNECT_SECONDS)
        headers = {"Idempotency-Key": key} if key else {}
        if body is not None:
            headers["Content-Type"] = "application/json"
            try:
                form["content"] = encoded(body)
            except NoJsonError as error:
                message = f"the request cannot be sent: {error}"
                raise ApiFailedError(message) from None
        try:
            reply = self._http.request(method, path, timeout=timeout, headers=headers, **form)
        except httpx.HTTPError as error:
            raise self._away(error) from None
        return self._answer(path, reply)

    def _away(self, error: httpx.HTTPError) -> ApiAwayError:
        cause = _cause_of(error, self._start)
        return _sent(error)(f"cannot reach the API at {self.url}: {cause}")

    @property
    def _start(self) -> str:
        """Return how a server would be started where this client looks for it."""
        parts = urlsplit(self.url)
        if not is_loopback(parts.hostname or "") or parts.scheme != "http":
            return f"start it on {parts.hostname}"
        port = () if parts.port == DEFAULT_PORT else ("--port", str(parts.port or 80))
        return f"start `{advice.command('up', *port)}`"

    def _answer(self, path: str, reply: httpx.Response) -> Any:
        """Return what a reply holds, or raise what its status says."""
        error_type = _error_type(reply)
        if reply.has_redirect_location:  # not followed: what is sent, a key too, is for this server
            there = str(reply.url.join(reply.headers["location"])).removesuffix(path)
            message = (
                f"{self.url}{path} leads elsewhere: name the API with --url {masked_url(there)} or "
                "FALLTHROUGH_API_URL"
            )
            raise ApiFailedError(message)
        try:
            answer = reply.json()
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            message = (
                f"{self.url}{path} answered {reply.status_code}, and no JSON of ours: is it the "
                "API of Fallthrough? Name it with --url or FALLTHROUGH_API_URL"
            )
            raise error_type(message)
        if reply.is_error and not isinstance(answer.get("reasons"), list):  # which is an answer
            raise error_type(self._refusal(answer, reply.status_code, path))
        if not answer.keys() & OURS:
            message = (
                f"{self.url}{path} did not answer as Fallthrough does: another server listens "
                "there; name the API with --url or FALLTHROUGH_API_URL"
            )
            raise ApiFailedError(message)
        return answer

    def _refusal(self, answer: dict[str, Any], status: int, path: str) -> str:
        """Return what an error says, and what to do about it."""
        error = answer.get("error")
        message = error.get("message") if isinstance(error, dict) else error or answer.get("detail")
        message = str(message or f"HTTP {status}")
        if status == HTTPStatus.NOT_FOUND and not isinstance(error, dict):
            return f"{self.url}{path}: {message}; is it the API of Fallthrough? Name it with --url"
        cure = CURES.get(status, "")
        return f"{message}; {cure}" if cure else message


def _sent(error: httpx.HTTPError) -> type[ApiAwayError]:
    """Return what an error means by whether the API may have the call."""
    unsent = (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)
    return ApiAwayError if isinstance(error, unsent) else ApiCutOffError


OURS = frozenset(
    {"id", "data", "name", "circuit_breakers", "metrics", "reasons"}
)  # one of them is in every answer
CURES: dict[int, str] = {
    HTTPStatus.UNAUTHORIZED: "set FALLTHROUGH_API_KEY to a key of this server's "
    "(`fallthrough keys create NAME` makes one there)",
    HTTPStatus.FORBIDDEN: "it needs an admin's key: `fallthrough keys create NAME --admin`",
}
START = "<start>"  # how to start a server where none was found
_CAUSES = (
    ("Connection refused", f"nothing listens there; {START}, or name another --url"),
    ("Name or service not known", "there is no such host; mend --url or FALLTHROUGH_API_URL"),
    ("nodename nor servname", "there is no such host; mend --url or FALLTHROUGH_API_URL"),
    ("name resolution", "its host's name cannot be looked up; mend --url or FALLTHROUGH_API_URL"),
    ("WRONG_VERSION_NUMBER", "it speaks no TLS; say http:// in --url or FALLTHROUGH_API_URL"),
    ("RECORD_LAYER_FAILURE", "it speaks no TLS; say http:// in --url or FALLTHROUGH_API_URL"),
    ("CERTIFICATE_VERIFY_FAILED", "its certificate is not trusted; name its CA in SSL_CERT_FILE"),
    ("disconnected without", "it hung up; if it speaks TLS, say https:// in --url"),
)  # fmt: skip


def _cause_of(error: httpx.HTTPError, start: str) -> str:
    """Return why a server was not reached, and what to do. start: how to start it."""
    if isinstance(error, httpx.TimeoutException):
        return "it did not answer in time; look at its log, and whether --url is right"
    told = str(error) or type(error).__name__
    known = (cure for sign, cure in _CAUSES if sign.lower() in told.lower())
    return next(known, f"{told}; {START}, or name another with --url").replace(START, start)
