"""What a table of transitions is made of, and the diagram that the documentation draws of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable
    from enum import StrEnum


class Transition(NamedTuple):
    """A script takes a record from one status to another if its guard holds.

    source None: there is no record before. target None: there is none after.
    """

    source: StrEnum | None
    target: StrEnum | None
    script: str
    guard: str


def diagram(transitions: Iterable[Transition]) -> str:
    """Return a Mermaid state diagram: an arrow for each pair of statuses, named by its scripts."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for source, target, script, _ in transitions:
        scripts = arrows.setdefault((source or "[*]", target or "[*]"), [])
        if script not in scripts:
            scripts.append(script)
    lines = [f"    {a} --> {b}: {', '.join(scripts)}" for (a, b), scripts in arrows.items()]
    return "\n".join(["stateDiagram-v2", *lines])


def table(transitions: Iterable[Transition]) -> str:
    """Return a Markdown table of the transitions and their guards."""
    rows = [
        f"| {source or '-'} | {target or '-'} | `{script}` | {guard} |"
        for source, target, script, guard in transitions
    ]
    return "\n".join(["| from | to | script | guard |", "|---|---|---|---|", *rows])
