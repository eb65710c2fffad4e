"""Where a server can be asked, and by which names it answers."""

from __future__ import annotations

import pytest

from tasks.hosts import goes_direct, http_url, is_loopback, may_be_called, shown_host


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),  # noqa: S104
        ("::", "http://[::1]:80"),
        ("::1", "http://[::1]:80"),
        ("box", "http://box:80"),
    ],
)
def test_a_server_that_listens_everywhere_is_asked_on_loopback(host, url):
    assert http_url(host, 80) == url


@pytest.mark.parametrize(
    ("host", "here"),
    [
        *((host, True) for host in ("localhost", "LOCALHOST.", "a.localhost", "127.9.9.9")),
        *((host, True) for host in ("::1", "[::1]")),
        *((host, False) for host in ("", "0.0.0.0", "::", "10.0.0.1", "notlocalhost")),  # noqa: S104
        *((host, False) for host in ("localhost.evil.example", "127.0.0.1.evil.example")),
    ],
)
def test_what_loopback_is(host, here):
    assert is_loopback(host) is here
    assert may_be_called(f"{host}:8000", "") is here


@pytest.mark.parametrize(
    ("host", "allowed", "may"),
    [
        ("box", "box", True),
        ("BOX:80", "a, Box", True),
        ("box.evil", "box", False),
        ("box", "", False),
        ("box", "*", True),
    ],
)
def test_names_are_allowed_whole(host, allowed, may):
    assert may_be_called(host, allowed) is may


@pytest.mark.parametrize(
    ("host", "exceptions", "direct"),
    [
        *((host, "", True) for host in ("localhost", "127.0.0.1", "::1", "[::1]", "a.localhost.")),
        *((host, "", False) for host in ("gpu", "10.0.0.1", "fd00::1", "0.0.0.0")),  # noqa: S104
        # Clients take these for loopback: Python's own addresses do not know them.
        *((host, "", True) for host in ("127.1", "0x7f.1", "2130706433", "0177.0.0.1", "127.0.1")),
        *((host, "", True) for host in ("::ffff:127.0.0.1", "[::ffff:7f00:1]")),
        *(
            (host, "", False)
            for host in ("10.1", "1.2.3.4.5", "127.x", "127.256.1.1", "", "-1", "1_0")
        ),
        ("10.1", "10.0.0.0/24", True),
        *((host, "*", True) for host in ("gpu", "10.0.0.1")),
        *(
            ("gpu.example", names, True)
            for names in ("example", ".example", "*.Example", "a, gpu.example.")
        ),
        *(
            ("gpu.example", names, False)
            for names in ("gpu", "ample", "pu.example", ",", ".", "a.gpu.example")
        ),
        *(("10.1.2.3", names, True) for names in ("10.0.0.0/8", "10.1.2.3", "x,10.1.2.3/24")),
        *(("10.1.2.3", names, False) for names in ("11.0.0.0/8", "2.3", "fd00::/8", "3")),
        *(("[fd00::1]", names, True) for names in ("fd00::/8", "fd00:0::1")),
        ("[fd00::1]", "fe80::/8", False),
    ],
)
def test_who_is_reached_without_the_proxy(host, exceptions, direct):
    assert goes_direct(host, exceptions) is direct


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://gpu:8000/v1", "gpu:8000"),
        ("https://me:secret@gpu.example/v1", "gpu.example"),
        ("http://user:p@ss@[::1]:8000", "[::1]:8000"),
    ],
)
def test_a_servers_place_is_shown_without_what_only_it_may_know(url, shown):
    assert shown_host(url) == shown
