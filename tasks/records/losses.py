"""Whether a job, or a phase of a batch, is what its workers die of. Pure.

A worker that dies takes with it all that it had begun, so a job that was lost may be innocent. One
that was lost twice at a tier goes on to the next, and from then on it is called alone: no other
such job of its process is called meanwhile, and it is noted before. Whoever was noted when the
worker died is guilty; who only waited for his turn is not blamed. A phase has no next tier: it
runs at its own, without any other phase of its process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fallback_chain import Attempt, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ALONE = "alone"  # detail of the loss of a job that was noted
DEFECT = "defect"  # detail of a failure that is ours: it broke off, and its worker lives
MOST_LOSSES = 3  # of workers, or of tries that broke off, by one job
SUSPICIOUS = 2  # losses after which a job is called alone


def lost(tier: str, detail: str = "") -> Attempt:
    """Return the try of a job whose worker was lost."""
    return Attempt(tier, Verdict.LOST, 0.0, detail)


def broke_off(tier: str) -> Attempt:
    """Return the try of a job that broke off by a defect of ours."""
    return Attempt(tier, Verdict.FAILURE, 0.0, DEFECT)


def is_poison(attempts: Sequence[Attempt]) -> bool:
    """Whether nobody should try it again."""
    proven = sum(attempt.detail == ALONE for attempt in _losses(attempts))
    broken = sum(attempt.detail == DEFECT for attempt in _losses(attempts))
    together = len(_losses(attempts))
    return proven >= SUSPICIOUS or (together >= MOST_LOSSES and proven + broken > 0)


def is_suspect(attempts: Sequence[Attempt]) -> bool:
    """Whether it is to be called alone."""
    losses = [a for a in attempts if a.verdict is Verdict.LOST]
    return len(losses) >= SUSPICIOUS or any(a.detail == ALONE for a in losses)


def leaves_tier(attempts: Sequence[Attempt], tier: str) -> bool:
    """Whether this tier has been tried enough, if there is another."""
    here = [a for a in attempts if a.verdict is Verdict.LOST and a.tier == tier]
    return len(here) >= SUSPICIOUS or any(a.detail == ALONE for a in here)


def _losses(attempts: Iterable[Attempt]) -> list[Attempt]:
    return [a for a in attempts if a.verdict is Verdict.LOST or a.detail == DEFECT]
