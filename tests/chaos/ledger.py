"""What was accepted, what was seen of it, and how often it ran."""

from __future__ import annotations

import itertools
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass
class Accepted:
    """A job or a batch that was promised. prompts: a job's one, or those of a batch's lines."""

    what: str  # "job" or "batch"
    id: str
    prompts: tuple[str, ...]
    at: float = field(default_factory=time.monotonic)
    final_at: float | None = None
    result: Any = None  # what was seen when it was final
    shown: Any = None  # all that was told of it then
    streams: bool = False  # its answer is followed as it comes


@dataclass
class Run:
    """A call that reached a model server."""

    prompt: str
    start: float
    end: float = float("inf")
    tier: str = ""


@dataclass
class Ledger:
    """Both sides of a run of chaos. problems: sentences, each of which is a broken promise."""

    accepted: dict[str, Accepted] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    changed: set[str] = field(default_factory=set)  # ids of which two results were seen
    given_up: Counter[str] = field(default_factory=Counter)  # creates that no retry brought through
    chats: int = 0  # that were answered
    longest_chat: float = 0.0  # seconds
    open_chats: int = 0
    streams: int = 0  # that were read to their end
    interrupted: int = 0  # jobs whose answer broke off after its first words

    def accept(self, what: str, name: str, prompts: Iterable[str]) -> Accepted:
        """Note what was promised; a retry of a create may be told of the same once more."""
        return self.accepted.setdefault(name, Accepted(what, name, tuple(prompts)))

    def see(self, item: Accepted, result: Any) -> None:
        """Note a final result; another one than before is a broken promise."""
        if item.final_at is None:
            item.final_at, item.result = time.monotonic(), result
        elif item.result != result and item.id not in self.changed:
            self.changed.add(item.id)
            self.problem(f"{item.id} was seen as {item.result!r}, and then as {result!r}")

    def problem(self, sentence: str) -> None:
        self.problems.append(sentence)

    def unfinished(self) -> list[Accepted]:
        return [item for item in self.accepted.values() if item.final_at is None]

    def accepted_between(self, begin: float, end: float) -> list[Accepted]:
        return [item for item in self.accepted.values() if begin <= item.at < end]

    def repeats(self, prompts: Iterable[str]) -> list[list[Run]]:
        """Return the runs, in order, of each of these prompts that ran more than once."""
        wanted = set(prompts)
        runs_of: dict[str, list[Run]] = defaultdict(list)
        for run in self.runs:
            if run.prompt in wanted:
                runs_of[run.prompt].append(run)
        return [sorted(runs, key=_start) for runs in runs_of.values() if len(runs) > 1]


def _start(run: Run) -> float:
    return run.start


def overlap(runs: list[Run]) -> bool:
    """Whether two of these runs of a prompt, in order, took place at one time."""
    return any(later.start < earlier.end for earlier, later in itertools.pairwise(runs))


def lines_of(items: Iterable[Accepted]) -> int:
    """Return how many answers these are to have."""
    return sum(len(item.prompts) for item in items)
