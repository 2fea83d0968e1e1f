"""Bootstrap of a fitted law over its points: intervals for estimates, such as Huber's, that have no exact ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from scipy import stats

from analysis.laws.curves import CurveFit
from analysis.laws.forms import OFFSET, sizes
from analysis.laws.intervals import Interval
from drorae.errors import UserError

Resampling = Literal["pairs", "residuals"]
Progress = Callable[[int, int], None]
"""(resamples done, resamples in all)."""

LEAST_RESAMPLES = 100
"""Below this many the ends of a 95% interval are single resamples."""

_NUMBERS = 250_000
"""In the gradients of the resamples that are fitted at once."""
_STEPS = 500
_PRECISION = 1e-10
"""Relative decrease of the loss by one step at which a resample counts as fitted."""


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """The parameters that a law has on resampled points, (resamples, parameters), natural ones."""

    fit: CurveFit
    parameters: np.ndarray
    kind: Resampling
    seed: int

    @property
    def resamples(self) -> int:
        """How often the points were drawn again."""
        return len(self.parameters)

    def _shares(self, level: float, tails: int) -> float:
        """The share of resamples beyond an end.

        That of the normal quantile, widened to Student's t and by sqrt(n / dof), since resampled residuals are smaller
        than errors by as much (Hesterberg 2015, section 5.3).
        """
        fit = self.fit
        quantile = float(stats.t.ppf(1 - (1 - level) / tails, fit.dof)) * np.sqrt(fit.n / fit.dof)
        return float(stats.norm.sf(quantile))

    @cached_property
    def _open(self) -> np.ndarray:
        """The resampled parameters with those that went to the end of their search as infinite as that end stands for.

        An exponent that is all but zero beside an offset sends the offset and the scale of its power to opposite
        infinities; the numbers at which the search stops are of its box, not of the data.
        """
        fit, found = self.fit, self.parameters.copy()
        k = len(fit.form.coefficients)
        box = np.array(fit.form.box(fit.x)).reshape(-1, 2)
        near = 1e-3 * (box[:, 1] - box[:, 0])
        searched = _searched(fit, self.parameters)[:, k:]
        for m, (low, high) in enumerate(box):
            first, last = searched[:, m] <= low + near[m], searched[:, m] >= high - near[m]
            found[first, k + m] = 0.0 if fit.form.logged[m] else -np.inf
            found[last, k + m] = np.inf
            if OFFSET in fit.form.coefficients:
                away = np.sign(self.parameters[:, 1 + m]) * np.inf
                found[first, 0], found[first, 1 + m] = -away[first], away[first]
        return found

    def _ends(self, tail: float) -> tuple[np.ndarray, np.ndarray]:
        """Quantiles of every parameter, no nearer than the estimate. Not interpolated, since some are infinite."""
        low = np.quantile(self._open, tail, axis=0, method="lower")
        high = np.quantile(self._open, 1 - tail, axis=0, method="higher")
        return np.minimum(low, self.fit.parameters), np.maximum(high, self.fit.parameters)

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """95% percentile intervals of the parameters by name; they hold the estimate."""
        ends = zip(self.fit.form.parameters, *self._ends(self._shares(0.95, 2)), strict=True)
        return {name: Interval(float(low), float(high)) for name, low, high in ends}

    def one_sided(self, name: str) -> Interval:
        """A 95% lower and a 95% upper bound of a parameter, each for itself."""
        low, high = self._ends(self._shares(0.95, 1))
        column = self.fit.form.parameters.index(name)
        return Interval(float(low[column]), float(high[column]))

    def law_interval(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ends (points,) of the 95% interval of the law itself at sizes `at`, (points,) or (points, axes)."""
        form, at = self.fit.form, sizes(at)
        values = _law(self.fit, at, _searched(self.fit, self.parameters))[0]
        tail = self._shares(0.95, 2)
        low, high = np.quantile(values, [tail, 1 - tail], axis=0)
        own = form.value(at, self.fit.parameters)
        return np.minimum(low, own), np.maximum(high, own)

    def new_point_interval(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ends (points,) of the 95% interval of a new point of weight 1 at sizes `at`: resampled laws and residuals."""
        fit, at = self.fit, sizes(at)
        left = _residuals(fit, _target(fit))[0]
        values = _law(fit, at, _searched(fit, self.parameters))[0]
        errors = np.random.default_rng(self.seed).choice(left, values.shape)
        tail = self._shares(0.95, 2)
        low, high = np.quantile(values * np.exp(errors) if _log(fit) else values + errors, [tail, 1 - tail], axis=0)
        return low, high


def bootstrap(
    fit: CurveFit,
    resamples: int = 1000,
    kind: Resampling = "pairs",
    seed: int = 0,
    progress: Progress | None = None,
) -> Bootstrap:
    """Fits a law again to resampled points, by the method that it was fitted with.

    Args:
        fit: the law; its points are means of configurations, so that configurations are resampled, not runs.
        resamples: how often.
        kind: pairs, points are drawn with replacement; residuals, these are, each divided by the root of 1 less its
            leverage, and added to the law.
        seed: of the draws.
        progress: called after every batch.

    Raises:
        UserError: fewer than 100 resamples, another kind, or a method that knows no bootstrap.
    """
    if kind not in ("pairs", "residuals"):
        raise UserError(f"resampling {kind}: no such kind; kinds: pairs, residuals")
    if resamples < LEAST_RESAMPLES:
        raise UserError(f"{resamples} resamples: expected {LEAST_RESAMPLES} or more, for the ends of a 95% interval")
    if fit.method == "log-log":
        raise UserError(f"law {fit.name}, method log-log: no bootstrap; fit it with method huber or least-squares")
    rng, found = np.random.default_rng(seed), []
    target = _target(fit)
    left, middle = _residuals(fit, target)
    batch = max(1, min(resamples, _NUMBERS // (fit.n * len(fit.parameters))))
    for first in range(0, resamples, batch):
        count = min(batch, resamples - first)
        if kind == "pairs":
            counts, targets = _draws(rng, count, fit), np.broadcast_to(target, (count, fit.n))
        else:
            chosen = rng.integers(fit.n, size=(count, fit.n))
            counts, targets = np.ones((count, fit.n)), middle + left[chosen] / np.sqrt(fit.weights)
        found.append(_refit(fit, counts, targets))
        if progress is not None:
            progress(first + count, resamples)
    return Bootstrap(fit, _natural(fit, np.concatenate(found)), kind, seed)


def _draws(rng: np.random.Generator, count: int, fit: CurveFit) -> np.ndarray:
    """How often each point was drawn, (count, n); draws of fewer different points than parameters + 1 are made anew."""
    counts = rng.multinomial(fit.n, np.full(fit.n, 1 / fit.n), size=count).astype(float)
    least = min(len(fit.parameters) + 1, fit.n - 1)
    while np.any(poor := np.sum(counts > 0, axis=1) < least):
        counts[poor] = rng.multinomial(fit.n, np.full(fit.n, 1 / fit.n), size=int(poor.sum()))
    return counts


def _refit(fit: CurveFit, counts: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Searched parameters (B, p) with the least loss of every resample at once, starting from the fit's.

    Reweighted Gauss-Newton steps, damped where a step would raise the loss.

    Args:
        fit: the law, its weights and its loss.
        counts: of each point in each resample, shape (B, n).
        targets: values on the scale of the residuals, shape (B, n).
    """
    delta = np.inf if fit.loss is None or not fit.loss.delta else fit.loss.delta
    root = np.sqrt(fit.weights)
    k = len(fit.form.coefficients)
    lows, highs = np.full(len(fit.parameters), -np.inf), np.full(len(fit.parameters), np.inf)
    if fit.form.curved:
        lows[k:], highs[k:] = np.array(fit.form.box(fit.x)).T
    at = np.clip(np.repeat(_searched(fit, fit.parameters[None]), len(counts), axis=0), lows, highs)

    def misfit(points: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        value, gradient = _scaled(fit, points)
        left = root * (value - targets[rows])
        size = np.abs(left)
        losses = np.where(size <= delta, left**2 / 2, delta * (size - delta / 2) if delta < np.inf else 0)
        return np.sum(counts[rows] * losses, axis=1), left, gradient * root[:, None]

    every = np.arange(len(counts))
    loss, left, gradient = misfit(at, every)
    damping, still = np.full(len(counts), 1e-3), np.ones(len(counts), dtype=bool)
    for _ in range(_STEPS):
        rows = np.flatnonzero(still)
        if len(rows) == 0:
            break
        share = counts[rows] * np.minimum(1, delta / np.maximum(np.abs(left[rows]), 1e-300))
        weighted = np.swapaxes(gradient[rows] * share[..., None], 1, 2)
        normal, slope = weighted @ gradient[rows], (weighted @ left[rows][..., None])[..., 0]
        scale = np.sqrt(np.maximum(np.diagonal(normal, axis1=1, axis2=2), 1e-300))
        normal = normal / scale[:, :, None] / scale[:, None, :]
        normal += (damping[rows] + 1e-13)[:, None, None] * np.eye(normal.shape[-1])
        step = np.linalg.solve(normal, (slope / scale)[..., None])[..., 0] / scale
        there = np.clip(at[rows] - step, lows, highs)
        loss_there, left_there, gradient_there = misfit(there, rows)
        better = loss_there < loss[rows]
        gain = np.where(better, loss[rows] - loss_there, 0)
        damping[rows] = np.where(better, damping[rows] / 5, damping[rows] * 8)
        still[rows] = np.where(better, gain > _PRECISION * loss[rows], damping[rows] < 1e6)
        moved = rows[better]
        at[moved], loss[moved] = there[better], loss_there[better]
        left[moved], gradient[moved] = left_there[better], gradient_there[better]
    return np.asarray(at)


def _log(fit: CurveFit) -> bool:
    return fit.loss is not None and fit.loss.residuals == "log"


def _target(fit: CurveFit) -> np.ndarray:
    """The values on the scale of the residuals."""
    return np.log(fit.y) if _log(fit) else fit.y


def _residuals(fit: CurveFit, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Residuals (n,) of unit weight, as large as errors are, and the law (n,), both on the scale of the residuals."""
    middle, gradient = (item[0] for item in _scaled(fit, _searched(fit, fit.parameters[None])))
    root = np.sqrt(fit.weights)
    unit = gradient * root[:, None]
    lengths = np.linalg.norm(unit, axis=0)
    q, _ = np.linalg.qr(unit / np.where(lengths > 0, lengths, 1))
    return (target - middle) * root / np.sqrt(1 - np.minimum(np.sum(q**2, axis=1), 0.99)), middle


def _searched(fit: CurveFit, parameters: np.ndarray) -> np.ndarray:
    """Parameters (B, p) with the curved ones on the scale of the search."""
    logged = np.array((False,) * len(fit.form.coefficients) + fit.form.logged)
    return np.where(logged, np.log(np.where(logged, parameters, 1)), parameters)


def _natural(fit: CurveFit, searched: np.ndarray) -> np.ndarray:
    k = len(fit.form.coefficients)
    if not fit.form.curved:
        return searched
    return np.asarray(np.concatenate([searched[:, :k], fit.form.natural(searched[:, k:])], axis=1))


def _law(fit: CurveFit, x: np.ndarray, searched: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The law (B, n) and its gradient (B, n, p) by the searched parameters."""
    k = len(fit.form.coefficients)
    phi, slopes = fit.form.basis(x, searched[:, k:])
    value = np.einsum("bnk,bk->bn", phi, searched[:, :k])
    return value, np.concatenate([phi, np.einsum("bnkm,bk->bnm", slopes, searched[:, :k])], axis=2)


def _scaled(fit: CurveFit, searched: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same at the fitted points, on the scale of the residuals."""
    value, gradient = _law(fit, fit.x, searched)
    if not _log(fit):
        return value, gradient
    value = np.maximum(value, 1e-12 * fit.y.min())
    return np.log(value), gradient / value[..., None]
