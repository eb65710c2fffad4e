"""What tries here show of their tiers, told to the fleet; and what the log says of it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from tasks.errors import StoreUnavailable
from tasks.records.troubles import TierReport, Trouble, troubles_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tasks.records.troubles import SeenTrouble, TierHealth
    from tasks.store.tiers import TierStore

REPORT_SECONDS = 1.0  # between two reports
WELL = "answers again"
FAILURE = "failure"  # begins what a try came to that counts against its server

log = logging.getLogger(__name__)


class TroubleWatch:
    """Reports tries once a second at most, and says which servers are in trouble.

    A change is said at once, and what lasts once a minute, by one process of the fleet.
    """

    def __init__(self, store: TierStore, hosts: Mapping[str, str], silent_seconds: float) -> None:
        """hosts: of the servers of model tiers, by their breakers, as they may be shown."""
        self._store, self._hosts, self._silent_seconds = store, hosts, silent_seconds
        self._known: dict[str, list[SeenTrouble]] = {}
        self._failing: set[str] = set()

    async def keep(self, take_reports: Callable[[], Mapping[str, TierReport]]) -> None:
        """Report what there is; run until cancelled. take_reports: returns it, and forgets it."""
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            await self.report(take_reports())

    async def report(self, reports: Mapping[str, TierReport]) -> None:
        """Note these for the fleet. While the store is away they are lost: others will follow."""
        if not reports:
            return
        # All servers, as it takes another's answer to call one silent.
        whole = {name: reports.get(name) or TierReport() for name in self._hosts}
        try:
            healths = await self._store.note(whole, self._hosts)
            now = max(max(health.answered, health.asked) for health in healths.values())
            await self._say_failures(healths)
            await self._say(troubles_of(healths, now, self._silent_seconds))
        except StoreUnavailable as error:
            log.debug("tries were not told to the fleet: %s", error)

    async def _say_failures(self, healths: Mapping[str, TierHealth]) -> None:
        """Say of a server that answered until now why it does not: what opens its breaker."""
        failing = {name for name, health in healths.items() if health.last.startswith(FAILURE)}
        begun, self._failing = failing - self._failing, failing
        for name in begun:
            if await self._store.may_say(name, FAILURE):
                self._log(logging.WARNING, name, f"does not answer ({healths[name].last})")

    async def _say(self, troubles: Mapping[str, list[SeenTrouble]]) -> None:
        known, self._known = self._known, dict(troubles)
        for name, seen in troubles.items():
            for trouble in seen:
                if await self._store.may_say(name, trouble.trouble.value):
                    is_silence = trouble.trouble is Trouble.SILENT
                    level = logging.WARNING if is_silence else logging.ERROR
                    self._log(level, name, trouble.words)
            if known.get(name) and not seen and await self._store.may_say(name, WELL):
                self._log(logging.WARNING, name, WELL)

    def _log(self, level: int, name: str, words: str) -> None:
        log.log(level, "%s at %s %s", name, self._hosts[name], words)
