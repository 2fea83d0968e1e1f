"""How far numbers can be trusted: points with their weights, intervals of parameters, of the law, of a new run.

What is independent is the configuration. Its seeds are averaged first, and laws are fitted to the means: with equally
many seeds each, that is the exact t of a law with a random effect per configuration, whatever the share of seeds in
the scatter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy import stats

from analysis.laws.curves import CurveFit, Huber, Method, Profile, fit_curve
from analysis.laws.digits import between
from analysis.laws.forms import Form, sizes
from analysis.laws.noise import Replication
from drorae.errors import UserError
from drorae.metrics.registry import marked


@dataclass(frozen=True)
class Sample:
    """What laws are fitted to, one entry per configuration: sizes x (n, axes), means y (n,), runs (n,).

    weights (n,) have mean 1. A mean of weight 1 stands for `runs_at_unit_weight` runs.
    """

    x: np.ndarray
    y: np.ndarray
    runs: np.ndarray
    weights: np.ndarray
    seed_sd: float = 0.0
    """Pooled standard deviation of runs that differ only in seed; 0 where there are none."""
    seed_dof: int = 0
    runs_at_unit_weight: float = 1.0
    replication: Replication | None = None
    """What the seeds know of the scatter; None where there are none, or they agree to the last digit."""
    common_sd: float = 0.0
    """Standard error that all values share because they were measured on the same images: no run more removes it."""
    x_name: str = "x"
    y_name: str = "y"
    image_covariance: np.ndarray | None = None
    """Covariance (n, n) of the means over other sets of as many images; None where no image's influence is known."""
    images: int = 0
    """How many images that covariance is from."""
    repeats: str = "seeds"
    """What the runs of a configuration differ in."""
    mark: str = ""
    """Whose features the values are measured in where training or the tokenizer looks through them, too."""

    @property
    def y_said(self) -> str:
        """The metric with its mark, for texts."""
        return marked(self.y_name, self.mark)

    @property
    def n(self) -> int:
        """Configurations."""
        return len(self.y)

    @property
    def low(self) -> float:
        """Smallest size, on the first axis."""
        return float(self.x[:, 0].min())

    @property
    def high(self) -> float:
        """Largest size, on the first axis."""
        return float(self.x[:, 0].max())

    def take(self, chosen: np.ndarray) -> Sample:
        """The sample with some of its configurations; weights as they are, relative to each other."""
        weights = self.weights[chosen]
        x, y, runs = self.x[chosen], self.y[chosen], self.runs[chosen]
        seeds = None if self.replication is None else self.replication.take(chosen)
        images = None if self.image_covariance is None else self.image_covariance[np.ix_(chosen, chosen)]
        return replace(
            self, x=x, y=y, runs=runs, weights=weights / weights.mean(), replication=seeds, image_covariance=images
        )

    def image_variance(self, fit: CurveFit, rows: np.ndarray) -> np.ndarray | None:
        """Variance (points,), over other images, of rows . parameters of a law fitted to the sample, to first order.

        rows: gradients by the parameters, shape (points, p). None where no influence of an image is known.
        """
        if self.image_covariance is None:
            return None
        pull = rows @ _pull(fit)
        # Of images that move all alike it is zero, and rounded below.
        return np.asarray(np.maximum(np.einsum("pi,ij,pj->p", pull, self.image_covariance, pull), 0))

    def image_scatter(self, fit: CurveFit) -> float:
        """The part of a fit's residual variance that its images account for; 0 where nothing is known of them."""
        if self.image_covariance is None:
            return 0.0
        left = np.eye(self.n) - fit.form.gradient(fit.x, fit.parameters) @ _pull(fit)
        return max(float(np.sum(fit.weights * np.diag(left @ self.image_covariance @ left.T)) / fit.dof), 0.0)

    def fit(self, form: Form | str, method: Method = "least-squares", loss: Huber | None = None) -> CurveFit:
        """A law fitted to the sample, by least squares unless told otherwise, with what its seeds know."""
        return fit_curve(form, self.x, self.y, self.weights, method, self.replication, loss)


def _pull(fit: CurveFit) -> np.ndarray:
    """How the parameters follow the points, (p, n): (J'WJ)^-1 J'W."""
    root = np.sqrt(fit.weights)
    return np.asarray(np.linalg.pinv(fit.form.gradient(fit.x, fit.parameters) * root[:, None]) * root)


def points(
    x: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None, x_name: str = "x", y_name: str = "y"
) -> Sample:
    """Makes a sample of single runs, one per configuration.

    Args:
        x: sizes, shape (n,) or (n, axes).
        y: values, shape (n,).
        weights: relative precisions, shape (n,); equal by default.
        x_name: of the sizes, for messages.
        y_name: of the values, likewise.

    >>> points(np.array([1e6, 1e7, 1e8]), np.array([0.5, 0.45, 0.41])).n
    3
    """
    y = np.asarray(y, dtype=float)
    w = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=float)
    return Sample(sizes(x), y, np.ones(len(y)), w / w.mean(), x_name=x_name, y_name=y_name)


class Interval(NamedTuple):
    """Ends of a 95% interval; an infinite end where the data do not bound that side."""

    low: float
    high: float


def satterthwaite(middle: float, parts: Sequence[tuple[float, float]]) -> Interval:
    """95% interval about a number whose variance is a sum of estimates, each with its degrees of freedom (1946)."""
    total = sum(variance for variance, _ in parts)
    spread = sum(variance**2 / dof for variance, dof in parts)
    half = float(stats.t.ppf(0.975, total**2 / spread)) * total**0.5 if spread > 0 else 0.0
    return Interval(middle - half, middle + half)


EVERYTHING = Interval(0.0, np.inf)
"""Every size."""


def parameter_intervals(fit: CurveFit, kind: str = "profile", level: float = 0.95) -> dict[str, Interval]:
    """Intervals of a law's natural parameters by name, of 95% or less; an end of one of 90% bounds one side at 95%.

    profile: t where a law is linear (exact without seeds), the F-calibrated profile likelihood elsewhere; infinite on
    a side where even the end of the search is compatible with the data. delta: estimate +/- t s.e., which is symmetric
    and at eight points often wrong; for comparison.
    """
    if kind not in ("profile", "delta"):
        raise UserError(f"interval {kind}: no such kind; kinds: profile, delta")
    quantile = float(stats.t.ppf((1 + level) / 2, fit.dof))
    names = fit.form.parameters
    if kind == "delta":
        half = quantile * np.sqrt(np.diag(fit.covariance))
        ends = zip(map(float, fit.parameters - half), map(float, fit.parameters + half), strict=True)
        return {name: Interval(*pair) for name, pair in zip(names, ends, strict=True)}
    profile, found = fit.profile, {}
    k, rss = len(fit.form.coefficients), profile.rss(fit.y)
    allowances = fit.allowances_at(level)
    kept = profile.t[rss <= rss.min() + max(allowances[k:], default=allowances.max())]
    # Whether the compatible curved parameters reach the lower and the upper end of their box.
    lows, highs = np.array(fit.form.box(fit.x)).reshape(-1, 2).T
    near = 1e-6 * (highs - lows)
    open_low, open_high = kept.min(axis=0) <= lows + near, kept.max(axis=0) >= highs - near
    runs_off = _runs_off(fit, kept, open_low, open_high)
    for j, name in enumerate(names[:k]):
        low, high = map(
            float, profile.interval(fit.y, np.broadcast_to(np.eye(k)[j], (len(profile.t), k)), 0.0, allowances[j])
        )
        # Towards the end of the search a coefficient may run off to one side: no number is its end.
        found[name] = Interval(-np.inf if (j, -1) in runs_off else low, np.inf if (j, 1) in runs_off else high)
    for m, name in enumerate(names[k:]):
        # One step of the grid outwards: the set's end lies between what is kept and its neighbour.
        inside, every = kept[:, m], profile.t[:, m]
        first = max(every[every < inside.min()], default=inside.min())
        last = min(every[every > inside.max()], default=inside.max())
        natural, least = (np.exp, 0.0) if fit.form.logged[m] else (float, -np.inf)
        low, high = float(natural(first)), float(natural(last))
        found[name] = Interval(least if open_low[m] else low, np.inf if open_high[m] else high)
    return found


def _runs_off(fit: CurveFit, kept: np.ndarray, low: np.ndarray, high: np.ndarray) -> set[tuple[int, int]]:
    """(coefficient, direction) of those that grow like a power as a compatible curved parameter reaches its end."""
    found = set()
    box = fit.form.box(fit.x)
    for m, (start, end) in enumerate(box):
        for side, edge, is_open in ((1, start, low[m]), (-1, end, high[m])):
            if not is_open:
                continue
            point = kept[np.argmin(np.abs(kept[:, m] - edge))]
            step = np.zeros(len(box))
            step[m] = side * 0.01 * (end - start)
            there, inward = Profile(fit.form, fit.x, np.array([point, point + step]), fit.weights).coefficients(fit.y)
            for j in range(len(there)):
                # d ln|c| / dt beyond a tenth: E ~ -1/b does 1 per unit of ln b, an E that has settled does none.
                change = abs(there[j] - inward[j]) / max(abs(there[j]), 1e-300) / abs(step[m])
                if change > 0.1:
                    found.add((j, int(np.sign(there[j] - inward[j]))))
    return found


def law_interval(fit: CurveFit, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends (points,) of the 95% interval of the law itself, the mean over all runs, at sizes `at`."""
    return _intervals(fit, at, None)


def new_point_interval(fit: CurveFit, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends (points,) of the 95% interval of a new point like those fitted, of weight 1, at sizes `at`.

    Where configurations have several runs: of the mean of as many as they typically have.
    """
    return _intervals(fit, at, 1 if fit.replication is None else fit.replication.typical)


def run_interval(
    fit: CurveFit, sample: Sample, at: np.ndarray, seeds: np.ndarray | float = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ends (points,) of the 95% interval of the mean of new runs of a new configuration.

    Args:
        fit: the law.
        sample: what it was fitted to.
        at: sizes, shape (points,) or (points, axes).
        seeds: number of new runs in the mean, one for all sizes or of shape (points,).

    Where configurations have one run each that is s^2 (1 + h) and exact t; else see `analysis.laws.noise.Uncertainty`.
    """
    if fit.replication is None and sample.replication is not None:
        fit = replace(fit, replication=sample.replication)
    return _intervals(fit, sizes(at), seeds)


def _intervals(fit: CurveFit, at: np.ndarray, seeds: np.ndarray | float | None) -> tuple[np.ndarray, np.ndarray]:
    """Ends (points,) of the intervals at sizes `at`.

    seeds: of the new configuration's mean; None for the law.
    """
    profile, at = fit.profile, sizes(at)
    extras, allowances = np.full(len(at), 0.0 if seeds is None else 1.0), np.full(len(at), np.nan)
    if fit.replication is not None:
        rows = fit.form.gradient(at, fit.parameters)
        margin = fit.uncertainty.margin(rows, None if seeds is None else at[:, 0], 1 if seeds is None else seeds)
        allowances = margin.allowance
        extras = np.where(margin.law > 0, margin.noise / np.maximum(margin.law, 1e-300) * margin.unit, extras)
    return profile.band(fit.y, at, extras, allowances)


class InverseSet(NamedTuple):
    """Sizes at which a law may reach a target, 95%: pieces (low, high), infinite or zero where a side is open."""

    estimate: float | None
    """Where the fitted law is at the target; None where it never is."""
    pieces: tuple[Interval, ...]
    bounded: bool
    note: str = ""
    """Said in place of the numbers where those are withheld."""

    @property
    def text(self) -> str:
        """The set in words."""
        if self.note:
            return self.note
        if not self.pieces:
            return "no size reaches it"
        if self.bounded:
            return " or ".join(between(*item) for item in self.pieces)
        if self.pieces == (EVERYTHING,):
            return "unbounded: these data leave every size possible"
        sides = (f"from {low:.4g} on" if low > 0 else f"up to {high:.4g}" for low, high in self.pieces)
        return f"unbounded: {' or '.join(sides)}"


def fieller(fit: CurveFit, target: float) -> InverseSet:
    """Fieller's set (1954) of sizes where a line in log10 x is at `target`.

    All d with (target - ybar - b d)^2 <= t^2 s^2 (1/n + d^2/Sxx), d = log10 x - mean: bounded only where the slope
    differs from zero (t^2 s^2 < b^2 Sxx); otherwise everything, or everything but a gap.
    """
    if fit.name != "log-linear":
        raise UserError(f"Fieller's set: of the log-linear law alone, not {fit.name}")
    u, w = np.log10(fit.x[:, 0]), fit.weights
    centre = float(np.average(u, weights=w))
    total, sxx = float(w.sum()), float(np.sum(w * (u - centre) ** 2))
    slope = float(fit.parameters[1])
    away = target - float(np.average(fit.y, weights=w))
    scale = float(stats.t.ppf(0.975, fit.dof)) ** 2 * fit.residual_sd**2
    # a d^2 - 2 b d + c <= 0
    a, b, c = slope**2 - scale / sxx, slope * away, away**2 - scale / total
    estimate = _power_of_ten(centre + away / slope) if slope else None
    root2 = b**2 - a * c
    if a == 0 or (a < 0 and root2 <= 0):
        return InverseSet(estimate, (EVERYTHING,), False)
    low, high = (_power_of_ten(centre + d) for d in sorted((b + sign * np.sqrt(max(root2, 0))) / a for sign in (-1, 1)))
    if a > 0:
        return InverseSet(estimate, (Interval(low, high),), True)
    return InverseSet(estimate, (Interval(0.0, low), Interval(high, np.inf)), False)


def _power_of_ten(u: float) -> float:
    return float(10**u) if abs(u) < 300 else (np.inf if u > 0 else 0.0)


def inverse(fit: CurveFit, target: float) -> InverseSet:
    """Sizes whose 95% interval of the law holds `target`, which is Fieller's set where the law is log-linear.

    For other laws found on a grid from six decades below the data to six above; a piece that reaches an end is
    called unbounded on that side.
    """
    if fit.name == "log-linear" and fit.replication is None:
        return fieller(fit, target)
    low, high = np.log10(fit.x[:, 0].min()), np.log10(fit.x[:, 0].max())
    u = np.linspace(low - 6, high + 6, 301)
    at = 10**u
    floor, ceiling = law_interval(fit, at)
    holds = (floor <= target) & (target <= ceiling)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], holds, [False]]).astype(int)))
    pieces = []
    for first, last in zip(edges[::2], edges[1::2] - 1, strict=True):
        left = 0.0 if first == 0 else _crossing(fit, target, at[first - 1], at[first])
        right = np.inf if last == len(u) - 1 else _crossing(fit, target, at[last + 1], at[last])
        pieces.append(Interval(left, right))
    difference = fit.value(at) - target
    crossings = np.flatnonzero(np.sign(difference[:-1]) != np.sign(difference[1:]))
    estimate = None
    if len(crossings):
        i = crossings[np.argmin(np.abs(u[crossings] - high))]
        share = difference[i] / (difference[i] - difference[i + 1])
        estimate = float(10 ** (u[i] + share * (u[i + 1] - u[i])))
    bounded = all(item.low > 0 and np.isfinite(item.high) for item in pieces)
    return InverseSet(estimate, tuple(pieces), bounded)


def _crossing(fit: CurveFit, target: float, outside: float, inside: float) -> float:
    """Where between two sizes the interval begins to hold the target, to a ten-thousandth of a decade."""
    a, b = np.log10(outside), np.log10(inside)
    while abs(a - b) > 1e-4:
        middle = (a + b) / 2
        low, high = law_interval(fit, np.array([10**middle]))
        a, b = (a, middle) if low[0] <= target <= high[0] else (middle, b)
    return float(10 ** ((a + b) / 2))
