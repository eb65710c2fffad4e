"""Requests as raw bytes, from a seed: heads, frames, what is smuggled, slow, huge or broken off."""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import httpx

from fuzz.stage import CHAT_SECONDS, CLIENT_SECONDS
from fuzz.wire import Reply, exchange, replies

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fuzz.stage import Stage

AT_ONCE = 8
SPARE_SECONDS = 10.0  # beside what a client has: for a machine that is busy with others
BESIDE_SECONDS = 5.0  # in which a good request is answered meanwhile
WARM = 100  # requests after which a process has what it needs
GROWTH_MIB, GROWTH_FILES = 40.0, 20

METHODS = ("GET", "POST", "DELETE", "HEAD", "PUT", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PRI")
PATHS = (
    *("/", "/health", "/health/ready", "/metrics", "/circuit-breakers", "/openapi.json", "/docs"),
    *("/v1/jobs", "/v1/chat/completions", "/v1/files", "/v1/batches", "/v1/models", "/nowhere"),
    *("/v1/jobs/job_0", "/v1/files/file-0/content", "/v1/batches/batch_0/results", "/jobs"),
)
ODD = (
    b"\0",
    b"\r",
    b"\n",
    b"\r\n",
    b"\t",
    b" ",
    b":",
    b",",
    b";",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"%00",
)
LENGTHS = (
    *(
        "0",
        "1",
        "19",
        "20",
        "-1",
        "+19",
        "019",
        "0x13",
        "1e1",
        "19 ",
        " 19",
        "19,19",
        "19;",
        "\xb2",
    ),
    *("9" * 18, "9" * 19, "9" * 20, "9" * 5000, str(2**63), str(2**64), "", "nineteen"),
)
CODINGS = (
    "chunked",
    "Chunked",
    "xchunked",
    "chunked, chunked",
    "identity",
    "gzip, chunked",
    "\x0bchunked",
)
SIZES = (
    b"13",
    b"0",
    b"013",
    b"0x13",
    b"-1",
    b"+1",
    b"ffffffffffffffff",
    b"f" * 40,
    b"",
    b"13;a",
    b"g",
    b"13 ",
)
KNOWN = (
    *(
        "Accept",
        "Accept-Encoding",
        "Authorization",
        "Connection",
        "Content-Type",
        "Cookie",
        "Expect",
    ),
    *(
        "Host",
        "Idempotency-Key",
        "If-None-Match",
        "Origin",
        "Range",
        "Sec-Fetch-Site",
        "TE",
        "Trailer",
    ),
    *("Upgrade", "X-Forwarded-For", "X-HTTP-Method-Override", "x-fallthrough-cache"),
    *("x-fallthrough-deadline-seconds", "x-stainless-read-timeout", "x-stainless-retry-count"),
)
VALUES = (
    *(
        b"",
        b"*/*",
        b"close",
        b"keep-alive",
        b"Upgrade",
        b"100-continue",
        b"websocket",
        b"h2c",
        b"0",
        b"-1",
    ),
    *(
        b"nan",
        b"1e999",
        b"application/json",
        b"multipart/form-data; boundary=x",
        b"text/plain; version=x",
    ),
    *(
        b"localhost",
        b"localhost:99999",
        b"[::1]",
        b"evil.example",
        b"\xff\xfe",
        b"a" * 5000,
        b"trailers",
    ),
    b"multipart/form-data",
)
BODY = b'{"prompt": "Hello"}'
HOST = b"Host: localhost\r\n"
SMUGGLED = b"/smuggled"


@dataclass(frozen=True)
class Request:
    """What is sent, piece by piece. pause: seconds between two. half: nothing follows them."""

    kind: str
    pieces: Sequence[bytes]
    pause: float = 0.0
    half: bool = False


class Outcome(NamedTuple):
    """What came of a request. replies: each one's status, and what is wrong with it."""

    request: Request
    seconds: float
    replies: list[tuple[int, str]]


@dataclass
class Findings:
    """What so many requests showed. answered: by kind and status; 0: closed without a word."""

    requests: int = 0
    answered: Counter[tuple[str, int]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    longest_seconds: float = 0.0  # that a connection lasted
    longest_beside: float = 0.0  # that a good request took meanwhile
    grown_mib: float = 0.0
    grown_files: int = 0

    def add(self, outcome: Outcome) -> None:
        """Count a request in."""
        self.longest_seconds = max(self.longest_seconds, outcome.seconds)
        for status, fault in outcome.replies:
            self.answered[outcome.request.kind, status] += 1
            if fault:
                self.failures.append(f"{fault}: {outcome.request}"[:3000])

    def statuses(self) -> dict[str, int]:
        """Return how often each status was answered; 0: the connection was closed without one."""
        found: Counter[str] = Counter()
        for (_, status), number in self.answered.items():
            found[str(status)] += number
        return dict(sorted(found.items()))


# The kinds. Each takes a source of chance and returns a request.


def _mutated(chance: random.Random) -> Request:
    """Bytes of a good request that are others, are gone, or are there twice."""
    whole = bytearray(_good(chance))
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        at = chance.randrange(len(whole))
        match chance.randrange(4):
            case 0:
                whole[at] = chance.randrange(256)
            case 1:
                whole[at:at] = chance.choice(ODD)
            case 2:
                del whole[at : at + chance.randrange(1, 8)]
            case 3:
                whole[at:at] = whole[at : at + chance.randrange(1, 30)]
    return Request("mutated", [bytes(whole)], half=True)


def _good(chance: random.Random) -> bytes:
    method, path = chance.choice((("GET", chance.choice(PATHS)), ("POST", "/v1/jobs")))
    headers = [b"Content-Length: %d\r\n" % len(BODY)] if method == "POST" else []
    return _request(method.encode(), path.encode(), headers, BODY if headers else b"")


def _request(method: bytes, path: bytes, headers: Sequence[bytes], body: bytes = b"") -> bytes:
    return b"%s %s HTTP/1.1\r\n%s%s\r\n" % (method, path, HOST, b"".join(headers)) + body


def _head(chance: random.Random) -> Request:
    """Names and values that mean something, in any mixture; and names with odd bytes."""
    headers = []
    for _ in range(chance.randrange(12)):
        name = chance.choice(KNOWN).encode()
        if not chance.randrange(6):
            name = name[:3] + chance.choice(ODD) + name[3:]
        value = chance.choice(VALUES)
        if not chance.randrange(4):
            value += chance.choice(ODD) + value
        headers.append(name + chance.choice((b": ", b":", b" : ", b":\t")) + value + b"\r\n")
    headers.append(b"Content-Length: %d\r\n" % len(BODY))
    method, path = chance.choice(METHODS).encode(), chance.choice(PATHS).encode()
    return Request("head", [_request(method, path, headers, BODY)], half=True)


def _line(chance: random.Random) -> Request:
    """The first line: methods, targets, versions."""
    method = chance.choice((*METHODS, "get", "G E T", "", "GET" * 1000, "BREW")).encode()
    path = chance.choice(
        (*PATHS, "*", "", "http://localhost/", "//x//", "/%", "/%00", "?")
    ).encode()
    path += chance.choice((b"", b"", *ODD, b"?" + b"a=%ff&" * 50, b"#x", b"/../" * 100))
    version = chance.choice(
        (*(b"HTTP/1.1",) * 4, b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9", b"http/1.1", b"")
    )
    end = chance.choice((b"\r\n", b"\r\n", b"\n", b"\r"))
    return Request(
        "line", [method + b" " + path + b" " + version + end + HOST + b"\r\n"], half=True
    )


def _framing(chance: random.Random) -> Request:
    """Lengths and codings that contradict each other, and chunks that are none."""
    headers = []
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        if chance.randrange(2):
            headers.append(b"Content-Length: " + chance.choice(LENGTHS).encode("latin-1") + b"\r\n")
        else:
            coding = chance.choice(CODINGS).encode("latin-1")
            name = chance.choice(
                (b"Transfer-Encoding: ", b"Transfer-Encoding : ", b"transfer-encoding:")
            )
            headers.append(name + coding + b"\r\n")
    chunks = b"".join(
        chance.choice(SIZES) + chance.choice((b"\r\n", b"\r\n", b"\n")) + BODY + b"\r\n"
        for _ in range(chance.randrange(3))
    )
    body = chance.choice((BODY, chunks + b"0\r\n\r\n", chunks))
    path = chance.choice((b"/v1/jobs", b"/v1/chat/completions", b"/v1/files", b"/health"))
    return Request("framing", [_request(b"POST", path, headers, body)], half=True)


def _smuggled(chance: random.Random) -> Request:
    """A second request in what may be the first one's body."""
    inner = _request(b"GET", SMUGGLED, [])
    form = chance.randrange(4)
    chunked, length = b"Transfer-Encoding: chunked\r\n", b"Content-Length: %d\r\n"
    headers, body = [
        ([length % 6, chunked], b"0\r\n\r\nG" + inner),
        ([length % len(b"0\r\n\r\n" + inner), chunked], b"0\r\n\r\n" + inner),
        ([b"Transfer-Encoding: xchunked\r\n", length % len(inner)], inner),
        ([length % 0, length % len(inner)], inner),
    ][form]
    if chance.randrange(2):
        headers = headers[::-1]
    return Request("smuggled", [_request(b"POST", b"/v1/jobs", headers, body)], half=True)


def _pipelined(chance: random.Random) -> Request:
    """Several in one piece, good ones and others."""
    makers = (_good, lambda c: _framing(c).pieces[0], lambda c: _head(c).pieces[0])
    pieces = [chance.choice(makers)(chance) for _ in range(chance.randrange(2, 12))]
    return Request("pipelined", [b"".join(pieces)], half=True)


def _slow(chance: random.Random) -> Request:
    """A head or a body that comes bit by bit, or stops."""
    whole = _good(chance)
    cut = chance.randrange(1, len(whole))
    if chance.randrange(2):
        return Request("slow", [whole[:cut]])  # and waits to be ended
    step = max(len(whole) // 12, 1)
    pieces = [whole[at : at + step] for at in range(0, cut, step)]
    return Request("slow", pieces, pause=chance.choice((0.01, 0.05, 0.2)))


def _huge(chance: random.Random) -> Request:
    """More than there may be of anything."""
    block = b"x" * 65536
    start = chance.choice(
        (
            [b"GET /" + block] + [block] * 20,
            [b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20_000],
            [b"GET / HTTP/1.1\r\nx: " + block] + [block] * 20,
            [_request(b"POST", b"/v1/jobs", [b"Content-Length: 8000000\r\n"])] + [block] * 120,
            [_request(b"POST", b"/v1/jobs", [b"Transfer-Encoding: chunked\r\n"], b"7A1200\r\n")]
            + [block] * 120,
            [_request(b"POST", b"/v1/jobs", [b"Transfer-Encoding: chunked\r\n"], b"1;" + block)]
            + [block] * 20,
            [block] * 20,
        )
    )
    return Request("huge", start, half=True)


def _broken_off(chance: random.Random) -> Request:
    """A good request that ends too early."""
    whole = _good(chance)
    return Request("broken off", [whole[: chance.randrange(len(whole))]], half=True)


def _other_protocol(chance: random.Random) -> Request:
    """What other programs say first."""
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + chance.randbytes(508)
    upgrade = [
        b"Upgrade: websocket\r\n",
        b"Connection: Upgrade\r\n",
        b"Sec-WebSocket-Version: 13\r\n",
    ]
    said = chance.choice(
        (
            hello,
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + chance.randbytes(64),
            _request(b"GET", b"/v1/jobs", upgrade) + b"\x81\x85" + chance.randbytes(9),
            _request(b"POST", b"/v1/jobs", [*upgrade, b"Content-Length: 19\r\n"], BODY),
            b"*1\r\n$4\r\nPING\r\n",
            b"SSH-2.0-x\r\n",
            b"HELO localhost\r\n",
            b"\0\0\0\0",
            chance.randbytes(chance.randrange(1, 2000)),
        )
    )
    return Request("other protocol", [said], half=True)


def _expecting(chance: random.Random) -> Request:
    """Who waits to be told to go on, and goes on or does not."""
    headers = [b"Expect: 100-continue\r\n", b"Content-Length: %d\r\n" % len(BODY)]
    path = chance.choice((b"/v1/jobs", b"/nowhere", b"/v1/files", b"/health"))
    pieces = [_request(b"POST", path, headers), *([BODY] if chance.randrange(3) else [])]
    return Request("expecting", pieces, pause=0.05)


KINDS: tuple[Callable[[random.Random], Request], ...] = (
    *(_mutated, _mutated, _mutated, _head, _head, _line, _line, _framing, _framing, _smuggled),
    *(_pipelined, _slow, _huge, _broken_off, _other_protocol, _expecting),
)


def requests(seed: int, number: int) -> list[Request]:
    """Return so many requests; each is known by its place."""
    return [chance.choice(KINDS)(chance) for chance in _chances(seed, number)]


def _chances(seed: int, number: int) -> list[random.Random]:
    return [random.Random(f"{seed}/{place}") for place in range(number)]


def fuzz(fleet: Stage, number: int, seed: int) -> Findings:
    """Send so many requests, some at once; a good one is sent beside them all the time."""
    findings = Findings()
    with ThreadPoolExecutor(AT_ONCE + 1) as pool:
        for outcome in pool.map(lambda each: _send(fleet, each), requests(-seed, WARM)):
            findings.add(outcome)
        before = fleet.memory_mib(), fleet.open_files()
        sent = [pool.submit(_send, fleet, each) for each in requests(seed, number)]
        while not all(each.done() for each in sent):
            _ask_beside(fleet, findings)
        for each in sent:
            findings.add(each.result())
    _ask_beside(fleet, findings)
    findings.requests = number
    findings.grown_mib = fleet.memory_mib() - before[0]
    findings.grown_files = fleet.open_files() - before[1]
    if findings.grown_mib > GROWTH_MIB or findings.grown_files > GROWTH_FILES:
        grown = f"{findings.grown_mib:.1f} MiB and {findings.grown_files} open files"
        findings.failures.append(f"the API has grown by {grown}")
    return findings


def _ask_beside(fleet: Stage, findings: Findings) -> None:
    began = time.monotonic()
    reply = httpx.post(f"{fleet.api.url}/v1/jobs", content=BODY, timeout=30)
    took = time.monotonic() - began
    findings.longest_beside = max(findings.longest_beside, took)
    if reply.status_code != 202 or took > BESIDE_SECONDS:
        findings.failures.append(f"beside: {reply.status_code} after {took:.1f} s: {reply.text}")
    time.sleep(0.05)


def _send(fleet: Stage, request: Request) -> Outcome:
    began = time.monotonic()
    # A mutated chat may take its deadline; half a request behind an answer has its own time.
    idle = CLIENT_SECONDS + CHAT_SECONDS
    most = idle + SPARE_SECONDS
    try:
        received = exchange(
            fleet.api.port, request.pieces, most, request.pause, half=request.half, idle=idle
        )
    except TimeoutError:
        return Outcome(request, most, [(0, "hangs")])
    return Outcome(request, time.monotonic() - began, _judge(received))


def _judge(received: bytes) -> list[tuple[int, str]]:
    """Return each reply's status, and what is wrong with it."""
    if not received:
        return [(0, "")]
    try:
        return [(reply.status, _fault(reply)) for reply in replies(received)]
    except ValueError:  # replies to HEAD, which have no body; or one that was broken off
        statuses = [int(status) for status in re.findall(rb"HTTP/1\.1 ([2-5]\d\d) ", received)]
        worst = max(statuses, default=999)
        return [(worst, f"answers {received[:500]!r}" if worst >= 500 else "")]


def _fault(reply: Reply) -> str:
    if reply.status >= 500:
        return f"answers {reply.status} {reply.body[:200]!r}"
    if SMUGGLED in reply.body:
        return "answers what was smuggled"
    if reply.status >= 400:
        try:
            reply.envelope()
        except (ValueError, AssertionError):
            return f"no envelope {reply}"
    return ""
