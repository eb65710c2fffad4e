"""What every runner of this process works with."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.broker.publisher import Publisher
    from tasks.drain import Drain
    from tasks.recovery.leases import Leases
    from tasks.store import Store
    from tasks.store.retrying import Retrying
    from tasks.telemetry.observer import Observer
    from tasks.tiers.answerer import Answerer


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
    alone: asyncio.Lock = field(default_factory=asyncio.Lock)  # of jobs that may be poison
