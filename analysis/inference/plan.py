"""Which sizes to run next: candidate designs within a budget, judged by simulating the data they would bring.

The truth is drawn from what the data so far leave possible, new runs are simulated from it with the scatter seen so
far, and the analysis is repeated on old and new points together. All intervals are those of `analysis.laws.intervals`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from scipy import optimize, stats

from analysis.inference.evidence import LawComparison
from analysis.laws.curves import Profile, grid
from analysis.laws.forms import FORMS
from analysis.laws.intervals import Sample
from drorae.errors import UserError

Goal = Literal["slope", "offset", "prediction"]

MATTERS = 0.5
"""Share of its slope that a law with offset must lose over the sizes measured to be worth telling from a line."""

REACH = 4.0
"""Sizes considered: from a fourth of the smallest measured to four times the largest, unless told otherwise."""

MOST_RUNS = 64


@dataclass(frozen=True)
class Cost:
    """Seconds of one run: fixed + per_size * x."""

    fixed: float
    per_size: float = 0.0

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Seconds of a run at each x."""
        return self.fixed + self.per_size * np.asarray(x, dtype=float)


def measured_cost(x: np.ndarray, seconds: np.ndarray) -> Cost:
    """Fits fixed + per_size x to measured runs, both not negative (least squares on relative errors).

    Raises:
        UserError: no run has a duration above 0.
    """
    known = np.isfinite(seconds) & (seconds > 0) & np.isfinite(x)
    if not known.any():
        raise UserError("cost: no run has a duration above 0; give the seconds of a run")
    design = np.column_stack([np.ones(known.sum()), x[known] / x[known].max()]) / seconds[known][:, None]
    (fixed, slope), _ = optimize.nnls(design, np.ones(int(known.sum())))
    return Cost(float(fixed), float(slope / x[known].max()))


class Design(NamedTuple):
    """Configurations to add: sizes, each run with so many seeds."""

    name: str
    sizes: tuple[float, ...]
    seeds: int

    @property
    def runs(self) -> int:
        """Runs in all."""
        return len(self.sizes) * self.seeds


@dataclass(frozen=True)
class Appraisal:
    """A design, what it costs and what it is expected to bring."""

    design: Design
    seconds: float
    width: float
    """Expected width of the interval that the goal is about: of the slope, or of the law at the size asked for; nan
    for the goal offset."""
    ratio: float
    """That width over today's."""
    settled: float
    """Share of simulations in which offset against line is rightly settled."""
    wrongly: float
    """Share in which it is settled the wrong way."""
    settled_if_line: float
    settled_if_offset: float


@dataclass(frozen=True)
class Proposal:
    """The designs tried, best first, and the evenly spaced one of as many runs as the best."""

    goal: Goal
    at: float | None
    width_now: float
    """Today's width of the interval in question; nan for the goal offset."""
    settled_now: float
    appraisals: tuple[Appraisal, ...]
    even: Appraisal
    reached: bool
    """Goal slope or prediction: the width is at most half of today's; offset: rightly settled in 80% or more."""
    budget: float
    replications: int

    @property
    def best(self) -> Appraisal:
        """The design proposed."""
        return self.appraisals[0]


def propose(
    comparison: LawComparison,
    goal: Goal,
    cost: Cost,
    budget: float,
    at: float | None = None,
    smallest: float | None = None,
    largest: float | None = None,
    seeds: tuple[int, ...] = (1,),
    replications: int = 400,
    seed: int = 0,
) -> Proposal:
    """Proposes which sizes and seeds to run next.

    Among designs that reach the goal the cheapest is best, otherwise the one that comes nearest.

    Args:
        comparison: the laws of the runs so far.
        goal: slope, halve the slope's interval; offset, tell a line in log10 x from a power law with an offset that
            matters; prediction, halve the interval of the laws at size `at`.
        cost: of a run, in seconds.
        budget: seconds that the new runs may take, one after the other.
        at: the size of the goal prediction; unused by the others.
        smallest: smallest size that may be run; by default a fourth of the smallest measured.
        largest: largest size that may be run; by default four times the largest measured.
        seeds: numbers of seeds per size to consider.
        replications: simulations per truth and design.
        seed: of the simulations.

    Offset against line is settled by two tests at 5% each: for an offset where the line lies outside the F set of
    the power law with offset, for a line where every offset that takes half its slope over the measured sizes does.

    Raises:
        UserError: fewer than 5 configurations, a budget that buys no two runs, or bounds that hold no size.
    """
    low, high = _bounds(comparison.sample, goal, at, smallest, largest)
    sample = comparison.sample
    designs = [design for count in seeds for design in candidates(sample, low, high, cost, budget, count)]
    if not designs:
        cheapest = 2 * float(cost(np.array([low]))[0])
        raise UserError(f"plan: {budget:g} s buy no two runs, which take {cheapest:.4g} s at least")
    simulation = _Simulation(comparison, goal, at, replications, seed)
    nothing = simulation.nothing
    appraisals = [simulation.judge(design, cost) for design in designs]

    def reached(item: Appraisal) -> bool:
        return item.settled >= 0.8 if goal == "offset" else item.ratio <= 0.5

    def order(item: Appraisal) -> tuple[bool, float, float]:
        # To the simulation's accuracy designs tie; the cheaper one is then better.
        merit = -round(item.settled, 2) if goal == "offset" else round(item.ratio, 2)
        return (False, item.seconds, merit) if reached(item) else (True, merit, item.seconds)

    appraisals.sort(key=order)
    best = appraisals[0]
    spaced = even("even", sample.low, sample.high, len(best.design.sizes), best.design.seeds)
    made, judged = tuple(appraisals), simulation.judge(spaced, cost)
    return Proposal(goal, at, nothing.width, nothing.settled, made, judged, reached(best), budget, replications)


def _bounds(
    sample: Sample, goal: Goal, at: float | None, smallest: float | None, largest: float | None
) -> tuple[float, float]:
    """The sizes that may be run, once it is clear that these data can be planned from."""
    if sample.n < 5 or len(np.unique(sample.x)) < 3 or sample.low <= 0:
        raise UserError(f"plan: {sample.n} configurations say too little to plan from; expected 5 or more")
    if goal == "prediction" and at is None:
        raise UserError("plan: the goal prediction needs the size to predict at")
    low = sample.low / REACH if smallest is None else smallest
    high = sample.high * REACH if largest is None else largest
    if not 0 < low < high:
        raise UserError(f"plan: no sizes between {low:g} and {high:g}; expected 0 < smallest < largest")
    return low, high


def even(name: str, low: float, high: float, count: int, seeds: int) -> Design:
    """Returns the design of `count` sizes that are evenly spaced in their logarithm."""
    return Design(name, tuple(np.geomspace(low, high, count)) if count > 1 else (math.sqrt(low * high),), seeds)


def spread_ends(low: float, high: float, count: int, below: int, above: int) -> tuple[float, ...]:
    """Returns `count` sizes, smallest first: `below` of them at the low end, `above` at the high one, the rest halfway.

    Sizes meant to be alike are spread over a tenth of a decade, so that each is a configuration of its own.
    """

    def near(x: float, count: int, side: int) -> list[float]:
        return [float(x * 10 ** (side * 0.1 * k / max(count - 1, 1))) for k in range(count)]

    middle = near(math.sqrt(low * high), max(count - below - above, 0), 1)
    return tuple(sorted(near(low, below, 1) + middle + near(high, above, -1)))


def candidates(sample: Sample, low: float, high: float, cost: Cost, budget: float, seeds: int) -> list[Design]:
    """Returns designs of one shape each, with as many sizes as the budget buys, and three quarters, half, a quarter.

    Args:
        sample: the configurations measured.
        low: smallest size that may be run.
        high: largest size that may be run.
        cost: of a run, in seconds.
        budget: in seconds.
        seeds: runs per size.

    even: over the sizes measured; wide: over all that may be run; below, beyond: outside the measured ones; ends: half
    at either end of what may be run; three: a quarter at either end, half in the middle (the shape that shows a
    bend best); steep: two thirds at the lower end (`spread_ends`).
    """

    def ends(count: int, below: int, above: int) -> tuple[float, ...]:
        return spread_ends(low, high, count, below, above)

    shapes: dict[str, Callable[[int], Iterable[float]]] = {
        "even": lambda count: np.geomspace(sample.low, sample.high, count),
        "wide": lambda count: np.geomspace(low, high, count),
        "below": lambda count: np.geomspace(low, sample.low, count, endpoint=False),
        "beyond": lambda count: np.geomspace(high, sample.high, count, endpoint=False),
        "ends": lambda count: ends(count, count - count // 2, count // 2),
        "three": lambda count: ends(count, max(count // 4, 1), max(count // 4, 1)),
        "steep": lambda count: ends(count, count - max(count // 3, 1), max(count // 3, 1)),
    }
    found = []
    for name, shape in shapes.items():
        if (name == "below" and low >= sample.low) or (name == "beyond" and high <= sample.high):
            continue
        most = 0
        for count in range(2, MOST_RUNS // seeds + 1):
            if seeds * float(np.sum(cost(np.array(shape(count))))) > budget * (1 + 1e-9):
                break
            most = count
        counts = {max(round(most * share), 2) for share in (0.25, 0.5, 0.75, 1)} if most else set()
        found += [Design(name, tuple(sorted(shape(count))), seeds) for count in sorted(counts)]
    return found


def seed_share(sample: Sample, residual: float) -> float:
    """How much of the variance `residual` of a mean about its law one run's seed has.

    A configuration's own scatter, and its seeds': unknown seeds are taken to be none of it, so that repeating a size is
    never rated better than running another.
    """
    runs = sample.runs_at_unit_weight
    return min(sample.seed_sd**2 / runs / residual, 1.0) * runs if sample.seed_dof and residual > 0 else 0.0


def mean_variance(sample: Sample, share: float, seeds: int) -> float:
    """Variance of the mean of so many new runs, relative to that of a mean of the sample."""
    return max(1 - share / sample.runs_at_unit_weight, 0) + share / seeds


class _Simulation:
    """Truths drawn once, so that designs are compared on the same ones."""

    def __init__(self, comparison: LawComparison, goal: Goal, at: float | None, replications: int, seed: int) -> None:
        sample = self.sample = comparison.sample
        self.goal, self.at, self.replications, self.seed = goal, at, replications, seed
        rng = np.random.default_rng(seed)
        self.line, self.offset = FORMS["log-linear"], FORMS["power-offset"]
        self.t = grid(self.offset.box(sample.x), 161)
        exponents = self.offset.natural(self.t)[:, 0]
        self.matters = 1 - (sample.high / sample.low) ** -exponents >= MATTERS
        line = Profile(self.line, sample.x, np.zeros((1, 0)), sample.weights)
        curve = Profile(self.offset, sample.x, self.t, sample.weights)
        # Truths: the line's coefficients by their sampling distribution; an exponent among those that matter by its
        # likelihood, then its coefficients. The scatter by its chi-square, as the intervals have it.
        self.sd = np.sqrt(float(line.rss(sample.y)[0]) / rng.chisquare(line.dof, 2 * replications))
        rss = curve.rss(sample.y)
        weight = np.where(self.matters, (rss / rss.min()) ** (-sample.n / 2), 0)
        chosen = self.chosen = rng.choice(len(self.t), replications, p=weight / weight.sum())
        noise = rng.normal(size=(2 * replications, 2)) * self.sd[:, None]
        self.line_truth = line.coefficients(sample.y)[0] + noise[:replications] @ line.back[0].T
        spread = np.einsum("rij,rj->ri", curve.back[chosen], noise[replications:])
        self.offset_truth = curve.coefficients(sample.y)[chosen] + spread
        self.seed_share = seed_share(sample, float(line.rss(sample.y)[0]) / line.dof)

    @cached_property
    def nothing(self) -> Appraisal:
        """What the points so far say without any new ones."""
        return self.judge(Design("nothing", (), 1), Cost(0))

    def judge(self, design: Design, cost: Cost) -> Appraisal:
        """What old and new points together would say."""
        sample, count = self.sample, self.replications
        rng = np.random.default_rng(self.seed + 1)
        new = np.array(design.sizes)[:, None]
        x = np.concatenate([sample.x, new])
        variance = mean_variance(sample, self.seed_share, design.seeds)
        weights = np.concatenate([sample.weights, np.full(len(new), 1 / variance)])
        lines = self.line_truth @ self.line.basis(new, np.zeros(0))[0].T
        curves = np.einsum("rk,rnk->rn", self.offset_truth, self.offset.basis(new, self.t[self.chosen])[0])
        values = np.concatenate([lines, curves])
        values += rng.normal(size=values.shape) * (self.sd * math.sqrt(variance))[:, None]
        y = np.concatenate([np.tile(sample.y, (2 * count, 1)), values], axis=1)
        line = Profile(self.line, x, np.zeros((1, 0)), weights)
        curve = Profile(self.offset, x, self.t, weights)
        rss, straight = curve.rss(y), line.rss(y)[:, 0]
        limit = np.minimum(rss.min(axis=1), straight) * (1 + stats.f.ppf(0.95, 1, curve.dof) / curve.dof)
        for_offset = straight > limit
        for_line = ~for_offset & np.all((rss > limit[:, None]) | ~self.matters, axis=1)
        seconds = design.seeds * float(np.sum(cost(new)))
        right = float(for_line[:count].mean()), float(for_offset[count:].mean())
        wrong = float((for_offset[:count].mean() + for_line[count:].mean()) / 2)
        width = self._width(y, line, curve, for_offset)
        ratio = width / self.nothing.width if design.sizes else 1.0
        return Appraisal(design, seconds, width, ratio, sum(right) / 2, wrong, *right)

    def _width(self, y: np.ndarray, line: Profile, curve: Profile, bent: np.ndarray) -> float:
        """Mean width over the simulations of the interval in question."""
        if self.goal == "offset":
            return float("nan")
        if self.goal == "slope":
            # Of a line: where the truth bends, a slope is not what is asked.
            low, high = line.interval(y[: self.replications], np.array([[0.0, 1.0]]))
            return float(np.mean(high - low))
        assert self.at is not None
        at = np.array([[self.at]])
        ends = [profile.interval(y, profile.form.basis(at, profile.t)[0][:, 0]) for profile in (line, curve)]
        # The line speaks as long as it is not ruled out; the law with offset always.
        low = np.where(bent, ends[1][0], np.minimum(ends[0][0], ends[1][0]))
        high = np.where(bent, ends[1][1], np.maximum(ends[0][1], ends[1][1]))
        return float(np.mean(high - low))
