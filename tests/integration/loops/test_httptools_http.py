"""The default HTTP client: its connections, on both event loops.

What it has in common with the others: test_http_clients.py, test_http_streams.py.
"""

from __future__ import annotations

import asyncio
import gc
import gzip
import os
import socket
import ssl
import threading
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest
from harness.http_clients import collected
from harness.raw import OK, Server, closed_port
from harness.tls import AUTHORITY, ELSEWHERE, HERE, TlsServer
from harness.waiting import eventually, turns

from fallback_chain import HttptoolsHttp, UpstreamError, read_authorities
from fallback_chain.http import LARGEST_ERROR
from fallback_chain.http_connection import LARGEST_HEAD, READ_AHEAD, ReplyOnWire

SMALL = 1000  # bytes of the largest reply, where that matters


@pytest.fixture(autouse=True)
def _collected():
    with collected():
        yield


@asynccontextmanager
async def opened(**options):
    http = HttptoolsHttp(connect_timeout_seconds=1.0, **options)
    yield http
    await http.aclose()
    await eventually(lambda: not connections(http))


@pytest.fixture
async def http():
    async with opened() as client:
        yield client


@pytest.fixture
async def server():
    server = await Server().open()
    yield server
    await server.close()


def connections(http):
    return [each for origin in http._origins.values() for each in origin.connections]


def idle(http):
    return [each for origin in http._origins.values() for each in origin.idle]


async def ask(http, url, content=b"{}", seconds=5.0, **headers):
    reply = await http.request(
        "POST", url, headers=headers, content=content, timeout_seconds=seconds
    )
    return reply.status, reply.content


async def ask_streamed(http, url, content=b"{}", seconds=5.0):
    async with (
        asyncio.timeout(seconds + 1),
        http.stream("POST", url, headers={}, content=content, timeout_seconds=seconds) as reply,
    ):
        return reply.status, b"".join([piece async for piece in reply.pieces])


async def outcome(asking):
    try:
        return await asking
    except UpstreamError as error:
        return error.kind


def head(*lines, status="200 OK"):
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode()


CHUNKED = "transfer-encoding: chunked"
LENGTH = "content-length: 2"
LAST = b"0\r\n\r\n"
RANDOM = os.urandom(2 * LARGEST_ERROR)
PACKED = gzip.compress(RANDOM[:SMALL])
GOOD = (200, b"{}")


class Case(NamedTuple):
    """What a server sends, what that comes to, whether another call gets the same connection."""

    pieces: list[bytes]
    comes_to: tuple[int, bytes] | str = GOOD
    is_kept: bool = True
    closes: bool = False


def kept(*pieces, comes_to=GOOD):
    return Case(pieces, comes_to)


def left(*pieces, comes_to=GOOD):
    return Case(pieces, comes_to, is_kept=False)


def closed(*pieces, comes_to=GOOD):
    return Case(pieces, comes_to, is_kept=False, closes=True)


LONG = b"x" * 2 * LARGEST_HEAD
REPLIES = {
    "plain": kept(OK),
    "each byte alone": kept(*[OK[n : n + 1] for n in range(len(OK))]),
    "100 before": kept(head("x: 1", status="100 Continue") + OK),
    "103 with a packing before": kept(head("content-encoding: br", status="103 Early Hints"), OK),
    "103 before": kept(head("content-length: 9", status="103 Early Hints"), OK),
    "101": left(head("upgrade: x", "connection: upgrade", status="101 X"), comes_to="protocol"),
    "no end of 1xx": left(head(status="100 Continue") * 20_000, comes_to="protocol"),
    "no end of a head": left(b"HTTP/1.1 200 OK\r\nx: " + LONG, comes_to="protocol"),
    "status 000": left(head(LENGTH, status="000 X"), b"{}", comes_to="protocol"),
    "no HTTP": left(b"SSH-2.0-OpenSSH_9.2\r\n", comes_to="protocol"),
    "line feeds alone": kept(OK.replace(b"\r\n", b"\n")),
    "an odd byte in a header": kept(head("x: a\x01b", LENGTH), b"{}"),
    "a blank behind a size": kept(head(CHUNKED), b"2 \r\n{}\r\n", LAST),
    "an extension of a chunk": kept(head(CHUNKED), b"2;a=b\r\n{}\r\n", LAST),
    "no end of an extension": left(head(CHUNKED), b"2;" + LONG, comes_to="protocol"),
    "a trailer": kept(head(CHUNKED), b"2\r\n{}\r\n0\r\nx: 1\r\n\r\n"),
    "a trailer that names a packing": kept(
        head(CHUNKED), b"2\r\n{}\r\n0\r\ncontent-encoding: br\r\n\r\n"
    ),
    "no end of a trailer": left(head(CHUNKED), b"2\r\n{}\r\n0\r\nx: " + LONG, comes_to="protocol"),
    "more behind it": left(OK + b"more"),
    "another behind it": left(OK + OK),
    "nothing": closed(comes_to="reset"),
    "half a head": closed(OK[:20], comes_to="reset"),
    "half a body": closed(head(LENGTH), b"{", comes_to="reset"),
    "no last chunk": closed(head(CHUNKED), b"2\r\n{}\r\n", comes_to="reset"),
    "ended by close": closed(head(), b"{}"),
    "ended by close, as it says": closed(head("connection: close"), b"{}"),
    "ended by close, with a coding": closed(head("transfer-encoding: identity"), b"{}"),
    "to be closed": left(head("connection: close", LENGTH), b"{}"),
    "HTTP/1.0": left(OK.replace(b"1.1", b"1.0")),
    "HTTP/1.0, kept": kept(head("connection: keep-alive", LENGTH).replace(b"1.1", b"1.0"), b"{}"),
    "no content": kept(head(status="204 No Content"), comes_to=(204, b"")),
    "not modified": kept(head("content-length: 9", status="304 X"), comes_to=(304, b"")),
    "as much as may be": kept(
        head(f"content-length: {SMALL}"), b"x" * SMALL, comes_to=(200, b"x" * SMALL)
    ),
    "more than may be": left(
        head(f"content-length: {SMALL * 9}"), b"x" * (SMALL + 1), comes_to="too large"
    ),
    "packed": kept(
        head("Content-Encoding: gzip", f"content-length: {len(PACKED)}"),
        PACKED,
        comes_to=(200, RANDOM[:SMALL]),
    ),
    "a large error": left(
        head(f"content-length: {len(RANDOM)}", status="500 X"),
        RANDOM,
        comes_to=(500, RANDOM[:LARGEST_ERROR]),
    ),
    "a large packed error": closed(
        head("content-encoding: gzip", status="503 X"),
        gzip.compress(RANDOM),
        comes_to=(503, RANDOM[:LARGEST_ERROR]),
    ),
}


@pytest.mark.parametrize("asks", [ask, ask_streamed])
@pytest.mark.parametrize("case", REPLIES)
async def test_what_a_reply_comes_to_and_whether_its_connection_is_kept(server, case, asks):
    server.pieces, expected, is_kept, server.closes = REPLIES[case]
    async with opened(largest_reply=SMALL) as http:
        assert await outcome(asks(http, server.url)) == expected
        await turns()
        server.pieces, server.closes = [OK], False
        assert await asks(http, server.url) == GOOD
        assert server.connections == (1 if is_kept else 2)


async def test_half_a_head_on_a_used_connection_is_not_asked_for_again(http, server):
    """Its server may have died of the request."""
    await ask(http, server.url)
    server.pieces, server.closes = [OK[:20]], True
    assert await outcome(ask(http, server.url)) == "reset"
    assert server.connections == 1


async def test_a_body_that_ends_with_a_reset_is_none(http, server):
    server.pieces, server.pause, server.resets = [head(), b"{}"], 0.1, True
    assert await outcome(ask(http, server.url)) == "reset"


async def test_what_nobody_asked_for_closes_a_connection(http):
    ended = []

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await asyncio.sleep(0.05)
        writer.write(OK.replace(b"{}", b"no"))
        await reader.read()
        writer.close()
        ended.append(writer)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert await ask(http, url) == GOOD
        assert len(idle(http)) == 1
        await eventually(lambda: not idle(http))
        assert await ask(http, url) == GOOD
        await eventually(lambda: len(ended) == 2)


# A request that is not sent whole, or whose reply is not read, leaves no connection to others


@pytest.mark.parametrize("asks", [ask, ask_streamed])
@pytest.mark.parametrize("then", ["keeps it", "closes it"])
async def test_a_reply_that_comes_before_its_request_is_sent_is_the_last(http, asks, then):
    replies = [head(LENGTH, status="413 X") + b"no"]
    served = []

    async def serve(reader, writer):
        served.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(replies.pop() if replies else OK)
        if len(served) == 1 and then == "closes it":
            writer.close()

    listener = socket.create_server(("127.0.0.1", 0))
    async with await asyncio.start_server(serve, sock=listener, limit=1024) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert await outcome(asks(http, url, b"x" * 20_000_000)) == (413, b"no")
        assert await asks(http, url, seconds=2) == GOOD
        assert len(served) == 2
        for writer in served:
            writer.transport.abort()


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [READ_AHEAD, READ_AHEAD + 1, 5 * READ_AHEAD])
async def test_a_reader_who_takes_his_time_loses_nothing_and_leaves_it_to_others(
    http, server, size, chunked
):
    content = os.urandom(size)
    framed = b"%x\r\n%b\r\n" % (size, content) + LAST if chunked else content
    server.pieces = [head(CHUNKED if chunked else f"content-length: {size}"), framed]
    async with http.stream("POST", server.url, headers={}, content=b"", timeout_seconds=5) as reply:
        await asyncio.sleep(0.1)
        assert b"".join([piece async for piece in reply.pieces]) == content
    server.pieces = [OK]
    assert await ask(http, server.url, seconds=2) == GOOD
    assert server.connections == 1


async def test_of_a_stream_that_nobody_reads_little_is_taken(http, server):
    server.pieces = [head(), *[b"x" * 1_000_000] * 60]
    async with http.stream("POST", server.url, headers={}, content=b"", timeout_seconds=5) as reply:
        [connection] = connections(http)
        await eventually(lambda: not connection._reads)
        await turns(50)
        assert connection._reply.ahead < READ_AHEAD + 512 * 1024
        assert await anext(reply.pieces)


# Connections that are gone as they come


@pytest.mark.parametrize("asks", [ask, ask_streamed])
async def test_a_server_that_closes_what_it_takes_is_told_at_once(http, asks):
    """Such as a load balancer without servers: the connection is lost before it is used."""
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def close_all():
        while not ended.is_set():
            listener.accept()[0].close()

    closing = threading.Thread(target=close_all)
    closing.start()
    port = listener.getsockname()[1]
    try:
        async with asyncio.timeout(5):
            for _ in range(30):
                assert await outcome(asks(http, f"http://127.0.0.1:{port}", seconds=9)) == "reset"
    finally:
        ended.set()
        socket.create_connection(("127.0.0.1", port)).close()
        closing.join(10)
        listener.close()


@pytest.mark.parametrize("is_tls", [False, True])
async def test_who_is_cut_off_while_he_connects_leaves_nothing(server, is_tls):
    secret = TlsServer(HERE)
    url = f"https://localhost:{secret.port}" if is_tls else server.url
    try:
        async with opened(authorities=read_authorities(str(AUTHORITY))) as http:
            for steps in range(40):
                asking = asyncio.create_task(ask(http, url))
                for _ in range(steps):
                    await asyncio.sleep(0.0005 if is_tls and steps % 2 else 0)
                asking.cancel()
                await asyncio.wait({asking})
            await eventually(lambda: set(connections(http)) == set(idle(http)))
            assert not http._connecting
    finally:
        secret.close()


@pytest.mark.parametrize("steps", range(12))
async def test_who_closes_the_client_ends_its_calls(server, steps):
    server.pieces = []
    http = HttptoolsHttp(connect_timeout_seconds=1.0)
    asking = asyncio.create_task(outcome(ask(http, server.url, seconds=30)))
    await turns(steps)
    await http.aclose()
    if steps:  # else it has not begun, and opens a connection of its own
        async with asyncio.timeout(2):
            assert await asking == "reset"
        assert not connections(http)
        assert http._looking is None
    asking.cancel()
    await http.aclose()


async def test_idle_connections_are_closed_and_others_are_not(http, server, monkeypatch):
    monkeypatch.setattr("fallback_chain.httptools_http.LOOK_SECONDS", 0.02)
    server.pause = 0.05
    await asyncio.gather(*(ask(http, server.url) for _ in range(3)))
    await asyncio.sleep(0.1)
    assert len(idle(http)) == 3
    for _ in range(2):  # it looks again when there is something to look at again
        monkeypatch.setattr("fallback_chain.httptools_http.IDLE_CONNECTION_SECONDS", 0.05)
        asking = asyncio.create_task(ask(http, server.url))
        server.pause = 0.3
        await eventually(lambda: not idle(http) and server.left == server.connections - 1)
        assert await asking == GOOD
        await eventually(lambda: not connections(http))
        await eventually(lambda: http._looking is None)


# What happens in one turn of the loop


@pytest.mark.parametrize(
    ("does", "comes_to", "is_kept"),
    [
        (("reply", "time out"), GOOD, True),
        (("time out", "reply"), "timeout", True),
        (("reply", "cancel"), None, True),
        (("cancel", "reply"), None, True),
        (("reply", "cancel", "another asks"), None, True),
    ],
)
async def test_what_happens_in_the_turn_of_a_reply(http, server, does, comes_to, is_kept):
    await ask(http, server.url)
    [connection] = idle(http)
    server.pieces = []
    asking = asyncio.create_task(outcome(ask(http, server.url)))
    await eventually(lambda: len(server.heads) == 2)
    reply, another = connection._reply, None
    for each in does:
        match each:
            case "reply":
                connection.data_received(OK)
            case "time out":
                reply.time_out()
            case "cancel":
                asking.cancel()
            case "another asks":
                server.pieces = [OK.replace(b"{}", b"[]")]
                another = asyncio.create_task(ask(http, server.url))
    await asyncio.wait({asking})
    assert (None if asking.cancelled() else asking.result()) == comes_to
    if another:
        assert await another == (200, b"[]"), "his connection is not closed under him"
    assert bool(idle(http)) is is_kept


async def test_what_is_closed_is_nobodys_from_that_turn_on(http, server):
    large = head(f"content-length: {len(RANDOM)}", status="500 X") + RANDOM
    for asks, said in ((False, OK), (True, large)):
        await ask(http, server.url)
        [connection] = idle(http)
        asking = asyncio.create_task(ask(http, server.url)) if asks else None
        server.pieces = []
        await turns()
        connection.data_received(said)
        assert not idle(http)
        assert asking is None or (await asking)[0] == 500
        server.pieces = [OK]


async def test_a_used_connection_that_its_server_ends_in_its_own_way_is_gone_too(http, server):
    """In TLS it may do so with bytes that are none; of a fresh connection they say why."""
    await ask(http, server.url)
    [connection] = idle(http)
    server.pieces = []
    asking = asyncio.create_task(ask(http, server.url))
    await eventually(lambda: len(server.heads) == 2)
    server.pieces = [OK]
    connection.connection_lost(ssl.SSLError("[SSL: WRONG_VERSION_NUMBER] wrong version number"))
    assert await asking == GOOD
    assert server.connections == 2
    connection._transport.abort()


async def test_a_call_that_has_ended_leaves_no_timer(http, server):
    await ask(http, server.url)
    [connection] = idle(http)
    timers = []

    class Noting(_Loop):
        def call_later(self, *args):
            timers.append(self._loop.call_later(*args))
            return timers[-1]

    connection.loop = Noting(connection.loop, None)
    await ask(http, server.url)
    assert [timer.cancelled() for timer in timers] == [True]


@pytest.mark.parametrize("seconds", [0.0, -1.0])
async def test_who_has_no_time_left_does_not_ask(http, server, seconds):
    await ask(http, server.url)
    assert await outcome(ask(http, server.url, seconds=seconds)) == "timeout"
    await ask(http, server.url)
    assert len(server.heads) == 2


@pytest.mark.parametrize("case", ["reset", "cut", "junk", "hang", "error", "refused"])
async def test_a_call_that_fails_leaves_no_garbage(http, server, case):
    """A worker collects it rarely: a tier that is away must not fill it with requests."""
    sent = {
        "cut": [head(LENGTH) + b"{"],
        "junk": [b"SSH-2.0"],
        "error": [head(LENGTH, status="500 X"), b"{}"],
    }
    server.pieces = sent.get(case, [])
    server.closes = case in {"reset", "cut", "junk"}
    url = f"http://127.0.0.1:{closed_port()}" if case == "refused" else server.url
    gc.collect()
    gc.disable()
    try:
        for asks in (ask, ask_streamed) * 10:
            await outcome(asks(http, url, seconds=0.05 if case == "hang" else 5))
        await turns()
        kept = [each for each in gc.get_objects() if isinstance(each, ReplyOnWire | UpstreamError)]
    finally:
        gc.enable()
    assert len(kept) <= 2


# What is sent


@pytest.mark.parametrize(
    ("url", "content", "sent"),
    [
        ("/v1/x", b"{}", ["post /v1/x http/1.1", "content-length: 2"]),
        ("/v1/x", b"", ["content-length: 0"]),
        ("/v1/x", None, ["post /v1/x http/1.1"]),
        ("", b"", ["post / http/1.1", "host: 127.0.0.1:{port}", "user-agent: fallthrough"]),
        ("/a b?c=d e#f", b"", ["post /a%20b?c=d+e http/1.1"]),
        ("/x", b"", ["x-a: Ã©", "accept-encoding: gzip"]),
    ],
)
async def test_what_is_sent(http, server, url, content, sent):
    await ask(http, server.url + url, content, **{"x-a": "é"})
    lines = server.heads[0].split("\r\n")
    for each in sent:
        assert each.format(port=server.port).lower() in lines
    assert ("content-length" in server.heads[0]) is (content is not None)


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\nb", "a\rb", "a\0b", "a\udc80b"])
async def test_a_header_that_would_be_several_is_not_sent(http, server, value):
    assert await outcome(ask(http, server.url, **{"x-a": value})) == "protocol"
    assert not server.heads


@pytest.mark.parametrize(
    ("userinfo", "headers", "sent"),
    [
        ("user:pa%20ss@", {}, "basic dxnlcjpwysbzcw=="),
        ("user@", {}, "basic dxnlcjo="),
        (":tok@", {}, "basic onrvaw=="),
        ("user:pass@", {"authorization": "Bearer key"}, "bearer key"),
    ],
)
async def test_who_asks_is_said_once(http, server, userinfo, headers, sent):
    await ask(http, server.url.replace("://", f"://{userinfo}"), **headers)
    said = [line for line in server.heads[0].split("\r\n") if line.startswith("authorization")]
    assert said == [f"authorization: {sent}"]


async def test_two_paths_of_one_server_share_its_connections(http, server):
    await ask(http, f"{server.url}/v1/models")
    await ask(http, f"{server.url}/v1/chat/completions")
    assert server.connections == 1


async def test_a_url_that_is_none_is_a_failure_with_a_proxy_too():
    async with opened(proxy="http://127.0.0.1:9") as http:
        assert await outcome(ask(http, "http://[::1")) == "protocol"
        assert await outcome(ask_streamed(http, "http://[::1")) == "protocol"


# Where its servers are


async def test_a_name_that_nobody_resolves_keeps_no_address_waiting(http, server, monkeypatch):
    """A lookup that hangs holds one of the loop's few threads, and one is enough."""
    answer = asyncio.Event()
    looked_up = []

    async def look_up(_, host, *__, **___):
        looked_up.append(host)
        await answer.wait()
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    with monkeypatch.context() as patch:
        patch.setattr(asyncio, "get_running_loop", _Looking(asyncio.get_running_loop, look_up))
        url = "http://slow.example"
        lost = [asyncio.create_task(outcome(ask(http, url, seconds=0.3))) for _ in range(12)]
        await asyncio.sleep(0.05)
        assert await ask(http, server.url, seconds=1) == GOOD
        assert looked_up == ["slow.example"]
        assert {await each for each in lost} == {"timeout"}
        answer.set()
        assert await outcome(ask(http, url, seconds=1)) == "connect"


class _Looking:
    """The running loop, whose resolver is the test's."""

    def __init__(self, running, look_up):
        self._running, self._look_up = running, look_up

    def __call__(self):
        return _Loop(self._running(), self._look_up)


class _Loop:
    def __init__(self, loop, look_up):
        self._loop, self._look_up = loop, look_up

    def __getattr__(self, name):
        return getattr(self._loop, name)

    def getaddrinfo(self, *args, **options):
        return self._look_up(self, *args, **options)


async def test_a_server_with_another_certificate_is_told_nothing_and_forgotten(http):
    server = TlsServer(ELSEWHERE)
    try:
        assert await outcome(ask(http, f"https://localhost:{server.port}")) == "tls"
        assert not connections(http)
    finally:
        server.close()
    assert not server.heard
