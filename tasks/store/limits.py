"""How many at once, in the whole fleet: leased semaphores, so that a crash frees what it held.

And how many may be unfinished; the scripts that record them count what their indexes hold.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

from tasks.errors import StoreUnavailable, TooManyFiles, TooManyQueued
from tasks.records.jobs import new_token
from tasks.store import keyspace

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tasks.settings import Settings
    from tasks.store.connection import Connection


class QueueLimits(NamedTuple):
    """How many jobs, or batches, may be unfinished: of all owners, and of one; 0: any number.

    most_bytes, bytes_of_owner: the same, of the bytes of their bodies.
    """

    what: str
    most: int
    of_owner: int
    most_bytes: int = 0
    bytes_of_owner: int = 0

    def exceeded(self, limit: bytes) -> TooManyQueued:
        """Return the error for a limit as create_jobs.lua, or create_batch.lua, names it."""
        takes, may_have = "the service takes", "this key's owner may have"
        message = {
            b"all": f"{takes} {self.most} unfinished {self.what} at once",
            b"owner": f"{may_have} {self.of_owner} unfinished {self.what}",
            b"bytes": f"{takes} {self.most_bytes} bytes of unfinished {self.what} at once",
            b"owner_bytes": f"{may_have} {self.bytes_of_owner} bytes of unfinished {self.what}",
        }[limit]
        return TooManyQueued(f"{message}; try again when some have ended")


class FileLimits(NamedTuple):
    """How many files may be kept, and how many bytes of them; 0: any number.

    The order is that of files_full in lua/_files.lua.
    """

    files: int
    files_of_owner: int
    stored_bytes: int
    bytes_of_owner: int

    def exceeded(self, limit: bytes, there: int) -> TooManyFiles:
        """Return the error for a limit as files_full names it; there: how much is kept."""
        keeps, may_keep = "the service keeps", "this key's owner may keep"
        message = {
            b"files": f"{keeps} {self.files} files at most, and has {there}",
            b"owner_files": f"{may_keep} {self.files_of_owner} files, and has {there}",
            b"bytes": f"{keeps} {self.stored_bytes} bytes of files at most, and has {there}",
            b"owner_bytes": f"{may_keep} {self.bytes_of_owner} bytes of files, and has {there}",
        }[limit]
        return TooManyFiles(f"{message}: delete files, or upload them with an expires_after")


class Admission(NamedTuple):
    """What became of a request for leave to run.

    token: what it is released with. full: the limit that is reached, "rate" or "concurrency", or
    "" if the request may run.
    """

    token: str
    remaining: int  # requests of this minute
    reset_seconds: float  # until the minute is over
    full: str


class Share(NamedTuple):
    """Whose slots at a tier, and between which bounds their number adapts.

    reserved: of a batch's calls: how many they leave to others, and a tenth at least; 0: of others.
    """

    tier: str
    lowest: int
    highest: int
    reserved: int = 0


class Load(NamedTuple):
    """What a call told of its server. how: well, busy, slow, or none: nothing."""

    how: str = "none"
    milliseconds: float = 0.0


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

    # The same, where the limit adapts to what the tier's server bears

    async def take_share(self, share: Share, part: float, token: str) -> tuple[bool, int]:
        """Take a slot of a tier; return whether one was free, and the limit now.

        part: of what the asker might have of that; one at least.
        """
        tier, lowest, highest, reserved = share
        taken, limit = await self._connection.run(
            "take_share",
            [keyspace.slots(tier), keyspace.limit(tier)],
            *(tier, self._lease_ms, token, lowest, highest, reserved, part),
        )
        return bool(taken), int(limit)

    async def return_share(self, share: Share, token: str, load: Load) -> int:
        """Give a slot back, and say how its call was; return the limit now."""
        tier, lowest, highest, _ = share
        limit = await self._connection.run(
            "return_share",
            [keyspace.slots(tier), keyspace.limit(tier)],
            *(tier, token, lowest, highest, load.how, round(load.milliseconds)),
        )
        return int(limit)

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
