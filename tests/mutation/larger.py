"""What `./run prove fleet walks file` runs: tests that `./run test` has in small."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import NamedTuple

from simulation.command import ROOT


class Larger(NamedTuple):
    """Tests, and the variable that says how much of it there is."""

    variable: str
    amount: int
    arguments: tuple[str, ...]


STORE = "tests/integration/tasks/store"
KINDS = {
    # Worker processes.
    "fleet": Larger("FLEET_WORKERS", 20, ("tests/integration/test_fleet_outage.py",)),
    # Walks over the tables of transitions, and over the breaker's machine: so many times as many.
    "walks": Larger(
        "WALKS",
        10,
        (
            *(f"{STORE}/test_{name}_transitions.py" for name in ("job", "batch")),
            "tests/integration/circuit_breaker/test_breaker_scripts.py",
            *("-k", "whatever or mirror or just_ends", "--timeout", "3600"),
        ),
    ),
    # Lines of a batch.
    "file": Larger(
        "BATCH_LINES",
        50_000,  # the most that a batch has
        ("tests/integration/test_batches_survive.py", "-k", "an_outage_of", "--timeout", "3600"),
    ),
}


def run(kind: str) -> int:
    """Run the tests, which tell their figures; return 1 if one fails."""
    larger = KINDS[kind]
    command = [sys.executable, "-m", "pytest", *larger.arguments, "-q", "-s"]
    environ = {**os.environ, larger.variable: str(larger.amount)}
    return int(subprocess.run(command, cwd=ROOT, env=environ, check=False).returncode != 0)
