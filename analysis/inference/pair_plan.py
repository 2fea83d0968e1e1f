"""Which pairs of sizes to run next, of laws of two axes: the locally optimal design within a budget.

A law's information is linear in its runs once its parameters are taken as fitted, so that a design is judged without
simulation: by the width that the interval in question would have. Pairs are chosen one by one, each the one that
narrows it most for its cost, and then exchanged as long as that helps (Fedorov 1972). For planes that is exact; for
powers it holds near the parameters fitted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import optimize, stats

from analysis.inference.axes import JointAnalysis
from analysis.inference.plan import MOST_RUNS, REACH, mean_variance, seed_share
from analysis.laws.forms import FORMS, Form
from drorae.errors import UserError

PairGoal = Literal["slope", "interaction", "prediction"]

STEPS = 9
"""Values of each axis that are considered."""

_RIDGE = 1e-9
"""Of information, where the runs so far have none of a parameter."""


@dataclass(frozen=True)
class PairCost:
    """Seconds of one run: fixed + first * x + second * z + both * x z, of sizes x and z."""

    fixed: float
    first: float = 0.0
    second: float = 0.0
    both: float = 0.0

    def __call__(self, pairs: np.ndarray) -> np.ndarray:
        """Seconds of a run at each of the pairs (m, 2)."""
        x, z = np.asarray(pairs, dtype=float).T
        return np.asarray(self.fixed + self.first * x + self.second * z + self.both * x * z)


def measured_pair_cost(pairs: np.ndarray, seconds: np.ndarray) -> PairCost:
    """Fits a cost to measured runs at pairs (n, 2), all parts not negative (least squares on relative errors).

    Raises:
        UserError: no run has a duration above 0.
    """
    known = np.isfinite(seconds) & (seconds > 0)
    if not known.any():
        raise UserError("cost: no run has a duration above 0; give the seconds of a run")
    x, z = pairs[known].T
    columns = np.column_stack([np.ones(len(x)), x, z, x * z])
    scale = np.abs(columns).max(axis=0)
    scale[scale == 0] = 1
    parts, _ = optimize.nnls(columns / scale / seconds[known][:, None], np.ones(len(x)))
    return PairCost(*map(float, parts / scale))


@dataclass(frozen=True)
class PairStep:
    """One pair to run, and what all up to it cost and bring."""

    pair: tuple[float, float]
    seconds: float
    """Of all runs up to here."""
    widths: tuple[float, ...]
    """Of the intervals in question, with the runs up to here."""


@dataclass(frozen=True)
class PairProposal:
    """Pairs to run, the most useful for its cost first."""

    goal: PairGoal
    law: str
    at: tuple[float, float] | None
    names: tuple[str, ...]
    """What the intervals are of: parameters of the law, or the law at a pair."""
    widths_now: tuple[float, ...]
    """Infinite where the runs so far do not bound it."""
    steps: tuple[PairStep, ...]
    seeds: int
    reached: bool
    """Every interval is at most half as wide as now."""
    budget: float

    @property
    def pairs(self) -> list[tuple[float, float]]:
        """The pairs alone."""
        return [step.pair for step in self.steps]


def propose_pairs(
    found: JointAnalysis,
    goal: PairGoal,
    cost: PairCost,
    budget: float,
    at: tuple[float, float] | None = None,
    first: tuple[float | None, float | None] = (None, None),
    second: tuple[float | None, float | None] = (None, None),
    seeds: int = 1,
) -> PairProposal:
    """Proposes the pairs that halve an interval for the least cost, or narrow it most within the budget.

    Args:
        found: the laws of the runs so far.
        goal: slope, of both axes in the additive law; interaction, of the law with one; prediction, the best law at
            `at`.
        cost: of a run, in seconds.
        budget: seconds that the new runs may take, one after the other.
        at: the pair of the goal prediction; unused by the others.
        first: least and largest size that may be run on the first axis; by default a fourth of the smallest measured
            and four times the largest.
        second: the same of the second axis; by default what was measured, as more layers than an encoder has are none.
        seeds: runs of every pair.

    >>> import pandas as pd
    >>> from analysis.inference.axes import analyse_axes
    >>> rows = [(p, n, 3 - 0.2 * i - 0.05 * n + 0.01 * (-1) ** (i * n)) for i, p in enumerate([1e6, 1e7, 1e8])
    ...         for n in (1, 2, 4, 8)]
    >>> found = analyse_axes(pd.DataFrame(rows, columns=["params", "layers", "rfid"]), "params", "layers", "rfid")
    >>> made = propose_pairs(found, "interaction", PairCost(1.0), 4)
    >>> sorted((f"{n:.3g}", z) for n, z in made.pairs)[:2]
    [('2.5e+05', 1.0), ('2.5e+05', 8.0)]

    Raises:
        UserError: no pair of the goal prediction, bounds that hold no size, or a budget that buys no run.
    """
    question = _Question(found, goal, at, seeds)
    pairs = candidates(found.sample.x, first, second)
    seconds = seeds * cost(pairs)
    if not np.any(seconds <= budget * (1 + 1e-9)):
        raise UserError(f"plan: {budget:g} s buy no run, which takes {seconds.min():.4g} s at least")
    rows = question.rows(pairs)
    chosen = _exchange(question, rows, seconds, budget, _greedy(question, rows, seconds, budget))
    # Each next one is the most useful of those left, for whoever stops early.
    kept = _greedy(question, rows[chosen], seconds[chosen], budget, stop=False)
    order = [chosen[i] for i in kept]
    steps = [
        PairStep(
            (float(pairs[i, 0]), float(pairs[i, 1])), float(seconds[order[: k + 1]].sum()),
            question.widths(rows[order[: k + 1]]),
        )
        for k, i in enumerate(order)
    ]  # fmt: skip
    reached = question.reached(rows[order])
    return PairProposal(
        goal, question.form.name, at, question.names, question.widths(rows[:0]), tuple(steps), seeds, reached, budget
    )


def candidates(
    measured: np.ndarray,
    first: tuple[float | None, float | None] = (None, None),
    second: tuple[float | None, float | None] = (None, None),
) -> np.ndarray:
    """Returns the pairs (m, 2) that may be run: `STEPS` values of each axis crossed, without those measured.

    Args:
        measured: the pairs so far, shape (n, 2).
        first: bounds of the first axis; None for a fourth of the smallest measured, and four times the largest.
        second: bounds of the second; None for the smallest and the largest measured.

    Raises:
        UserError: bounds that hold no size.
    """
    x, z = measured.T
    bounds = ((x.min() / REACH, x.max() * REACH), (z.min(), z.max()))
    axes = []
    for values, asked, usual in zip((x, z), (first, second), bounds, strict=True):
        low, high = (float(own if given is None else given) for given, own in zip(asked, usual, strict=True))
        logged = bool(values.min() > 0)
        if not (low < high and (low > 0 or not logged)):
            raise UserError(f"plan: no sizes between {low:g} and {high:g}; expected 0 < smallest < largest")
        steps = (np.geomspace if logged else np.linspace)(low, high, STEPS)
        # Such as layers: no run has 2.4 of them.
        whole = bool(np.all(values == np.round(values)))
        axes.append(np.unique(np.round(steps)) if whole else steps)
    pairs = np.array([(a, b) for a in axes[0] for b in axes[1]])
    near = np.isclose(pairs[:, None, :], measured[None, :, :], rtol=1e-6, atol=0).all(axis=2).any(axis=1)
    return np.asarray(pairs[~near])


class _Question:
    """The intervals in question, and what runs say of them: information (p, p) in scaled parameters."""

    def __init__(self, found: JointAnalysis, goal: PairGoal, at: tuple[float, float] | None, seeds: int) -> None:
        sample = found.sample
        self.form, self.parameters, self.sd = _law(found, goal)
        gradient = self.form.gradient(sample.x, self.parameters)
        self.scale = np.linalg.norm(gradient, axis=0)
        self.scale[self.scale == 0] = 1
        if goal == "prediction":
            if at is None:
                raise UserError("plan: the goal prediction needs the pair of sizes to predict at")
            self.names: tuple[str, ...] = (found.y_name,)
            self.asked = self.form.gradient(np.array([at]), self.parameters) / self.scale
        else:
            family = found.family
            crossing = self.form.coefficients[-1]
            self.names = (family.of_first, family.of_second) if goal == "slope" else (crossing,)
            places = [self.form.parameters.index(name) for name in self.names]
            self.asked = np.eye(len(self.parameters))[places] / self.scale
        share = seed_share(sample, self.sd**2)
        self.weight = 1 / mean_variance(sample, share, seeds)
        old = gradient / self.scale * np.sqrt(sample.weights)[:, None]
        self.n, self.known = sample.n, old.T @ old
        self.bounded = bool(np.linalg.cond(self.known) < 1 / _RIDGE and self.n > len(self.parameters))
        # In units of today's, so that an axis of small numbers counts as much as one of large ones.
        self.unit = self._variances(self.known) if self.bounded else np.ones(len(self.asked))

    def rows(self, pairs: np.ndarray) -> np.ndarray:
        """Gradients (m, p) of runs at pairs (m, 2), as long as their weight has them."""
        return np.asarray(self.form.gradient(pairs, self.parameters) / self.scale * math.sqrt(self.weight))

    def information(self, rows: np.ndarray) -> np.ndarray:
        """Of old runs and new ones together, (p, p)."""
        ridge = 0.0 if self.bounded else _RIDGE
        return np.asarray(self.known + rows.T @ rows + ridge * np.eye(len(self.known)))

    def _variances(self, information: np.ndarray) -> np.ndarray:
        return np.asarray(np.sum(self.asked * np.linalg.solve(information, self.asked.T).T, axis=1))

    def quantile(self, new: int) -> float:
        """Student's t of the interval with so many new pairs."""
        return float(stats.t.ppf(0.975, max(self.n + new - len(self.parameters), 1)))

    def widths(self, rows: np.ndarray) -> tuple[float, ...]:
        """Of the intervals in question; infinite where nothing bounds one."""
        information = self.known + rows.T @ rows
        if np.linalg.cond(information) >= 1 / _RIDGE or self.n + len(rows) <= len(self.parameters):
            return (math.inf,) * len(self.asked)
        half = self.quantile(len(rows)) * self.sd * np.sqrt(self._variances(information))
        return tuple(map(float, 2 * half))

    def merit(self, rows: np.ndarray) -> float:
        """What is made small: the mean square width of the intervals, in units of today's."""
        return self.quantile(len(rows)) ** 2 * float(np.mean(self._variances(self.information(rows)) / self.unit))

    def merits(self, rows: np.ndarray, more: np.ndarray) -> np.ndarray:
        """The same with each one of `more` (m, p) beside `rows`, shape (m,)."""
        inverse = np.linalg.inv(self.information(rows))
        reach = self.asked @ inverse @ more.T
        gain = reach**2 / (1 + np.einsum("mp,pq,mq->m", more, inverse, more))
        left = np.einsum("jp,pq,jq->j", self.asked, inverse, self.asked)[:, None] - gain
        return np.asarray(self.quantile(len(rows) + 1) ** 2 * np.mean(left / self.unit[:, None], axis=0))

    def reached(self, rows: np.ndarray) -> bool:
        """Whether every interval is at most half as wide as now; never where it is not bounded now."""
        now, then = self.widths(rows[:0]), self.widths(rows)
        return self.bounded and all(b <= a / 2 for a, b in zip(now, then, strict=True))


def _law(found: JointAnalysis, goal: PairGoal) -> tuple[Form, np.ndarray, float]:
    """The law that a goal is about, its parameters and the scatter about it."""
    fit = {"slope": found.additive, "interaction": found.crossed, "prediction": found.fits[0]}[goal]
    if fit is not None:
        return fit.form, fit.parameters, fit.residual_sd
    # These runs cannot carry the interaction: taken to be none.
    form, additive = FORMS[found.family.crossed], found.additive
    return form, np.insert(additive.parameters, len(form.coefficients) - 1, 0.0), additive.residual_sd


def _greedy(
    question: _Question, rows: np.ndarray, seconds: np.ndarray, budget: float, stop: bool = True
) -> list[int]:  # fmt: skip
    """Chooses one by one what narrows most for its cost, until the goal is reached or nothing more is affordable."""
    chosen: list[int] = []
    spent = 0.0
    while len(chosen) < MOST_RUNS and not (stop and question.reached(rows[chosen])):
        free = np.setdiff1d(np.flatnonzero(spent + seconds <= budget * (1 + 1e-9)), chosen)
        if not len(free):
            break
        gain = np.log(question.merit(rows[chosen])) - np.log(question.merits(rows[chosen], rows[free]))
        best = int(free[np.argmax(gain / np.maximum(seconds[free], 1e-300))])
        chosen.append(best)
        spent += float(seconds[best])
    return chosen


def _exchange(
    question: _Question, rows: np.ndarray, seconds: np.ndarray, budget: float, chosen: Sequence[int]
) -> list[int]:
    """Replaces chosen rows by others, the best one at a time, as long as that helps and is paid for."""
    chosen = list(chosen)
    improved = True
    while improved:
        improved = False
        for place in range(len(chosen)):
            others = chosen[:place] + chosen[place + 1 :]
            left = budget * (1 + 1e-9) - seconds[others].sum()
            free = np.setdiff1d(np.flatnonzero(seconds <= left), others)
            merits = question.merits(rows[others], rows[free])
            best = int(np.argmin(merits))
            if merits[best] < question.merit(rows[chosen]) * (1 - 1e-9):
                chosen, improved = [*others[:place], int(free[best]), *others[place:]], True
    return chosen
