"""Errors of several lines fitted at once where their points scatter more at one end of the sizes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import optimize, stats

from analysis.laws.noise import Replication, Uncertainty

SUSPECTED = 0.5
"""Level at which residuals alone are taken to scatter unevenly. A dozen of them seldom show it, and to miss it costs
most: with an sd that rises tenfold equal designs have a winner in 12% at a level of 0, in 5 to 6% at this."""

_STEEPEST = 12.0
"""Change of the logarithm of the variance over the sizes that is looked for at most."""


@dataclass(frozen=True, eq=False)
class UnevenScatter:
    """A regression (n points, p columns) whose points scatter more at one end of the sizes."""

    design: np.ndarray
    residuals: np.ndarray
    variances: np.ndarray
    """Of the points relative to each other, (n,), as their trend with size has them."""
    p: float
    """Likelihood-ratio test of an even scatter."""
    seeds: Replication | None
    """What the seeds know of the scatter; None where only residuals speak."""
    pooled: bool
    """Whether the seeds may speak for all points alike."""

    @cached_property
    def _parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Coefficients by points (p, n); residuals by points (n, n); 1 - leverage (n,)."""
        by_points = np.linalg.pinv(self.design)
        left = np.eye(len(self.residuals)) - self.design @ by_points
        return by_points, left, np.maximum(np.diag(left), 1e-9)

    def error(self, row: np.ndarray) -> tuple[float, float]:
        """Returns the variance of the coefficients' combination `row` (p,) and its degrees of freedom.

        By the seeds' variance model where all points share it (`analysis.laws.noise.Uncertainty`); else by HC2, made
        unbiased for the trend, with Satterthwaite's degrees of freedom under it (Bell and McCaffrey 2002).
        """
        if self.seeds is not None and self.pooled:
            rss = float(self.residuals @ self.residuals)
            margin = Uncertainty(self.design, np.ones(len(self.residuals)), rss, self.seeds).margin(row[None, :])
            return float(margin.law[0]), float(margin.dof[0])
        by_points, left, kept = self._parts
        share = row @ by_points
        root = left * (share / np.sqrt(kept))
        form = (root @ root.T) * self.variances
        expected = float(np.trace(form))
        unbiased = float(share**2 @ self.variances) / expected
        variance = unbiased * float(share**2 @ (self.residuals**2 / kept))
        return variance, expected**2 / float(np.sum(form * form.T))


def uneven_scatter(
    design: np.ndarray, residuals: np.ndarray, u: np.ndarray, seeds: Replication | None, pooled: bool
) -> UnevenScatter | None:
    """Looks for scatter that changes with size; None where seeds, or without them the residuals, show none.

    Args:
        design: of the regression, shape (n, p).
        residuals: shape (n,).
        u: sizes on the law's axis, shape (n,).
        seeds: what the seeds of all points know; None without seeds.
        pooled: whether one variance model speaks for all points.
    """
    if seeds is not None and np.isfinite(seeds.p):
        return UnevenScatter(design, residuals, seeds.of_means, seeds.p, seeds, pooled) if seeds.trend else None
    leverage = np.diag(design @ np.linalg.pinv(design))
    squares = residuals**2 / np.maximum(1 - leverage, 1e-9)
    if float(residuals @ residuals) <= 1e-20 * len(u) or np.ptp(u) == 0:
        return None
    z = (u - u.mean()) / float(np.ptp(u))
    dof = len(u) - design.shape[1]

    def misfit(tilt: float) -> float:
        """Twice the negative log likelihood at the best level, less a constant, of as many points as are free."""
        return float(dof * np.log(np.mean(squares * np.exp(-tilt * z))))

    tilt = float(optimize.minimize_scalar(misfit, bounds=(-_STEEPEST, _STEEPEST), method="bounded").x)
    p = float(stats.chi2.sf(max(misfit(0.0) - misfit(tilt), 0.0), 1))
    return UnevenScatter(design, residuals, np.exp(tilt * z), p, None, pooled) if p < SUSPECTED else None
