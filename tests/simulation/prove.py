"""`./run prove`: every mutant of the store's scripts dies, or stands among the equivalents.

A mutant is run by the simulation, seed after seed, and then by the store's tests.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from simulation.command import stay_on_one_core, valkey
from simulation.equivalents import EQUIVALENT
from simulation.mutants import Mutant, mutants
from simulation.store import Server
from simulation.world import Plan, simulate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[2]
CODE = ("api", "circuit_breaker", "cli", "fallback_chain", "tasks", "tests", "workers")
STORE_TESTS = ("jobs", "limits", "files", "scripts", "job_transitions", "batch_transitions")
TEST_SECONDS = 200
SEEDS = 150


@contextlib.contextmanager
def copy_of_the_code() -> Iterator[Path]:
    """Copy the packages and their tests; yield where to."""
    with tempfile.TemporaryDirectory(prefix="fallthrough-mutants-") as folder:
        for name in CODE:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, Path(folder) / name, ignore=ignored)
        shutil.copy(ROOT / "pyproject.toml", folder)
        yield Path(folder)


def killing_seed(mutant: Mutant, path: str, plans: Sequence[Plan]) -> str | None:
    """Return what the simulation says of a mutant; None if it says nothing."""
    try:
        server = Server(path, mutant.scripts())
    except Exception as error:
        return f"no script: {error}"
    with contextlib.closing(server):
        for plan in plans:
            violations = simulate(plan, server).violations
            if violations:
                return f"seed {plan.seed}: {violations[0]}"
    return None


def killing_test(mutant: Mutant, folder: Path) -> str | None:
    """Return the test of the store that a mutant fails; None if it passes all."""
    file = folder / "tasks" / "store" / "lua" / mutant.file
    original = file.read_text()
    lines = original.split("\n")
    lines[mutant.number - 1] = mutant.text
    file.write_text("\n".join(lines))
    tests = [f"tests/integration/tasks/store/test_{name}.py" for name in STORE_TESTS]
    try:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-x", "-q", "-k", "not clustered"),
                *("-p", "no:cacheprovider", "-p", "simulation.quickly", "--no-header", *tests),
            ],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=TEST_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return "the tests of the store do not end"
    finally:
        file.write_text(original)
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0] if failed else None


def main() -> int:
    """Return 0 if no mutant lives but those that change nothing."""
    parser = argparse.ArgumentParser(prog="./run prove", description=__doc__)
    parser.add_argument("--only", default="", help="mutants whose name has this in it")
    parser.add_argument("--part", default="1/1", help="the first of two halves: 1/2")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="for each; default %(default)s")
    options = parser.parse_args()
    part, of = (int(number) for number in options.part.split("/"))
    chosen = [each for each in mutants() if options.only in each.name][part - 1 :: of]
    plans = [Plan.of(str(seed)) for seed in range(1, options.seeds + 1)]
    alive, equivalent = [], 0
    stay_on_one_core(part)
    with valkey() as path, copy_of_the_code() as folder:
        for mutant in chosen:
            if mutant.key in EQUIVALENT:
                equivalent += 1
                continue
            began = time.monotonic()
            killer = killing_seed(mutant, path, plans) or killing_test(mutant, folder)
            if killer is None:
                alive.append(mutant)
            seconds = time.monotonic() - began
            print(f"{seconds:5.1f} s {mutant.name} <- {killer or 'LIVES'}"[:200], flush=True)
    print(f"{len(chosen)} mutants, {len(alive)} live, {equivalent} change nothing")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
