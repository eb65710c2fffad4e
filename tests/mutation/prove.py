"""`./run prove`: every mutant dies, or stands among the equivalents; whatever comes in is bounded.

A mutant of the store's scripts is run by the simulation, seed after seed, and then by the store's
tests; one of what judges an answer by its unit tests. What comes in is fuzz's.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fuzz import command as fuzz
from redis.exceptions import ResponseError
from simulation.command import stay_on_one_core, valkey
from simulation.store import Server
from simulation.world import Plan, simulate

from mutation import answers, scripts
from mutation.equivalents import EQUIVALENT
from mutation.mutated import MUTANT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[2]
CODE = ("api", "circuit_breaker", "cli", "fallback_chain", "tasks", "tests", "workers")
STORE_TESTS = (
    "jobs",
    "callers",
    "limits",
    "files",
    "scripts",
    "job_transitions",
    "batch_transitions",
)
OF_BATCHES = re.compile("batch|unit|slice|line")
STORE_SECONDS, UNIT_SECONDS = 200, 60
SEEDS, QUICK = 150, 20  # of the simulation; those before the store's tests
AS_A_MUTANTS = ("-x", "-q", "--no-header", "-p", "no:cacheprovider", "-p", "mutation.quickly")

# Without what else pytest loads, which takes thrice the time of these tests.
ALONE = ("-c", os.devnull, "--rootdir", str(ROOT), "--import-mode=importlib", "--noconftest")
PLAIN = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}

Killer = Callable[[Any], "str | None"]


@contextlib.contextmanager
def killer_of_scripts(seeds: int) -> Iterator[Killer]:
    """Yield what says how a mutant of the scripts dies; None: it lives."""
    plans = [Plan.of(str(seed)) for seed in range(1, seeds + 1)]
    with copy_of_the_code() as folder:
        yield (
            lambda each: (
                killing_seed(each, plans[:QUICK])
                or killing_test(each, folder)
                or killing_seed(each, plans[QUICK:])
            )
        )


@contextlib.contextmanager
def copy_of_the_code() -> Iterator[Path]:
    """Copy the packages and their tests; yield where to."""
    with tempfile.TemporaryDirectory(prefix="fallthrough-mutants-") as folder:
        for name in CODE:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, Path(folder) / name, ignore=ignored)
        shutil.copy(ROOT / "pyproject.toml", folder)
        yield Path(folder)


def killing_seed(mutant: scripts.Mutant, plans: Sequence[Plan]) -> str | None:
    """Return what the simulation says of a mutant; None if it says nothing."""
    with valkey() as path:  # its own: a script that does not end keeps it busy for ever
        try:
            server = Server(path, mutant.scripts())
        except ResponseError as error:
            return f"no script: {error}"
        for plan in plans:
            violations = simulate(plan, server).violations
            if violations:
                return f"seed {plan.seed}: {violations[0]}"
        server.close()
    return None


def killing_test(mutant: scripts.Mutant, folder: Path) -> str | None:
    """Return the test of the store that a mutant fails; None if it passes all."""
    file = folder / "tasks" / "store" / "lua" / mutant.file
    original = file.read_text()
    lines = original.split("\n")
    lines[mutant.number - 1] = mutant.text
    file.write_text("\n".join(lines))
    # Those first that are likely to fail.
    names = STORE_TESTS[::-1] if OF_BATCHES.search(mutant.file) else STORE_TESTS
    tests = [f"tests/integration/tasks/store/test_{name}.py" for name in names]
    try:
        return _failing(["-k", "not clustered", *tests], folder, STORE_SECONDS)
    finally:
        file.write_text(original)


@contextlib.contextmanager
def killer_of_answers(_: int) -> Iterator[Killer]:
    """Yield what says how a mutant of a judge dies; None: it lives."""
    tests = {name for names in answers.TESTS.values() for name in names}
    arguments = [*ALONE, *map(answers.tests_of, sorted(tests))]
    failed = _failing(arguments, ROOT, UNIT_SECONDS, **PLAIN)
    if failed:
        raise SystemExit(f"without a mutant: {failed}")
    yield killing_unit_test


def killing_unit_test(mutant: answers.Mutant) -> str | None:
    """Return the unit test that a mutant fails; None if it passes all."""
    arguments = [*ALONE, "-p", "mutation.mutated", *mutant.tests]
    named = {MUTANT: f"{mutant.module}:{mutant.place}"}
    return _failing(arguments, ROOT, UNIT_SECONDS, **PLAIN, **named)


def _failing(arguments: list[str], folder: Path, seconds: float, **variables: str) -> str | None:
    """Run pytest until a test fails; return what it says of that. None: none does.

    Raises SystemExit when there is nothing to run.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *AS_A_MUTANTS, *arguments],
            cwd=folder,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return "the tests do not end"
    if done.returncode in {pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED}:
        raise SystemExit(done.stdout + done.stderr)
    if not done.returncode:
        return None
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0] if failed else f"the tests end with status {done.returncode}"


KINDS: dict[str, tuple[Callable[[], list[Any]], Callable[[int], Any]]] = {
    "answers": (answers.mutants, killer_of_answers),
    "scripts": (scripts.mutants, killer_of_scripts),
}


def main() -> int:
    """Return 0 if no mutant lives but those that change nothing, and nothing else failed."""
    parser = argparse.ArgumentParser(prog="./run prove", description=__doc__)
    parser.add_argument(
        "kinds", nargs="*", choices=[*KINDS, *fuzz.KINDS, []], help="default: all of them"
    )
    parser.add_argument("--only", default="", help="mutants whose name has this in it")
    parser.add_argument("--part", default="1/1", help="the first of two halves: 1/2")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="for each; default %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="of what comes in; default %(default)s")
    options = parser.parse_args()
    part, of = (int(number) for number in options.part.split("/"))
    kinds = options.kinds or [*KINDS, *fuzz.KINDS]
    alive = sum(fuzz.run(kind, options.seed + part - 1, of) for kind in kinds if kind in fuzz.KINDS)
    stay_on_one_core(part)
    for kind in (kind for kind in kinds if kind in KINDS):
        mutants, killers = KINDS[kind]
        chosen = [each for each in mutants() if options.only in each.name][part - 1 :: of]
        with killers(options.seeds) as killer:
            alive += _run(kind, chosen, killer)
    return 1 if alive else 0


def _run(kind: str, chosen: list[Any], killer: Killer) -> int:
    """Run mutants; return how many live."""
    alive = equivalent = 0
    for mutant in chosen:
        if mutant.key in EQUIVALENT:
            equivalent += 1
            continue
        began = time.monotonic()
        killed = killer(mutant)
        alive += killed is None
        seconds = time.monotonic() - began
        print(f"{seconds:5.1f} s {mutant.name} <- {killed or 'LIVES'}"[:240], flush=True)
    print(f"{kind}: {len(chosen)} mutants, {alive} live, {equivalent} change nothing", flush=True)
    return alive


if __name__ == "__main__":
    sys.exit(main())
