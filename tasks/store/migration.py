"""What an older release left in the store is taken over, once.

Layout 1 had its keys under "ft:"; layout 2 has them under "{ft}:", so that they all lie in one
slot. The records themselves are the same: each key is renamed, in one step of Redis' own, and so is
in the one place or in the other, whenever a process dies. One process at a time moves keys, under a
lease that it renews; whoever finds the lease free goes on with the rest. (Two that move at once do
no harm: a key is renamed once.) When none is left the layout's number says so, and nobody moves
anything again.

An older process that still runs would go on writing to the old keys, where nobody would find its
jobs. So nothing is moved, and no process starts, while one lives: its heartbeat is renewed, or it
listens to the old channels. One that is started later accepts nothing: a fence, a text, lies where
its indexes were, and each of its creates fails, as if the store were away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any

from redis.exceptions import ClusterCrossSlotError, NoPermissionError, ResponseError

from tasks.errors import StoreUnavailable, StoreUnfit
from tasks.records.jobs import KINDS, new_token
from tasks.store import keyspace
from tasks.store.connection import translated
from tasks.store.short_memory import allowed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tasks.store.connection import Connection

LAYOUT = 2
OLD_PREFIX = "ft:"
OLD_CHANNELS = ("finished", "cancelled")
ANSWERS = "ft:cache:"  # the answers' cache is no part of the layout: it has kept its name
OLD_DISPATCHED = tuple(f"dispatched:{queue.value}" for queue in KINDS)
# Where an older release's creates, and its sweeper, would write.
FENCE = tuple(OLD_PREFIX + name for name in (keyspace.DEADLINES, *OLD_DISPATCHED))
LOCK = keyspace.PREFIX + keyspace.MIGRATION
LEASE_MS = 10_000
RENEWAL_SECONDS = 10.0  # in which a worker that lives renews its heartbeat
LOOK_SECONDS = 0.2
CHUNK = 1000  # keys that are moved between two renewals of the lease
WAIT_SECONDS = 60.0  # the longest that another process' migration is waited for

log = logging.getLogger(__name__)


async def take_over(connection: Connection) -> None:
    """Return once the store has this release's layout.

    Raises StoreUnfit while a process of an older release works on it, or if it is of a newer one.
    """
    me, until = new_token(), time.monotonic() + WAIT_SECONDS
    while True:
        async with _translated():
            current = await _is_current(connection)
            await _wait_for_the_old(connection.client)
            if current:
                return
            if await _set(connection.client, LOCK, me, "NX", "PX", LEASE_MS):
                await _move(connection.client, me)
                return
        if time.monotonic() > until:
            message = "another process is still taking over what an older release left; try again"
            raise StoreUnfit(message)
        await asyncio.sleep(LOOK_SECONDS)


@contextlib.asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    try:
        async with translated():
            yield
    except StoreUnavailable as error:
        if isinstance(error.__cause__, NoPermissionError):
            message = f"the store refuses us: {error.__cause__}"
            raise StoreUnfit(message) from error
        raise


async def _set(client: Any, key: str, *args: Any) -> Any:
    """Set a key, in a store that is full too: accepted jobs come to their end."""
    return await client.execute_command(*allowed(("SET", key, *args)))


async def _is_current(connection: Connection) -> bool:
    known = await connection.command("GET", keyspace.LAYOUT)
    if known is not None and int(known) > LAYOUT:
        message = f"the store has layout {int(known)}, of a newer release; this one knows {LAYOUT}"
        raise StoreUnfit(message)
    return known is not None


async def _wait_for_the_old(client: Any) -> None:
    """Wait until the heartbeats of workers that died are old; raise StoreUnfit for who lives."""
    first, until = await _heartbeats(client), time.monotonic() + RENEWAL_SECONDS
    told = False
    while True:
        listening = await client.pubsub_numsub(*(OLD_PREFIX + kind for kind in OLD_CHANNELS))
        if any(number for _, number in listening):
            raise StoreUnfit(_in_use("an API or a worker listens"))
        beats = await _heartbeats(client)
        renewed = [name for name, beat in beats.items() if beat > first.get(name, 0.0)]
        if renewed:
            raise StoreUnfit(_in_use(f"worker {renewed[0].decode()} lives"))
        seconds, _ = await client.time()
        # Whoever lives renews within seconds, or listens: a clock that was ahead is no life.
        latest = max(beats.values(), default=0.0) / 1000
        if latest <= seconds or time.monotonic() > until:
            return
        if not told:
            log.warning("waiting whether an older release's workers are still alive")
            told = True
        await asyncio.sleep(LOOK_SECONDS)


async def _heartbeats(client: Any) -> dict[bytes, float]:
    return dict(await client.zrange(OLD_PREFIX + keyspace.WORKERS, 0, -1, withscores=True))


def _in_use(why: str) -> str:
    return (
        f"processes of an older release still work on this store ({why}): stop them all, "
        "then start this release; nothing of what they were doing is lost"
    )


async def _move(client: Any, me: str) -> None:
    await _fence(client)
    cursor, moved, left = 0, 0, set()
    while True:
        cursor, found = await client.scan(cursor, match=f"{OLD_PREFIX}*", count=CHUNK)
        names = [key.decode() for key in found]
        names = [name for name in names if name not in FENCE and not name.startswith(ANSWERS)]
        pipeline = client.pipeline(transaction=False)
        for name in names:
            pipeline.renamenx(name, _new_name(name))
        answers = await pipeline.execute(raise_on_error=False)
        moved += sum(_is_moved(answer) for answer in answers)
        left |= {name for name, answer in zip(names, answers, strict=True) if answer is False}
        await renew(client, me)
        if not cursor:
            break
    if left:
        message = (
            f"{len(left)} keys are there twice, as an older release ran again after this one: "
            f"{', '.join(sorted(left)[:3])}; delete those, or restore a copy of before"
        )
        raise StoreUnfit(message)
    await _set(client, keyspace.PREFIX + keyspace.LAYOUT, LAYOUT)
    await client.delete(LOCK)
    if moved:
        log.warning("took over %d keys that an older release had left in the store", moved)


async def _fence(client: Any) -> None:
    """Move what an older release's creates would write to, and put a text in its place."""
    for name in FENCE:
        if await client.type(name) == b"zset":
            _is_moved(await _tried(client.renamenx(name, _new_name(name))))
        await _set(client, name, "taken over by a newer release of Fallthrough")


async def _tried(renaming: Any) -> Any:
    try:
        return await renaming
    except ResponseError as error:
        return error


def _new_name(name: str) -> str:
    return keyspace.PREFIX + name.removeprefix(OLD_PREFIX)


async def renew(client: Any, me: str) -> None:
    """Go on holding the lease."""
    await _set(client, LOCK, me, "PX", LEASE_MS)


def _is_moved(answer: Any) -> bool:
    """Whether a key was renamed; raise what kept it from that.

    One that is gone was another process' to move.
    """
    if isinstance(answer, ClusterCrossSlotError):
        message = (
            "the store is in cluster mode, where what an older release left cannot be taken "
            "over: let this release do that on a server of its own, then move the data"
        )
        raise StoreUnfit(message)
    if isinstance(answer, ResponseError) and "no such key" not in str(answer):
        raise answer
    return answer is True
