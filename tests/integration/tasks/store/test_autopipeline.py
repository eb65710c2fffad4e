"""Scripts and commands that are called together travel together, on a real Valkey."""

from __future__ import annotations

import asyncio

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
    assert trips.sizes == [4, 3]


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
