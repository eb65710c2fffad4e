"""What the tiers ask of an HTTP client, of all that there are: each test runs on all."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import subprocess
import sys
import time

import httpx
import pytest
from harness.commands import environ
from harness.forward import ForwardProxy
from harness.http_clients import collected, opened
from harness.raw import OK, Server, closed_port
from harness.tls import ALONE, ALONE_CA, AUTHORITY, ELSEWHERE, HERE, TlsServer
from harness.waiting import eventually

from fallback_chain import FallbackChain, HttptoolsHttp, UpstreamError, read_authorities
from fallback_chain.aiohttp_http import AiohttpHttp
from fallback_chain.httpx_http import HttpxHttp

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 9000\r\n\r\n"
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


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


async def ask(http, url, seconds=5.0, **headers):
    return await http.request("GET", url, headers=headers, content=None, timeout_seconds=seconds)


async def failure(http, url, seconds=5.0):
    with pytest.raises(UpstreamError) as raised:
        await ask(http, url, seconds)
    return raised.value.kind, str(raised.value)


async def test_what_is_asked_and_what_is_told(http, server):
    server.pieces = [b"HTTP/1.1 429 X\r\nRetry-After: 3\r\ncontent-length: 2\r\n\r\n{}"]
    reply = await http.request(
        "POST", f"{server.url}/v1/x", headers={"x-a": "b"}, content=b"", timeout_seconds=5
    )
    assert (reply.status, reply.content, reply.headers["retry-after"]) == (429, b"{}", "3")
    assert server.heads[0].startswith("post /v1/x http/1.1\r\n")
    assert "\r\nx-a: b\r\n" in server.heads[0]


async def test_a_connection_is_used_again(http, server):
    for _ in range(3):
        await ask(http, server.url)
    assert (len(server.heads), server.connections) == (3, 1)


async def cost(kind, url, at_once):
    """Return the CPU seconds that each of so many calls at once takes, of 256."""
    http = kind(connect_timeout_seconds=5)

    async def caller(times):
        for _ in range(times):
            await ask(http, url, 30)

    await asyncio.gather(*(caller(1) for _ in range(at_once)))  # its connections are open
    began = time.process_time()
    await asyncio.gather(*(caller(256 // at_once) for _ in range(at_once)))
    spent = time.process_time() - began
    await http.aclose()
    return spent / 256


async def test_of_many_calls_at_once_each_costs_no_more(kind, server):
    server.pause = 0.03
    few, many = await cost(kind, server.url, 8), await cost(kind, server.url, 128)
    assert many < 3 * few + 0.001


async def test_what_a_crowd_had_open_is_closed_when_it_is_idle(server, monkeypatch):
    http = HttpxHttp(connect_timeout_seconds=5)
    await asyncio.gather(*(ask(http, server.url) for _ in range(40)))
    assert server.left == 0
    monkeypatch.setattr("fallback_chain.httpx_http.IDLE_CONNECTION_SECONDS", 0.0)
    await ask(http, server.url)
    await eventually(lambda: server.left >= server.connections - 8)
    assert (await ask(http, server.url)).status == 200
    await http.aclose()
    await eventually(lambda: server.left == server.connections)


async def test_a_connection_that_its_server_closed_meanwhile_is_no_failure(http, server):
    server.closes = True
    await ask(http, server.url)
    await eventually(lambda: server.left)
    await asyncio.sleep(0.05)  # its client hears of it
    server.heads.clear()
    assert (await ask(http, server.url)).status == 200


async def test_a_redirect_is_not_followed(http, server):
    there = f"HTTP/1.1 307 X\r\nlocation: {server.url}/there\r\ncontent-length: 0\r\n\r\n"
    server.pieces = [there.encode()]
    assert (await ask(http, server.url)).status == 307
    assert len(server.heads) == 1


async def test_a_cookie_is_not_kept(kind, server):
    http = kind(connect_timeout_seconds=1)
    server.pieces = [b"HTTP/1.1 200 X\r\nset-cookie: a=b\r\ncontent-length: 2\r\n\r\n{}"]
    await ask(http, server.url)
    await ask(http, server.url)
    await http.aclose()
    assert "cookie" not in "".join(server.heads)


async def test_a_users_own_password_in_the_url_is_sent(http, server):
    await ask(http, server.url.replace("://", "://user:pa%20ss@"))
    assert "authorization: basic dxnlcjpwysbzcw==" in server.heads[0]


@pytest.mark.parametrize(
    ("pieces", "pause"),
    [
        ([], 0.0),
        ([HEAD[n : n + 1] for n in range(40)], 0.05),
        ([HEAD], 0.0),
        ([HEAD, *[b"x"] * 99], 0.05),
    ],
    ids=["nothing", "a head that drips", "a head", "a body that drips"],
)
async def test_the_time_limit_covers_all_of_it(http, server, pieces, pause):
    server.pieces, server.pause = pieces, pause
    began = time.monotonic()
    assert await failure(http, server.url, 0.4) == ("timeout", "timed out")
    assert 0.35 < time.monotonic() - began < 2
    await eventually(lambda: server.left)


@pytest.mark.parametrize("seconds", [0.0, -1.0])
async def test_no_time_left_is_a_timeout(http, server, seconds):
    assert (await failure(http, server.url, seconds))[0] == "timeout"


@pytest.mark.parametrize("pieces", [[], [HEAD], [HEAD, b"x"]])
async def test_who_is_cut_off_closes_his_connection_at_once(http, server, pieces):
    server.pieces = pieces
    asking = asyncio.create_task(ask(http, server.url, 60))
    await eventually(lambda: server.heads)
    await asyncio.sleep(0.05)  # until it reads what was sent
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await eventually(lambda: server.left, 1)
    server.pieces = [OK]
    assert (await ask(http, server.url)).status == 200, "and the client lives"


async def test_who_is_not_there_is_told_from_who_does_not_answer(http):
    assert await failure(http, f"http://127.0.0.1:{closed_port()}") == ("connect", "refused")
    assert await failure(http, "http://nowhere.invalid") == ("connect", "no such host")


@pytest.mark.parametrize("kind", [HttptoolsHttp, AiohttpHttp, HttpxHttp])
async def test_who_is_there_while_our_own_loop_stands_still_is_reached(kind, server):
    """It comes back to a connection that is made, and to a time limit that is over."""
    server.pieces = [OK]
    http = kind(connect_timeout_seconds=0.1)

    async def busy():
        for _ in range(5):  # as many as there are steps until a connection is known
            time.sleep(0.45)  # noqa: ASYNC251 - nothing else runs meanwhile: that is the fault
            await asyncio.sleep(0)

    reply, _ = await asyncio.gather(ask(http, server.url, 20), busy())
    assert reply.status == 200
    await http.aclose()


async def test_who_takes_no_connection_in_time_is_not_there(http):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it speaks no TLS, and nothing else
        began = time.monotonic()
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        assert await failure(http, url) == ("connect", "timed out")
        assert time.monotonic() - began < 3
        assert await failure(http, url, 0.2) == ("timeout", "timed out")


@pytest.mark.parametrize("url", ["http://[::1", "nonsense", "ftp://127.0.0.1"])
async def test_no_url_is_a_failure_like_others(http, url):
    assert (await failure(http, url))[0] == "protocol"


# Whom it believes


@pytest.fixture
def serve_tls():
    servers = []

    def start(certificate):
        servers.append(TlsServer(certificate))
        return servers[-1]

    yield start
    for each in servers:
        each.close()


@pytest.mark.parametrize(
    ("certificate", "believed", "words"),
    [
        (HERE, False, "unknown authority"),
        (HERE, True, ""),
        (ELSEWHERE, True, "wrong host name"),
    ],
)
async def test_whose_certificate_is_not_good_is_told_nothing(
    kind, serve_tls, certificate, believed, words
):
    server = serve_tls(certificate)
    believes = read_authorities(str(AUTHORITY)) if believed else b""
    http = kind(connect_timeout_seconds=1, authorities=believes)
    said = await failure(http, f"https://user:hunter2@localhost:{server.port}")
    await http.aclose()
    if words:
        assert said[0] == "tls"
        assert words in said[1]
        assert "hunter2" not in said[1]
    else:
        assert said[0] == "reset", "it closes, for it answers nothing"
    await asyncio.sleep(0)
    assert bool(server.heard) is not bool(words)


async def test_where_no_tls_is_spoken(http):
    async def answer(_, writer):
        writer.write(b"HTTP/1.1 400 X\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as plain:
        url = f"https://127.0.0.1:{plain.sockets[0].getsockname()[1]}"
        assert await failure(http, url) == ("tls", "no TLS there")


@pytest.mark.parametrize("certificate", [ALONE, ALONE_CA])
async def test_a_self_signed_certificate_is_named_as_such(kind, serve_tls, certificate):
    http = kind(connect_timeout_seconds=1)
    said = await failure(http, f"https://localhost:{serve_tls(certificate).port}")
    await http.aclose()
    assert said[0] == "tls"
    assert "self-signed certificate" in said[1]


async def test_a_self_signed_certificate_may_be_believed(kind, serve_tls):
    http = kind(connect_timeout_seconds=1, authorities=read_authorities(str(ALONE)))
    said = await failure(http, f"https://localhost:{serve_tls(ALONE).port}")
    await http.aclose()
    assert said[0] == "reset", "it closes, for it answers nothing"


ASK = """
import asyncio, os, sys
from fallback_chain import HttptoolsHttp, UpstreamError
from fallback_chain.aiohttp_http import AiohttpHttp
from fallback_chain.httpx_http import HttpxHttp

async def ask():
    http = {kind}(connect_timeout_seconds=1)
    try:
        await http.request("GET", "{url}", headers={{}}, content=None, timeout_seconds=1)
    except UpstreamError as error:
        print(error.kind)
    await http.aclose()

asyncio.run(ask())
sys.stdout.flush()
os._exit(0)  # some clients' threads do not like how an interpreter ends
"""


def asked(kind, url, **variables):
    """What a process of its own finds: what the environment says is read once."""
    code = ASK.format(kind=kind.__name__, url=url)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environ(**variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize("named", [True, False])
def test_the_environment_may_name_authorities(kind, serve_tls, named):
    server = serve_tls(HERE)
    variables = {"SSL_CERT_FILE": str(AUTHORITY)} if named else {}
    assert asked(kind, f"https://localhost:{server.port}", **variables) == (
        "reset" if named else "tls"
    )


def test_the_environment_names_no_proxy(kind):
    url = f"http://127.0.0.1:{closed_port()}"
    proxies = dict.fromkeys(PROXIES, url) | {name.lower(): url for name in PROXIES}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        where = f"http://localhost:{listener.getsockname()[1]}"
        assert asked(kind, where, **proxies) == "timeout", "it was reached, and says nothing"


@pytest.mark.parametrize(
    "content", [None, b"", b"no PEM", b"\xff\xfe", b"-----BEGIN CERTIFICATE-----\nx"]
)
def test_a_file_without_certificates_is_told(tmp_path, content):
    path = tmp_path / "authorities"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((OSError, ValueError)):
        read_authorities(str(path))


# Proxies


async def test_the_settings_proxy_is_on_the_way_but_for_exceptions(kind, server):
    proxy = ForwardProxy(server.url)
    http = kind(
        connect_timeout_seconds=1,
        proxy=proxy.url.replace("://", "://user:pa%3Ass@"),
        direct=["127.0.0.1", "::1"],
    )
    try:
        server.pieces = [b"HTTP/1.0 200 X\r\ncontent-length: 2\r\n\r\n{}"]
        assert (await ask(http, "http://gpu.example/v1/models")).status == 200
        assert proxy.asked == ["GET http://gpu.example/v1/models"]
        assert proxy.told == ["Basic dXNlcjpwYTpzcw=="]
        assert (await ask(http, server.url)).status == 200
        assert (await failure(http, f"http://[::1]:{closed_port()}"))[0] == "connect"
        assert len(proxy.asked) == 1
    finally:
        await http.aclose()
        proxy.close()


async def test_a_proxy_that_refuses_or_is_away_is_a_server_that_is_not_there(kind, server):
    http = kind(connect_timeout_seconds=1, proxy=server.url)
    server.pieces = [b"HTTP/1.1 407 X\r\ncontent-length: 0\r\n\r\n"]
    refused = await failure(http, "https://gpu.example/v1/models")
    await http.aclose()
    assert refused == ("connect", "refused by the proxy")
    http = kind(connect_timeout_seconds=1, proxy=f"http://127.0.0.1:{closed_port()}")
    assert await failure(http, "http://gpu.example") == ("connect", "refused")
    await http.aclose()


# A user's own client


async def test_a_users_own_client_asks_and_stays_open(gpu):
    seen = []

    async def hook(request):
        seen.append(request.url.path)

    async with httpx.AsyncClient(auth=("user", "pass"), event_hooks={"request": [hook]}) as client:
        chain = FallbackChain(gpu.url, client=client)
        result = await chain.generate("Hello")
        await chain.aclose()
        assert (result["text"], result["tier_used"]) == ("gpu-model: Hello", "gpu")
        assert seen == ["/v1/models", "/v1/chat/completions"]
        assert gpu.calls[0].headers["authorization"].startswith("Basic ")
        assert not client.is_closed


async def test_a_users_own_time_limits_are_not_the_models(gpu):
    gpu.delay = 0.3
    async with httpx.AsyncClient(timeout=0.05) as client:
        assert (await FallbackChain(gpu.url, client=client).generate("Hello"))["tier_used"] == "gpu"


@pytest.mark.parametrize("raised", [RuntimeError("secret"), ValueError()])
async def test_a_hook_that_raises_is_the_tiers_failure(gpu, raised):
    async def hook(_):
        raise raised

    async with httpx.AsyncClient(event_hooks={"request": [hook]}) as client:
        result = await FallbackChain(gpu.url, client=client).generate("Hello")
    [attempt, _] = result["attempts"]
    assert (attempt["verdict"], attempt["detail"]) == ("failure", "protocol")


@pytest.mark.parametrize(
    ("client", "words"),
    [(httpx.Client(), "synchronous"), (object(), "not object"), (httpx.AsyncClient, "not type")],
)
def test_a_client_of_another_kind_is_refused_at_once(client, words):
    with pytest.raises(TypeError, match=words):
        FallbackChain("http://127.0.0.1:9", client=client)


class Closing:
    """A server that closes each connection behind so many replies, and does not say so before."""

    def __init__(self, replies, *, reads_another):
        self._replies, self._reads_another = replies, reads_another
        self.requests = 0

    async def serve(self, reader, writer):
        try:
            for _ in range(self._replies):
                await self._read(reader)
                writer.write(OK)
                await writer.drain()
            if self._reads_another:
                await self._read(reader)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _read(self, reader):
        head = await reader.readuntil(b"\r\n\r\n")
        self.requests += 1
        length = re.search(rb"content-length: (\d+)", head.lower())
        await reader.readexactly(int(length[1]) if length else 0)

    @contextlib.asynccontextmanager
    async def opened(self):
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def post(http, url):
    return await http.request("POST", url, headers={}, content=b"{}", timeout_seconds=5.0)


async def test_a_connection_that_was_closed_as_idle_is_no_failure(kind):
    closing = Closing(1, reads_another=False)
    async with closing.opened() as url, opened(kind) as http:
        for _ in range(6):
            assert (await post(http, url)).status == 200
    assert closing.requests == 6


@pytest.mark.parametrize("kind", [HttptoolsHttp, AiohttpHttp])
async def test_nor_is_one_that_is_closed_as_the_next_request_comes(kind):
    closing = Closing(1, reads_another=True)
    async with closing.opened() as url, opened(kind) as http:
        for _ in range(6):
            assert (await post(http, url)).status == 200


@pytest.mark.parametrize("kind", [HttptoolsHttp, AiohttpHttp])
async def test_a_request_that_ends_its_connection_is_sent_twice_at_most(kind):
    closing = Closing(0, reads_another=True)
    async with closing.opened() as url, opened(kind) as http:
        with pytest.raises(UpstreamError):
            await post(http, url)
        assert closing.requests == 1
        closing._replies = 1
        assert (await post(http, url)).status == 200
        closing._replies, before = 0, closing.requests
        with pytest.raises(UpstreamError):
            await post(http, url)
        assert closing.requests == before + 2
