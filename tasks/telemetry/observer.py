"""What this process does, told to who listens: its metrics. The base class hears nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fallback_chain import Pace, Tokens, Verdict
    from tasks.records.batches import LineResult


class Observer:
    """Each method is a thing that happened. Times are seconds."""

    def begun(self, tier: str, waited: float) -> None:
        """Tell that a job or a unit was leased, so long after it was dispatched to this tier."""

    def tried(
        self, tier: str, verdict: Verdict, took: float, detail: str = "", endpoint: int = 0
    ) -> None:
        """Tell that a tier, or the cache, was asked. endpoint: which of its servers, from 1."""

    def stream_begun(self, tier: str) -> None:
        """Tell that a tier is asked for an answer that comes in pieces."""

    def stream_ended(self, tier: str, pace: Pace | None) -> None:
        """Tell that this has ended. pace: of one that said something and was not cancelled."""

    def stream_cut(self, tier: str) -> None:
        """Tell that one broke off of which its reader had got a part."""

    def finished(self, tier: str, status: str, age: float, tokens: Tokens) -> None:
        """Tell that a job ended here, so long after it was created."""

    def lines_finished(self, results: Iterable[LineResult]) -> None:
        """Tell that lines of a batch ended here."""

    def published(self, jobs: int) -> None:
        """Tell that a message with so many jobs or units went to the broker."""

    def swept(self, reasons: Iterable[str]) -> None:
        """Tell that a sweep dispatched records again, each for its reason."""
