"""What runs on a Redis that is at its memory limit all the same.

Redis refuses there every command that may need memory, and every script that does not say that it
may run. What was accepted must come to its end, so all that serves that end says so; what takes new
work does not, and is refused.
"""

from __future__ import annotations

from typing import Any

ALLOWED = "#!lua flags=allow-oom\n"  # the head of a script that may run
# The commands, of those that the store's parts and Celery's transport send, that would be refused.
GROWING = frozenset({"HINCRBY", "HSET", "LPUSH", "RPUSH", "SADD", "SET", "ZADD"})
_RUN = f"{ALLOWED}return redis.call(ARGV[1], KEYS[1], unpack(ARGV, 2))"


def allowed(command: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a command, (name, key, ...), as one that is not refused and answers the same."""
    name, *rest = command
    if name not in GROWING:
        return command
    key, *arguments = rest
    # The text is short: to find it by its digest would save nothing, and could fail.
    return ("EVAL", _RUN, 1, key, name, *arguments)
