"""Odd requests: each is served or refused in the envelope, and its connection ends as it should.

One table for each kind of oddness. None is answered with a 5xx, and none hurts the next request.
"""

from __future__ import annotations

import json
from bisect import bisect_left

import httpx
import pytest
from fuzz.wire import exchange, replies
from harness.waiting import answers

HELLO = b'{"prompt": "Hello"}'
CHAT = b'{"messages": [{"role": "user", "content": "Hello"}]%s}'
GOOD = b'{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {}}\n'


@pytest.fixture(scope="module")
def stack(module_fleet):
    return module_fleet.start(module_fleet.api(client_seconds=1), module_fleet.worker())


@pytest.fixture(scope="module")
def api(stack):
    return stack[0]


@pytest.fixture(autouse=True)
def nothing_breaks(stack):
    before = [len(process.log) for process in stack]
    yield
    for process, length in zip(stack, before, strict=True):
        assert "Traceback" not in process.log[length:]
        assert answers(f"{process.url}/health")


def post(path, headers, body, *, close=True):
    head = b"POST %s HTTP/1.1\r\nHost: localhost\r\n" % path
    return head + headers + (b"Connection: close\r\n" if close else b"") + b"\r\n" + body


def one_reply(api, request, seconds=10):
    found = replies(exchange(api.port, [request], seconds))
    assert len(found) == 1, found
    return check(found[0])


def check(reply, *statuses):
    assert reply.status < 500, reply
    if reply.status >= 400:
        assert reply.headers["content-type"] == "application/json", reply
        assert reply.envelope()["message"]
        assert reply.envelope()["type"] == "invalid_request_error"
    if statuses:
        assert reply.status in statuses, reply
    return reply


# Framing


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        (b"Content-Length: %d\r\n" % len(HELLO), HELLO, 202),
        (b"Content-Length: 000000000000000%d\r\n" % len(HELLO), HELLO, 202),
        (b"Content-Length: " + b"9" * 5000 + b"\r\n", HELLO, 400),
        (b"Content-Length: " + b"0" * 5000 + b"19\r\n", HELLO, 202),
        (b"Content-Length: 99999999999999999999\r\n", HELLO, 400),
        (b"Content-Length: 18446744073709551615\r\n", HELLO, 413),
        (b"Content-Length: -5\r\n", HELLO, 400),
        (b"Content-Length: +5\r\n", HELLO, 400),
        (b"Content-Length: 0x5\r\n", HELLO, 400),
        (b"Content-Length: 1e1\r\n", HELLO, 400),
        (b"Content-Length: 5 5\r\n", HELLO, 400),
        (b"Content-Length: \xb2\r\n", HELLO, 400),
        (b"Content-Length: \xd9\xa3\r\n", HELLO, 400),
        (b"Content-Length: 1,1\r\n", HELLO, 400),
        (b"Content-Length: 19\r\nContent-Length: 5\r\n", HELLO, 400),
        (b"Content-Length: 19\r\nContent-Length: 19\r\n", HELLO, 400),
        (b"Content-Length: 19\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n", 400),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 19\r\n", b"0\r\n\r\n", 400),
        (b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n", 400),
        (b"Transfer-Encoding: chunked, identity\r\n", b"0\r\n\r\n", 400),
        (b"Transfer-Encoding : chunked\r\n", b"0\r\n\r\n", 400),
        (b"Transfer-Encoding: chunked\r\n", b"13\r\n%s\r\n0\r\n\r\n" % HELLO, 202),
        (b"Transfer-Encoding: chunked\r\n", b"013;a=b\r\n%s\r\n0\r\n\r\n" % HELLO, 202),
        (b"Transfer-Encoding: chunked\r\n", b"0x13\r\n%s\r\n0\r\n\r\n" % HELLO, 400),
        (b"Transfer-Encoding: chunked\r\n", b"-1\r\n%s\r\n0\r\n\r\n" % HELLO, 400),
        (b"Transfer-Encoding: chunked\r\n", b"+13\r\n%s\r\n0\r\n\r\n" % HELLO, 400),
        (b"Transfer-Encoding: chunked\r\n", b"\r\n%s\r\n0\r\n\r\n" % HELLO, 400),
        (b"Transfer-Encoding: chunked\r\n", b"f" * 17 + b"\r\n", 400),
        (b"Transfer-Encoding: chunked\r\n", b"f" * 5000 + b"\r\n", 400),
        (b"Transfer-Encoding: chunked\r\n", b"5\r\n%s\r\n0\r\n\r\n" % HELLO, 400),
        (b"Content-Length: 19\r\nExpect: nonsense\r\n", HELLO, 202),
        (b"Content-Length: 19\r\nExpect: 100-continue\r\n", HELLO, 202),
        (b"Content-Length: 19\r\n folded: x\r\n", HELLO, 400),
        (b"no colon\r\n", HELLO, 400),
        (b"a\0b: c\r\n", HELLO, 400),
        (b"a: \0\r\n", HELLO, 400),
    ],
)
def test_odd_framing(api, headers, body, status):
    check(one_reply(api, post(b"/v1/jobs", headers, body)), status)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # the hello of TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/3.7\r\n\r\n",
        b"GET\r\n\r\n",
        b"FETCH / HTTP/1.1\r\n\r\n",
        b"get / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\nHost: localhost\n\n",
        b"\0" * 100,
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://[::1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http:// HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET localhost:80 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET //localhost:99999/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET http://localhost:99999/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET ?x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    ],
)
def test_what_is_not_http(api, sent):
    for reply in replies(exchange(api.port, [sent])):
        check(reply, *range(400, 500))


def test_a_url_with_a_host_is_taken_by_its_path(api):
    asked = b"GET http://localhost/v1/jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert one_reply(api, asked).status == 200


def test_an_upgrade_is_answered_as_any_other_request(api):
    """Whether a library for them is installed or not; what comes behind it is not waited for."""
    for kind in (b"websocket", b"h2c", b"TLS/1.3"):
        headers = b"Upgrade: %s\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n" % kind
        asked = b"GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\n" + headers + b"\r\n"
        for behind in (b"", asked, b"\x81\x05Hello"):
            (reply,) = replies(exchange(api.port, [asked + behind], 3))
            assert check(reply).status == 200


H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n"


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (b"Content-Length: %d\r\n" % len(HELLO), HELLO),
        (b"Transfer-Encoding: chunked\r\n", b"13\r\n%b\r\n0\r\n\r\n" % HELLO),
    ],
)
@pytest.mark.parametrize("cut", [0, 20, -1, None])
def test_the_body_of_a_request_that_asks_for_an_upgrade_is_read(api, headers, body, cut):
    """Java's own client asks for h2c with whatever it sends to a URL without TLS."""
    asked = post(b"/v1/jobs", H2C + headers, body, close=False)
    last = post(b"/v1/jobs", b"Content-Length: %d\r\n" % len(HELLO), HELLO)
    where = len(asked) - len(body) if cut is None else cut
    pieces = [asked[:where], asked[where:] + asked, last]
    found = replies(exchange(api.port, pieces, pause=0.1))
    assert [check(reply).status for reply in found] == [202, 202, 202]


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_so_it_is_where_its_answer_is_the_last(api, version):
    """nginx speaks HTTP/1.0 to its upstream, unless told otherwise, and may hand an upgrade on."""
    headers = b"Connection: close, Upgrade\r\nUpgrade: h2c\r\nContent-Length: %d\r\n" % len(HELLO)
    asked = post(b"/v1/jobs", headers, HELLO, close=False).replace(b"HTTP/1.1", b"HTTP/" + version)
    assert one_reply(api, asked).status == 202


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 19\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 18446744073709551615\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"A: b\r\n" * 101 + b"Content-Length: 19\r\n",
        b"A: %b\r\nContent-Length: 19\r\n" % (b"b" * 70_000),
    ],
)
def test_what_is_refused_without_an_upgrade_is_refused_with_one(api, headers):
    one_reply(api, post(b"/v1/jobs", H2C + headers, HELLO, close=False))


def test_requests_behind_one_another_are_answered_in_their_order(api):
    length = b"Content-Length: %d\r\n" % len(HELLO)
    asked = [
        post(b"/v1/jobs", length, HELLO, close=False),
        b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /v1/jobs?limit=x HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    ]
    found = replies(exchange(api.port, [b"".join(asked)]))
    assert [check(reply).status for reply in found] == [202, 404, 400, 200]


def test_what_breaks_behind_a_good_request_ends_the_connection_after_its_answer(api):
    """Its own answer, and not the refusal of what came behind it."""
    length = b"Content-Length: %d\r\n" % len(HELLO)
    (reply,) = replies(
        exchange(api.port, [post(b"/v1/jobs", length, HELLO, close=False) + b"nonsense\r\n\r\n"])
    )
    assert (reply.status, reply.headers["connection"]) == (202, "close")


def test_a_broken_request_behind_one_that_is_answered_is_refused_in_its_turn(api):
    length, chunks = b"Content-Length: %d\r\n" % len(HELLO), b"Transfer-Encoding: chunked\r\n"
    asked = post(
        b"/v1/chat/completions",
        b"Content-Length: %d\r\n" % len(CHAT % b""),
        CHAT % b"",
        close=False,
    )
    asked += post(b"/v1/jobs", length, HELLO, close=False)
    asked += post(b"/v1/jobs", chunks, b"nonsense\r\n", close=False)
    found = replies(exchange(api.port, [asked]))
    assert [check(reply).status for reply in found] == [200, 202, 400]


def test_a_body_that_comes_after_its_answer_is_no_request(api):
    """Who asks whether to go on, is told no, and goes on: the next request is the next one."""
    headers = b"Expect: 100-continue\r\nContent-Length: %d\r\n" % len(HELLO)
    head = post(b"/nowhere", headers, b"", close=False)
    last = post(b"/v1/jobs", b"Content-Length: %d\r\n" % len(HELLO), HELLO)
    found = replies(exchange(api.port, [head, HELLO, last], pause=0.2))
    assert [check(reply).status for reply in found] == [404, 202]


# Forms

DISPOSITION = b'Content-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'


def form(boundary=b"x", file=b'; filename="a.jsonl"', purpose=b"batch", content=GOOD, end=b"--"):
    parts = [DISPOSITION % (b"purpose", b"", purpose), DISPOSITION % (b"file", file, content)]
    body = b"".join(b"--%s\r\n%s" % (boundary, part) for part in parts)
    return body + b"--%s%s\r\n" % (boundary, end)


LONG = b"b" * 70
PART = b"--x\r\n%s--x--\r\n"


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        (b"multipart/form-data; boundary=x", form(), 200),
        *[
            (b"multipart/form-data; boundary=x; charset=%s" % charset, form(), 200)
            for charset in (b"utf-8", b"UTF8", b"latin-1", b"us-ascii", b'"utf-8"')
        ],
        *[
            (b"multipart/form-data; boundary=x; charset=%s" % charset, form(), 400)
            for charset in (
                *(b"utf-7", b"utf-16", b"utf-32", b"idna", b"punycode", b"undefined", b"hex"),
                *(b"unicode_escape", b"raw_unicode_escape", b"rot13", b"zip", b"base64", b"bz2"),
                *(b"mbcs", b"oem", b'""', b"\xff", b"x" * 5000, b"..", b"utf-8-sig", b"cp037"),
                *(b"none-such", b"a b", b"", b'"a\0"'),
            )
        ],
        (b"multipart/form-data", form(), 400),
        (b"multipart/form-data; boundary=", form(), 400),
        (b"multipart/form-data; boundary=y", form(), 400),
        (b"multipart/form-data; boundary=x; boundary=y", form(), None),
        (b'multipart/form-data; boundary="x"', form(), 200),
        (b'multipart/form-data; boundary="x y"', form(b"x y"), 200),
        (b'multipart/form-data; boundary="x', form(), None),
        (b"multipart/form-data; boundary=" + LONG, form(LONG), 200),
        (b"multipart/form-data; boundary=" + LONG * 8, form(LONG * 8), None),
        (b"multipart/form-data; boundary*=utf-8''x", form(), None),
        (b"multipart/form-data; boundary*=none''x", form(), None),
        (b"multipart/form-data; boundary*0=x", form(), None),
        (b"multipart/form-data; boundary=\xff", form(b"\xff"), None),
        (b"multipart/form-datax; boundary=x", form(), 400),
        (b"Multipart/Form-Data; boundary=x", form(), 200),
        (b"multipart/mixed; boundary=x", form(), 400),
        (b"application/x-www-form-urlencoded", b"purpose=batch", 400),
        (b"multipart/form-data; boundary=x", form(file=b"; filename*=utf-8''a.jsonl"), None),
        (b"multipart/form-data; boundary=x", form(file=b"; filename*=none''a.jsonl"), None),
        (b"multipart/form-data; boundary=x", form(file=b"; filename*=utf-8''%ff.jsonl"), None),
        (b"multipart/form-data; boundary=x", form(file=b"; filename*0=a; filename*1=b"), None),
        (b"multipart/form-data; boundary=x", form(file=b"; filename*=''"), None),
        (b"multipart/form-data; boundary=x", form(file=b'; filename="\xff.jsonl"'), 200),
        (b"multipart/form-data; boundary=x", form(file=b'; filename="../../a.jsonl"'), 200),
        (b"multipart/form-data; boundary=x", form(file=b'; filename="\0.jsonl"'), None),
        (b"multipart/form-data; boundary=x", form(file=b'; filename="a.jsonl'), None),
        (b"multipart/form-data; boundary=x", form(file=b'; filename=""'), 400),
        (b"multipart/form-data; boundary=x", form(file=b""), 400),
        (b"multipart/form-data; boundary=x", form(purpose=b""), 400),
        (b"multipart/form-data; boundary=x", form(purpose=b"\xff"), 400),
        (b"multipart/form-data; boundary=x", form(purpose=b"b" * 70_000), 400),
        (b"multipart/form-data; boundary=x", form(end=b""), None),  # what is there is whole
        (b"multipart/form-data; boundary=x", form()[:-20], 400),
        (b"multipart/form-data; boundary=x", form() + b"an epilogue", 200),
        (b"multipart/form-data; boundary=x", b"a preamble\r\n" + form(), None),
        (b"multipart/form-data; boundary=x", b"", 400),
        (b"multipart/form-data; boundary=x", b"--x--\r\n", 400),
        (b"multipart/form-data; boundary=x", b"--x\r\n\r\n\r\n--x--\r\n", 400),
        (b"multipart/form-data; boundary=x", PART % b"a: b\r\n\r\n\r\n", 400),
        (b"multipart/form-data; boundary=x", PART % (b"a: %s\r\n\r\n\r\n" % (b"b" * 100_000)), 400),
        (b"multipart/form-data; boundary=x", PART % (b"%s: b\r\n\r\n\r\n" % (b"a" * 100_000)), 400),
        (b"multipart/form-data; boundary=x", PART % (b"a: b\r\n" * 20_000 + b"\r\n\r\n"), 400),
        (b"multipart/form-data; boundary=x", PART % b"\xff: b\r\n\r\n\r\n", 400),
        (b"multipart/form-data; boundary=x", PART % b"Content-Disposition: \xff\r\n\r\n\r\n", 400),
        (
            b"multipart/form-data; boundary=x",
            PART % (DISPOSITION % (b"expires_after[seconds]", b"", b"9" * 5000)),
            400,
        ),
        (
            b"multipart/form-data; boundary=x",
            form().replace(b"--x--", PART % (DISPOSITION % (b"purpose", b"", b"vision"))),
            None,
        ),
    ],
)
def test_odd_forms(api, kind, body, status):
    headers = b"Content-Type: %s\r\nContent-Length: %d\r\n" % (kind, len(body))
    reply = one_reply(api, post(b"/v1/files", headers, body))
    check(reply, *([status] if status else [200, 400]))
    if reply.status == 200:
        file = json.loads(reply.body)
        shown = httpx.get(f"{api.url}/v1/files/{file['id']}")
        assert shown.json() == file
        assert httpx.get(f"{api.url}/v1/files/{file['id']}/content").is_success


# What a reply is to be


@pytest.mark.parametrize(
    "accept",
    [
        b"text/plain; version=x",
        b"text/plain; version=",
        b"text/plain; version=1.0.0.0.0.0",
        b"text/plain; version=-1",
        b"text/plain; version=" + b"9" * 5000,
        b"text/plain; version=\xb2",
        b"text/plain;version=1.0.0; escaping=none-such",
        b"text/plain; version; q",
        b"application/openmetrics-text; version=9.9",
        b"application/openmetrics-text; version=99.0.0",
        b"application/openmetrics-text; version=x.y.z",
        b"application/openmetrics-text; version=1.0.0\\r\\nx: y",
        b"application/openmetrics-text; version=\xff",
        b"application/openmetrics-text; version=1.0.0; escaping=allow-utf-8",
        b"*/*;q=abc",
        b"*/*;q=nan",
        b";;;,,,===",
        b"",
        b"\xff\xfe",
        b"text/plain," * 5000,
        b"application/openmetrics-text;version=x," * 1500,
    ],
)
@pytest.mark.parametrize("place", [(0, b"/metrics"), (1, b"/metrics"), (0, b"/v1/jobs"), (0, b"/")])
def test_odd_accepts(stack, accept, place):
    number, path = place
    asked = b"GET %s HTTP/1.1\r\nHost: localhost\r\nAccept: %s\r\nConnection: close\r\n\r\n"
    found = replies(exchange(stack[number].port, [asked % (path, accept)]))
    assert [reply.status for reply in found] == [200]
    kind = found[0].headers["content-type"]
    assert kind.isascii()
    assert len(kind) < 150, kind
    if path == b"/metrics" and kind.startswith("application/openmetrics-text"):
        assert found[0].body.endswith(b"# EOF\n")


# JSON


def nested(depth, open_, close):
    return open_ * depth + close * depth


DEPTHS = [1, 50, 100, 127, 128, 129, 200, 255, 256, 257, 500, 5000, 99_000]
BODIES = {
    "job": (b"/v1/jobs", b'{"prompt": "x", "extra": %s}'),
    "jobs": (b"/v1/jobs", b'{"requests": [{"prompt": "x", "extra": %s}]}'),
    "chat": (b"/v1/chat/completions", CHAT.replace(b"%s", b', "extra": %s')),
    "message": (b"/v1/chat/completions", b'{"messages": [{"role": "user", "content": %s}]}'),
    "handling": (b"/v1/chat/completions", CHAT.replace(b"%s", b', "fallthrough": {"x": %s}')),
    "labels": (b"/v1/chat/completions", CHAT.replace(b"%s", b', "metadata": {"x": %s}')),
    "schema": (
        b"/v1/chat/completions",
        CHAT.replace(
            b"%s",
            b', "response_format": {"type": "json_schema", "json_schema": {"schema": %s}}',
        ),
    ),
    "metadata": (b"/v1/jobs", b'{"prompt": "x", "metadata": {"x": %s}}'),
    "batch": (
        b"/v1/batches",
        b'{"input_file_id": "file-x", "endpoint": "/v1/chat/completions", "metadata": %s}',
    ),
}


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("kind", [(b"[", b"]"), (b'{"a":', b"}")])
def test_nesting(api, body, kind):
    """Just under and just over what can be read, written and checked."""
    path, text = BODIES[body]
    with httpx.Client(base_url=api.url, timeout=30) as client:

        def said(depth):
            deep = nested(depth, *kind).replace(b":}", b":1}")
            reply = client.post(path.decode(), content=text % deep)
            assert reply.status_code in {200, 202, 400}, (depth, reply.text)
            if reply.status_code == 400:
                assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
            return reply.status_code, (reply.json().get("error") or {}).get("code")

        edge = bisect_left(range(2000), 1, key=lambda n: said(n) == (400, "invalid_json"))
        for depth in (*range(edge - 40, edge + 10), *DEPTHS):
            said(depth)


def test_a_job_that_was_taken_deep_as_it_is_is_answered_and_shown(api):
    """What the API reads, a worker can read and send on, and the API can show."""
    with httpx.Client(base_url=api.url, timeout=30) as client:
        depth, taken = 2000, 0
        while taken < 40 and depth:  # the deepest that are taken
            depth -= 1
            body = b'{"prompt": "x", "cache": "off", "extra": %s}' % nested(depth, b"[", b"]")
            reply = client.post("/v1/jobs", content=body)
            if reply.status_code == 202:
                taken += 1
                job = client.get(f"/v1/jobs/{reply.json()['id']}?wait=20").json()
                assert (job["status"], job["tier_used"]) == ("succeeded", "gpu"), (depth, job)


VALUES = {
    "a number of 5,000 digits": b"1" * 5000,
    "a negative one": b"-" + b"1" * 5000,
    "a fraction of 5,000 digits": b"0." + b"1" * 5000,
    "beyond a double": b"1e999",
    "below a double": b"1e-999",
    "an exponent of 5,000 digits": b"1e" + b"9" * 5000,
    "64 bits": b"18446744073709551615",
    "65 bits": b"18446744073709551616",
    "NaN": b"NaN",
    "Infinity": b"-Infinity",
    "a lone surrogate": b'"\\ud800"',
    "a surrogate as bytes": b'"\xed\xa0\x80"',
    "a pair": b'"\\ud83d\\ude00"',
    "NUL": b'"\\u0000"',
    "a raw NUL": b'"\0"',
    "a raw newline": b'"\n"',
    "no UTF-8": b'"\xff"',
    "beyond Unicode": b'"\xf4\x90\x80\x80"',
    "overlong": b'"\xc0\xaf"',
    "a wrong escape": b'"\\x41"',
    "-0": b"-0",
    "-0.0": b"-0.0",
    "01": b"01",
    ".5": b".5",
    "+1": b"+1",
    "0x10": b"0x10",
    "twice the same name": b'{"a": 1, "a": 2}',
    "a name with a surrogate": b'{"\\ud800": 1}',
    "an empty name": b'{"": 1}',
    "a name of 100 kB": b'{"%s": 1}' % (b"a" * 100_000),
    "a thousand names": b"{%s}" % b",".join(b'"%d":1' % n for n in range(1000)),
    "a comma too many": b"[1,]",
    "a comment": b"1 /* one */",
}
PLACES = {
    "model": b'{"prompt": "x", "model": %s}',
    "prompt": b'{"prompt": %s}',
    "prompt inside": b'{"messages": [{"role": "user", "content": %s}]}',
    "role": b'{"messages": [{"role": %s, "content": "x"}]}',
    "seed": b'{"prompt": "x", "seed": %s}',
    "max_tokens": b'{"prompt": "x", "max_tokens": %s}',
    "temperature": b'{"prompt": "x", "temperature": %s}',
    "stop": b'{"prompt": "x", "stop": %s}',
    "deadline_seconds": b'{"prompt": "x", "deadline_seconds": %s}',
    "metadata": b'{"prompt": "x", "metadata": %s}',
    "a label": b'{"prompt": "x", "metadata": {"a": %s}}',
    "an unknown field": b'{"prompt": "x", "extra": %s}',
    "response_format": b'{"prompt": "x", "response_format": %s}',
    "a schema": b'{"prompt": "x", "response_format": {"type": "json_schema", "json_schema": %s}}',
    "tools": b'{"prompt": "x", "tools": %s}',
    "requests": b'{"requests": %s}',
    "the body": b"%s",
}


@pytest.mark.parametrize("place", PLACES)
def test_odd_values(api, place):
    text = PLACES[place]
    with httpx.Client(base_url=api.url, timeout=30) as client:
        for name, value in VALUES.items():
            reply = client.post("/v1/jobs", content=text % value)
            assert reply.status_code in {202, 400}, (name, reply.text)
            if reply.status_code == 202 and place != "requests":
                job = client.get(reply.headers["location"], params={"wait": 20})
                assert (job.status_code, job.json()["status"]) == (200, "succeeded"), (
                    name,
                    job.text,
                )
        assert client.get("/v1/jobs?limit=100").is_success
        for name, value in VALUES.items():
            if b'prompt": "x' in text or place in {"prompt inside", "role"}:
                chat = (text % value).replace(b'"prompt": "x"', CHAT[1:-3])
                reply = client.post("/v1/chat/completions", content=chat)
                assert reply.status_code in {200, 400}, (name, reply.text)


@pytest.mark.parametrize(
    "body",
    [
        HELLO.decode().encode("utf-16"),
        HELLO.decode().encode("utf-16-le"),
        HELLO.decode().encode("utf-32"),
        HELLO + b"\0",
        HELLO + HELLO,
        HELLO + b"\n" + HELLO,
        b" " * 10_000,
        b"\0",
        b'"' * 10_000,
        b"null",
        b"0",
        b'""',
        b"[]",
        b"{}",
    ],
)
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/chat/completions", "/v1/batches"])
def test_bodies_that_are_none(api, path, body):
    reply = httpx.post(f"{api.url}{path}", content=body)
    assert reply.status_code == 400
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}


# Queries, headers, paths


@pytest.mark.parametrize(
    ("query", "status"),
    [
        *[
            (f"limit={text}", 400)
            for text in ("٣", "²", "1e3", "0x5", "-1", "+5", "1.0", "", "%20", "5%20", "1_0")
        ],
        ("limit=%d9", 400),
        ("limit=%00", 400),
        ("limit=" + "9" * 5000, 400),
        ("limit=05", 200),
        ("limit=1&limit=x", 400),
        ("limit=x&limit=1", 200),
        ("limit", 400),
        ("limit[]=1", 200),
        *[(f"after={text}", 400) for text in ("%00", "", "%ff", "%0a", "*", "../x", "job_%2a")],
        ("after=" + "x" * 5000, 400),
        ("=1", 200),
        ("&&&", 200),
        ("%", 200),
        ("%zz=%zz", 200),
        ("a=" + "&a=" * 4000, 200),
    ],
)
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/files", "/v1/batches"])
def test_odd_queries(api, path, query, status):
    asked = f"GET {path}?{query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    check(one_reply(api, asked.encode()), status)


@pytest.mark.parametrize(
    "wait", ["nan", "inf", "-inf", "1e999", "-1", "٣", "", "0x1", "1_0", "%00", "9" * 5000, "x"]
)
def test_odd_waits(api, wait):
    job = httpx.post(f"{api.url}/v1/jobs", content=HELLO).json()
    asked = f"GET /v1/jobs/{job['id']}?wait={wait} HTTP/1.1\r\nHost: localhost\r\n"
    assert one_reply(api, asked.encode() + b"Connection: close\r\n\r\n").status == 400


@pytest.mark.parametrize("after", ["x", "", ".", "1.", ".1", "-1.0", "٣.0", "1.1.1", "9" * 5000])
def test_odd_cursors(api, after):
    """A batch of one bad line ends at once, without results."""
    files = {"file": ("a.jsonl", b"{}")}
    file = httpx.post(f"{api.url}/v1/files", files=files, data={"purpose": "batch"}).json()
    body = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = httpx.post(f"{api.url}/v1/batches", json={"input_file_id": file["id"], **body}).json()
    reply = httpx.get(f"{api.url}/v1/batches/{batch['id']}/results", params={"after": after})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "after"


@pytest.mark.parametrize(
    ("headers", "statuses"),
    [
        ([(b"Idempotency-Key", b"k" * 10_000)], {400}),
        ([(b"Idempotency-Key", b"")], {400}),
        ([(b"Idempotency-Key", b"\xff\xfe")], {200, 202, 400}),
        ([(b"Idempotency-Key", b"\xe2\x82\xac")], {200, 202, 400}),
        ([(b"Idempotency-Key", b"a:b*{c}"), (b"Idempotency-Key", b"d")], {200, 202, 400}),
        ([(b"x-stainless-retry-count", b"\xb2")], {200, 202}),
        ([(b"x-stainless-retry-count", b"9" * 5000)], {200, 202}),
        ([(b"x-stainless-retry-count", b"-1")], {200, 202}),
        ([(b"x-stainless-read-timeout", b"nan")], {200, 202}),
        ([(b"x-stainless-read-timeout", b"-inf")], {200, 202}),
        ([(b"x-stainless-read-timeout", b"\xff")], {200, 202}),
        ([(b"x-stainless-read-timeout", b"9" * 5000)], {200, 202}),
        ([(b"Authorization", b"Bearer \xff")], {200, 202}),
        ([(b"Authorization", b"Bearer " + b"x" * 10_000)], {200, 202}),
        ([(b"Origin", b"\xff")], {403}),
        ([(b"Sec-Fetch-Site", b"\xff")], {200, 202}),
        ([(b"Host", b"\xff")], {400, 403}),
        ([(b"Host", b"localhost:99999999999")], {200, 202, 400, 403}),
        ([(b"Host", b"[::1")], {400, 403}),
        ([(b"Host", b"")], {400, 403}),
        ([(b"Content-Type", b"\xff")], {200, 202}),
        ([(b"Content-Type", b"application/json; charset=utf-16")], {200, 202}),
        ([(b"Content-Encoding", b"gzip")], {200, 202}),
        ([(b"Cookie", b"a=" + b"\xff" * 1000)], {200, 202}),
        ([(b"Range", b"bytes=0-99999999999999999999")], {200, 202}),
        ([(b"X-Forwarded-For", b"\xff, ::::")], {200, 202}),
        ([(b"traceparent", b"\xff")], {200, 202}),
    ],
)
def test_odd_headers(api, headers, statuses):
    for path, body in ((b"/v1/jobs", HELLO), (b"/v1/chat/completions", CHAT % b"")):
        lines = b"".join(b"%s: %s\r\n" % pair for pair in headers)
        if all(name != b"Host" for name, _ in headers):
            lines += b"Host: localhost\r\n"
        head = b"POST %s HTTP/1.1\r\n%sContent-Length: %d\r\nConnection: close\r\n\r\n"
        check(one_reply(api, head % (path, lines, len(body)) + body), *statuses)


@pytest.mark.parametrize("name", ["cache", "on-exhausted", "deadline-seconds"])
@pytest.mark.parametrize(
    "value",
    [b"", b"\xff", b"nan", b"inf", b"-1", b"1e999", b"0", b"9" * 5000, b"\xd9\xa3", b"FALLBACK"],
)
def test_odd_handling(api, name, value):
    body = CHAT % b""
    headers = b"x-fallthrough-%s: %s\r\nContent-Length: %d\r\n" % (name.encode(), value, len(body))
    check(one_reply(api, post(b"/v1/chat/completions", headers, body)), 400)


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/jobs/%00", "/v1/jobs/%2f", "/v1/jobs/a%2fb", "/v1/jobs/..", "/v1/jobs/%2e%2e"),
        *("//v1/jobs", "/v1//jobs", "/v1/jobs//", "/v1/jobs/", "/./v1/jobs", "/v1/jobs/%", "//"),
        *("/v1/files/%2e%2e%2f%2e%2e%2fetc/content", "/v1/files/%0a/content", "/docs/static/%00"),
        *("/docs/static/../../../etc/passwd", "/docs/static/%2e%2e/%2e%2e/app.py", "/docs/static"),
        *("/docs/static//etc/passwd", "/docs/static/" + "a" * 5000, "/docs/static/%ff", "/%ff"),
        *("/docs/static/%c0%ae", "/docs/static/a%00.css", "/circuit-breakers/%00/reset", "/%2e"),
        *("/v1/batches/%ed%a0%80", "/v1/batches/" + "a" * 15_000, "/V1/JOBS", "/v1/jobs;x", "/%00"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "HEAD"])
def test_odd_paths(api, method, path):
    asked = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n"
    received = exchange(api.port, [asked.encode() + b"Connection: close\r\n\r\n"])
    (reply,) = replies(received, to_head=method == "HEAD")
    assert reply.status in {200, 307, 400, 404, 405}, reply
    if reply.status >= 400 and method != "HEAD":
        assert reply.envelope()["type"] == "invalid_request_error"
    if reply.status == 307:
        assert reply.headers["location"].startswith("../")
        assert "//" not in reply.headers["location"].removeprefix("http://")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/jobs", "GET, HEAD, OPTIONS, POST"),
        ("/jobs", "GET, HEAD, OPTIONS, POST"),
        ("/v1/files/file-1", "DELETE, GET, HEAD, OPTIONS"),
        ("/v1/jobs/job_1/cancel", "OPTIONS, POST"),
        ("/health", "GET, HEAD, OPTIONS"),
    ],
)
def test_a_wrong_method_is_told_all_the_right_ones(api, path, allowed):
    reply = httpx.patch(f"{api.url}{path}")
    assert (reply.status_code, reply.headers["allow"]) == (405, allowed)
    assert allowed in reply.json()["error"]["message"]
    asked = httpx.options(f"{api.url}{path}")
    assert (asked.status_code, asked.headers["allow"], asked.content) == (204, allowed, b"")
    assert httpx.options(f"{api.url}/nowhere").status_code == 404


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/models", "/health", "/v1/jobs/job_0", "/docs"])
def test_a_head_is_what_a_get_is_without_its_body(api, path):
    whole, head = httpx.get(f"{api.url}{path}"), httpx.head(f"{api.url}{path}")
    assert (head.status_code, head.content) == (whole.status_code, b"")
    names = ("content-length", "content-type")
    assert [head.headers[n] for n in names] == [whole.headers[n] for n in names]
