"""What a run of chaos came to: one line of a result file, and a table of many."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

RESULTS = Path("docs/results/chaos.jsonl")
HEAD = (
    *("fault", "times", "in flight", "accepted", "lost", "seen twice", "ran twice", "overlapping"),
    *("answers again", "all final", "machine stalled"),
)


@dataclass
class Tally:
    """What one kind of fault came to. in_flight, accepted: answers that were owed."""

    times: int = 0
    in_flight: int = 0
    accepted: int = 0
    lost: int = 0
    seen_twice: int = 0
    ran_twice: int = 0
    overlapping: int = 0
    stalled: int = 0  # times that the machine itself stood still meanwhile
    probe_seconds: list[float] = field(default_factory=list)
    final_seconds: list[float] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass
class Result:
    """A run."""

    seed: int
    broker: str
    commit: str
    began: str
    minutes: float
    faults: dict[str, Tally]
    problems: list[str]
    jobs: int
    lines: int
    chats: int
    left_out: list[str] = field(default_factory=list)

    def append_to(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps(asdict(self)) + "\n")


def read(path: Path, commits: set[str] | None = None) -> list[Result]:
    """Return the runs in a result file; of these commits alone, if any are named."""
    results = []
    for text in path.read_text().splitlines():
        fields: dict[str, Any] = json.loads(text)
        fields["faults"] = {name: Tally(**tally) for name, tally in fields["faults"].items()}
        result = Result(**fields)
        if commits is None or result.commit.rstrip("+") in commits:
            results.append(result)
    return results


def table(results: Iterable[Result]) -> str:
    """Return a Markdown table for each broker: its faults, over all these runs."""
    by_broker: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        by_broker[result.broker].append(result)
    return "\n\n".join(_table(broker, runs) for broker, runs in sorted(by_broker.items()))


def _table(broker: str, runs: list[Result]) -> str:
    tallies: dict[str, Tally] = defaultdict(Tally)
    for run in runs:
        for name, tally in run.faults.items():
            tallies[name].add(tally)
            tallies["all"].add(tally)
    every = tallies.pop("all", Tally())
    rows = [HEAD, *(_row(name, tallies[name]) for name in sorted(tallies)), _row("**all**", every)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---" * len(HEAD) + "|")
    commits = ", ".join(sorted({run.commit for run in runs}))
    seeds = ", ".join(str(seed) for seed in sorted({run.seed for run in runs}))
    jobs, lines_, chats = (sum(getattr(run, n) for run in runs) for n in ("jobs", "lines", "chats"))
    problems = sum(len(run.problems) for run in runs)
    about = (
        f"On {broker}: {every.times:,} faults, {jobs:,} jobs, {lines_:,} lines, {chats:,} chats; "
        f"{problems} broken promises. Commits {commits}; seeds {seeds}."
    )
    return "\n".join([about, "", *lines])


def _row(name: str, tally: Tally) -> tuple[str, ...]:
    at_stake = tally.in_flight + tally.accepted
    # The rule of three: none of n was lost, so with 95 % confidence less than 3 of n are.
    bound = f" (< {3 / at_stake:.2g})" if at_stake and not tally.lost else ""
    return (
        *(name, f"{tally.times:,}", f"{tally.in_flight:,}", f"{tally.accepted:,}"),
        *(f"{tally.lost}{bound}", f"{tally.seen_twice}", f"{tally.ran_twice}"),
        *(f"{tally.overlapping}", _seconds(tally.probe_seconds), _seconds(tally.final_seconds)),
        f"{tally.stalled}",
    )


def _seconds(values: list[float]) -> str:
    return f"{statistics.median(values):.1f}, {max(values):.1f}" if values else "-"


def commit() -> str:
    """Return the commit that runs; with a plus, if files differ from it."""
    head = _git("rev-parse", "--short", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", f":!{RESULTS}")
    return f"{head}+" if changed else head


def commits_since(first: str) -> set[str]:
    """Return the short names of a commit and of those after it."""
    return set(_git("log", "--format=%h", f"{first}^..HEAD").split())


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)  # noqa: S607
    return done.stdout.strip()
