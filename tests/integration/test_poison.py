"""Replies that are made to hurt: each ends as its own tier's failure, and as nothing else."""

from __future__ import annotations

import gzip
import os
import resource
import time

import pytest
from harness.raw import Server

from fallback_chain import HttptoolsHttp, UpstreamError
from fallback_chain.aiohttp_http import AiohttpHttp
from fallback_chain.httpx_http import HttpxHttp

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
ZEROS = bytes(1024 * 1024)
BOMB = gzip.compress(bytes(200 * 1024 * 1024), 9)
PACKED = gzip.compress(os.urandom(1000))


# What is sent, and the kind of failure that it is.
POISON = {
    "a body without end": ([HEAD + b"\r\n", *[ZEROS] * 80], "too large"),
    "chunks without end": (
        [HEAD + b"transfer-encoding: chunked\r\n\r\n", *[b"100000\r\n" + ZEROS + b"\r\n"] * 80],
        "too large",
    ),
    "a body that is said to be too large, and is": (
        [HEAD + b"content-length: 999999999999\r\n\r\n", *[ZEROS] * 80],
        "too large",
    ),
    "a body that unpacks to two hundred megabytes": (
        [HEAD + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(BOMB) + BOMB],
        "too large",
    ),
    "what is said to be packed, and is not": (
        [HEAD + b"content-encoding: gzip\r\ncontent-length: 4\r\n\r\nnope"],
        "protocol",
    ),
    "headers without end": ([HEAD, *[b"x-a: " + b"b" * 8000 + b"\r\n"] * 500], "protocol"),
    "a chunk of no length": (
        [HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n"],
        "protocol",
    ),
    "no HTTP at all": ([b"\x00\x01\x02 what is this\r\n\r\n"], "protocol"),
    "half a body": ([HEAD + b"content-length: 500\r\n\r\n{"], "reset"),
    "chunks without a last one": (
        [HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n"],
        "reset",
    ),
    "half a chunk": ([HEAD + b"transfer-encoding: chunked\r\n\r\n20\r\n{"], "reset"),
    "half of what was packed": (
        [HEAD + b"content-encoding: gzip\r\ncontent-length: 500\r\n\r\n" + PACKED[:500]],
        "reset",
    ),
    "nothing": ([b""], "reset"),
    "half a head": ([HEAD[:20]], "reset"),
}


@pytest.fixture
async def serve():
    servers = []

    async def start(pieces):
        server = Server()
        server.pieces, server.closes = pieces, True
        servers.append(await server.open())
        return f"{server.url}/v1"

    yield start
    for server in servers:
        await server.close()


@pytest.fixture(params=[HttptoolsHttp, AiohttpHttp, HttpxHttp])
async def http(request):
    client = request.param(connect_timeout_seconds=1)
    yield client
    await client.aclose()


def ask(http, url):
    return http.request("GET", url, headers={}, content=None, timeout_seconds=20)


@pytest.mark.parametrize("what", POISON)
async def test_poison_is_the_servers_failure_and_costs_no_memory(serve, http, what):
    pieces, kind = POISON[what]
    url = await serve(pieces)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(UpstreamError) as failure:
        await ask(http, url)
    assert failure.value.kind == kind
    assert time.monotonic() - began < 10
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 150, f"{grown:.0f} MB"


@pytest.mark.parametrize("size", [0, 1, 100, 3_000_000])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_whole_body_of_any_length_is_read(serve, http, size, chunked):
    body = b"x" * size
    framed = b"content-length: %d\r\n\r\n%b" % (size, body)
    if chunked:
        chunks = b"%x\r\n%b\r\n" % (size, body) if size else b""
        framed = b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    reply = await ask(http, await serve([HEAD + framed]))
    assert (reply.status, reply.content) == (200, body)


@pytest.mark.parametrize("status", [200, 429])
async def test_a_header_that_nobody_can_read_costs_its_reply_nothing(serve, http, status):
    head = b"HTTP/1.1 %d X\r\nx-a: \xff\xfe\r\nretry-after: 7\r\ncontent-length: 2\r\n\r\n{}"
    reply = await ask(http, await serve([head % status]))
    assert (reply.status, reply.content) == (status, b"{}")
    assert reply.headers.get("retry-after") == (None if status == 200 else "7")
