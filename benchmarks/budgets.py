"""Budgets: what the figures of a benchmark must come to. Pure: no I/O.

Budgets in absolute figures were set on a first machine, where the bare loop (benchmarks/bare.py)
makes 4883 jobs/s. A benchmark that runs the bare loop as well scales them (Scaled): on a machine
that is half as fast half the rate is enough, and a call may take twice as long. A bound that
depends on no machine's speed is Absolute, and its text says why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

BARE_RATE = "bare_rate"  # the figure of the bare loop: jobs/s
FIRST_BARE_RATE = 4883.0  # what it was on the first machine

Medians = Mapping[str, float]  # figure -> its median over the runs
Results = Mapping[str, Medians]  # benchmark -> its figures


class NotRunError(Exception):
    """The benchmark to compare with was not run; the message is its name."""


class MissingFigureError(Exception):
    """A benchmark that was run has no such figure; the message names it."""


class Verdict(StrEnum):
    """What becomes of a budget."""

    MET = "met"
    MISSED = "missed"
    NOT_CHECKED = "not checked"


class Relation(StrEnum):
    """How a figure must stand to its bound; at the bound it is met."""

    AT_LEAST = ">="
    AT_MOST = "<="

    def holds(self, figure: float, bound: float) -> bool:
        """Whether the figure keeps the bound."""
        if math.isclose(figure, bound):
            return True
        return figure > bound if self is Relation.AT_LEAST else figure < bound


class Speed(StrEnum):
    """How a figure changes with the machine's speed: a rate grows, a time shrinks."""

    RATE = "bare_rate / 4883"
    TIME = "4883 / bare_rate"


class Bound(Protocol):
    """What a figure is compared with."""

    @property
    def text(self) -> str:
        """The bound, for people."""

    def value(self, results: Results, benchmark: str) -> float:
        """Return the bound for a benchmark; raises NotRunError or MissingFigureError."""


@dataclass(frozen=True, slots=True)
class Absolute:
    """A number. reason: why the machine's speed does not change it; none for a ratio."""

    number: float
    reason: str = ""

    @property
    def text(self) -> str:
        """The bound, for people."""
        return f"{self.number:g}" + (f" (absolute: {self.reason})" if self.reason else "")

    def value(self, results: Results, benchmark: str) -> float:  # noqa: ARG002 - as Bound has it
        """Return the number."""
        return self.number


@dataclass(frozen=True, slots=True)
class Scaled:
    """A number of the first machine, scaled by what the bare loop makes on this one."""

    number: float
    speed: Speed

    @property
    def text(self) -> str:
        """The bound, for people."""
        return f"{self.number:g} x {self.speed}"

    def value(self, results: Results, benchmark: str) -> float:
        """Return the number as it is on this machine."""
        ratio = _median(results, benchmark, BARE_RATE) / FIRST_BARE_RATE
        return self.number * ratio if self.speed is Speed.RATE else self.number / ratio


@dataclass(frozen=True, slots=True)
class Multiple:
    """So many times another figure, of the same benchmark or of another one of the run."""

    factor: float
    figure: str
    other: str = ""

    @property
    def text(self) -> str:
        """The bound, for people."""
        return f"{self.factor:g} x {self.figure}" + (f" of {self.other}" if self.other else "")

    def value(self, results: Results, benchmark: str) -> float:
        """Return the multiple."""
        return self.factor * _median(results, self.other or benchmark, self.figure)


def _median(results: Results, benchmark: str, figure: str) -> float:
    if benchmark not in results:
        raise NotRunError(benchmark)
    if figure not in results[benchmark]:
        raise MissingFigureError(figure)
    return results[benchmark][figure]


@dataclass(frozen=True, slots=True)
class Budget:
    """A figure, and the bound that it must keep."""

    figure: str
    relation: Relation
    bound: Bound

    @property
    def text(self) -> str:
        """The budget, for people."""
        return f"{self.figure} {self.relation} {self.bound.text}"


@dataclass(frozen=True, slots=True)
class Check:
    """What a run says of a budget. detail: the figure and its bound, or why there are none."""

    benchmark: str
    budget: Budget
    verdict: Verdict
    detail: str


def at_least(figure: str, bound: Bound) -> Budget:
    """Return the budget figure >= bound."""
    return Budget(figure, Relation.AT_LEAST, bound)


def at_most(figure: str, bound: Bound) -> Budget:
    """Return the budget figure <= bound."""
    return Budget(figure, Relation.AT_MOST, bound)


def near(share: float, figure: str, other: str) -> tuple[Budget, Budget]:
    """Return the budgets of a figure that is within a share of the same figure of another."""
    return (
        at_least(figure, Multiple(1 - share, figure, other)),
        at_most(figure, Multiple(1 + share, figure, other)),
    )


def check_budget(benchmark: str, budget: Budget, results: Results) -> Check:
    """Compare a budget with the figures of a run; what cannot be compared is never met.

    A figure that its benchmark does not have is missed: there the budget is at fault.
    """
    try:
        figure = _median(results, benchmark, budget.figure)
        bound = budget.bound.value(results, benchmark)
    except NotRunError as error:
        return Check(benchmark, budget, Verdict.NOT_CHECKED, f"{error} was not run")
    except MissingFigureError as error:
        return Check(benchmark, budget, Verdict.MISSED, f"there is no figure {error}")
    verdict = Verdict.MET if budget.relation.holds(figure, bound) else Verdict.MISSED
    return Check(benchmark, budget, verdict, f"{figure:.3f} (bound {bound:.3f})")
