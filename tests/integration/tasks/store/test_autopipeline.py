"""Scripts and commands that are called together travel together, on a real Valkey."""

from __future__ import annotations

import asyncio
import errno

import pytest
from harness.proxy import Proxy
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tasks.store.autopipeline import LARGEST_PIPELINE, AutoPipeline, Script
from tasks.store.connection import connect

COUNT = Script.of("return redis.call('INCRBY', KEYS[1], ARGV[1])")
TELL = Script.of("return ARGV[1]")


class Trips:
    """A client that notes how many commands each of its round trips had."""

    def __init__(self, client) -> None:
        self._client = client
        self.sizes: list[int] = []

    def trip(self, commands):
        self.sizes.append(len(commands))
        return self._client.trip(commands)

    def __getattr__(self, name):
        return getattr(self._client, name)


@pytest.fixture
async def trips(valkey):
    client = connect(valkey.url)
    yield Trips(client)
    await client.aclose()


@pytest.fixture
async def pipeline(trips):
    return AutoPipeline(trips)


async def test_what_is_called_at_once_travels_in_one_round_trip(pipeline, trips):
    await pipeline.run(COUNT, ["n"], [0])  # the server knows it now
    trips.sizes.clear()
    answers = await asyncio.gather(
        pipeline.run(COUNT, ["n"], [2]),
        pipeline.command("GET", "n"),
        pipeline.command("EXISTS", "n"),
    )
    assert answers == [2, b"2", 1]
    assert trips.sizes == [3]


async def test_more_than_a_pipeline_holds_takes_more_round_trips(pipeline, trips):
    commands = [("INCR", "n")] * (LARGEST_PIPELINE + 1)
    assert await pipeline.commands(commands) == list(range(1, LARGEST_PIPELINE + 2))
    assert trips.sizes == [LARGEST_PIPELINE, 1]


async def test_an_error_is_its_own_callers_alone(pipeline):
    await pipeline.command("SET", "text", "x")
    bad, good = await asyncio.gather(
        pipeline.command("INCR", "text"), pipeline.command("INCR", "n"), return_exceptions=True
    )
    assert isinstance(bad, ResponseError)
    assert good == 1


async def test_scripts_that_the_server_does_not_know_are_loaded_and_only_they_run_again(
    pipeline, trips
):
    answers = await asyncio.gather(
        pipeline.command("INCR", "n"),
        pipeline.run(COUNT, ["n"], [10]),
        pipeline.run(TELL, [], ["x"]),
        pipeline.run(COUNT, ["n"], [100]),
    )
    assert answers == [1, 11, b"x", 111]
    assert trips.sizes == [4, 2, 3]


async def test_a_server_that_is_away_is_told_to_every_caller():
    away = AutoPipeline(connect("redis://127.0.0.1:1/0"))
    errors = await asyncio.gather(
        away.command("PING"), away.run(TELL, [], ["x"]), return_exceptions=True
    )
    assert [type(error) for error in errors] == [RedisConnectionError] * 2


async def test_where_a_route_is_lost_without_a_word_only_the_first_waits(valkey):
    """The others in the pool have lost theirs as well, and are not tried one after the other."""
    link = Proxy(valkey.url)
    client = connect(link.url)
    client.connection_pool.connection_kwargs["socket_timeout"] = 0.5
    pipeline = AutoPipeline(client)
    try:
        await asyncio.gather(*(client.ping() for _ in range(8)))
        link.forget()
        with pytest.raises(RedisTimeoutError):
            await pipeline.run(TELL, [], ["x"])
        began = asyncio.get_running_loop().time()
        assert await pipeline.run(TELL, [], ["y"]) == b"y"
        assert asyncio.get_running_loop().time() - began < 0.4
    finally:
        await client.aclose()
        link.close()


SETUP = [
    ("SET", "text", "x"),
    ("HSET", "hash", "a", "1", "b", "2"),
    ("SADD", "set", "m"),
    ("ZADD", "order", "1.5", "one", "2", "two"),
    ("DEL", "list"),
    ("RPUSH", "list", "1", "2"),
]


@pytest.mark.parametrize(
    "command",
    [
        ("SET", "text", "y"),
        ("SET", "text", "y", "NX"),
        ("GET", "text"),
        ("GET", "none"),
        ("MGET", "text", "none"),
        ("EXISTS", "text"),
        ("EXPIRE", "text", 10),
        ("TTL", "text"),
        ("HGETALL", "hash"),
        ("HGETALL", "none"),
        ("HMGET", "hash", "a", "none"),
        ("HSETNX", "hash", "a", "9"),
        ("SMEMBERS", "set"),
        ("ZRANGEBYSCORE", "order", "-inf", "+inf", "WITHSCORES"),
        ("ZSCORE", "order", "one"),
        ("LRANGE", "list", 0, -1),
        ("TIME",),
        ("PING",),
        ("INFO", "memory"),
        ("CONFIG GET", "maxmemory-policy"),
        ("INCR", "hash"),
    ],
    ids=lambda command: " ".join(map(str, command)),
)
async def test_an_answer_is_as_redis_py_has_it(trips, command):
    its_own = trips.pipeline(transaction=False)
    for each in (*SETUP, command):
        its_own.execute_command(*each)
    expected = (await its_own.execute(raise_on_error=False))[-1]
    answer = (await trips.trip([*SETUP, command]))[-1]
    assert type(answer) is type(expected)
    if command[0] not in {"TIME", "INFO"}:
        assert str(answer) == str(expected)


@pytest.fixture
async def link(valkey):
    link = Proxy(valkey.url)
    yield link
    link.close()


@pytest.fixture
async def client(link):
    client = connect(link.url)
    client.connection_pool.connection_kwargs["socket_timeout"] = 0.5
    yield client
    await client.aclose()


async def test_the_limit_is_that_of_each_answer(client, monkeypatch):
    monkeypatch.setattr("tasks.store.connection.LATE_SECONDS", 0.1)
    assert await client.trip([("BLPOP", "none", 0.3)] * 4) == [None] * 4
    with pytest.raises(RedisTimeoutError):
        await client.trip([("PING",), ("BLPOP", "none", 3), ("ECHO", "late")])
    assert await client.trip([("ECHO", "next")]) == [b"next"]


@pytest.mark.parametrize("after", [0.0, 0.001, 0.01, 0.1])
async def test_who_is_cut_off_leaves_no_answer_to_the_next(client, after):
    for number in range(10):
        commands = [("ECHO", f"old-{number}"), ("BLPOP", "none", 0.2), ("ECHO", "old")]
        going = asyncio.create_task(client.trip(commands))
        await asyncio.sleep(after)
        going.cancel()
        await asyncio.wait({going})
        assert await client.trip([("ECHO", f"new-{number}")]) == [f"new-{number}".encode()]


async def test_a_connection_that_was_closed_meanwhile_is_no_failure(client, valkey):
    assert await client.trip([("PING",)]) == [True]
    with valkey.client() as other:
        other.client_kill_filter(_type="normal", skipme=True)
        await asyncio.sleep(0.05)
        assert await client.trip([("PING",)]) == [True]
        going = asyncio.create_task(client.trip([("ECHO", "a"), ("BLPOP", "none", 9)]))
        await asyncio.sleep(0.05)
        other.client_kill_filter(_type="normal", skipme=True)
        with pytest.raises(RedisConnectionError):
            await going
    assert await client.trip([("ECHO", "b")]) == [b"b"]


async def test_a_route_that_the_system_gives_up_is_no_answer(client):
    """redis-py takes it for the time that its reader would wait, and gives None."""
    await client.trip([("PING",)])
    reader = client._kept._reader
    going = asyncio.create_task(client.trip([("ECHO", "a"), ("BLPOP", "none", 9), ("ECHO", "b")]))
    await asyncio.sleep(0.1)
    reader.set_exception(TimeoutError(errno.ETIMEDOUT, "Connection timed out"))
    with pytest.raises(RedisTimeoutError):
        await going
    assert not client._kept.is_connected
    assert await client.trip([("ECHO", "c")]) == [b"c"]


async def test_what_breaks_off_in_another_way_leaves_no_answer_either(client, monkeypatch):
    """Such as a limit that has just been passed: a cancel of asyncio's may be lost on the way."""
    await client.trip([("PING",)])
    with monkeypatch.context() as patch:
        patch.setattr("tasks.store.connection.LATE_SECONDS", -1)
        patch.setattr(asyncio.Timeout, "reschedule", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await client.trip([("ECHO", "a"), ("ECHO", "b")])
    assert await client.trip([("ECHO", "c")]) == [b"c"]


async def test_the_time_that_sending_takes_is_not_the_answers(client, monkeypatch):
    monkeypatch.setattr("tasks.store.connection.LATE_SECONDS", 0.05)
    await client.trip([("PING",)])
    send = client._kept.send_packed_command

    async def slowly(*args):
        await asyncio.sleep(0.3)
        await send(*args)

    monkeypatch.setattr(client._kept, "send_packed_command", slowly)
    assert await client.trip([("BLPOP", "none", 0.35)]) == [None]


async def test_what_is_large_travels_whole(trips):
    large = [("ECHO", b"%d" % number * 20_000) for number in range(LARGEST_PIPELINE)]
    assert await trips.trip(large) == [each[1] for each in large]
