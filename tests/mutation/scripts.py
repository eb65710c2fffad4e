"""Mutants of the store's scripts: each guard turned, each condition dropped, each write left out.

A mutant that no simulation and no test of the store kills is either a hole in them, or changes
nothing that anybody could see: `equivalents` says why.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

from tasks.store.connection import load_scripts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

IF = re.compile(r"^(\s*)(if|elseif) (.+) then\b")
RETURN = re.compile(r"^(\s*return )(.+ (?:and|or) .+)$")
LOCAL = re.compile(r"^(\s*local \w+ = )(.+ (?:and|or) .+)$")
STATEMENT = re.compile(
    r"^\s*(?:redis\.p?call|drop_unit|unlist|dispatch|finish|start|hold|lease|add|release_bytes"
    r"|count_file|uncount_file)\(.*$"
)
ENDING = re.compile(r"^(.* then )(redis\.call\(.*\)|finish\(.*\))( end)$")


@dataclass(frozen=True)
class Mutant:
    """A line of a script's file that is another one. number: from 1."""

    file: str
    number: int
    was: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.file}:{self.number}: {self.text.strip() or '(nothing)'}"

    @property
    def key(self) -> tuple[str, str, str]:
        """What names it, wherever its line lies now."""
        return self.file, self.was.strip(), self.text.strip()

    def scripts(self) -> dict[str, str]:
        """Return the scripts that are other ones, by name: the whole text of each."""
        original = texts()[self.file]
        lines = original.split("\n")
        lines[self.number - 1] = self.text
        mutated = "\n".join(lines)
        changed = {}
        for name, script in load_scripts().items():
            shared = self.file.startswith("_")
            if shared or self.file == f"{name}.lua":
                changed[name] = script.source.replace(original, mutated)
        return changed


def texts() -> dict[str, str]:
    """Return the scripts' files by name."""
    folder = files("tasks.store") / "lua"
    return {entry.name: entry.read_text() for entry in folder.iterdir()}


def mutants() -> list[Mutant]:
    """Return all of them, in the files' order."""
    return mutants_of(texts(), others)


def mutants_of(
    sources: Mapping[str, str], others_of: Callable[[str], Iterator[str]]
) -> list[Mutant]:
    """Return the mutants of some files by name. others_of: what a line may be instead."""
    found: dict[tuple[str, int, str], Mutant] = {}
    for file, text in sorted(sources.items()):
        for number, line in enumerate(text.split("\n"), 1):
            if line.lstrip().startswith("--"):
                continue
            for other in others_of(line):
                if other != line:
                    found[file, number, other] = Mutant(file, number, line, other)
    return list(found.values())


def others(line: str) -> Iterator[str]:
    """Yield what a line may be instead."""
    guard = IF.match(line)
    if guard:
        rest = line[guard.end() :]
        for condition in ("true", "false", *_dropped(guard[3])):
            yield f"{guard[1]}{guard[2]} {condition} then{rest}"
    ended = ENDING.match(line)
    if ended:
        yield f"{ended[1]}{ended[3]}"
    for pattern in (RETURN, LOCAL):
        clause = pattern.match(line)
        if clause:
            for value in _dropped(clause[2]):
                yield f"{clause[1]}{value}"
    if STATEMENT.match(line) and line.count("(") == line.count(")"):
        yield ""


def _dropped(condition: str) -> list[str]:
    """Return a condition without one of its parts, each in turn."""
    for word in (" or ", " and "):
        parts = _split(condition, word)
        if len(parts) > 1:
            return [word.join(parts[:i] + parts[i + 1 :]) for i in range(len(parts))]
    return []


def _split(condition: str, word: str) -> list[str]:
    """Split a condition where a word stands outside of all brackets."""
    parts, depth, start = [], 0, 0
    for i, character in enumerate(condition):
        depth += (character in "({[") - (character in ")}]")
        if not depth and condition.startswith(word, i):
            parts.append(condition[start:i])
            start = i + len(word)
    return [*parts, condition[start:]]
