"""How many at once, in the whole fleet: leased semaphores, so that a crash frees what it held.

And how many may be unfinished; the scripts that record them count what their indexes hold.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

from tasks.errors import StoreUnavailable, TooManyQueued
from tasks.records.jobs import new_token
from tasks.store import keyspace

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tasks.settings import Settings
    from tasks.store.connection import Connection


class QueueLimits(NamedTuple):
    """How many jobs, or batches, may be unfinished: of all owners, and of one; 0: any number."""

    what: str
    most: int
    of_owner: int

    def exceeded(self, limit: bytes) -> TooManyQueued:
        """Return the error for the limit that a script names: b"all" or b"owner"."""
        if limit == b"owner":
            message = f"this key's owner may have {self.of_owner} unfinished {self.what}"
        else:
            message = f"the service takes {self.most} unfinished {self.what} at once"
        return TooManyQueued(f"{message}; try again when some have ended")


class Admission(NamedTuple):
    """What became of a request for leave to run.

    token: what it is released with. full: the limit that is reached, "rate" or "concurrency", or
    "" if the request may run.
    """

    token: str
    remaining: int  # requests of this minute
    reset_seconds: float  # until the minute is over
    full: str


class Limits:
    """Calls to a tier, and requests of an owner."""

    def __init__(self, connection: Connection, settings: Settings) -> None:
        self._connection = connection
        self._lease_ms = int(settings.lease_seconds * 1000)

    # Slots: leave to call a tier once

    async def take_slot(self, tier: str, limit: int, token: str) -> bool:
        """Take a slot of a tier; False if all are taken."""
        taken = await self._connection.run(
            "take_slot", [keyspace.slots(tier)], tier, limit, self._lease_ms, token
        )
        return bool(taken)

    async def release_slot(self, tier: str, token: str) -> None:
        """Give a slot back."""
        await self._connection.command("ZREM", keyspace.slots(tier), token)

    async def renew_slots(self, tier: str, tokens: Sequence[str]) -> None:
        """Keep the slots that are still held."""
        semaphores = [keyspace.slots(tier)] * len(tokens)
        await self._connection.run("renew_holds", semaphores, self._lease_ms, 0, *tokens)

    # Requests of an owner

    async def admit(
        self, owner: str, per_minute: int, at_once: int, lease_seconds: float
    ) -> Admission:
        """Ask for leave to run one more request of an owner's; 0: any number."""
        token = new_token()
        _, remaining, reset_ms, full = await self._connection.run(
            "admit_request",
            [keyspace.requests(owner)],
            *(owner, per_minute, at_once, token, int(lease_seconds * 1000)),
        )
        return Admission(token, int(remaining), int(reset_ms) / 1000, full.decode())

    async def renew_requests(
        self, lease_seconds: float, requests: Iterable[tuple[str, str]]
    ) -> None:
        """Say that requests, each (owner, token), still run: a hold that lapsed is taken again."""
        held = list(requests)
        semaphores = [keyspace.requests(owner) for owner, _ in held]
        tokens = (token for _, token in held)
        await self._connection.run("renew_holds", semaphores, int(lease_seconds * 1000), 1, *tokens)

    async def release_request(self, owner: str, token: str) -> None:
        """Say that a request has ended; if the store is away its hold lapses by itself."""
        with contextlib.suppress(StoreUnavailable):
            await self._connection.command("ZREM", keyspace.requests(owner), token)
