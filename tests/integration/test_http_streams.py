"""What a tier's stream asks of an HTTP client: each test runs on all that there are."""

from __future__ import annotations

import asyncio
import gzip
import os
import socket
import time

import httpx
import pytest
from harness.forward import ForwardProxy
from harness.http_clients import collected, opened
from harness.raw import OK, Server, closed_port
from harness.tls import ALONE, AUTHORITY, ELSEWHERE, HERE, TlsServer
from harness.waiting import eventually

from fallback_chain import HttptoolsHttp, UpstreamError, read_authorities
from fallback_chain.aiohttp_http import AiohttpHttp
from fallback_chain.http import LARGEST_ERROR
from fallback_chain.httpx_http import HttpxHttp

LARGEST = 100_000  # bytes


@pytest.fixture(autouse=True)
def _collected():
    with collected():
        yield


@pytest.fixture(params=[HttptoolsHttp, AiohttpHttp, HttpxHttp])
def kind(request):
    return request.param


@pytest.fixture(params=[HttptoolsHttp, AiohttpHttp, HttpxHttp, httpx.AsyncClient])
async def http(request):
    async with opened(request.param) as client:
        yield client


@pytest.fixture
async def server():
    server = await Server().open()
    yield server
    await server.close()


@pytest.fixture
def serve_tls():
    servers = []

    def start(certificate):
        servers.append(TlsServer(certificate))
        return servers[-1]

    yield start
    for each in servers:
        each.close()


def stream(http, url, seconds=5.0, method="POST"):
    return http.stream(method, url, headers={"x-a": "b"}, content=b"?", timeout_seconds=seconds)


async def read(http, url):
    """Return a whole stream: its status, and its pieces."""
    async with asyncio.timeout(10), stream(http, url) as reply:
        return reply.status, [piece async for piece in reply.pieces]


async def failure(http, url, seconds=5.0):
    """Return what it fails with, and what came before."""
    pieces = []

    async def ask():
        async with stream(http, url, seconds) as reply:
            async for piece in reply.pieces:
                pieces.append(piece)  # noqa: PERF401 - what came before the failure counts

    with pytest.raises(UpstreamError) as raised:
        async with asyncio.timeout(10):
            await ask()
    return raised.value.kind, str(raised.value), b"".join(pieces)


def head(*headers, status=200):
    return "\r\n".join([f"HTTP/1.1 {status} X", *headers, "", ""]).encode()


def chunk(content):
    return b"%x\r\n%b\r\n" % (len(content), content)


def letters(content):
    return [content[n : n + 1] for n in range(len(content))]


TEXT = 'data: {"a": "héé 🎉"}\n\ndata: [DONE]\n\n'.encode()
LETTERS = letters(TEXT)
CHUNKED = head("transfer-encoding: chunked")
FRAMINGS = {
    "chunked": [CHUNKED, *map(chunk, LETTERS), b"0\r\n\r\n"],
    "with a content-length": [head(f"content-length: {len(TEXT)}"), *LETTERS],
    "ended by close": [head("connection: close"), *LETTERS],
    "each byte of it alone": letters(CHUNKED + chunk(TEXT) + b"0\r\n\r\n"),
}


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_pieces_come_as_they_are_sent(http, server, framing):
    server.pieces, server.pause = FRAMINGS[framing], 0.002
    server.closes = framing == "ended by close"
    status, pieces = await read(http, server.url)
    assert (status, b"".join(pieces)) == (200, TEXT)
    assert len(pieces) > 5, "not kept back until there are more"


async def test_what_is_asked_and_what_is_told(http, server):
    server.pieces = [b"HTTP/1.1 200 X\r\nX-A: b\r\nx-b: \xff\xfe\r\ncontent-length: 2\r\n\r\n{}"]
    async with stream(http, f"{server.url}/v1/x") as reply:
        assert [piece async for piece in reply.pieces] == [b"{}"]
    assert reply.status == 200
    assert reply.headers == {"x-a": "b", "content-length": "2"}
    [asked] = server.heads
    assert asked.startswith("post /v1/x http/1.1\r\n")
    assert "\r\nx-a: b\r\n" in asked
    assert "\r\naccept-encoding: identity\r\n" in asked


async def test_a_connection_is_used_again_after_a_whole_stream(http, server):
    for framing in ("chunked", "with a content-length", "chunked"):
        server.pieces = FRAMINGS[framing]
        await read(http, server.url)
    assert (len(server.heads), server.connections) == (3, 1)


@pytest.mark.parametrize("status", [400, 429, 500, 503])
async def test_another_status_has_its_headers_and_its_beginning(http, server, status):
    body = b"x" * (LARGEST_ERROR + 1000)
    server.pieces = [head("Retry-After: 3", f"content-length: {len(body)}", status=status), body]
    async with stream(http, server.url) as reply:
        content = b"".join([piece async for piece in reply.pieces])
    assert (reply.status, reply.headers["retry-after"]) == (status, "3")
    assert content == body[:LARGEST_ERROR]


# What goes wrong with the body


@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize(
    ("begin", "content"),
    [
        (head("content-length: 9000"), b"some"),
        (CHUNKED, chunk(b"some")),
        (CHUNKED, b"20\r\nsome"),
    ],
    ids=["half a body", "no last chunk", "half a chunk"],
)
async def test_a_body_that_is_cut_off_is_a_reset(http, server, begin, content, resets):
    server.pieces, server.pause = [begin, content], 0.1
    server.closes, server.resets = True, resets
    kind, _, came = await failure(http, server.url)
    assert (kind, came[:4]) == ("reset", b"some")


@pytest.mark.parametrize("before", [[], [chunk(b"word")] * 2])
async def test_a_body_that_is_not_well_formed_is_none(http, server, before):
    server.pieces, server.pause = [CHUNKED, *before, b"zz\r\nno chunk\r\n"], 0.1
    assert (await failure(http, server.url))[0] == "protocol"
    await eventually(lambda: server.left, 1)


async def test_more_than_may_be_is_too_large(kind, server):
    http = kind(connect_timeout_seconds=1, largest_reply=LARGEST)
    size = b"x" * LARGEST
    server.pieces = [CHUNKED, chunk(size), b"0\r\n\r\n"]
    assert len(b"".join((await read(http, server.url))[1])) == LARGEST
    server.pieces = [CHUNKED, *[chunk(size[:1000])] * 101]
    said, _, came = await failure(http, server.url)
    assert said == "too large"
    assert len(came) <= LARGEST
    await eventually(lambda: server.left, 1)
    server.pieces = [head("content-encoding: gzip"), gzip.compress(bytes(10_000_000))]
    assert (await failure(http, server.url))[0] == "too large"
    await http.aclose()


# What is packed though nobody asked for it


async def test_what_is_packed_all_the_same_is_unpacked_piece_by_piece(http, server):
    content = os.urandom(40_000)
    packed = gzip.compress(content[:30_000]) + gzip.compress(content[30_000:])
    parts = [packed[n : n + 1000] for n in range(0, len(packed), 1000)]
    begin = head(f"content-length: {len(packed)}", "Content-Encoding: GZip")
    server.pieces, server.pause = [begin, *parts], 0.005
    status, pieces = await read(http, server.url)
    assert (status, b"".join(pieces)) == (200, content)
    assert len(pieces) > 5


@pytest.mark.parametrize(
    ("packing", "content", "kind"),
    [
        ("br", b"\x1b\x00\x00", "protocol"),
        ("zstd", b"(\xb5/\xfd", "protocol"),
        ("deflate", b"x\x9c", "protocol"),
        ("gzip", b"nope nope nope", "protocol"),
        ("gzip", gzip.compress(os.urandom(1000))[:500], "reset"),
    ],
)
async def test_what_cannot_be_unpacked_is_none(http, server, packing, content, kind):
    begin = head("transfer-encoding: chunked", f"content-encoding: {packing}")
    server.pieces = [begin, chunk(content), b"0\r\n\r\n"]
    assert (await failure(http, server.url))[0] == kind


# Who leaves before its end


@pytest.fixture
async def silent(server):
    """It sends the head and a word, and no more."""
    server.pieces = [CHUNKED, chunk(b"word")]
    yield server
    server.pieces = [OK]


async def test_silence_lasts_as_long_as_its_reader_waits(http, silent):
    async def wait():
        async with stream(http, silent.url, 0.2) as reply:
            assert await anext(reply.pieces) == b"word"
            async with asyncio.timeout(0.5):
                await anext(reply.pieces)

    began = time.monotonic()
    with pytest.raises(TimeoutError):
        await wait()
    assert 0.45 < time.monotonic() - began < 2
    await eventually(lambda: silent.left, 1)
    await _lives(http, silent)


async def test_who_gave_up_a_piece_is_told_that_it_is_lost(http, silent):
    """It must not look like the body's end."""
    async with stream(http, silent.url) as reply:
        await anext(reply.pieces)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(reply.pieces), 0.1)
        with pytest.raises(UpstreamError, match="cut off"):
            await anext(reply.pieces)


@pytest.mark.parametrize("pieces", [[], [CHUNKED], [CHUNKED, chunk(b"x")]])
async def test_who_is_cut_off_closes_his_connection_at_once(http, server, pieces):
    server.pieces = pieces
    reading = asyncio.create_task(read(http, server.url))
    await eventually(lambda: server.heads)
    await asyncio.sleep(0.05)  # until it reads what was sent
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await eventually(lambda: server.left, 1)
    await _lives(http, server)


@pytest.mark.parametrize("words", [0, 1])
async def test_who_leaves_early_closes_his_connection_at_once(http, silent, words):
    async with stream(http, silent.url) as reply:
        for _ in range(words):
            await anext(reply.pieces)
    await eventually(lambda: silent.left, 1)
    await _lives(http, silent)


async def test_who_leaves_while_more_comes_closes_his_connection_at_once(http, server):
    server.pieces, server.pause = [CHUNKED, *[chunk(b"word")] * 500], 0.01
    async with stream(http, server.url) as reply:
        async for _ in reply.pieces:
            break
    await eventually(lambda: server.left, 1)


async def test_an_error_of_the_readers_own_stays_his(http, silent):
    with pytest.raises(LookupError, match="mine"):
        async with stream(http, silent.url):
            raise LookupError("mine")
    await eventually(lambda: silent.left, 1)


async def _lives(http, server):
    server.pieces = [OK]
    assert await read(http, server.url) == (200, [b"{}"]), "and the client lives"


# Who is not reached


async def test_who_is_not_there_is_told_from_who_does_not_answer(http):
    refused = await failure(http, f"http://127.0.0.1:{closed_port()}")
    assert refused == ("connect", "refused", b"")
    assert await failure(http, "http://nowhere.invalid") == ("connect", "no such host", b"")
    assert (await failure(http, "http://[::1"))[0] == "protocol"
    with socket.create_server(("127.0.0.1", 0)) as mute:  # it speaks no TLS, and nothing else
        url = f"https://127.0.0.1:{mute.getsockname()[1]}"
        assert (await failure(http, url))[:2] == ("connect", "timed out")


@pytest.mark.parametrize(("closes", "kind"), [(False, "timeout"), (True, "reset")])
async def test_the_time_limit_covers_the_head(http, server, closes, kind):
    server.pieces, server.closes = [], closes
    began = time.monotonic()
    assert (await failure(http, server.url, 0.4))[0] == kind
    assert time.monotonic() - began < 2
    await eventually(lambda: server.left, 1)


async def test_the_time_limit_does_not_cover_the_body(http, server):
    server.pieces = FRAMINGS["chunked"]
    server.pause = 1.5 / len(server.pieces)  # s
    async with stream(http, server.url, 1.0) as reply:
        assert b"".join([piece async for piece in reply.pieces]) == TEXT


async def test_what_comes_slowly_comes_for_as_long_as_it_does(http, server):
    server.pieces, server.pause = FRAMINGS["chunked"][:8], 0.4
    server.pieces.append(FRAMINGS["chunked"][-1])
    assert len((await read(http, server.url))[1]) == 7


@pytest.mark.parametrize(
    ("certificate", "believed", "words"),
    [
        (HERE, False, "unknown authority"),
        (HERE, True, ""),
        (ELSEWHERE, True, "wrong host name"),
        (ALONE, False, "self-signed certificate"),
    ],
)
async def test_whose_certificate_is_not_good_is_told_nothing(
    kind, serve_tls, certificate, believed, words
):
    server = serve_tls(certificate)
    believes = read_authorities(str(AUTHORITY)) if believed else b""
    http = kind(connect_timeout_seconds=1, authorities=believes)
    said, message, _ = await failure(http, f"https://user:hunter2@localhost:{server.port}")
    await http.aclose()
    assert said == ("tls" if words else "reset"), "it closes, for it answers nothing"
    assert not words or words in message
    await asyncio.sleep(0)
    assert bool(server.heard) is not bool(words)


async def test_the_settings_proxy_is_on_the_way_but_for_exceptions(kind, server):
    proxy = ForwardProxy(server.url)
    http = kind(connect_timeout_seconds=1, proxy=proxy.url, direct=["127.0.0.1"])
    try:
        server.pieces = [b"HTTP/1.0 200 X\r\ncontent-length: 2\r\n\r\n{}"]
        assert await read(http, "http://gpu.example/v1") == (200, [b"{}"])
        assert proxy.asked == ["POST http://gpu.example/v1"]
        assert await read(http, server.url) == (200, [b"{}"])
        assert len(proxy.asked) == 1
    finally:
        await http.aclose()
        proxy.close()


async def test_who_is_there_while_our_own_loop_stands_still_is_reached(kind, server):
    """It comes back to a connection that is made, and to a time limit that is over."""
    http = kind(connect_timeout_seconds=0.1)

    async def busy():
        for _ in range(5):  # as many as there are steps until a connection is known
            time.sleep(0.45)  # noqa: ASYNC251 - nothing else runs meanwhile: that is the fault
            await asyncio.sleep(0)

    reply, _ = await asyncio.gather(read(http, server.url), busy())
    assert reply == (200, [b"{}"])
    await http.aclose()
