"""What every runner of this process works with."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tasks.execution.descent import Descent
from tasks.execution.room import Room
from tasks.execution.stream_log import StreamLogs

if TYPE_CHECKING:
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
    alone: asyncio.Lock = field(default_factory=asyncio.Lock)  # of jobs that may be poison

    def __post_init__(self) -> None:
        """Have nobody wait for room once the drain has started: his job is handed back."""
        object.__setattr__(self, "descent", Descent(self.store))
        object.__setattr__(self, "streams", StreamLogs(self.store, self.retrying))
        for room in (self.room, self.last_room):
            self.drain.at_start(room.close)

    def room_at(self, tier: str) -> Room:
        """Return where the large bodies of jobs at a tier are."""
        return self.last_room if tier == "cache" else self.room
