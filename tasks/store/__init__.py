"""Redis, the truth: every transition one script. Nobody else speaks to it.

Parts over one connection: jobs, the logs of their streams, batches (and their units), files, limits
(semaphores), the fleet, tiers, the last day's history, and durability. What is in which key:
lua/_keys.lua.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.store.batches import BatchStore
from tasks.store.connection import Connection
from tasks.store.durability import Durability
from tasks.store.file_counts import FileCounts
from tasks.store.files import FileStore
from tasks.store.fleet import FleetStore
from tasks.store.history import HistoryStore
from tasks.store.jobs import JobStore
from tasks.store.limits import FileLimits, Limits
from tasks.store.migration import take_over
from tasks.store.streams import StreamStore
from tasks.store.tiers import TierStore

if TYPE_CHECKING:
    from tasks.settings import Settings
    from tasks.storage import Storage

__all__ = ["Store", "open_store", "prepare_store"]


@dataclass(frozen=True, slots=True)
class Store:
    """The parts; belongs to one event loop."""

    connection: Connection
    jobs: JobStore
    streams: StreamStore
    batches: BatchStore
    files: FileStore
    limits: Limits
    fleet: FleetStore
    tiers: TierStore
    history: HistoryStore
    durability: Durability

    @classmethod
    def over(cls, connection: Connection, settings: Settings, storage: Storage) -> Store:
        """Return the parts over a connection; does no I/O."""
        durability = Durability(connection, settings)
        return cls(
            connection=connection,
            jobs=JobStore(connection, settings),
            streams=StreamStore(connection, settings),
            batches=BatchStore(connection, settings),
            files=FileStore(connection, storage, durability, _file_limits(settings)),
            limits=Limits(connection, settings),
            fleet=FleetStore(connection, settings),
            tiers=TierStore(connection),
            history=HistoryStore(connection),
            durability=durability,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self.connection.close()


async def open_store(settings: Settings, storage: Storage) -> Store:
    """Open the store, once it is fit, and of this release's layout.

    Raises StoreUnfit when it will not do, StoreUnavailable when it does not answer.
    """
    connection = Connection(settings.redis_url)
    try:
        await _prepare(connection, settings)
    except BaseException:
        await connection.close()
        raise
    return Store.over(connection, settings, storage)


async def prepare_store(settings: Settings) -> None:
    """Make the store ready as open_store does, and raise what it would; keep nothing open."""
    connection = Connection(settings.redis_url)
    try:
        await _prepare(connection, settings)
    finally:
        await connection.close()


async def _prepare(connection: Connection, settings: Settings) -> None:
    await connection.check(is_broker=settings.broker_is_store)
    await Durability(connection, settings).check()
    await take_over(connection)
    await FileCounts(connection).count_first()


def _file_limits(settings: Settings) -> FileLimits:
    return FileLimits(
        files=settings.max_files,
        files_of_owner=settings.key_files,
        stored_bytes=settings.max_stored_bytes,
        bytes_of_owner=settings.key_stored_bytes,
    )
