"""What runs on a server at its memory limit, and answers as it would elsewhere."""

from __future__ import annotations

import pytest
from redis.exceptions import OutOfMemoryError

from tasks.store.short_memory import GROWING, allowed

COMMANDS = [
    ("HINCRBY", "hash", "field", 2),
    ("HSET", "hash", "other", "x", "third", "y"),
    ("LPUSH", "list", "a", "b"),
    ("RPUSH", "list", "c"),
    ("SADD", "set", "a", "b", "a"),
    ("SET", "string", "x", "NX"),
    ("SET", "string", "x", "NX"),
    ("ZADD", "zset", 1.5, "a"),
    ("ZADD", "zset", "XX", 2.5, "a"),
    ("HDEL", "hash", "field"),
]


@pytest.fixture
def client(valkey):
    with valkey.client() as client:
        yield client
        client.config_set("maxmemory", 0)


def test_every_command_answers_as_it_would_on_a_server_that_has_room(client):
    there = [client.execute_command(*command) for command in COMMANDS]
    client.flushall()
    client.config_set("maxmemory", 1)
    assert [client.execute_command(*allowed(command)) for command in COMMANDS] == [
        # What redis-py makes of a status that it expects.
        *(b"OK" if answer is True else answer for answer in there),
    ]
    assert {name for name, *_ in COMMANDS} - {"HDEL"} == GROWING


@pytest.mark.parametrize("command", COMMANDS[:-1], ids=str)
def test_each_of_them_is_refused_there_as_it_is(client, command):
    client.config_set("maxmemory", 1)
    with pytest.raises(OutOfMemoryError):
        client.execute_command(*command)
