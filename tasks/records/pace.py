"""How fast a batch's lines are answered: now, and over its time. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SLOT_SECONDS = 5  # as in lua/record_lines.lua, which keeps the last 8 slots
RECENT_SECONDS = 30  # the rate is that of so long, and of the part of a slot before it
LEAST_SECONDS = 1.0  # of a batch that has just begun
MOST_BUCKETS = 120  # of a batch's history; lua/record_lines.lua counts in a fourth of one


class Slot(NamedTuple):
    """Lines that got their results within 5 seconds: number of these seconds since the epoch."""

    number: int
    lines: int

    @classmethod
    def parse(cls, text: str) -> Slot:
        """Read what lua/record_lines.lua wrote."""
        return cls(*(int(part) for part in text.split(":")))


class LinesAt(NamedTuple):
    """When lines got their results (epoch s), and how many."""

    at: int
    lines: int

    @classmethod
    def parse(cls, text: str) -> LinesAt:
        """Read what lua/record_lines.lua wrote."""
        return cls(*(int(part) for part in text.split(":")))


class Bucket(NamedTuple):
    """Lines that were finished in so many seconds from a time on (epoch s)."""

    at: int
    seconds: int
    lines: int


def lines_per_second(slots: Iterable[Slot], began: float, now: float) -> float:
    """Return the rate of the last 30 seconds, or since the beginning if that is later (epoch s)."""
    first = int(now - RECENT_SECONDS) // SLOT_SECONDS
    lines = sum(slot.lines for slot in slots if slot.number >= first)
    since = max(began, first * SLOT_SECONDS)
    return lines / max(now - since, LEAST_SECONDS)


def eta_seconds(left: int, rate: float) -> float | None:
    """Return the seconds until so many lines are answered at a rate; None: nothing moves."""
    if left and not rate:
        return None
    return left / rate if left else 0.0


def history(times: Sequence[LinesAt], began: int, until: int) -> list[Bucket]:
    """Return the lines that got their results over a time (epoch s), in up to 120 equal buckets."""
    span = max(until - began, 0) + 1
    seconds = -(-span // MOST_BUCKETS)
    lines = [0] * -(-span // seconds)
    for each in times:
        place = (each.at - began) // seconds
        lines[min(max(place, 0), len(lines) - 1)] += each.lines
    return [Bucket(began + i * seconds, seconds, number) for i, number in enumerate(lines)]
