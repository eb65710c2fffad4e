"""Mutants of the breaker's scripts: as of the store's, and bounds moved by one, values not set."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import TYPE_CHECKING

from circuit_breaker.stores import Script, assembled
from mutation.scripts import Mutant, mutants_of
from mutation.scripts import others as others_of_any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

BOUND = re.compile(r" (<=|>=|<|>) ")
OTHER_BOUND = {"<": "<=", "<=": "<", ">": ">=", ">=": ">"}
ASSIGNMENT = re.compile(r"^\s*[a-z_]+(, [a-z_]+)* = .+$")
CALL = re.compile(r"^\s*(?:enter|trip|clear|save|publish|count_call)\(.*\)$")
GUARDED = re.compile(r"^(\s*if .+ then )([a-z_]+ = .+|trip\(\))( end)$")


def texts() -> dict[str, str]:
    """Return the scripts' files by name."""
    folder = files("circuit_breaker") / "lua"
    return {entry.name: entry.read_text() for entry in folder.iterdir()}


def scripts_of(mutant: Mutant) -> Mapping[str, Script]:
    """Return the scripts, one or all of which a mutant makes other ones."""
    lines = texts()[mutant.file].split("\n")
    lines[mutant.number - 1] = mutant.text
    return assembled({**texts(), mutant.file: "\n".join(lines)})


def mutants() -> list[Mutant]:
    """Return all of them, in the files' order."""
    return mutants_of(texts(), _others)


def _others(line: str) -> Iterator[str]:
    yield from others_of_any(line)
    for bound in BOUND.finditer(line):
        yield line[: bound.start(1)] + OTHER_BOUND[bound[1]] + line[bound.end(1) :]
    guarded = GUARDED.match(line)
    if guarded:
        yield f"{guarded[1]}{guarded[3].lstrip()}"
    # A table that goes on in the next line is not taken apart.
    whole = line.count("(") == line.count(")") and line.count("{") == line.count("}")
    if whole and not line.endswith(",") and (ASSIGNMENT.match(line) or CALL.match(line)):
        yield ""
