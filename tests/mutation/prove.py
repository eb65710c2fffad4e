"""`./run prove`: every mutant dies, or stands among the equivalents; whatever comes in is bounded.

A mutant of the store's scripts is run by the simulation, seed after seed, and then by the store's
tests; one of the breaker's by steps that are compared with the machine in memory, and by its
tests; one of what judges an answer by its unit tests. What comes
in is fuzz's. An outage is that of a fleet of twenty processes; walks are ten times as many as in
`./run test`, and the batch that lives through an outage has fifty thousand lines.
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
import redis
from fuzz import command as fuzz
from harness.both_breakers import Walk
from redis.exceptions import ResponseError
from simulation.command import stay_on_one_core, valkey
from simulation.store import Server
from simulation.world import Plan, simulate

from circuit_breaker import stores
from circuit_breaker.errors import StoreError
from mutation import answers, breakers, larger, scripts
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
    "tiers",
    "unfinished",
    "files",
    "file_counts",
    "scripts",
    "streams",
    "job_transitions",
    "batch_transitions",
)
# Without what compares the breaker's scripts with its machine: a walk does, and further.
BREAKER_TESTS = [
    *("-k", "not mirror and not just_ends"),
    *(
        f"tests/integration/circuit_breaker/test_{name}.py"
        for name in ("behaviour", "breaker_scripts", "changes")
    ),
]
OF_BATCHES = re.compile("batch|unit|slice|line")
WALKS, WALK_STEPS = 60, 80  # of a mutant of the breaker's
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
        _require_none(_failing(_of_the_store(STORE_TESTS), folder, STORE_SECONDS))
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
    # Those first that are likely to fail.
    names = STORE_TESTS[::-1] if OF_BATCHES.search(mutant.file) else STORE_TESTS
    with _written(mutant, folder / "tasks" / "store" / "lua"):
        return _failing(_of_the_store(names), folder, STORE_SECONDS)


def _of_the_store(names: Sequence[str]) -> list[str]:
    tests = [f"tests/integration/tasks/store/test_{name}.py" for name in names]
    return ["-k", "not clustered", *tests]


@contextlib.contextmanager
def _written(mutant: scripts.Mutant, folder: Path) -> Iterator[None]:
    """Have a mutant stand in a folder of scripts instead of its original."""
    file = folder / mutant.file
    original = file.read_text()
    lines = original.split("\n")
    lines[mutant.number - 1] = mutant.text
    file.write_text("\n".join(lines))
    try:
        yield
    finally:
        file.write_text(original)


@contextlib.contextmanager
def killer_of_breakers(_: int) -> Iterator[Killer]:
    """Yield what says how a mutant of the breaker's scripts dies; None: it lives."""
    with copy_of_the_code() as folder:
        _require_none(_failing(BREAKER_TESTS, folder, STORE_SECONDS))
        yield lambda mutant: killing_walk(mutant) or killing_breaker_test(mutant, folder)


def killing_walk(mutant: scripts.Mutant) -> str | None:
    """Return where a mutant does something else than the machine in memory; None: nowhere."""
    with (
        valkey() as path,
        redis.Redis(unix_socket_path=path, socket_timeout=5) as client,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(stores, "scripts", lambda: breakers.scripts_of(mutant))
        for seed in range(WALKS):
            try:
                Walk(client, seed).run(WALK_STEPS)
            except (AssertionError, StoreError, ValueError, LookupError) as error:
                return f"walk {seed}: {type(error).__name__} {error}".partition("\n")[0]
    return None


def killing_breaker_test(mutant: scripts.Mutant, folder: Path) -> str | None:
    """Return the breaker's test that a mutant fails; None if it passes all."""
    with _written(mutant, folder / "circuit_breaker" / "lua"):
        return _failing(BREAKER_TESTS, folder, STORE_SECONDS)


@contextlib.contextmanager
def killer_of_answers(_: int) -> Iterator[Killer]:
    """Yield what says how a mutant of a judge dies; None: it lives."""
    tests = {name for names in answers.TESTS.values() for name in names}
    arguments = [*ALONE, *map(answers.tests_of, sorted(tests))]
    _require_none(_failing(arguments, ROOT, UNIT_SECONDS, **PLAIN))
    yield killing_unit_test


def _require_none(failed: str | None) -> None:
    """End if a test fails without a mutant: every mutant would die of it."""
    if failed:
        raise SystemExit(f"without a mutant: {failed}")


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
    "breakers": (breakers.mutants, killer_of_breakers),
}


def main() -> int:
    """Return 0 if no mutant lives but those that change nothing, and nothing else failed."""
    parser = argparse.ArgumentParser(prog="./run prove", description=__doc__)
    parser.add_argument(
        "kinds",
        nargs="*",
        choices=[*KINDS, *fuzz.KINDS, *larger.KINDS, []],
        help="default: all of them",
    )
    parser.add_argument("--only", default="", help="mutants whose name has this in it")
    parser.add_argument("--part", default="1/1", help="the first of two halves: 1/2")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="for each; default %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="of what comes in; default %(default)s")
    options = parser.parse_args()
    part, of = (int(number) for number in options.part.split("/"))
    kinds = options.kinds or [*KINDS, *fuzz.KINDS, *larger.KINDS]
    alive = sum(fuzz.run(kind, options.seed + part - 1, of) for kind in kinds if kind in fuzz.KINDS)
    if part == 1:  # of what runs side by side
        alive += sum(larger.run(kind) for kind in kinds if kind in larger.KINDS)
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
