"""What compute buys best: the sizes of the two axes that a budget is split into, by the law and level by level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from analysis.inference.axes import JointAnalysis
from analysis.laws.curves import CurveFit
from analysis.laws.intervals import Interval, Sample
from drorae.errors import UserError
from drorae.metrics import registry
from drorae.metrics.registry import Better

FLOPS_PER_PAIR = 6.0
"""Floating-point operations per parameter and token of a transformer's training: Kaplan et al. (2020), section 2.1."""

SAME_LEVEL = 0.1
"""Decades of compute within which pairs count as one level."""

LEAST_PER_LEVEL = 4
"""A parabola's parameters + 1."""


@dataclass(frozen=True)
class Share:
    """A number with its 95% interval."""

    value: float
    ci95: Interval


@dataclass(frozen=True)
class Optimum:
    """The pair that costs a budget and has the least value of the law y = E + A N^-alpha + B D^-beta."""

    compute: float
    first: Share
    second: Share
    value: float
    """Of the law there."""


@dataclass(frozen=True)
class ComputeLaw:
    """How the best pair grows with compute: N* = G (C/k)^a, D* = (C/k)^b / G, with a = beta/(alpha + beta) = 1 - b."""

    per_pair: float
    """k of C = k N D."""
    exponent: Share
    """a, of the first axis."""
    second_exponent: Share
    optima: tuple[Optimum, ...]


PAIRS = "pairs"
"""What stands for the product of both axes where a column of compute is asked for."""


@dataclass(frozen=True)
class Bought:
    """What compute buys, as far as it was asked for."""

    law: ComputeLaw | None = None
    levels: IsoFlop | None = None


def buy(
    found: JointAnalysis,
    budgets: Sequence[float] = (),
    per_pair: float = FLOPS_PER_PAIR,
    column: str | None = None,
    better: Better | None = None,
) -> Bought:
    """Splits budgets by the law of two powers (`compute_law`), and finds the best size level by level (`isoflop`).

    Args:
        found: the laws.
        budgets: to split; none by default.
        per_pair: floating-point operations per unit of one axis and of the other.
        column: of a run's compute, or `PAIRS` for that product; no levels by default.
        better: which values are better; by the metric's name by default, and lower where that is not known.

    Raises:
        UserError: the law of two powers was not fitted; what `compute_law` and `isoflop` refuse.
    """
    law = levels = None
    if budgets:
        fit = found.find("two-powers")
        if fit is None:
            raise UserError(
                f"compute: needs {found.y_name} = E + A N^-alpha + B D^-beta: {dict(found.skipped)['two-powers']}"
            )
        law = compute_law(fit, budgets, per_pair)
    if column is not None:
        spent = per_pair * found.sample.x.prod(axis=1) if column == PAIRS else found.mean_of(column)
        levels = isoflop(found.sample, spent, (better or registry.better(found.y_name)) != "higher")
    return Bought(law, levels)


def compute_law(fit: CurveFit, budgets: Sequence[float], per_pair: float = FLOPS_PER_PAIR) -> ComputeLaw:
    """Splits each budget C = k N D between the axes where the law is least (Hoffmann et al. 2022, equation 4).

    Intervals are the delta method's for exponents and for the logarithms of sizes, with Student's t; infinite for a
    fit by a method that has none.

    Args:
        fit: a law of two powers.
        budgets: values of C.
        per_pair: k.

    >>> from analysis.laws.curves import fit_curve
    >>> pairs = np.array([(n, d) for n in np.geomspace(1e8, 1e10, 4) for d in np.geomspace(1e9, 1e11, 4)])
    >>> fit = fit_curve("chinchilla", pairs, 1.8 + 400 * pairs[:, 0] ** -0.3 + 400 * pairs[:, 1] ** -0.3)
    >>> law = compute_law(fit, [6e20])
    >>> round(law.exponent.value, 6), f"{law.optima[0].first.value:.4g}"
    (0.5, '1e+10')

    Raises:
        UserError: another law, one that does not fall along both axes, or a budget or k that is not above 0.
    """
    _check(fit, budgets, per_pair)
    _, a, b, alpha, beta = map(float, fit.parameters)
    total = alpha + beta
    log_g = math.log(alpha * a / (beta * b)) / total
    # Gradients by E, A, B, alpha, beta.
    of_share = np.array([0, 0, 0, -beta, alpha]) / total**2
    of_g = np.array([0, 1 / a, -1 / b, 1 / alpha - log_g, -1 / beta - log_g]) / total
    half = _half_width(fit, of_share)
    share, rest = beta / total, alpha / total
    optima = []
    for budget in budgets:
        log_c = math.log(budget / per_pair)
        ends = []
        for log_size, gradient in (
            (log_g + share * log_c, of_g + of_share * log_c),
            (-log_g + rest * log_c, -of_g - of_share * log_c),
        ):
            width = _half_width(fit, gradient)
            ends.append(Share(_exp(log_size), Interval(_exp(log_size - width), _exp(log_size + width))))
        value = float(fit.value(np.array([[ends[0].value, ends[1].value]]))[0])
        optima.append(Optimum(budget, ends[0], ends[1], value))
    return ComputeLaw(
        per_pair,
        Share(share, Interval(share - half, share + half)),
        Share(rest, Interval(rest - half, rest + half)),
        tuple(optima),
    )


def _check(fit: CurveFit, budgets: Sequence[float], per_pair: float) -> None:
    """Refuses what `compute_law` cannot split."""
    if fit.form.parameters != ("E", "A", "B", "alpha", "beta"):
        raise UserError(
            f"compute: of y = E + A N^-alpha + B D^-beta alone, not of {fit.name}; it needs that law fitted"
        )
    _, a, b, _, _ = map(float, fit.parameters)
    if not (a > 0 and b > 0):
        raise UserError(
            f"compute: the law does not fall along both axes (A = {a:.3g}, B = {b:.3g}); a split that is best needs a "
            "metric that is better when lower"
        )
    if not (math.isfinite(per_pair) and per_pair > 0):
        raise UserError(f"compute: {per_pair} operations per pair; expected a number above 0")
    for budget in budgets:
        if not (math.isfinite(budget) and budget > 0):
            raise UserError(f"compute: a budget of {budget}; expected a number above 0")


def _half_width(fit: CurveFit, gradient: np.ndarray) -> float:
    """Half the 95% interval of a number with this gradient by the parameters; infinite where the method has none."""
    if fit.method != "least-squares":
        return float("inf")
    if fit.replication is not None:
        margin = fit.uncertainty.margin(gradient[None])
        return float(stats.t.ppf(0.975, margin.dof[0]) * np.sqrt(margin.law[0]))
    return float(stats.t.ppf(0.975, fit.dof) * np.sqrt(max(float(gradient @ fit.covariance @ gradient), 0.0)))


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


@dataclass(frozen=True)
class Level:
    """Pairs of one compute, and the least of the parabola in log10 of the first size through their values."""

    compute: float
    """Geometric mean."""
    n: int
    minimum: Share | None
    """The first size there; None where none is accepted."""
    value: float
    """Of the parabola there; nan where none is accepted."""
    reason: str = ""
    """Why none is accepted."""


@dataclass(frozen=True)
class IsoFlop:
    """The levels of compute, and the power law N* = c C^a through the minima that are accepted."""

    levels: tuple[Level, ...]
    exponent: Share | None
    """a, with the exact t of a line through the minima; None of fewer than three."""


def isoflop(sample: Sample, compute: np.ndarray, lower_is_better: bool = True) -> IsoFlop:
    """Fits a parabola in log10 of the first size to every level of compute (Hoffmann et al. 2022, approach 2).

    A minimum counts where the parabola opens upwards and the minimum lies between the level's sizes: a maximum is no
    optimum, and beyond the points nothing shows one. Its interval is Fieller's set; where the bend is not resolved that
    set has no end, and the minimum is refused. Where higher values are better, read maximum for minimum.

    Args:
        sample: the configurations.
        compute: of each, shape (n,).
        lower_is_better: of the values.

    Raises:
        UserError: a compute that is not above 0, or no level with as many sizes as a parabola needs.
    """
    if not (np.all(np.isfinite(compute)) and np.all(compute > 0)):
        raise UserError("isoflop: a compute is missing or not above 0; expected one for every run")
    levels = [
        _level(np.log10(sample.x[rows, 0]), sample.y[rows] * (1 if lower_is_better else -1), compute[rows])
        for rows in _same(np.log10(compute))
        if len(np.unique(sample.x[rows, 0])) >= LEAST_PER_LEVEL
    ]
    if not levels:
        raise UserError(
            f"isoflop: no {LEAST_PER_LEVEL} sizes share a compute within {SAME_LEVEL} decade; a parabola needs so "
            "many; run several sizes at each of a few budgets"
        )
    if not lower_is_better:
        levels = [Level(item.compute, item.n, item.minimum, -item.value, item.reason) for item in levels]
    minima = [(item.compute, item.minimum.value) for item in levels if item.minimum is not None]
    exponent = None
    if len(minima) >= 3:
        found = stats.linregress(*np.log10(np.array(minima)).T)
        half = float(stats.t.ppf(0.975, len(minima) - 2)) * float(found.stderr)
        exponent = Share(float(found.slope), Interval(float(found.slope) - half, float(found.slope) + half))
    return IsoFlop(tuple(levels), exponent)


def _same(logs: np.ndarray) -> list[np.ndarray]:
    """Rows of one level each, from the smallest: those within `SAME_LEVEL` of its first."""
    order, groups = np.argsort(logs, kind="stable"), []
    while len(order):
        near = logs[order] <= logs[order[0]] + SAME_LEVEL
        groups.append(order[near])
        order = order[~near]
    return groups


def _level(u: np.ndarray, y: np.ndarray, compute: np.ndarray) -> Level:
    """The parabola of a level through y (n,) at u = log10 of the first size (n,)."""
    centre, scale = float(u.mean()), float(np.ptp(u))
    z = (u - centre) / scale
    design = np.column_stack([np.ones(len(z)), z, z**2])
    inverse = np.linalg.inv(design.T @ design)
    (at_centre, slope, bend) = c = inverse @ design.T @ y
    left, dof = y - design @ c, len(y) - 3
    covariance = inverse * float(left @ left) / dof
    mean = float(10 ** np.log10(compute).mean())

    def refused(reason: str) -> Level:
        return Level(mean, len(y), None, math.nan, reason)

    if bend <= 0:
        return refused("the parabola has no optimum, only its opposite")
    least = -slope / (2 * bend)
    if not z.min() < least < z.max():
        side = "smaller" if least <= z.min() else "larger"
        return refused(f"the optimum lies outside the sizes measured: run {side} ones")
    ends = _fieller(c, covariance, float(stats.t.ppf(0.975, dof)))
    if ends is None:
        return refused("the bend is not resolved, so the optimum has no interval: run more sizes")
    low, high = (float(10 ** (centre + scale * end)) for end in ends)
    size = float(10 ** (centre + scale * least))
    return Level(mean, len(y), Share(size, Interval(low, high)), float(at_centre + slope * least / 2))


def _fieller(c: np.ndarray, covariance: np.ndarray, quantile: float) -> tuple[float, float] | None:
    """Where slope + 2 bend z may be zero, 95% (Fieller 1954); None where that set is unbounded."""
    v11, v12, v22 = covariance[1, 1], covariance[1, 2], covariance[2, 2]
    q = quantile**2
    # (slope + 2 bend z)^2 <= q (v11 + 4 z v12 + 4 z^2 v22), in powers of z.
    two, one, zero = 4 * (c[2] ** 2 - q * v22), 4 * (c[1] * c[2] - q * v12), c[1] ** 2 - q * v11
    if two <= 0:
        return None
    root = math.sqrt(max(one**2 - 4 * two * zero, 0.0))
    return (-one - root) / (2 * two), (-one + root) / (2 * two)
