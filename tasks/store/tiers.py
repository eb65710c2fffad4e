"""What the fleet knows of its model servers besides their breakers: who answers, who cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.records.troubles import TierHealth
from tasks.store import keyspace

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tasks.records.troubles import TierReport
    from tasks.store.connection import Connection

HEALTH_SECONDS = 3600  # for how long after its last try a tier's record is kept
SAY_SECONDS = 60  # between two times that the fleet's logs say the same


class TierStore:
    """The records of the model servers, by the names of their breakers."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def note(
        self, reports: Mapping[str, TierReport], hosts: Mapping[str, str]
    ) -> dict[str, TierHealth]:
        """Note what a process saw of servers; return what the fleet knows of them now.

        hosts: of the same, as they may be shown.
        """
        arguments: list[Any] = []
        for tier, seen in reports.items():
            arguments += [tier, hosts[tier], int(seen.answered), seen.unanswered, seen.last]
            arguments += [seen.trouble, seen.reason, seen.times]
        keys = map(keyspace.tier, reports)
        found = await self._connection.run("note_tiers", keys, HEALTH_SECONDS * 1000, *arguments)
        pairs = (dict(zip(each[::2], each[1::2], strict=True)) for each in found)
        return dict(zip(reports, map(_health, pairs), strict=True))

    async def healths(self, tiers: Iterable[str]) -> dict[str, TierHealth]:
        """Return what the fleet knows of these tiers."""
        names = list(tiers)
        found = await self._connection.commands(("HGETALL", keyspace.tier(name)) for name in names)
        return dict(zip(names, map(_health, found), strict=True))

    async def may_say(self, tier: str, what: str) -> bool:
        """Whether the caller is to say this of a tier: once a minute one of the fleet is."""
        key = keyspace.said(tier, what)
        return bool(await self._connection.command("SET", key, 1, "NX", "EX", SAY_SECONDS))

    async def now(self) -> float:
        """Return the time (epoch s) by the clock of these records."""
        return await self._connection.server_time()


def _health(raw: Mapping[bytes, bytes]) -> TierHealth:
    fields = {name.decode(): text.decode() for name, text in raw.items()}

    def seconds(name: str) -> float:
        return int(fields.get(name, 0)) / 1000

    return TierHealth(
        answered=seconds("answered_ms"),
        since=seconds("since_ms"),
        asked=seconds("asked_ms"),
        unanswered=int(fields.get("unanswered", 0)),
        last=fields.get("last", ""),
        host=fields.get("host", ""),
        trouble=fields.get("trouble", ""),
        reason=fields.get("reason", ""),
        first_seen=seconds("first_ms"),
        last_seen=seconds("last_ms"),
        times=int(fields.get("times", 0)),
    )
