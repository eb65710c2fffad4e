"""Run measurements, print a table, and check the budgets: `./run bench [NAME …] [--runs N]`.

The exit status is 1 if a budget is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.budgets import Budget, Check, Medians, Verdict, check_budget

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MISSED = 1  # exit status

Figures = dict[str, float]  # of one run


class Benchmark(NamedTuple):
    """What is measured, and its budgets."""

    measure: Callable[[], Figures]
    budgets: tuple[Budget, ...]


def run(benchmarks: Mapping[str, Benchmark], arguments: Sequence[str]) -> int:
    """Measure and check; each figure is the median of the runs, with the least and the most."""
    options = _options(benchmarks, arguments)
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    commit = _commit()
    _print(f"{machine}; commit {commit}; median of {options.runs} (least - most)\n")
    figures: dict[str, list[Figures]] = {}
    for name in options.names or benchmarks:
        figures[name] = [benchmarks[name].measure() for _ in range(options.runs)]
        _print_figures(name, figures[name])
    checks = _check_all(benchmarks, figures)
    if options.json:
        report = {"machine": machine, "commit": commit, "figures": figures}
        rows = {"budgets": [_row(check) for check in checks]}
        content = json.dumps({**report, **rows}, indent=1) + "\n"
        Path(options.json).write_text(content, encoding="utf-8")
    _print_checks(checks)
    return MISSED if any(check.verdict is Verdict.MISSED for check in checks) else 0


def _options(benchmarks: Mapping[str, Benchmark], arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./run bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(benchmarks))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", help="file for the figures")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(benchmarks)
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(benchmarks)}")
    return options


def _commit() -> str:
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],  # noqa: S607 - git is where the user has it
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    ).stdout.strip()


def _medians(runs: Sequence[Figures]) -> Medians:
    return {figure: statistics.median(run[figure] for run in runs) for figure in runs[0]}


def _print_figures(name: str, runs: Sequence[Figures]) -> None:
    _print(name)
    for figure, median in _medians(runs).items():
        values = [run[figure] for run in runs]
        _print(f"    {figure:24} {median:10.3f}   ({min(values):.3f} - {max(values):.3f})")


def _check_all(
    benchmarks: Mapping[str, Benchmark], figures: Mapping[str, Sequence[Figures]]
) -> list[Check]:
    """Check when all is measured: some budgets compare with another benchmark."""
    results = {name: _medians(runs) for name, runs in figures.items()}
    return [
        check_budget(name, budget, results)
        for name in figures
        for budget in benchmarks[name].budgets
    ]


def _row(check: Check) -> dict[str, str]:
    return {
        "benchmark": check.benchmark,
        "budget": check.budget.text,
        "verdict": check.verdict,
        "detail": check.detail,
    }


def _print_checks(checks: Sequence[Check]) -> None:
    _print("\nbudgets")
    for check in checks:
        _print(f"    {check.verdict:12} {check.benchmark}: {check.budget.text}: {check.detail}")
    for verdict in Verdict:
        names = [f"{c.benchmark} {c.budget.figure}" for c in checks if c.verdict is verdict]
        those = (
            "" if verdict is Verdict.MET or not names else ": " + ", ".join(dict.fromkeys(names))
        )
        _print(f"{len(names)} of {len(checks)} {verdict}{those}")


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
