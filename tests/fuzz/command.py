"""What `./run prove` runs of this folder: as many of each kind as were promised."""

from __future__ import annotations

import json
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulation.command import ROOT, commit_here

from fuzz import lines, raw, schema
from fuzz.stage import stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from fuzz.stage import Stage

RESULTS = ROOT / "docs/results/fuzz.jsonl"
EXAMPLES, REQUESTS, LINES = 20_000, 5_000, 100_000
MOST_TOLD = 20  # failures


def _document(fleet: Stage, seed: int, of: int) -> tuple[dict[str, Any], list[str]]:
    found = schema.fuzz(fleet.api.url, EXAMPLES // of, seed)
    failures = [f"{where}: {what}" for where, what in found.failures.items()]
    return {"examples": found.examples, "answered": found.statuses()}, failures


def _raw(fleet: Stage, seed: int, of: int) -> tuple[dict[str, Any], list[str]]:
    found = raw.fuzz(fleet, REQUESTS // of, seed)
    figures = {
        "requests": found.requests,
        "answered": found.statuses(),
        "longest_seconds": round(found.longest_seconds, 2),
        "longest_beside_seconds": round(found.longest_beside, 2),
        "grown_mib": round(found.grown_mib, 1),
        "grown_files": found.grown_files,
    }
    return figures, found.failures


def _lines(fleet: Stage, seed: int, of: int) -> tuple[dict[str, Any], list[str]]:
    found = lines.fuzz(fleet, LINES // of, seed)
    figures = {"lines": found.lines, "files": found.files, "ended": dict(found.ended)}
    return figures, found.failures


# A fleet, a seed, and of how many parts this is one -> its figures, and what failed.
KINDS: dict[str, dict[str, Callable[[Stage, int, int], tuple[dict[str, Any], list[str]]]]] = {
    "api": {"requests from the document": _document, "raw requests": _raw},
    "lines": {"mutated lines": _lines},
}


def run(kind: str, seed: int, of: int) -> int:
    """Run one of the kinds, the of-th part of each of its numbers; return how much failed."""
    failed = 0
    for what, fuzz in KINDS[kind].items():
        commit, began = commit_here(), time.monotonic()
        with (
            tempfile.TemporaryDirectory(prefix="fallthrough-fuzz-") as folder,
            stage(Path(folder)) as fleet,
        ):
            figures, failures = fuzz(fleet, seed, of)
            failures = failures + fleet.tracebacks()
        failed += len(failures)
        row = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": commit,
            "what": what,
            "seed": seed,
            "seconds": round(time.monotonic() - began, 1),
            **figures,
            "failed": failures[:MOST_TOLD],
        }
        with RESULTS.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{what}: {figures}, {len(failures)} failed", *failures[:MOST_TOLD], sep="\n")
    return failed
