"""What a design could show, before any run: powers of its tests and widths of its intervals for a supposed law.

All numbers are those of `drorae fit`'s own tests and intervals, with its rule for pooling seeds and residuals
(`analysis.laws.noise.Uncertainty`), integrated over the scatter that a sweep may happen to have. Seeds are supposed to
scatter alike at all sizes. A fourth of sweeps seem by chance not to (`analysis.laws.noise.TREND`); predictions of those
are wider than said here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from analysis.inference.evidence import HORIZON, judges_bends
from analysis.inference.plan import MATTERS, Design, even, spread_ends
from analysis.laws.noise import POOLED
from analysis.table.design import LEAST_CONFIGURATIONS
from drorae.errors import UserError

SEEN = 0.8
"""Share of sweeps that have to see the least slope."""

WIDER = 1.5
"""Decades of the wider design, in those of the design asked for."""

MOST_SEEDS = 5
"""Seeds per size of the designs beside the one asked for."""

_STEPS = (np.arange(100) + 0.5) / 100
"""Quantiles at which the scatter is integrated."""


@dataclass(frozen=True)
class Supposed:
    """The law and the scatter that are taken for true."""

    slope: float
    """Change of the metric per decade of size."""
    seed_sd: float
    """Standard deviation of runs that differ in seed alone."""
    own_sd: float = 0.0
    """Standard deviation of configurations about the law, beyond that of their seeds."""
    loss: float = MATTERS
    """Share of its slope that a law that saturates loses over the sizes of the design asked for, in (0, 1)."""

    def variance(self, seeds: int) -> float:
        """Variance of a configuration's mean of so many seeds."""
        return self.own_sd**2 + self.seed_sd**2 / seeds


@dataclass(frozen=True)
class Outlook:
    """What a design is expected to show."""

    design: Design
    power: float
    """Share of sweeps whose 95% interval of the slope leaves out zero."""
    least_slope: float
    """Size of the slope that `SEEN` of such sweeps see."""
    slope_width: float
    """Expected width of the slope's 95% interval."""
    prediction_width: float
    """Expected width of a new run's 95% interval by the line, at the size predicted."""
    bend_power: float
    """Share of sweeps in which a law that saturates is told from a line; nan where these sizes cannot show a bend."""

    @property
    def decades(self) -> float:
        """Between the smallest and the largest size."""
        return math.log10(self.design.sizes[-1] / self.design.sizes[0])


def outlooks(supposed: Supposed, sizes: Sequence[float], seeds: int, beyond: float = HORIZON) -> tuple[Outlook, ...]:
    """Returns what a design could show, and beside it others of no more runs: first the one asked for.

    All designs face one truth: the law that saturates loses its share over the sizes of the first, and predictions are
    at one size, `beyond` decades above the largest of the first.

    Args:
        supposed: what is taken for true.
        sizes: distinct sizes above 0, of which there are `LEAST_CONFIGURATIONS` or more.
        seeds: runs per size.
        beyond: in decades, 0 or more.

    Raises:
        UserError: numbers that make no design or no law.
    """
    chosen = tuple(sorted(map(float, sizes)))
    _check(supposed, chosen, seeds, beyond)
    asked = Design("as given", chosen, seeds)
    at = asked.sizes[-1] * 10**beyond
    found = (_outlook(item, asked, supposed, at) for item in (asked, *beside(asked)))
    return tuple(found)


def _check(supposed: Supposed, sizes: Sequence[float], seeds: int, beyond: float) -> None:
    if not (len(sizes) == len(set(sizes)) >= LEAST_CONFIGURATIONS and sizes[0] > 0 and math.isfinite(sizes[-1])):
        raise UserError(
            f"plan: expected {LEAST_CONFIGURATIONS} or more distinct sizes above 0; runs of one size are seeds"
        )
    if seeds < 1 or not (math.isfinite(beyond) and beyond >= 0):
        raise UserError(f"plan: {seeds} seeds, {beyond:g} decades beyond; expected 1 or more, and 0 or more")
    if not (math.isfinite(supposed.seed_sd) and supposed.seed_sd > 0 <= supposed.own_sd < math.inf):
        raise UserError("plan: expected a seed standard deviation above 0, and one of configurations of 0 or more")
    if not (math.isfinite(supposed.slope) and supposed.slope != 0 and 0 < supposed.loss < 1):
        raise UserError("plan: expected a slope other than 0, and a loss between 0 and 1")


def beside(asked: Design) -> list[Design]:
    """Returns designs of no more runs: other numbers of seeds over the same range, a wider range, other shapes.

    ends: half of the sizes at either end; three: a quarter at either end, half in the middle.
    """
    sizes, seeds = asked.sizes, asked.seeds
    low, high, count = sizes[0], sizes[-1], len(sizes)
    found = []
    for other in sorted({*range(1, MOST_SEEDS + 1)} - {seeds}):
        levels = asked.runs // other
        if levels >= LEAST_CONFIGURATIONS:
            found.append(even("more sizes" if levels > count else "fewer sizes", low, high, levels, other))
    found.append(even("wider", low, low * (high / low) ** WIDER, count, seeds))
    found.append(Design("ends", spread_ends(low, high, count, count - count // 2, count // 2), seeds))
    return [*found, Design("three", spread_ends(low, high, count, count // 4, count // 4), seeds)]


def saturating(supposed: Supposed, sizes: Sequence[float], at: np.ndarray) -> np.ndarray:
    """Values at `at` of the power law with offset whose mean slope over `sizes` is the one supposed.

    Its slope at the largest of `sizes` is less by the loss than at the smallest.
    """
    decades = math.log10(sizes[-1] / sizes[0])
    gone = 1 - (np.asarray(at) / sizes[0]) ** (math.log10(1 - supposed.loss) / decades)
    return np.asarray(supposed.slope * decades * gone / supposed.loss)


def _outlook(design: Design, asked: Design, supposed: Supposed, at: float) -> Outlook:
    u = np.log10(design.sizes)
    middle = float(u.mean())
    line = np.column_stack([np.ones(len(u)), u - middle])
    sd = math.sqrt(supposed.variance(design.seeds))
    inverse = np.linalg.inv(line.T @ line)
    share = float(inverse[1, 1])
    half = _halves(design, 2, supposed, share)
    there = np.array([1.0, math.log10(at) - middle])
    ahead = _halves(design, 2, supposed, float(there @ inverse @ there), new=1)

    def power(slope: float) -> float:
        return _power(slope / (sd * math.sqrt(share)), half / (sd * math.sqrt(share)))

    top = float(half.max()) + 10 * sd * math.sqrt(share)
    least = float(optimize.brentq(lambda slope: power(slope) - SEEN, 0.0, top))
    bent = math.nan
    if judges_bends(len(u), len(u)):
        curve = np.column_stack([line, (u - middle) ** 2])
        value = saturating(supposed, asked.sizes, np.array(design.sizes))
        term, misfit = np.linalg.lstsq(curve, value, rcond=None)[0][2], _misfit(curve, value)
        own = float(np.linalg.inv(curve.T @ curve)[2, 2])
        scale = sd * math.sqrt(own)
        bent = _power(float(term) / scale, _halves(design, 3, supposed, own, misfit=misfit) / scale)
    widths = 2 * float(half.mean()), 2 * float(ahead.mean())
    return Outlook(design, power(supposed.slope), least, *widths, bent)


def _misfit(design: np.ndarray, value: np.ndarray) -> float:
    left = value - design @ np.linalg.lstsq(design, value, rcond=None)[0]
    return float(left @ left)


def _power(mean: float, half: np.ndarray) -> float:
    """How often a standard normal number about `mean` lies more than `half` from zero."""
    return float(np.mean(stats.norm.sf(half - mean) + stats.norm.cdf(-half - mean)))


def _halves(
    design: Design, parameters: int, supposed: Supposed, share: float, new: int = 0, misfit: float = 0.0
) -> np.ndarray:
    """Half widths of the 95% interval of a number, over the scatter that a sweep may happen to have.

    Args:
        design: the sizes and seeds.
        parameters: of the law fitted.
        supposed: the scatter.
        share: the number's variance were that of a mean one.
        new: 1 for the value of a new run, 0 for a number of the law.
        misfit: sum of squares by which the truth misses the law fitted.
    """
    variance, free = supposed.variance(design.seeds), len(design.sizes) - parameters
    rss = variance * (stats.ncx2.ppf(_STEPS, free, misfit / variance) if misfit else stats.chi2.ppf(_STEPS, free))
    if design.seeds == 1:
        found = (share + new) * rss / free, np.array(float(free))
    else:
        of_seeds = design.runs - len(design.sizes)
        run = supposed.seed_sd**2 * stats.chi2.ppf(_STEPS, of_seeds) / of_seeds
        found = margin(share, free, design, rss[:, None], run[None, :], new)
    return np.asarray(stats.t.ppf(0.975, found[1]) * np.sqrt(found[0])).ravel()


def margin(
    share: float, free: int, design: Design, rss: np.ndarray, run: np.ndarray, new: int
) -> tuple[np.ndarray, np.ndarray]:
    """Variance and degrees of freedom of `Uncertainty.margin` where all sizes have as many seeds, for many sweeps.

    Args:
        share: the number's variance were that of a mean one.
        free: configurations less parameters.
        design: of two seeds per size or more.
        rss: sums of squared residuals of the means.
        run: variances of a run that the seeds show; broadcast with `rss`.
        new: 1 where a new run's own scatter is added, else 0.
    """
    seeds, of_seeds = design.seeds, design.runs - len(design.sizes)
    v = run / seeds
    f = rss / (free * v)
    known = (share + new * seeds) * v
    pooled = f < max(1.0, float(stats.f.isf(POOLED, free, of_seeds)))
    own = np.maximum(f - 1, 0) * v
    variance = (share + new) * own + known
    spread = 2 * ((share + new) * (own + v)) ** 2 / free + 2 * (new * (seeds - 1) * v) ** 2 / of_seeds
    together = (free * f + of_seeds) / (free + of_seeds) * known
    dof = np.where(pooled, free + of_seeds, np.maximum(2 * variance**2 / spread, 1.0))
    return np.where(pooled, together, variance), dof
