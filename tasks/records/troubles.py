"""What keeps a tier from answering, though its breaker may be closed. Pure.

A model that the tier does not have fits no request: each goes on to the next tier, and no breaker
opens. So the fleet keeps, for each server of a tier, what its tries came to since it answered last.
A server has its breaker's name: max_gpu is the GPU tier's only one, or the first of several.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from fallback_chain import LACKS, NO_SUCH_MODEL, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FEWEST_TRIES = 3  # without an answer, of a tier that is called silent
# Tries that say nothing for or against the tier: the caller's own end, or his own fault.
NEUTRAL = frozenset({Verdict.CANCELLED, Verdict.REFUSED, Verdict.NOT_CONFIGURED, Verdict.LOST})
NOT_CALLED = frozenset({Verdict.REJECTED, Verdict.NO_PERMIT})


class Trouble(StrEnum):
    """A kind of trouble. The value is a metric's label."""

    NO_SUCH_MODEL = "no_such_model"
    MISCONFIGURED = "misconfigured"
    SILENT = "silent"


WORDS = {
    Trouble.NO_SUCH_MODEL: "does not have the model that it is asked for",
    Trouble.MISCONFIGURED: "refuses our key or path",
    Trouble.SILENT: "answers nothing while others answer",
}


def trouble_of(verdict: Verdict, detail: str) -> Trouble | None:
    """Return the trouble that one try shows by itself; None: it shows none."""
    if verdict is Verdict.MISCONFIGURED:
        return Trouble.MISCONFIGURED
    if verdict is Verdict.UNFIT and detail.endswith(NO_SUCH_MODEL):
        return Trouble.NO_SUCH_MODEL
    return None


def is_unanswered(verdict: Verdict, detail: str) -> bool:
    """Say whether a try counts for a tier's silence. Of what a tier declares to lack, none does."""
    lacking = verdict is Verdict.UNFIT and detail.startswith(LACKS)
    return verdict is not Verdict.ANSWERED and verdict not in NEUTRAL and not lacking


class TierReport(msgspec.Struct):
    """What one process saw of a tier since its last report.

    answered: it did, before all else here. unanswered: tries since then; last: what the last one
    that was called came to, "verdict: detail". trouble, reason, times: as the tries show it.
    """

    answered: bool = False
    unanswered: int = 0
    last: str = ""
    trouble: str = ""
    reason: str = ""
    times: int = 0

    def add(self, verdict: Verdict, detail: str) -> None:
        """Note a try."""
        if verdict is Verdict.ANSWERED:
            self.answered = True
            self.unanswered, self.last = 0, ""
            self.trouble, self.reason, self.times = "", "", 0
        elif is_unanswered(verdict, detail):
            self.unanswered += 1
            if verdict not in NOT_CALLED:
                self.last = f"{verdict.value}: {detail}" if detail else verdict.value
            self._note(trouble_of(verdict, detail), detail)

    def _note(self, trouble: Trouble | None, reason: str) -> None:
        if trouble is not None:
            self.times = self.times + 1 if trouble == self.trouble else 1
            self.trouble, self.reason = trouble.value, reason


class TierHealth(NamedTuple):
    """What the fleet knows of a tier. Times: epoch seconds; 0: never.

    since: of the first try without an answer after the last answer; asked: of the last one.
    first_seen, last_seen, times: of the trouble; "": none.
    """

    answered: float = 0.0
    since: float = 0.0
    asked: float = 0.0
    unanswered: int = 0
    last: str = ""
    host: str = ""
    trouble: str = ""
    reason: str = ""
    first_seen: float = 0.0
    last_seen: float = 0.0
    times: int = 0


class Unanswered(msgspec.Struct, frozen=True):
    """What the tries at a server came to since its last answer. since: epoch seconds.

    last: what the last one that was called came to, "verdict: detail"; no words of the server's.
    """

    host: str
    last: str
    since: float


class SeenTrouble(msgspec.Struct, frozen=True):
    """A tier's trouble as it is told. Times: epoch seconds. reason: no words of the server's."""

    trouble: Trouble
    host: str
    reason: str
    first_seen: float
    last_seen: float
    count: int

    @property
    def words(self) -> str:
        """The trouble as a sentence's end."""
        return f"{WORDS[self.trouble]} ({self.reason})"


def unanswered_of(health: TierHealth) -> Unanswered | None:
    """Return what the tries at a server came to since its last answer; None: none was called."""
    return Unanswered(health.host, health.last, health.since) if health.last else None


def troubles_of(
    healths: Mapping[str, TierHealth], now: float, silent_seconds: float
) -> dict[str, list[SeenTrouble]]:
    """Return each server's troubles: the one that its tries show, and whether it is silent.

    healths: of all servers, by their breakers' names. Silent: asked for so long, and until now,
    without an answer, while another gave one.
    """
    troubles: dict[str, list[SeenTrouble]] = {}
    for name, health in healths.items():
        others = (other for another, other in healths.items() if another != name)
        troubles[name] = [*_shown(health), *_silent(health, others, now, silent_seconds)]
    return troubles


def _shown(health: TierHealth) -> list[SeenTrouble]:
    if not health.trouble:
        return []
    return [
        SeenTrouble(
            Trouble(health.trouble),
            health.host,
            health.reason,
            health.first_seen,
            health.last_seen,
            health.times,
        )
    ]


def _silent(
    health: TierHealth, others: Iterable[TierHealth], now: float, silent_seconds: float
) -> list[SeenTrouble]:
    lasts = health.asked - health.since >= silent_seconds
    is_asked = health.unanswered >= FEWEST_TRIES and health.asked > now - silent_seconds
    if not (is_asked and lasts and any(o.answered > now - silent_seconds for o in others)):
        return []
    reason = health.last or "never called"
    return [
        SeenTrouble(
            Trouble.SILENT, health.host, reason, health.since, health.asked, health.unanswered
        )
    ]
