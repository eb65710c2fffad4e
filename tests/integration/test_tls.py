"""Stores and brokers over TLS: nobody is told a password before his certificate is good."""

from __future__ import annotations

import subprocess
import sys

import pytest
from harness.commands import environ
from harness.tls import AUTHORITY, ELSEWHERE, HERE, TlsServer

SECRET = "hunter2"  # noqa: S105 - made up
# Each in a process of its own: what vouches for certificates is read once.
ASK = {
    "store": """
import asyncio, os
from tasks.settings import Settings
from tasks.store.connection import Connection
asyncio.run(Connection(Settings.from_env(os.environ).redis_url).ping())
""",
    "broker": """
import os
from tasks.app import create_app
from tasks.settings import Settings
create_app(Settings.from_env(os.environ)).connection_for_write().connect()
""",
}
KINDS = {
    "store": ("store", "REDIS_URL", "rediss://:{secret}@localhost:{port}/0"),
    "Redis as broker": ("broker", "BROKER_URL", "rediss://:{secret}@localhost:{port}/0"),
    "in capitals": ("broker", "BROKER_URL", "REDISS://:{secret}@localhost:{port}/0"),
    "RabbitMQ": ("broker", "BROKER_URL", "amqps://guest:{secret}@localhost:{port}//"),
}


@pytest.fixture
def serve():
    servers = []

    def start(certificate):
        servers.append(TlsServer(certificate))
        return servers[-1]

    yield start
    for each in servers:
        each.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "case",  # the certificate, the URL's options, whether its authority is known, what comes of it
    [
        (HERE, "", False, False),
        (HERE, "", True, True),
        (HERE, f"?ssl_ca_certs={AUTHORITY}", False, True),
        (ELSEWHERE, "", True, False),
        (ELSEWHERE, "?ssl_check_hostname=false", True, True),
        (ELSEWHERE, "?ssl_cert_reqs=none", False, True),
    ],
)
def test_who_is_not_vouched_for_is_told_nothing(serve, kind, case):
    certificate, options, vouched, heard = case
    what, name, url = KINDS[kind]
    server = serve(certificate)
    variables = {f"FALLTHROUGH_{name}": url.format(secret=SECRET, port=server.port) + options}
    if vouched:
        variables["SSL_CERT_FILE"] = str(AUTHORITY)
    done = subprocess.run(
        [sys.executable, "-c", ASK[what]],
        env=environ(**variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode, "it answers nothing"
    assert bool(server.heard) == heard, done.stderr[-500:]
    assert ("CERTIFICATE_VERIFY_FAILED" in done.stderr) != heard
    assert SECRET not in done.stderr
