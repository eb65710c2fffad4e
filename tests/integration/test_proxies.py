"""Proxies: the environment's change nothing; the setting's is on the way of every call."""

from __future__ import annotations

import base64

import httpx
import pytest
from harness.commands import run
from harness.forward import ForwardProxy
from harness.s3 import S3Server
from harness.tls import AUTHORITY, HERE, TlsServer

SECRET = "hunter2"  # noqa: S105 - made up
NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "FTP_PROXY")
ODD = ("http://127.0.0.1:1", "socks5://x", "socks5h://127.0.0.1:1", "nonsense", "http://[::1", " ")


def in_both_cases(value, no_proxy):
    variables = dict.fromkeys(NAMES, value) | {"NO_PROXY": no_proxy}
    return variables | {name.lower(): value for name, value in variables.items()}


@pytest.fixture
def proxy(gpu):
    proxy = ForwardProxy(gpu.url)
    yield proxy
    proxy.close()


def job(api, prompt="Hello"):
    reply = httpx.post(f"{api.url}/v1/jobs", json={"prompt": prompt}, timeout=10, trust_env=False)
    url = f"{api.url}/v1/jobs/{reply.json()['id']}?wait=20"
    return httpx.get(url, timeout=30, trust_env=False).json()


@pytest.fixture
def s3():
    server = S3Server()
    yield server
    server.close()


@pytest.mark.parametrize("value", ODD)
def test_no_variable_of_others_leads_elsewhere(fleet, s3, proxy, value):
    variables = in_both_cases(value, "[::1,*bad*,,:")
    fleet.settings |= {**variables, **s3.environ, "FALLTHROUGH_FILES_URL": "s3://bucket/files"}
    api, worker = fleet.start(fleet.api(), fleet.worker())
    assert job(api)["tier_used"] == "gpu"
    files = {"file": ("a.jsonl", b"{}\n")}
    url = f"{api.url}/v1/files"
    sent = httpx.post(url, files=files, data={"purpose": "batch"}, timeout=30, trust_env=False)
    assert sent.is_success, sent.text
    assert s3.objects
    assert httpx.get(f"{api.url}/v1/models", trust_env=False).json()["data"]
    done = run("submit", "Hello", "--url", api.url, **variables)
    assert (done.returncode, done.stdout) == (0, "gpu-model: Hello\n")
    assert "Traceback" not in api.log + worker.log


def test_what_is_on_loopback_is_reached_without_the_proxy(fleet, gpu, proxy):
    api, _ = fleet.start(fleet.api(proxy=proxy.url), fleet.worker(proxy=proxy.url))
    assert job(api)["tier_used"] == "gpu"
    done = run("submit", "Hi", "--url", api.url, FALLTHROUGH_PROXY=proxy.url)
    assert done.stdout == "gpu-model: Hi\n"
    assert proxy.asked == []


@pytest.mark.parametrize("host", ["gpu.example", "10.255.255.1", "[fd00::1]"])
def test_a_tier_is_reached_by_the_proxy(fleet, proxy, host):
    # Every character of a password, as a URL carries it.
    where = proxy.url.replace("://", f"://user:{SECRET}%40%3A%2F%25@")
    settings = {"gpu_url": f"http://{host}:8000", "proxy": where, "gpu_api_key": "sk-0"}
    api, worker = fleet.start(fleet.api(**settings), fleet.worker(**settings))
    answered = job(api)
    assert answered["text"] == "gpu-model: Hello", answered["attempts"]
    assert f"POST http://{host}:8000/v1/chat/completions" in proxy.asked
    basic = base64.b64encode(f"user:{SECRET}@:/%".encode()).decode()
    assert set(proxy.told) == {f"Basic {basic}"}
    assert SECRET not in api.log + worker.log


@pytest.mark.parametrize(
    ("host", "exceptions"),
    [("gpu.example", "example"), ("10.255.255.1", "10.0.0.0/8"), ("[fd00::1]", "fd00::1")],
)
def test_exceptions_are_not_asked_of_the_proxy(fleet, proxy, host, exceptions):
    settings = {"gpu_url": f"http://{host}:8000", "proxy": proxy.url, "no_proxy": exceptions}
    api, _ = fleet.start(fleet.api(**settings), fleet.worker(**settings))
    assert job(api)["tier_used"] == "cpu"  # nobody is there
    assert proxy.asked == []


def test_a_proxy_that_is_away_is_a_tier_that_is_away(fleet, proxy):
    proxy.close()
    settings = {"gpu_url": "http://gpu.example", "proxy": proxy.url}
    api, _ = fleet.start(fleet.api(**settings), fleet.worker(**settings))
    assert job(api)["tier_used"] == "cpu"


def test_the_command_line_asks_the_proxy_for_an_api_elsewhere(fleet):
    api = fleet.api(allowed_hosts="api.example").start()
    proxy = ForwardProxy(api.url)
    where = proxy.url.replace("://", f"://user:{SECRET}@")
    try:
        url = "http://api.example:8000"
        done = run("breakers", "--json", "--url", url, FALLTHROUGH_PROXY=where)
        assert (done.returncode, '"ollama_cpu"' in done.stdout) == (0, True), done.stderr
        assert proxy.asked == [f"GET {url}/circuit-breakers"]
    finally:
        proxy.close()
    done = run("status", "job_1", "--url", url, FALLTHROUGH_PROXY=where)
    assert done.returncode == 2
    assert SECRET not in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(("vouched", "heard"), [(True, True), (False, False)])
def test_over_tls_the_proxy_hears_a_hosts_name_and_no_more(vouched, heard):
    server = TlsServer(HERE)
    proxy = ForwardProxy(f"http://127.0.0.1:{server.port}")
    variables = {"SSL_CERT_FILE": str(AUTHORITY)} if vouched else {}
    try:
        done = run(
            *("status", "job_1", "--url", f"https://localhost:{server.port}"),
            FALLTHROUGH_API_KEY=SECRET,
            **variables,
        )
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert (SECRET.encode() in server.heard) is heard
        assert ("certificate is not trusted" in done.stderr) is not heard
        run(
            *("status", "job_1", "--url", "https://api.example"),
            FALLTHROUGH_API_KEY=SECRET,
            FALLTHROUGH_PROXY=proxy.url,
            **variables,
        )
        assert proxy.asked == ["CONNECT api.example:443"]
    finally:
        proxy.close()
        server.close()


@pytest.mark.parametrize("file", ["/nowhere/ca.pem", __file__])
def test_authorities_that_cannot_be_read_are_told_in_one_line(file):
    done = run("status", "job_1", "--url", "https://127.0.0.1:1", SSL_CERT_FILE=file)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "SSL_CERT_FILE" in done.stderr
