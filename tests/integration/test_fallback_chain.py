"""FallbackChain as a library, against real sockets and a real Valkey."""

from __future__ import annotations

import asyncio
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
import redis.asyncio
from harness.waiting import eventually
from redis.sentinel import Sentinel

from circuit_breaker import (
    CHANNEL,
    CircuitBreaker,
    CircuitBreakerConfig,
    CircuitState,
    RedisStore,
)
from fallback_chain import ChainOptions, FallbackChain, NoFormError, RequestRefusedError

PASSWORD = "s3cret"  # noqa: S105 - made up
QUICK = ChainOptions(
    gpu_timeout_seconds=0.5,
    cpu_timeout_seconds=0.5,
    connect_timeout_seconds=0.5,
    breaker=CircuitBreakerConfig(failure_threshold=2, recovery_timeout_seconds=1),
)


@pytest.fixture
async def chain(gpu, cpu):
    chain = FallbackChain(gpu.url, cpu.url, options=QUICK)
    yield chain
    await chain.aclose()


async def test_the_gpu_answers_with_all_that_the_result_promises(chain, gpu):
    result = await chain.generate(prompt="Hello", max_tokens=200)
    assert (result["text"], result["tier_used"]) == ("gpu-model: Hello", "gpu")
    assert (result["model"], result["degraded"]) == ("gpu-model", False)
    assert result["answer"]["usage"]["total_tokens"] == 3
    assert [a["tier"] for a in result["attempts"]] == ["gpu"]
    assert gpu.calls[0].body["max_tokens"] == 200


async def test_it_falls_through_tier_by_tier(chain, gpu, cpu):
    gpu.mode = "500"
    assert (await chain.generate("one"))["tier_used"] == "cpu"
    cpu.mode = "hang"
    cached = await chain.generate("one")
    assert (cached["tier_used"], cached["text"]) == ("cache", "cpu-model: one")
    assert cached["cache_age_seconds"] >= 0
    degraded = await chain.generate("two")
    assert (degraded["tier_used"], degraded["degraded"]) == ("degraded", True)
    assert [a["verdict"] for a in degraded["attempts"]] == ["rejected", "failure", "miss"]
    assert chain.statistics() == {"cpu": 1, "cache": 1, "degraded": 1}


async def test_the_breaker_closes_again_after_its_probes(chain, gpu, cpu):
    gpu.mode = "500"
    for n in range(2):
        await chain.generate(f"{n}")
    assert chain.breakers["max_gpu"].state is CircuitState.OPEN
    gpu.mode = "ok"
    until = time.monotonic() + 5
    while chain.breakers["max_gpu"].state is not CircuitState.CLOSED:
        await chain.generate("probe")
        assert time.monotonic() < until
    assert gpu.prompts()[-1] == "probe"


async def test_the_requests_own_fault_is_raised_with_the_servers_words(chain, gpu, cpu):
    gpu.mode = "400"
    with pytest.raises(RequestRefusedError, match="n is too large"):
        await chain.generate("x", n=1000)
    assert cpu.calls == []


@pytest.mark.parametrize("asked", [{}, {"prompt": "x", "messages": []}])
async def test_either_a_prompt_or_messages(chain, asked):
    with pytest.raises(ValueError, match="either a prompt or messages"):
        await chain.generate(**asked)


async def test_messages_may_be_given(chain, gpu):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    await chain.generate(messages=messages)
    assert gpu.calls[0].body["messages"] == messages


async def test_nobody_is_there():
    chain = FallbackChain("http://127.0.0.1:9", degraded_message="Come back later.")
    result = await chain.generate("Hello")
    assert (result["text"], result["tier_used"]) == ("Come back later.", "degraded")
    await chain.aclose()


@pytest.mark.parametrize("kind", [redis.Redis, redis.asyncio.Redis])
async def test_chains_on_one_redis_share_cache_and_breakers(valkey, gpu, cpu, kind):
    client = kind(port=valkey.port)
    one = FallbackChain(gpu.url, None, client, options=QUICK)
    two = FallbackChain(gpu.url, None, client, options=QUICK)
    await one.generate("shared")
    gpu.vanish()
    assert (await two.generate("shared"))["tier_used"] == "cache"
    await two.generate("x")
    assert (await one.breakers["max_gpu"].view()).state is CircuitState.OPEN
    closing = client.close() if kind is redis.Redis else client.aclose()
    if closing is not None:
        await closing
    await one.aclose()
    await two.aclose()


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("kind", [redis.Redis, redis.asyncio.Redis])
async def test_a_chain_that_is_entered_knows_at_once_what_others_change(valkey, gpu, kind, lost):
    """A server that is asked for nothing tells: no second passes, and no view is taken."""
    theirs = kind(port=valkey.port, socket_timeout=0.3)
    with valkey.client() as client:
        by_hand = CircuitBreaker("max_gpu", QUICK.breaker, RedisStore(client))

        def listeners():
            return client.pubsub_numsub(CHANNEL)[0][1]

        async with FallbackChain(gpu.url, None, theirs, options=QUICK) as chain:
            breaker = chain.breakers["max_gpu"]
            await eventually(listeners)
            if lost:
                client.client_kill_filter(_type="pubsub")
                by_hand.force_open("ann", "while nobody listened")
                await eventually(lambda: breaker.state is CircuitState.OPEN)
                by_hand.reset()
                await eventually(lambda: breaker.refusal() is None)
            assert (await chain.generate("one"))["tier_used"] == "gpu"
            by_hand.force_open("ann", "a new model")
            await eventually(breaker.refusal, 0.5)
            by_hand.reset()
            await eventually(lambda: breaker.refusal() is None, 0.5)
        await eventually(lambda: not listeners())
    closing = theirs.close() if kind is redis.Redis else theirs.aclose()
    if closing is not None:
        await closing


async def test_a_chain_may_be_left_while_its_redis_is_away(own_valkey, gpu):
    async with FallbackChain(gpu.url, None, redis.Redis(port=own_valkey.port)) as chain:
        own_valkey.kill()
        assert (await chain.generate("one"))["tier_used"] == "gpu"


async def test_a_redis_that_is_away_costs_no_answer(own_valkey, gpu, cpu):
    chain = FallbackChain(gpu.url, cpu.url, redis.Redis(port=own_valkey.port), options=QUICK)
    await chain.generate("before")
    own_valkey.kill()
    assert (await chain.generate("after"))["tier_used"] == "gpu"
    gpu.mode = "500"
    assert (await chain.generate("still"))["tier_used"] == "cpu"
    await chain.aclose()


async def test_the_quick_starts_chain():
    chain = FallbackChain(max_gpu_endpoint="http://fake-endpoint", degraded_message="Test degraded")

    result = await chain.generate("test prompt")

    # Should fall back to degraded message
    assert result["tier_used"] == "degraded"
    assert result["text"] == "Test degraded"


async def test_a_full_redis_keeps_no_new_answer_and_gives_those_that_it_has(valkey, gpu):
    client = redis.asyncio.Redis(port=valkey.port)
    chain = FallbackChain(gpu.url, None, client, options=QUICK)
    try:
        await chain.generate("kept")
        await client.config_set("maxmemory", 1)
        for n in range(4):
            assert (await chain.generate(f"{n}"))["tier_used"] == "gpu"
        assert (await chain.breakers["redis_cache"].view()).consecutive_failures == 0
        gpu.vanish()
        assert (await chain.generate("kept"))["tier_used"] == "cache"
        assert (await chain.generate("0"))["degraded"]
    finally:
        await client.config_set("maxmemory", 0)
        await chain.aclose()
        await client.aclose()


async def test_where_a_form_is_demanded_the_degraded_message_is_no_answer(chain, gpu, cpu):
    gpu.mode = cpu.mode = "500"
    with pytest.raises(NoFormError):
        await chain.generate("as JSON", response_format={"type": "json_object"})
    assert (await chain.generate("as prose"))["tier_used"] == "degraded"


async def test_an_answer_that_shows_nothing_is_not_kept(chain, gpu, cpu):
    gpu.mode = "thinking"
    assert (await chain.generate("think"))["tier_used"] == "gpu"
    gpu.mode = cpu.mode = "500"
    assert (await chain.generate("think"))["tier_used"] == "degraded"


def first_bytes_to_a_server_of(**options):
    """What a chain says first to a store that its client was set up for."""
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        client = redis.Redis(port=server.getsockname()[1], socket_timeout=0.5, **options)

        async def asked():
            chain = FallbackChain("http://127.0.0.1:9", redis_client=client, options=QUICK)
            await chain.generate("Hello")
            await chain.aclose()

        done = pool.submit(asyncio.run, asked())
        connection, _ = server.accept()
        with connection:
            said = connection.recv(100)
        server.close()
        done.result()
    return said


def test_a_client_that_speaks_tls_does_so_in_the_chain():
    assert first_bytes_to_a_server_of(ssl=True, password=PASSWORD)[:2] == b"\x16\x03"
    assert PASSWORD.encode() in first_bytes_to_a_server_of(password=PASSWORD)


class Credentials(redis.CredentialProvider):
    """Asked for a password at each connection."""

    def get_credentials(self):
        return ("ann", "of-the-moment")


def test_a_client_whose_password_somebody_else_has_asks_him_in_the_chain():
    assert b"of-the-moment" in first_bytes_to_a_server_of(credential_provider=Credentials())


@pytest.mark.parametrize(
    "client",
    [
        Sentinel([("127.0.0.1", 9)]).master_for("main"),
        redis.Redis(ssl=True, ssl_validate_ocsp=True),
        redis.Redis(connection_pool=redis.ConnectionPool(connection_class=type("Own", (), {}))),
        "redis://127.0.0.1",
        object(),
    ],
    ids=["sentinel's", "with OCSP", "with its own connections", "a URL", "none"],
)
def test_a_client_that_no_chain_can_use_is_refused(client):
    with pytest.raises(TypeError, match=r"give redis\.asyncio's client"):
        FallbackChain("http://127.0.0.1:9", redis_client=client)
