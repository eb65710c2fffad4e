"""Whether what is accepted is on disk, or with replicas, before its client is told so.

By default it is not: a store with `appendfsync everysec` that dies may take its last second with
it, or two where its disk is slow.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

from tasks.errors import StoreUnavailable, StoreUnfit
from tasks.group_commit import GroupCommit
from tasks.settings import ALWAYS
from tasks.store import keyspace
from tasks.store.connection import translated
from tasks.store.keyspace import PREFIX
from tasks.store.short_memory import allowed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.settings import Settings
    from tasks.store.connection import Connection

WAIT_MS = 4000  # for the disk, or for replicas
FORGOTTEN = "the job store has lost it before it was safe"

log = logging.getLogger(__name__)


class Durability:
    """Waits until what the store has taken so far is safe; belongs to one event loop."""

    def __init__(self, connection: Connection, settings: Settings) -> None:
        self._connection = connection
        self._on_disk = settings.durable == ALWAYS
        self._replicas = settings.durable_replicas
        self._waits: GroupCommit[str, None] = GroupCommit(self._wait, sys.maxsize)

    async def job(self, job_id: str) -> None:
        """Return once a job is as safe as the settings ask for.

        Raises StoreUnavailable, as those below do, if it is not so in time, or if the store has
        forgotten it.
        """
        await self._safe(keyspace.job(job_id))

    async def batch(self, batch_id: str) -> None:
        """Return once a batch is safe."""
        await self._safe(keyspace.batch(batch_id))

    async def file(self, file_id: str) -> None:
        """Return once a file's record is safe."""
        await self._safe(keyspace.file(file_id))

    @property
    def waits(self) -> bool:
        """Whether anything is waited for."""
        return self._on_disk or self._replicas > 0

    async def _safe(self, key: str) -> None:
        if self.waits:
            await self._waits.submit(key)

    async def check(self) -> None:
        """Raise StoreUnfit if the store can never do what is asked for."""
        if not self._on_disk:
            return
        async with translated():
            persistence = await self._connection.client.info("persistence")
            policy = await self._policy()
        if not int(persistence.get("aof_enabled", 0)):
            message = (
                "the store keeps nothing on disk: FALLTHROUGH_DURABLE=always needs appendonly yes"
            )
            raise StoreUnfit(message)
        if policy == "no":
            message = "the store's appendfsync is no: FALLTHROUGH_DURABLE=always needs always"
            raise StoreUnfit(message)
        if policy == "everysec":
            log.warning("the store's appendfsync is everysec: each create waits for up to a second")
        try:
            await self._safe(keyspace.WRITTEN)
        except StoreUnavailable as error:
            if isinstance(error.__cause__, ResponseError):
                message = (
                    f"FALLTHROUGH_DURABLE=always: the store refuses WAITAOF: {error.__cause__}"
                )
                raise StoreUnfit(message) from error
            raise

    async def _policy(self) -> str:
        with contextlib.suppress(ResponseError):  # some that are managed do not tell
            answer = await self._connection.client.config_get("appendfsync")
            return str(answer.get("appendfsync", ""))
        return ""

    async def _wait(self, keys: list[str]) -> Sequence[StoreUnavailable | None]:
        # The records are looked for as well: the server may be another by now, or the same one
        # without its last second.
        records = [("EXISTS", PREFIX + key) for key in keys]
        # Both are asked of the connection that they are sent on, so it writes something.
        written = allowed(("SET", PREFIX + keyspace.WRITTEN, 1))
        async with translated():
            pipeline = self._connection.client.pipeline(transaction=False)
            for command in (written, *records, self._command()):
                pipeline.execute_command(*command)
            _, *there, answer = await pipeline.execute()
        disk, replicas = answer if self._on_disk else (1, answer)
        if int(disk) < 1 or int(replicas) < self._replicas:
            message = f"the job store did not make it safe within {WAIT_MS / 1000:g} s"
            raise StoreUnavailable(message)
        return [None if found else StoreUnavailable(FORGOTTEN) for found in there]

    def _command(self) -> tuple[Any, ...]:
        if self._on_disk:
            return "WAITAOF", 1, self._replicas, WAIT_MS
        return "WAIT", self._replicas, WAIT_MS
