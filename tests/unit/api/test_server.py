"""The server's bounds: of its connections, and of who does not read."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import threading
import time

import pytest
import uvicorn

from api import server


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "most"),
    [
        (1024, 4096, 4096, 3968),
        (1024, 1_000_000, 10_128, 10_000),
        (1024, resource.RLIM_INFINITY, 10_128, 10_000),
        (50_000, 50_000, None, 10_000),
        (1024, 1024, None, 896),
    ],
)
def test_files_are_as_many_as_clients_need_and_the_process_may(
    monkeypatch, soft, hard, raised, most
):
    done = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: done.append(limits))
    assert server.raise_file_limit() == most
    assert done == ([(raised, hard)] if raised else [])


@contextlib.contextmanager
def serving(app, client_seconds=10, most_connections=100):
    """The server's own protocol around an application; yields its address."""
    http = server.protocol(most_connections, client_seconds)
    config = uvicorn.Config(app, loop="uvloop", http=http, log_config=None, lifespan="off")
    serving = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=serving.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield listener.getsockname()
    finally:
        serving.should_exit = True
        thread.join()


@pytest.mark.parametrize("reads", ["nothing", "a little", "slowly", "all"])
def test_who_does_not_take_what_he_asked_for_is_dropped(monkeypatch, reads):
    """All of it lies in memory meanwhile; who takes it slowly, but takes it, gets it."""
    monkeypatch.setattr(server, "READER_SECONDS", 0.5)
    size, dropped = 30_000_000, threading.Event()

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(size)})
        if (await receive())["type"] == "http.disconnect":
            dropped.set()

    with serving(app) as address, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000)
        client.connect(address)
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        got, piece = 0, {"nothing": 0, "a little": 1, "slowly": 3_000_000, "all": size}[reads]
        for _ in range(10):
            left = piece
            while left and (chunk := client.recv(min(left, 2**20))):
                left -= len(chunk)
                got += len(chunk)
            time.sleep(0.2)
            if got > size:
                break
        assert dropped.wait(5)
        assert (got >= size) == (reads in {"slowly", "all"})


REFUSED = b"refused before its end"


async def refuse(scope, receive, send):
    size = str(len(REFUSED)).encode()
    headers = [(b"content-length", size), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": REFUSED})


SIZE = 3_000_000
HEAD = b"POST / HTTP/1.1\r\nhost: x\r\n"
UNFINISHED = {
    "a body": HEAD + b"content-length: %d\r\n\r\n" % SIZE,
    "a body in chunks": HEAD + b"transfer-encoding: chunked\r\n\r\n%x\r\n" % SIZE,
    "a head": HEAD + b"x: ",
    "what is no HTTP": b"\x16\x03\x01",
}


@pytest.mark.parametrize("sent", UNFINISHED)
def test_a_refusal_gets_through_to_who_sends_on(sent):
    """As a proxy does: it sends to its end, and takes a reset for our failure."""
    with serving(refuse) as address, socket.create_connection(address, 10) as client:
        client.sendall(UNFINISHED[sent])
        for _ in range(30):
            client.sendall(b"x" * (SIZE // 30))
            time.sleep(0.01)
        got = b""
        while piece := client.recv(2**16):
            got += piece
    status = {"a head": b" 431 ", "what is no HTTP": b" 400 "}.get(sent, b" 413 ")
    assert status in got.partition(b"\r\n")[0]


def test_nor_is_it_lost_where_more_has_come_than_was_read():
    sent = threading.Event()

    async def refuse_later(scope, receive, send):
        await asyncio.to_thread(sent.wait, 5)
        await refuse(scope, receive, send)

    with serving(refuse_later) as address, socket.create_connection(address, 10) as client:
        client.sendall(UNFINISHED["a body"])
        client.sendall(b"x" * (SIZE // 3))
        sent.set()
        assert b" 413 " in client.recv(2**16)
        client.settimeout(2)  # nobody would read the rest
        client.sendall(b"x" * (SIZE - SIZE // 3) + b"x" * 10 * SIZE)


def send_for(seconds, client):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        client.sendall(b"x" * 20_000)
        time.sleep(0.02)


@pytest.mark.parametrize("bound", ["LINGER_SECONDS", "LINGER_BYTES"])
def test_nobody_sends_on_for_ever(monkeypatch, bound):
    monkeypatch.setattr(server, bound, 0.3 if bound == "LINGER_SECONDS" else 100_000)
    with serving(refuse) as address, socket.create_connection(address, 10) as client:
        client.sendall(UNFINISHED["a body"])
        with pytest.raises(ConnectionError):
            send_for(3.0, client)


def test_who_was_answered_is_not_told_that_he_is_slow(caplog):
    with serving(refuse, 0.1) as address, socket.create_connection(address, 10) as client:
        client.sendall(UNFINISHED["a body"])
        send_for(0.5, client)
        client.shutdown(socket.SHUT_WR)
        got = b""
        while piece := client.recv(2**16):
            got += piece
    assert got.count(b"HTTP/1.1 ") == 1
    assert not caplog.records


async def accept(scope, receive, send):
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


def test_a_body_that_comes_after_its_answer_keeps_no_connection(monkeypatch):
    """Who asks whether to go on, is told no, and goes on: then silence for ever."""
    monkeypatch.setattr(server, "IDLE_SECONDS", 0.5)
    with serving(accept) as address, socket.create_connection(address, 10) as client:
        client.sendall(HEAD + b"expect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        while not client.recv(2**16).endswith(b"ok"):
            pass
        client.sendall(b"{}")
        assert client.recv(1) == b""


def ask(client):
    client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    got = b""
    while not got.endswith(b"\r\n\r\nok"):
        piece = client.recv(2**16)
        assert piece, got
        got += piece


def test_where_no_more_connections_fit_an_idle_one_makes_room():
    with serving(accept, most_connections=2) as address, contextlib.ExitStack() as opened:

        def connect():
            return opened.enter_context(socket.create_connection(address, 10))

        busy, idle = connect(), connect()
        busy.sendall(UNFINISHED["a head"])
        ask(idle)
        ask(third := connect())
        assert idle.recv(1) == b""
        third.sendall(UNFINISHED["a head"])
        with connect().makefile("rb") as reader:
            assert b"too_many_connections" in reader.read()


def test_of_the_idle_ones_that_goes_which_has_waited_longest():
    """The shorter it waits, the likelier its next request is on its way. And nobody is searched."""
    with serving(accept, most_connections=8) as address, contextlib.ExitStack() as opened:

        def connect():
            return opened.enter_context(socket.create_connection(address, 10))

        idle = [connect() for _ in range(8)]
        for each in (*idle, idle[0]):
            ask(each)
        for each in (*idle[1:], idle[0]):
            ask(connect())
            assert each.recv(1) == b""


def test_half_a_request_behind_an_answer_is_no_idle_connection():
    one = serving(accept, most_connections=1)
    with one as address, socket.create_connection(address, 10) as busy:
        busy.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\nGET / HTTP/1.1\r\n")
        while not busy.recv(2**16).endswith(b"ok"):
            pass
        with socket.create_connection(address, 10) as other, other.makefile("rb") as reader:
            assert b"too_many_connections" in reader.read()
        busy.sendall(b"host: x\r\n\r\n")
        assert b" 200 " in busy.recv(2**16)


def test_a_connection_outlives_its_place_in_a_proxys_pool(monkeypatch):
    """A proxy that sends a POST just as we close its idle connection tells its client of a 502."""
    assert server.IDLE_SECONDS > 60  # what nginx, and AWS's load balancers, keep theirs for
    monkeypatch.setattr(server, "IDLE_SECONDS", 7)
    with serving(accept) as address, socket.create_connection(address, 6) as client:
        ask(client)
        with pytest.raises(TimeoutError):  # 6 s: uvicorn's own limit is 5
            client.recv(1)
        ask(client)
        client.settimeout(30)
        assert client.recv(1) == b""  # it is not kept for ever


@pytest.mark.parametrize(
    ("app", "sent"),
    [
        (refuse, UNFINISHED["a body"]),
        (accept, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" + UNFINISHED["a head"]),
    ],
    ids=["a body", "a head behind a request"],
)
def test_who_sends_on_does_not_hold_up_the_end(app, sent):
    with serving(app) as address:
        client = socket.create_connection(address, 10)
        client.sendall(sent)
        assert b"HTTP/1.1 " in client.recv(2**16)
        began = time.monotonic()
    assert time.monotonic() < began + 2
    client.close()
