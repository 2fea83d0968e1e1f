"""The line through a metric against one size or its logarithm, by least squares with exact-t intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from analysis.laws.intervals import Sample, precision
from analysis.table.selection import Selection
from drorae.errors import UserError

Law = Literal["log-linear", "linear"]
Unit = Literal["configuration", "row"]

LEAST_CONFIGURATIONS = 4
"""Parameters of a line + 2: below it the residual says next to nothing."""


class Prediction(NamedTuple):
    """A law's value at x (floats, or arrays of x's shape) with two 95% intervals."""

    mean: np.ndarray | float
    mean_ci_low: np.ndarray | float
    mean_ci_high: np.ndarray | float
    prediction_low: np.ndarray | float
    prediction_high: np.ndarray | float


@dataclass(frozen=True)
class Point:
    """One run of a fit."""

    label: str
    x: float
    y: float
    seed: str
    """Empty where the table has no seed."""
    configuration: int
    """Number of its configuration, in order of first appearance."""
    fitted: float
    residual: float


@dataclass(frozen=True)
class LawFit:
    """y = intercept + slope * u with u = log10(x) (log-linear) or x (linear); all intervals 95%, exact t.

    Where a configuration was run with several seeds the fit goes through the configurations' means, so that
    n_configurations, not n, sets the degrees of freedom. The means weigh the same, or, where configurations have
    different numbers of seeds or standard errors of their own, by `precision`. Slope, intercept,
    r2 and residual_sd are then those of the means, and the prediction interval is that of a new configuration's mean
    over as many seeds; a single new run scatters more, by `seed_sd` (`analysis.laws.intervals.run_interval`).
    """

    law: Law
    unit: Unit
    x_name: str
    y_name: str
    n: int
    """Runs."""
    n_configurations: int
    """Points the line was fitted to: configurations, or runs with unit="row"."""
    slope: float
    """Change of y per decade of x (log-linear) or per unit of x (linear)."""
    intercept: float
    r2: float
    slope_ci95: tuple[float, float]
    intercept_ci95: tuple[float, float]
    slope_se: float
    p_value: float
    """Two-sided, of a slope of zero."""
    residual_sd: float
    dof: int
    x_range: tuple[float, float]
    points: tuple[Point, ...]
    means: tuple[tuple[float, float, int], ...]
    """(x, mean y, runs) of every fitted point."""
    seed_sd: float | None
    """Pooled standard deviation of runs that differ only in seed; None without such runs."""
    u_mean: float
    u_sum_of_squares: float
    weights: tuple[float, ...] = ()
    """Relative precisions of `means`, mean 1."""
    runs_at_unit_weight: float = 1.0
    common_sd: float = 0.0
    """Standard error that all values share through their evaluation images; 0 where the table does not say."""

    @property
    def replicated(self) -> bool:
        """Whether fitted points are means of several runs."""
        return any(count > 1 for _, _, count in self.means)

    @property
    def sample(self) -> Sample:
        """What was fitted, for other laws to be fitted to."""
        x, y, runs = (np.array(column, dtype=float) for column in zip(*self.means, strict=True))
        return Sample(
            x[:, None], y, runs, np.array(self.weights), self.seed_sd or 0.0, self.n - len(x),
            self.runs_at_unit_weight, self.common_sd, self.x_name, self.y_name,
        )  # fmt: skip

    def predict(self, x: np.ndarray | float) -> Prediction:
        """The law at `x`, its 95% confidence interval and the 95% interval for a new point (see the class).

        y +/- t(.975, dof) s sqrt([1 +] 1/n + (u - mean u)^2 / Sxx).

        Raises:
            UserError: x not finite, or not positive for the log-linear law.
        """
        values = np.asarray(x, dtype=float)
        if not np.all(np.isfinite(values)) or (self.law == "log-linear" and np.any(values <= 0)):
            raise UserError(f"predict at {self.x_name} = {x}: expected positive finite numbers")
        u = transform(values, self.law)
        mean = self.intercept + self.slope * u
        t = float(stats.t.ppf(0.975, self.dof))
        leverage = 1 / self.n_configurations + (u - self.u_mean) ** 2 / self.u_sum_of_squares
        narrow = t * self.residual_sd * np.sqrt(leverage)
        wide = t * self.residual_sd * np.sqrt(1 + leverage)
        columns = (mean, mean - narrow, mean + narrow, mean - wide, mean + wide)
        return Prediction(*(float(item) for item in columns)) if values.ndim == 0 else Prediction(*columns)


def transform(x: np.ndarray, law: Law) -> np.ndarray:
    """What the line is straight in: log10(x) or x."""
    return np.log10(x) if law == "log-linear" else x


def fit_law(
    selection: Selection, law: Law = "log-linear", unit: Unit = "configuration", image_correlation: float = 1.0
) -> LawFit:
    """Fits y on log10(x) or x by least squares (statsmodels).

    unit="configuration": runs that agree in x, variant, expert_hidden_dim, num_layers and every dotted config
    column, and so differ in seed alone, are averaged first. A table without seeds is taken row by row, unless
    its repeated x values show that it hides replicates. unit="row": every row is a point of its own.
    A column named like the metric with _se, such as rfd_dinov2_se, is taken for its sampling error. The share of
    that variance in `image_correlation` (1 where all runs are measured on the same images) is common to all values
    and says nothing about their order; the rest weighs them.

    Raises:
        UserError: fewer than 4 configurations, one x only, y the same everywhere, or hidden replicates.
    """
    from statsmodels.regression.linear_model import WLS

    if law not in ("log-linear", "linear"):
        raise UserError(f"law {law}: no such law; laws: log-linear, linear")
    if unit not in ("configuration", "row"):
        raise UserError(f"unit {unit}: no such unit; units: configuration, row")
    what = f"{selection.y_name} on {selection.x_name}"
    groups = _configurations(selection, unit)
    count = int(groups.max()) + 1
    x = np.array([selection.x[groups == k][0] for k in range(count)])
    y = np.array([selection.y[groups == k].mean() for k in range(count)])
    runs = np.array([int(np.sum(groups == k)) for k in range(count)])
    if len(np.unique(x)) < 2:
        raise UserError(f"{what}: all runs have {selection.x_column} = {x[0]:g}; a law needs different sizes")
    different = len(np.unique(x)) if unit == "row" else count
    if different < LEAST_CONFIGURATIONS:
        raise UserError(
            f"{what}: {different} configurations left to fit ({len(groups)} runs, {len(selection.excluded)} excluded); "
            f"a line needs at least {LEAST_CONFIGURATIONS}; run more sizes, not more seeds"
        )
    if np.ptp(y) == 0:
        raise UserError(f"{what}: {selection.y_name} is {y[0]:g} in every configuration; there is nothing to fit")
    u = transform(x, law)
    design = np.column_stack([np.ones_like(u), u])
    seed_sd = seed_spread(selection.y, groups)
    errors = _sampling_errors(selection, groups, count)
    weights, runs_at_unit = precision(design, y, runs.astype(float), seed_sd or 0.0, errors, image_correlation)
    result = WLS(y, design, weights=weights).fit()
    u_mean = float(np.average(u, weights=weights))
    intervals = result.conf_int(alpha=0.05)
    fitted = result.params[0] + result.params[1] * transform(selection.x, law)
    seeds = selection.seeds
    points = tuple(
        Point(
            selection.labels[i], float(selection.x[i]), float(selection.y[i]), seeds[i], int(groups[i]),
            float(fitted[i]), float(selection.y[i] - fitted[i]),
        )
        for i in range(len(groups))
    )  # fmt: skip
    return LawFit(
        law=law,
        unit=unit,
        x_name=selection.x_name,
        y_name=selection.y_name,
        n=len(groups),
        n_configurations=count,
        slope=float(result.params[1]),
        intercept=float(result.params[0]),
        r2=float(result.rsquared),
        slope_ci95=(float(intervals[1][0]), float(intervals[1][1])),
        intercept_ci95=(float(intervals[0][0]), float(intervals[0][1])),
        slope_se=float(result.bse[1]),
        p_value=float(result.pvalues[1]),
        residual_sd=float(np.sqrt(result.scale)),
        dof=int(result.df_resid),
        x_range=(float(x.min()), float(x.max())),
        points=points,
        means=tuple((float(a), float(b), int(c)) for a, b, c in zip(x, y, runs, strict=True)),
        seed_sd=seed_sd,
        u_mean=u_mean,
        u_sum_of_squares=float(np.sum(weights * (u - u_mean) ** 2)),
        weights=tuple(float(value) for value in weights),
        runs_at_unit_weight=runs_at_unit,
        common_sd=0.0 if errors is None else float(np.sqrt(image_correlation * np.mean(errors**2))),
    )


def _sampling_errors(selection: Selection, groups: np.ndarray, count: int) -> np.ndarray | None:
    """Root mean square standard error of each configuration's runs, from the metric's _se column."""
    column = f"{selection.y_name}_se"
    if column not in selection.used.columns:
        return None
    errors = pd.to_numeric(selection.used[column], errors="coerce").to_numpy(dtype=float)
    if not (np.all(np.isfinite(errors)) and np.all(errors >= 0)):
        raise UserError(f"{column}: a standard error is missing or negative; expected one for every used row")
    return np.sqrt(np.array([np.mean(errors[groups == k] ** 2) for k in range(count)]))


def _configurations(selection: Selection, unit: Unit) -> np.ndarray:
    """Number of the configuration of every used row, in order of first appearance."""
    n, distinct = len(selection.x), len(np.unique(selection.x))
    if unit == "row":
        return np.arange(n)
    if not any(selection.seeds) and n > distinct and 2 * distinct <= n:
        raise UserError(
            f"{selection.y_name} on {selection.x_name}: {n} rows take only {distinct} values of "
            f"{selection.x_column} and no seed column says whether they are repeats, which are not sizes; "
            "add a seed column, or take every row as a configuration with unit row"
        )
    return selection.configurations


def seed_spread(y: np.ndarray, groups: np.ndarray) -> float | None:
    """Standard deviation of runs that share a group, pooled over the groups; None where no group has two."""
    frame = pd.Series(y).groupby(groups)
    dof = int((frame.size() - 1).sum())
    return float(np.sqrt(((y - frame.transform("mean")) ** 2).sum() / dof)) if dof else None
