"""What seeds know of the scatter: the variance of one run, and how sure a fit to means of runs is of what it says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

POOLED = 0.3
"""Residuals of the means and scatter of the seeds are pooled unless their ratio is larger than chance has it at this
level, as in Bancroft's (1964) sometimes-pool rule. The slope's interval of 8 configurations with 3 seeds each then
covers .942 to .965 however much configurations scatter by themselves; of small residuals alone as little as .82."""

POOLED_TREND = 0.5
"""The same where seeds scatter more at one end of the sizes: pooled if the residuals are smaller than the seeds imply.
At the quiet end a scatter of the configurations' own, missed, is most of the error: it costs more than elsewhere."""

LEAST_SHARE = 1 / 3
"""Of the residuals' degrees of freedom that the scatter of configurations is left with, at least, beside such seeds:
where it is small, Satterthwaite's approximation falls to one or two and intervals grow several times too wide."""

TREND = 0.25
"""Level at which seeds are taken to scatter more at one end of the sizes: to miss that costs more than to model it."""

WEIGHED = 0.05
"""Level at which the means weigh by it too: weights move the estimate, which chance alone should not do often."""

_STEEPEST = 12.0
"""Change of the logarithm of the variance per decade that is looked for at most."""


@dataclass(frozen=True, eq=False)
class Replication:
    """The runs of every configuration (n,) and the variance of one run, exp(design @ theta), at its size."""

    runs: np.ndarray
    design: np.ndarray
    """(n, 1) of ones where seeds scatter the same everywhere; (n, 2) where log variance is a line in log10 size."""
    theta: np.ndarray
    covariance: np.ndarray
    """Of theta, by the expected information."""
    centre: float
    """log10 of the size at which the second column of the design is 0."""
    p: float
    """Likelihood-ratio test of seeds that scatter the same at all sizes; nan where the sizes cannot show it."""

    @property
    def trend(self) -> bool:
        """Whether the seeds' scatter is modelled as changing with size."""
        return len(self.theta) > 1

    @property
    def weighed(self) -> bool:
        """Whether the trend is sure enough to weigh the means by it."""
        return self.trend and self.p < WEIGHED

    @property
    def typical(self) -> float:
        """Runs of a configuration, their harmonic mean."""
        return float(len(self.runs) / np.sum(1 / self.runs))

    @cached_property
    def of_means(self) -> np.ndarray:
        """Variance of every configuration's mean through its seeds, (n,)."""
        return np.asarray(np.exp(self.design @ self.theta) / self.runs)

    def rows(self, x: np.ndarray) -> np.ndarray:
        """The design at sizes x (m,)."""
        ones = np.ones(len(x))
        return np.column_stack([ones, np.log10(x) - self.centre]) if self.trend else ones[:, None]

    def sd(self, x: float) -> float:
        """Standard deviation of one run at size x."""
        return float(np.exp(self.rows(np.array([x])) @ self.theta / 2)[0])

    def take(self, chosen: np.ndarray) -> Replication:
        """The same of some of the configurations."""
        return replace(self, runs=self.runs[chosen], design=self.design[chosen])


def replication(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> Replication | None:
    """Estimates the variance of runs that differ in seed alone, by maximum likelihood; None where none scatter.

    Args:
        x: size of every configuration, shape (n,); no trend is looked for where one is not above 0.
        y: value of every run, shape (runs,).
        groups: number of every run's configuration, shape (runs,), each of 0 .. n - 1.
    """
    runs = np.bincount(groups).astype(float)
    means = np.bincount(groups, weights=y) / runs
    squares, dof = np.bincount(groups, weights=(y - means[groups]) ** 2), runs - 1
    if dof.sum() == 0 or squares.sum() <= 0:
        return None
    seen = dof > 0
    level = np.array([np.log(squares.sum() / dof.sum())])
    flat = Replication(runs, np.ones((len(runs), 1)), level, np.array([[2 / dof.sum()]]), 0.0, float("nan"))
    if np.any(x <= 0) or len(np.unique(x[seen])) < 3 or dof.sum() < 4:
        return flat
    centre = float(np.average(np.log10(x), weights=dof))
    z = np.log10(x) - centre

    def misfit(tilt: float) -> float:
        """Twice the negative log likelihood at the best level, less a constant."""
        scaled = float(np.sum(squares * np.exp(-tilt * z)))
        return float(dof.sum() * np.log(scaled / dof.sum()) + tilt * np.sum(dof * z))

    tilt = float(optimize.minimize_scalar(misfit, bounds=(-_STEEPEST, _STEEPEST), method="bounded").x)
    p = float(stats.chi2.sf(max(misfit(0.0) - misfit(tilt), 0.0), 1))
    if p >= TREND:
        return replace(flat, p=p)
    theta = np.array([np.log(np.sum(squares * np.exp(-tilt * z)) / dof.sum()), tilt])
    design = np.column_stack([np.ones(len(x)), z])
    information = design.T @ (dof[:, None] / 2 * design)
    return Replication(runs, design, theta, np.linalg.inv(information), centre, p)


class Margin(NamedTuple):
    """Variances, each (m,), of m numbers that a fit gives, and of what new runs add to them."""

    law: np.ndarray
    noise: np.ndarray
    unit: np.ndarray
    """Variance of the law's number were the residual variance of weight 1 one."""
    dof: np.ndarray
    """Satterthwaite's (1946), of the sum of the two variances."""

    @property
    def allowance(self) -> np.ndarray:
        """By how much RSS may exceed its least in the 95% interval (`Profile.interval`); nan where a fit has no say."""
        return self.allowed(0.95)

    def allowed(self, level: float) -> np.ndarray:
        """The same for two-sided intervals of another level."""
        own = np.divide(self.law, self.unit, out=np.full(len(self.law), np.nan), where=self.unit > 0)
        return np.asarray(stats.t.ppf((1 + level) / 2, self.dof) ** 2 * own)


class Homogeneity(NamedTuple):
    """Residual sum of squares of the means over what their seeds imply, and the degrees of freedom of both."""

    f: float
    dof: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """How residuals and seeds together measure the scatter of means about a fit.

    A mean's variance is tau^2 + v / runs, v that of its seeds. The residual sum of squares measures tau^2; what the
    seeds know is subtracted and added where it belongs, so that designs of unequal runs get what each size is worth.
    """

    gradient: np.ndarray
    """(n, parameters)."""
    weights: np.ndarray
    rss: float
    seeds: Replication

    @cached_property
    def _scores(self) -> tuple[np.ndarray, np.ndarray]:
        """What takes a gradient to its coordinates in the space of the fit, (p, q), and that space's basis, (n, q).

        Only products of q by q are formed: the fit's n by n matrices would fill the memory at ten thousand points.
        """
        unit = self.gradient * np.sqrt(self.weights)[:, None]
        lengths = np.linalg.norm(unit, axis=0)
        lengths[lengths == 0] = 1
        space, sizes, turn = np.linalg.svd(unit / lengths, full_matrices=False)
        kept = sizes > 1e-12 * sizes.max()
        return (turn[kept] / sizes[kept, None] / lengths).T, space[:, kept]

    def _inner(self, values: np.ndarray) -> np.ndarray:
        """U' diag(w values) U, (q, q), of values (n,) and the basis U: sums over the means of squares of scores."""
        space = self._scores[1]
        return np.asarray(space.T @ ((self.weights * values)[:, None] * space))

    @cached_property
    def _left(self) -> np.ndarray:
        """Diagonal of the residual form W - W^1/2 U U' W^1/2, (n,): what RSS has of every mean's variance."""
        return np.asarray(self.weights * (1 - np.sum(self._scores[1] ** 2, axis=1)))

    def _square(self, values: np.ndarray) -> float:
        """Trace of (residual form diag(values))^2."""
        outside = self.weights * (2 * self._left - self.weights) * values**2
        return float(np.sum(outside) + np.sum(self._inner(values) ** 2))

    @cached_property
    def homogeneity(self) -> Homogeneity:
        """The ratio that is 1 on average where configurations do not scatter by themselves."""
        v = self.seeds.of_means
        implied = float(self._left @ v)
        first = implied**2 / self._square(v)
        slope = self.seeds.design.T @ (self._left * v)
        second = 2 * implied**2 / float(slope @ self.seeds.covariance @ slope)
        return Homogeneity(self.rss / implied, (first, second))

    @cached_property
    def pooled(self) -> bool:
        """Whether the seeds may account for all of the scatter: then residuals and seeds are pooled."""
        f, dof = self.homogeneity
        level = POOLED_TREND if self.seeds.trend else POOLED
        return f < max(1.0, float(stats.f.isf(level, *dof)))

    @cached_property
    def _best(self) -> np.ndarray:
        """What takes a gradient to its coordinates, (p, q), by the weights that the seeds' variances ask for."""
        return replace(self, weights=1 / self.seeds.of_means)._scores[0]

    def _seen(self, rows: np.ndarray, of_means: np.ndarray) -> np.ndarray:
        """The part (m,) of variances through the seeds that shows in the residuals, too.

        By the weights that the seeds' variances ask for a number errs independently of the residuals; what other
        weights, such as equal ones of unequal runs, add to its error is a combination of these.
        """
        return np.asarray(np.maximum(of_means - np.sum((rows @ self._best) ** 2, axis=1), 0))

    def margin(self, rows: np.ndarray, at: np.ndarray | None = None, runs: np.ndarray | float = 1) -> Margin:
        """Returns the variances of the numbers with gradients `rows` (m, parameters).

        Args:
            rows: gradients of the numbers by the parameters.
            at: sizes (m,) of new configurations whose means are added; none by default.
            runs: of each new mean, a number or (m,).
        """
        v, seeds = self.seeds.of_means, self.seeds
        scores = rows @ self._scores[0]

        def share(values: np.ndarray) -> np.ndarray:
            """Sums over the means of their squared shares in each number times values (n,): (m,)."""
            return np.asarray(np.einsum("mi,ij,mj->m", scores, self._inner(values), scores))

        unit, of_means, own = np.sum(scores**2, axis=1), share(v), share(np.ones(len(v)))
        slopes = np.stack([share(v * column) for column in seeds.design.T], axis=1)
        new = np.zeros(len(rows)) if at is None else np.exp(seeds.rows(at) @ seeds.theta) / runs
        new_rows = np.zeros((len(rows), len(seeds.theta))) if at is None else seeds.rows(at) * new[:, None]
        own_share = own + (at is not None)
        f, (first, second) = self.homogeneity
        of_seeds = of_means + new
        if self.pooled:
            slope = slopes + new_rows
            spread = np.einsum("mk,kl,ml->m", slope, seeds.covariance, slope)
            dof = 2 * of_seeds**2 / spread * (first + second) / second
            pooled = (first * f + second) / (first + second)
            seen = self._seen(rows, of_means)
            return Margin(pooled * (of_means - seen) + f * seen, pooled * new, unit, dof)
        total = float(self._left.sum())
        tau2 = max(self.rss - float(self._left @ v), 0.0) / total
        variance = own_share * tau2 + of_seeds
        scatter = tau2 + v
        of_rss = 2 * self._square(scatter)
        factor = own_share / total
        slope = slopes - factor[:, None] * ((self._left * v) @ seeds.design) + new_rows
        spread = factor**2 * of_rss + np.einsum("mk,kl,ml->m", slope, seeds.covariance, slope)
        noise = new + tau2 if at is not None else new
        least = max(1.0, LEAST_SHARE * first) if seeds.trend else 1.0
        return Margin(own * tau2 + of_means, noise, unit, np.maximum(2 * variance**2 / spread, least))


def weights_of(design: np.ndarray, y: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Weighs means by 1 / (tau^2 + known), mean 1.

    tau^2, the scatter of configurations about the law, makes the weighted residuals as large as expected (Paule and
    Mandel 1982; DerSimonian and Kacker 2007).

    Args:
        design: the law's basis at every configuration, shape (n, p).
        y: configuration means, shape (n,).
        known: the part of every mean's variance that is known, shape (n,).
    """
    if np.ptp(known) <= 1e-12 * max(float(known.max()), 1e-300):
        return np.ones(len(y))
    dof = len(y) - design.shape[1]

    def excess(tau2: float) -> float:
        root = 1 / np.sqrt(tau2 + known)
        q, _ = np.linalg.qr(design * root[:, None])
        left = y * root - q @ (q.T @ (y * root))
        return float(left @ left - dof)

    # A configuration without any known error would get all the weight.
    floor = 1e-3 * float(known.max())
    top = 10 * float(np.var(y)) * len(y) + floor
    tau2 = floor
    if excess(floor) > 0:
        tau2 = float(optimize.brentq(excess, floor, top)) if excess(top) < 0 else top
    inverse = 1 / (tau2 + known)
    return np.asarray(inverse / inverse.mean())
