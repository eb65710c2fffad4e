"""One Redis: its client, the scripts, and its errors in our own words."""

from __future__ import annotations

from contextlib import asynccontextmanager
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import hiredis
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.maint_notifications import MaintNotificationsConfig

from tasks.errors import KeyReused, StoreUnavailable
from tasks.store.autopipeline import Script

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable


PREFIX = "ft:"


def scripts() -> dict[str, Script]:
    """Return every script of lua/, each behind the prelude."""
    folder = files("tasks.store") / "lua"
    prelude = (folder / "_prelude.lua").read_text()
    scripts = {}
    for entry in folder.iterdir():
        name = entry.name.removesuffix(".lua")
        if name == entry.name or name.startswith("_"):
            continue
        # A store at its memory limit still lets every accepted job come to its end.
        flags = "#!lua" if name == "create" else "#!lua flags=allow-oom"
        scripts[name] = Script.of(f"{flags}\n{prelude}\n{entry.read_text()}")
    return scripts


def connect(url: str) -> Redis:
    """Return a client with time limits and no retries of its own; opens no connection yet."""
    # Who finds every connection taken waits for one.
    pool: BlockingConnectionPool = BlockingConnectionPool.from_url(
        url,
        timeout=5,
        socket_connect_timeout=2,
        socket_timeout=5,
        health_check_interval=0,
        retry=Retry(NoBackoff(), 0),
        max_connections=64,
        # With these on, redis-py hands out connections that a restarted server had closed.
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )
    pool.connection_class = type("Connection", (_PackingInC, pool.connection_class), {})
    return Redis.from_pool(pool)


class _PackingInC:
    """A connection that packs commands as redis-py's synchronous one does: by hiredis.

    Its asynchronous one packs argument by argument in Python: a twelfth of what the API did.
    """

    def pack_command(self, *args: Any) -> list[bytes]:
        """Pack one command. A name of several words (SCRIPT LOAD) is as many arguments."""
        return [hiredis.pack_command((*str(args[0]).split(), *args[1:]))]

    def pack_commands(self, commands: Iterable[Iterable[Any]]) -> list[bytes]:
        """Pack a pipeline."""
        return [b"".join(self.pack_command(*command)[0] for command in commands)]


@asynccontextmanager
async def translated() -> AsyncIterator[None]:
    """Turn whatever Redis and its client raise into StoreUnavailable, or what a script means."""
    try:
        yield
    except ResponseError as error:
        if str(error).startswith("REUSED"):
            message = "Idempotency-Key: it was used before, with another body"
            raise KeyReused(message) from error
        message = f"the job store did not answer: {type(error).__name__}"
        raise StoreUnavailable(message) from error
    except (RedisError, OSError, TimeoutError) as error:
        message = f"the job store did not answer: {type(error).__name__}"
        raise StoreUnavailable(message) from error
