"""`python -m workers.check`, and `check_tier`, before servers with one thing after another wrong.

Each fault is a real one: a port where nobody listens, a certificate that nobody vouches for.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from harness.commands import environ
from harness.tls import ALONE, ALONE_CA, AUTHORITY, ELSEWHERE, HERE
from harness.upstream import Upstream
from harness.waiting import free_port

from fallback_chain import Fault, HttptoolsHttp, Need, TierConfig, check_tier
from fallback_chain.httpx_http import HttpxHttp

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "sk-hunter2"  # noqa: S105 - made up


@contextmanager
def silent() -> Iterator[str]:
    """A server that takes connections and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def black_hole() -> Iterator[str]:
    """An address that takes no connection and refuses none: its queue of them is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        waiting = [socket.socket() for _ in range(8)]
        for each in waiting:
            each.settimeout(0)
            each.connect_ex(listener.getsockname())
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            for each in waiting:
                each.close()


@contextmanager
def another_protocol() -> Iterator[str]:
    """A server of something else, which speaks first."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"-ERR unknown command 'GET'\r\n\r\n")

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def upstream():
    made = []

    def make(**fields) -> Upstream:
        made.append(Upstream(**fields))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(params=[HttptoolsHttp, HttpxHttp])
def look(request):
    """Look at a server, by either client: return what was found, {check: fault}, and all of it."""

    async def look(url, *, seconds=5.0, key=None, model=None, accepts=None, **options):
        config = TierConfig("gpu", url, model, key, seconds, accepts=accepts)
        http = request.param(connect_timeout_seconds=0.5)
        try:
            findings = await check_tier(config, http, **options)
        finally:
            await http.aclose()
        assert SECRET not in str(findings)
        assert len({each.check for each in findings}) == len(findings)
        return {each.check: each.fault for each in findings}, findings

    return look


# Reached?


async def test_a_port_where_nobody_listens_refuses(look):
    found, _ = await look(f"http://user:{SECRET}@127.0.0.1:{free_port()}")
    assert found == {"reach": Fault.REFUSED}


async def test_a_host_that_nobody_knows_is_named_as_such(look):
    found, _ = await look("http://nowhere.invalid:8000")
    assert found == {"reach": Fault.UNKNOWN_HOST}


async def test_a_black_hole_is_told_from_a_server_that_hangs(look):
    with black_hole() as url:
        began = time.monotonic()
        assert (await look(url))[0] == {"reach": Fault.NO_CONNECTION}
        assert time.monotonic() - began < 3
    with silent() as url:
        assert (await look(url, seconds=0.3))[0] == {"reach": Fault.SILENT}


async def test_another_protocol_is_no_http(look):
    with another_protocol() as url:
        assert (await look(url))[0] == {"reach": Fault.NO_HTTP}


# TLS


@pytest.mark.parametrize(
    "case",  # the certificate, whether its authority is known, what is wrong with it
    [
        (HERE, True, None),
        (HERE, False, Fault.UNKNOWN_AUTHORITY),
        (ALONE, False, Fault.SELF_SIGNED),
        (ELSEWHERE, True, Fault.OTHER_HOST),
    ],
)
async def test_what_is_wrong_with_a_certificate_is_named(look, upstream, monkeypatch, case):
    certificate, vouched, fault = case
    if vouched:
        monkeypatch.setenv("SSL_CERT_FILE", str(AUTHORITY))
    server = upstream(certificate=certificate)
    found, _ = await look(server.url, model=server.name)
    assert found["tls"] is fault
    assert found["reach"] is None
    assert ("answer" in found) is (fault is None)


async def test_the_file_of_a_self_signed_certificate_vouches_for_it(look, upstream, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(ALONE))
    found, _ = await look(upstream(certificate=ALONE).url)
    assert set(found.values()) == {None}


async def test_tls_where_there_is_none_and_none_where_there_is_tls(look, upstream):
    plain, secret = upstream(), upstream(certificate=HERE)
    with another_protocol() as other:
        for url in (plain.url, other):  # one waits for more, one says something else than TLS
            found, _ = await look(url.replace("http:", "https:"))
            assert found == {"reach": None, "tls": Fault.NO_TLS}
    found, _ = await look(secret.url.replace("https:", "http:"))
    assert found == {"reach": Fault.BROKEN_OFF}


# Key, model, answer


async def test_all_is_well(look, upstream):
    server = upstream(key=SECRET)
    found, findings = await look(server.url, key=SECRET, model="stub-model")
    assert found == dict.fromkeys(("reach", "key", "model", "answer"))
    assert "one token in" in findings[-1].detail
    [call] = server.calls
    assert (call.body["model"], call.body["max_tokens"]) == ("stub-model", 1)


@pytest.mark.parametrize(("key", "fault"), [("other", "KEY_REFUSED"), (None, "KEY_WANTED")])
async def test_a_key_that_is_refused_or_missing(look, upstream, key, fault):
    found, _ = await look(upstream(key=SECRET).url, key=key)
    assert found == {"reach": None, "key": Fault[fault]}


async def test_a_key_that_only_the_answer_wants(look, upstream):
    found, _ = await look(upstream(mode="401").url, key=SECRET, model="stub-model")
    assert found == {"reach": None, "key": Fault.KEY_REFUSED}


async def test_a_model_that_is_not_there_is_told_with_those_that_are(look, upstream):
    server = upstream(models=["llama-3.3-70b-instruct", "bge-m3"], mode="no-model")
    found, findings = await look(server.url, model="Llama-3.3-70B")
    assert found == {"reach": None, "model": Fault.NO_MODEL}
    assert findings[-1].detail == (
        "it does not have Llama-3.3-70B (did you mean llama-3.3-70b-instruct?); "
        "it has llama-3.3-70b-instruct, bge-m3"
    )


async def test_a_model_that_answers_though_it_is_not_listed_is_there(look, upstream):
    found, findings = await look(upstream(models=["llama3:latest"]).url, model="llama3")
    assert found == dict.fromkeys(("reach", "key", "model", "answer"))
    assert findings[2].detail == "llama3 answers; it has llama3:latest"


@pytest.mark.parametrize(
    ("mode", "fault"),
    [
        ("loading", Fault.NOT_READY),
        ("busy", Fault.BUSY),
        ("429", Fault.BUSY),
        ("402", Fault.UNPAID),
        ("overspent", Fault.UNPAID),
        ("500", Fault.NO_ANSWER),
        ("garbage", Fault.NO_ANSWER),
        ("no-choices", Fault.NO_ANSWER),
        ("error-alone", Fault.NO_ANSWER),
        ("reset", Fault.BROKEN_OFF),
        ("hang", Fault.SILENT),
        ("no-path", Fault.NO_API),
    ],
)
async def test_what_is_no_answer_is_none(look, upstream, mode, fault):
    found, _ = await look(upstream(mode=mode).url, seconds=0.5)
    assert found["answer"] is fault
    assert found["reach"] is None
    assert "key" not in found, "nobody knows"


async def test_a_connection_that_ended_behind_the_last_reply_is_made_anew(look, upstream):
    modes = iter(("reset", "500"))
    found, findings = await look(upstream(plan=lambda _: next(modes)).url)
    assert found == {"reach": None, "model": None, "answer": Fault.NO_ANSWER}
    assert findings[-1].detail == "HTTP 500 for /v1/chat/completions"


async def test_a_thinking_model_whose_one_token_is_no_word_answers(look, upstream):
    found, _ = await look(upstream(mode="thinking").url)
    assert found["answer"] is None


async def test_a_tier_that_only_embeds_is_asked_for_an_embedding(look, upstream):
    server = upstream()
    found, findings = await look(server.url, accepts=frozenset({Need.EMBEDDINGS}))
    assert set(found.values()) == {None}
    assert findings[-1].detail.startswith("one embedding in ")
    assert [call.path for call in server.calls] == ["/v1/embeddings"]
    server.mode = "no-path"
    found, _ = await look(server.url, accepts=frozenset({Need.EMBEDDINGS}))
    assert found["answer"] is Fault.NO_ANSWER


async def test_a_server_that_counts_by_another_name_is_asked_by_that(look, upstream):
    server = upstream(plan=lambda call: "max-tokens" if "max_tokens" in call.body else "ok")
    found, _ = await look(server.url)
    assert found["answer"] is None
    assert [call.body.get("max_completion_tokens") for call in server.calls] == [None, 1]


# The command


def check(**settings):
    return subprocess.run(
        [sys.executable, "-P", "-m", "workers.check"],
        env=environ(**settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def rows(done):
    return {(row["part"], row["check"]): row for row in json.loads(done.stdout)}


def test_the_command_tells_all_parts_and_what_to_do(upstream, valkey):
    gpu, cpu = upstream(key=SECRET), upstream(name="cpu-model")
    settings = {
        "FALLTHROUGH_REDIS_URL": valkey.url,
        "FALLTHROUGH_GPU_URL": gpu.url,
        "FALLTHROUGH_GPU_API_KEY": SECRET,
        "FALLTHROUGH_CPU_URL": cpu.url,
    }
    done = check(**settings)
    found = rows(done)
    assert done.returncode == 0, done.stderr
    assert {row["state"] for row in found.values()} == {"ok"}
    assert {part for part, _ in found} == {"store", "broker", "gpu", "cpu"}
    done = check(**{**settings, "FALLTHROUGH_GPU_API_KEY": f"{SECRET}x"})
    assert done.returncode == 1
    assert SECRET not in done.stdout + done.stderr
    assert rows(done)["gpu", "key"]["state"] == "failed"
    assert rows(done)["gpu", "key"]["advice"].startswith("mend FALLTHROUGH_GPU_API_KEY")


def test_each_server_of_a_tier_is_asked_and_told_by_its_number(upstream, valkey):
    well = upstream()
    urls = f"{well.url}, http://127.0.0.1:{free_port()}"
    done = check(FALLTHROUGH_REDIS_URL=valkey.url, FALLTHROUGH_GPU_URL=urls)
    found = rows(done)
    assert done.returncode == 1
    assert found["gpu", "answer"]["state"] == "ok"
    assert found["gpu:2", "reach"]["detail"].endswith("connection refused")


def test_an_authority_of_ones_own_vouches_for_a_server(upstream, valkey):
    settings = {
        "FALLTHROUGH_REDIS_URL": valkey.url,
        "FALLTHROUGH_GPU_URL": upstream(certificate=HERE).url,
    }
    done = check(**settings)
    assert "FALLTHROUGH_CA_FILE" in rows(done)["gpu", "tls"]["advice"]
    done = check(FALLTHROUGH_CA_FILE=str(AUTHORITY), **settings)
    assert (done.returncode, rows(done)["gpu", "answer"]["state"]) == (0, "ok")
    done = check(FALLTHROUGH_CA_FILE="/nowhere.pem", **settings)
    assert done.returncode == 2
    assert "FALLTHROUGH_CA_FILE" in done.stderr


@pytest.mark.parametrize("client", ["auto", "aiohttp", "httpx"])
def test_an_authority_that_signed_itself_may_be_named(upstream, valkey, client):
    settings = {
        "FALLTHROUGH_REDIS_URL": valkey.url,
        "FALLTHROUGH_GPU_URL": upstream(certificate=ALONE_CA).url,
        "FALLTHROUGH_CA_FILE": str(ALONE_CA),
    }
    done = check(FALLTHROUGH_HTTP_CLIENT=client, **settings)
    assert (done.returncode, rows(done)["gpu", "answer"]["state"]) == (0, "ok")


def test_what_is_set_and_does_not_answer_fails_and_what_nobody_set_up_is_none():
    url = f"redis://:{SECRET}@127.0.0.1:{free_port()}/0"
    done = check(FALLTHROUGH_REDIS_URL=url)
    found = rows(done)
    assert done.returncode == 1
    assert {key: row["state"] for key, row in found.items()} == {
        ("store", "reach"): "failed",
        ("broker", "reach"): "failed",
        ("tiers", "reach"): "none",
    }
    assert "Error 111 connecting to 127.0.0.1" in found["store", "reach"]["detail"]
    assert SECRET not in done.stdout + done.stderr


def test_a_store_that_refuses_new_work_as_it_is_nearly_full_is_not_well(own_valkey):
    with own_valkey.client() as client:
        client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 1.1))
        client.config_set("maxmemory-policy", "noeviction")
    done = check(FALLTHROUGH_REDIS_URL=own_valkey.url)
    found = rows(done)
    assert done.returncode == 1
    assert found["store", "reach"]["state"] == "ok"
    assert found["store", "room"]["state"] == "failed"
    assert "store_full" in found["store", "room"]["detail"]
    assert "maxmemory" in found["store", "room"]["advice"]


def test_a_broker_of_its_own_is_looked_at_by_itself(valkey):
    url = f"amqp://guest:{SECRET}@127.0.0.1:{free_port()}//"
    done = check(FALLTHROUGH_REDIS_URL=valkey.url, FALLTHROUGH_BROKER_URL=url)
    found = rows(done)
    assert found["store", "reach"]["state"] == "ok"
    assert found["broker", "reach"]["state"] == "failed"
    assert "FALLTHROUGH_BROKER_URL" in found["broker", "reach"]["advice"]
    assert SECRET not in done.stdout + done.stderr
