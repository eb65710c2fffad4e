"""What `./run prove fleet` runs: the tests of a fleet's outage, with more processes than usual."""

from __future__ import annotations

import os
import subprocess
import sys

from simulation.command import ROOT

KINDS = {"fleet": 20}  # worker processes
TESTS = "tests/integration/test_fleet_outage.py"


def run(kind: str) -> int:
    """Run the tests, which tell their figures; return 1 if one fails."""
    return int(
        subprocess.run(
            [sys.executable, "-m", "pytest", TESTS, "-q", "-s"],
            cwd=ROOT,
            env={**os.environ, "FLEET_WORKERS": str(KINDS[kind])},
            check=False,
        ).returncode
        != 0
    )
