"""What the fleet did in each minute of the last day: counted where it is finished, and sampled.

Every script that ends a job, or records a line, counts in the hash of its minute. What is not an
event, what waits and how the breakers stand, one of the API processes notes every few seconds;
when it dies another one does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from tasks.store import keyspace
from tasks.store.fleet import percentile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.store.connection import Connection

MOST_MINUTES = 1440  # as long as lua/_jobs.lua keeps them, at least
NOBODY = "-"  # the tier of what nobody answered


class Seconds(msgspec.Struct, frozen=True):
    """How long answering calls took, in seconds: half of them at most p50, 95 % at most p95."""

    p50: float | None
    p95: float | None


class Minute(msgspec.Struct, frozen=True):
    """A minute. at: its beginning (epoch s); queued: None where nobody sampled.

    answers: jobs and lines by the tier that answered; failed: those that ended without an answer.
    """

    at: int
    answers: dict[str, int] = {}
    failed: int = 0
    seconds: dict[str, Seconds] = {}
    queued: int | None = None
    breakers: dict[str, str] = {}


class HistoryStore:
    """The minutes of the last day; the same whoever asks."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def may_sample(self, seconds: float) -> bool:
        """Whether it is the asker who is to sample now: one of all, once in so many seconds."""
        return bool(
            await self._connection.run("take_sample", [keyspace.SAMPLED], int(seconds * 1000))
        )

    async def sample(self, queued: int, breakers: Mapping[str, str]) -> None:
        """Note how many requests wait now, and the state of each breaker."""
        states = [item for breaker in breakers.items() for item in breaker]
        await self._connection.run("note_sample", (), queued, *states)

    async def minutes(self, number: int) -> list[Minute]:
        """Return the last minutes, this one included, oldest first and without a gap."""
        last = int(await self._connection.server_time()) // 60
        wanted = range(last - number + 1, last + 1)
        hashes = await self._connection.commands(
            ("HGETALL", keyspace.history(minute)) for minute in wanted
        )
        return [_minute(at * 60, raw) for at, raw in zip(wanted, hashes, strict=True)]


def _minute(at: int, raw: Mapping[bytes, bytes]) -> Minute:
    answers: dict[str, int] = {}
    times: dict[str, dict[int, int]] = {}
    breakers: dict[str, str] = {}
    failed = 0
    for field, value in raw.items():
        kind, _, name = field.decode().partition(":")
        tier, _, what = name.partition(":")
        if kind == "n" and what == "succeeded" and tier != NOBODY:
            answers[tier] = int(value)
        elif kind == "n":
            failed += int(value)
        elif kind == "t":
            times.setdefault(tier, {})[int(what)] = int(value)
        elif kind == "b":
            breakers[name] = value.decode()
    seconds = {tier: Seconds(_share(of, 0.50), _share(of, 0.95)) for tier, of in times.items()}
    queued = raw.get(b"queued")
    return Minute(at, answers, failed, seconds, int(queued) if queued else None, breakers)


def _share(times: Mapping[int, int], share: float) -> float | None:
    milliseconds = percentile(times, share)
    return None if milliseconds is None else round(milliseconds / 1000, 4)
