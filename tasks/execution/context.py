"""What every runner of this process works with."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tasks.execution.descent import Descent
from tasks.execution.exclusive import Exclusive
from tasks.execution.room import Room
from tasks.execution.stream_log import StreamLogs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tasks.broker.publisher import Publisher
    from tasks.drain import Drain
    from tasks.recovery.leases import Leases
    from tasks.store import Store
    from tasks.store.retrying import Retrying
    from tasks.telemetry.observer import Observer
    from tasks.tiers.answerer import Answerer


LARGE_BODIES = 32 * 1024 * 1024  # bytes of large bodies that a process holds at once, of each room


@dataclass(frozen=True, slots=True)
class Context:
    """The parts of one worker process."""

    store: Store
    publisher: Publisher
    answerer: Answerer
    leases: Leases
    drain: Drain
    retrying: Retrying
    observer: Observer
    room: Room = field(default_factory=lambda: Room(LARGE_BODIES))
    # Of jobs at the last tier, each a moment: none stands behind calls that last.
    last_room: Room = field(default_factory=lambda: Room(LARGE_BODIES))
    descent: Descent = field(init=False)
    streams: StreamLogs = field(init=False)
    phases: Exclusive = field(default_factory=Exclusive)
    _suspects: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        """Have nobody wait for room once the drain has started: his job is handed back."""
        object.__setattr__(self, "descent", Descent(self.store))
        object.__setattr__(self, "streams", StreamLogs(self.store, self.retrying))
        for room in (self.room, self.last_room):
            self.drain.at_start(room.close)

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Be the one at work of all that may be poison, and beside no phase of a batch.

        A worker's death is laid on whoever is noted, so nobody else is to be what it dies of. Of
        fresh jobs this cannot be said: they would wait for a model's whole call. Phases wait, for a
        while; and who only waits for his turn keeps none of them waiting.
        """
        async with self._suspects, self.phases.alone():
            yield

    def room_at(self, tier: str) -> Room:
        """Return where the large bodies of jobs at a tier are."""
        return self.last_room if tier == "cache" else self.room
