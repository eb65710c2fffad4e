"""Budgets are predicates over the figures of a run, and a missed one is an exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.budgets import (
    FIRST_BARE_RATE,
    Absolute,
    Budget,
    Multiple,
    Scaled,
    Speed,
    Verdict,
    at_least,
    at_most,
    check_budget,
    near,
)
from benchmarks.catalogue import BENCHMARKS
from benchmarks.runner import Benchmark, run

ROOT = Path(__file__).parents[3]
HALF = FIRST_BARE_RATE / 2  # a machine that is half as fast as the first one
MET, MISSED, NOT_CHECKED = Verdict.MET, Verdict.MISSED, Verdict.NOT_CHECKED
NAN = float("nan")

RATE = at_least("rate", Absolute(100))
GROWTH = at_most("mb", Absolute(64, "megabytes"))
TWICE = at_most("cpu_ms", Multiple(2, "bare_cpu_ms"))
SUBMISSIONS = at_least("rate", Scaled(1500, Speed.RATE))
LATENCY = at_most("ms", Scaled(8, Speed.TIME))
NO_SLOWER, NO_FASTER = near(0.15, "rate", "other")


@pytest.mark.parametrize(
    ("budget", "figures", "verdict"),
    [
        (RATE, {"rate": 100.1}, MET),
        (RATE, {"rate": 100.0}, MET),
        (RATE, {"rate": 99.9}, MISSED),
        (RATE, {"rate": NAN}, MISSED),
        (RATE, {}, MISSED),
        (GROWTH, {"mb": 63.9}, MET),
        (GROWTH, {"mb": 64.0}, MET),
        (GROWTH, {"mb": 64.1}, MISSED),
        (GROWTH, {"mb": NAN}, MISSED),
        (TWICE, {"cpu_ms": 0.2, "bare_cpu_ms": 0.1}, MET),
        (TWICE, {"cpu_ms": 0.21, "bare_cpu_ms": 0.1}, MISSED),
        (TWICE, {"cpu_ms": 0.2}, MISSED),
        (SUBMISSIONS, {"rate": 1500, "bare_rate": FIRST_BARE_RATE}, MET),
        (SUBMISSIONS, {"rate": 1499, "bare_rate": FIRST_BARE_RATE}, MISSED),
        (SUBMISSIONS, {"rate": 750, "bare_rate": HALF}, MET),
        (SUBMISSIONS, {"rate": 749, "bare_rate": HALF}, MISSED),
        (SUBMISSIONS, {"rate": 1500}, MISSED),
        (LATENCY, {"ms": 8, "bare_rate": FIRST_BARE_RATE}, MET),
        (LATENCY, {"ms": 8.1, "bare_rate": FIRST_BARE_RATE}, MISSED),
        (LATENCY, {"ms": 16, "bare_rate": HALF}, MET),
        (LATENCY, {"ms": 16.1, "bare_rate": HALF}, MISSED),
        (LATENCY, {"ms": 8.1, "bare_rate": 2 * FIRST_BARE_RATE}, MISSED),
    ],
)
def test_a_budget_is_met_up_to_its_bound_and_missed_beyond_or_without_a_figure(
    budget, figures, verdict
):
    assert check_budget("own", budget, {"own": figures}).verdict is verdict


@pytest.mark.parametrize(
    ("rate", "other", "verdicts"),
    [
        (100, {"rate": 100}, (MET, MET)),
        (85, {"rate": 100}, (MET, MET)),
        (115, {"rate": 100}, (MET, MET)),
        (84, {"rate": 100}, (MISSED, MET)),
        (116, {"rate": 100}, (MET, MISSED)),
        (100, {}, (MISSED, MISSED)),
        (100, None, (NOT_CHECKED, NOT_CHECKED)),
    ],
)
def test_a_comparison_with_a_benchmark_that_was_not_run_is_not_checked(rate, other, verdicts):
    results = {"own": {"rate": rate}} | ({} if other is None else {"other": other})
    checks = [check_budget("own", budget, results) for budget in (NO_SLOWER, NO_FASTER)]
    assert tuple(check.verdict for check in checks) == verdicts


@pytest.mark.parametrize(
    ("budget", "text"),
    [
        (RATE, "rate >= 100"),
        (GROWTH, "mb <= 64 (absolute: megabytes)"),
        (TWICE, "cpu_ms <= 2 x bare_cpu_ms"),
        (SUBMISSIONS, "rate >= 1500 x bare_rate / 4883"),
        (LATENCY, "ms <= 8 x 4883 / bare_rate"),
        (NO_SLOWER, "rate >= 0.85 x rate of other"),
    ],
)
def test_a_budget_says_itself_for_people(budget, text):
    assert budget.text == text


def benchmark(rate: float, *budgets: Budget) -> Benchmark:
    return Benchmark(lambda: {"rate": rate}, budgets)


@pytest.mark.parametrize(
    ("benchmarks", "status", "end"),
    [
        ({"a": benchmark(100, RATE)}, 0, "1 of 1 met\n0 of 1 missed\n0 of 1 not checked\n"),
        (
            {"a": benchmark(99, RATE), "b": benchmark(100, RATE)},
            1,
            "1 of 2 met\n1 of 2 missed: a rate\n0 of 2 not checked\n",
        ),
        (
            {"a": benchmark(99, NO_SLOWER, NO_FASTER, RATE)},
            1,
            "0 of 3 met\n1 of 3 missed: a rate\n2 of 3 not checked: a rate\n",
        ),
        (
            {"a": benchmark(100, NO_SLOWER)},
            0,
            "0 of 1 met\n0 of 1 missed\n1 of 1 not checked: a rate\n",
        ),
        ({"a": benchmark(100, GROWTH)}, 1, "0 of 1 met\n1 of 1 missed: a mb\n0 of 1 not checked\n"),
        ({"a": benchmark(100)}, 0, "0 of 0 met\n0 of 0 missed\n0 of 0 not checked\n"),
    ],
)
def test_a_run_ends_with_what_is_missed_and_status_1(benchmarks, status, end, capsys):
    assert run(benchmarks, ["--runs", "1"]) == status
    assert capsys.readouterr().out.endswith(end)


def test_the_median_counts_and_all_figures_go_to_the_file(tmp_path, capsys):
    rates = iter([10.0, 100.0, 1000.0])
    path = tmp_path / "figures.json"
    benchmarks = {"a": Benchmark(lambda: {"rate": next(rates)}, (RATE,))}
    assert run(benchmarks, ["a", "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    assert report["figures"] == {"a": [{"rate": 10.0}, {"rate": 100.0}, {"rate": 1000.0}]}
    assert [row["verdict"] for row in report["budgets"]] == ["met"]
    assert "met          a: rate >= 100: 100.000 (bound 100.000)" in capsys.readouterr().out


def test_an_unknown_benchmark_is_named(capsys):
    with pytest.raises(SystemExit) as exit_:
        run({"a": benchmark(1)}, ["b"])
    assert exit_.value.code == 2
    assert "there is no b; there are a" in capsys.readouterr().err


def test_every_benchmark_has_a_budget_and_compares_only_with_one_that_there_is():
    for name, each in BENCHMARKS.items():
        assert each.budgets, name
        others = [b.bound.other for b in each.budgets if isinstance(b.bound, Multiple)]
        assert set(filter(None, others)) <= set(BENCHMARKS) - {name}


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False
    )


def test_importing_the_package_changes_nothing():
    code = "import sys; path = list(sys.path); import benchmarks; sys.exit(sys.path != path)"
    assert python("-c", code).returncode == 0


def test_without_the_tests_servers_it_says_how_to_start_it():
    process = python("-m", "benchmarks")
    assert process.returncode == 2
    assert len(process.stderr.splitlines()) == 1
    assert "./run bench" in process.stderr
