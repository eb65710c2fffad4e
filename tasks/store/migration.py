"""What an older release left in the store is taken over, once.

Layout 1 had its keys under "ft:"; layout 2 has them under "{ft}:", so that they all lie in one
slot. The records themselves are the same: each key is renamed, in one step of Redis' own, and so is
in the one place or in the other, whenever a process dies. One process at a time moves keys, under a
lease that it renews; whoever finds the lease free goes on with the rest. (Two that move at once do
no harm: a key is renamed once.) When none is left the layout's number says so, and nobody looks
again.

An older process that still runs would go on writing to the old keys, where nobody would find its
jobs. So nothing is moved while one lives: its heartbeat is renewed, or it listens to the old
channels.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from redis.exceptions import ClusterCrossSlotError, ResponseError

from tasks.errors import StoreUnfit
from tasks.records.jobs import new_token
from tasks.store import keyspace
from tasks.store.connection import translated

if TYPE_CHECKING:
    from tasks.store.connection import Connection

LAYOUT = 2
OLD_PREFIX = "ft:"
OLD_CHANNELS = ("finished", "cancelled")
ANSWERS = "ft:cache:"  # the answers' cache is no part of the layout: it has kept its name
LEASE_MS = 10_000
LOOK_SECONDS = 0.2
CHUNK = 1000  # keys that are moved between two renewals of the lease
WAIT_SECONDS = 60.0  # the longest that another process' migration, or a heartbeat, is waited for

log = logging.getLogger(__name__)


async def take_over(connection: Connection) -> None:
    """Return once the store has this release's layout.

    Raises StoreUnfit while a process of an older release works on it, or if it is of a newer one.
    """
    me, until = new_token(), time.monotonic() + WAIT_SECONDS
    while not await _is_current(connection):
        async with translated():
            await _wait_for_the_old(connection.client)
        if await connection.command("SET", keyspace.MIGRATION, me, "NX", "PX", LEASE_MS):
            await _move(connection, me)
            return
        if time.monotonic() > until:
            message = "another process is still taking over what an older release left; try again"
            raise StoreUnfit(message)
        await asyncio.sleep(LOOK_SECONDS)


async def _is_current(connection: Connection) -> bool:
    known = await connection.command("GET", keyspace.LAYOUT)
    if known is not None and int(known) > LAYOUT:
        message = f"the store has layout {int(known)}, of a newer release; this one knows {LAYOUT}"
        raise StoreUnfit(message)
    return known is not None


async def _wait_for_the_old(client: Any) -> None:
    """Wait out the heartbeats of workers that died; raise StoreUnfit for a process that lives."""
    first = await _heartbeats(client)
    while True:
        listening = await client.pubsub_numsub(*(OLD_PREFIX + kind for kind in OLD_CHANNELS))
        if any(number for _, number in listening):
            raise StoreUnfit(_in_use("an API or a worker listens"))
        beats = await _heartbeats(client)
        renewed = [name for name, until in beats.items() if until > first.get(name, 0.0)]
        if renewed:
            raise StoreUnfit(_in_use(f"worker {renewed[0].decode()} lives"))
        seconds, _ = await client.time()
        if max(beats.values(), default=0.0) / 1000 <= seconds:
            return
        await asyncio.sleep(LOOK_SECONDS)


async def _heartbeats(client: Any) -> dict[bytes, float]:
    return dict(await client.zrange(OLD_PREFIX + keyspace.WORKERS, 0, -1, withscores=True))


def _in_use(why: str) -> str:
    return (
        f"processes of an older release still work on this store ({why}): stop them all, "
        "then start this release; nothing of what they were doing is lost"
    )


async def _move(connection: Connection, me: str) -> None:
    client, cursor, moved = connection.client, 0, 0
    while True:
        async with translated():
            cursor, keys = await client.scan(cursor, match=f"{OLD_PREFIX}*", count=CHUNK)
            pipeline = client.pipeline(transaction=False)
            for key in keys:
                name = key.decode()
                if not name.startswith(ANSWERS):
                    pipeline.renamenx(name, keyspace.PREFIX + name.removeprefix(OLD_PREFIX))
            answers = await pipeline.execute(raise_on_error=False)
            _check(answers)
        moved += sum(answer is True for answer in answers)
        await renew(connection, me)
        if not cursor:
            break
    await connection.command("SET", keyspace.LAYOUT, LAYOUT)
    await connection.command("DEL", keyspace.MIGRATION)
    if moved:
        log.warning("took over %d keys that an older release had left in the store", moved)


async def renew(connection: Connection, me: str) -> None:
    """Go on holding the lease."""
    await connection.command("SET", keyspace.MIGRATION, me, "PX", LEASE_MS)


def _check(answers: list[Any]) -> None:
    """Raise what kept a key from being renamed; one that is gone was another process' to move."""
    for answer in answers:
        if isinstance(answer, ClusterCrossSlotError):
            message = (
                "the store is in cluster mode, where what an older release left cannot be taken "
                "over: let this release do that on a server of its own, then move the data"
            )
            raise StoreUnfit(message)
        if isinstance(answer, ResponseError) and "no such key" not in str(answer):
            raise answer
