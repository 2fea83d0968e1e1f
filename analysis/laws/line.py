"""Runs averaged to configurations, and the line through their means in one size or its logarithm."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from scipy import stats

from analysis.laws.curves import CurveFit
from analysis.laws.decoders import DecoderLines, decoder_lines
from analysis.laws.intervals import Interval, Sample, law_interval, new_point_interval, parameter_intervals
from analysis.laws.noise import replication, weights_of
from analysis.table.cells import floats
from analysis.table.design import LEAST_CONFIGURATIONS
from analysis.table.influences import image_covariance, image_influences
from analysis.table.selection import Selection
from drorae.errors import UserError

if TYPE_CHECKING:
    from statsmodels.regression.linear_model import RegressionResultsWrapper

Law = Literal["log-linear", "linear"]
Unit = Literal["configuration", "row"]


class LinePrediction(NamedTuple):
    """A line's value at x (floats, or arrays of x's shape) with two 95% intervals."""

    mean: np.ndarray | float
    mean_ci_low: np.ndarray | float
    mean_ci_high: np.ndarray | float
    prediction_low: np.ndarray | float
    prediction_high: np.ndarray | float


@dataclass(frozen=True, eq=False)
class Line:
    """y = intercept + slope * u with u = log10(x) (log-linear) or x (linear), and the runs it was fitted to.

    Where a configuration was run with several seeds the line goes through the configurations' means, so that
    configurations, not runs, set the degrees of freedom. The means weigh the same, unless seeds scatter more at one end
    of the sizes (`analysis.laws.noise.replication`) or values have standard errors of their own. What `curve` says (r2,
    residual_sd, dof) is of those means, and the prediction interval is that of a new configuration's mean over as many
    seeds; a single new run scatters more, by the seeds (`run_interval`). All intervals are 95%: exact t without seeds,
    with them of the scatter that residuals and seeds measure together (`analysis.laws.noise.Uncertainty`).
    """

    selection: Selection
    sample: Sample
    curve: CurveFit
    unit: Unit
    configurations: np.ndarray
    """Number of the configuration of every run, in order of first appearance, shape (runs,)."""

    @property
    def law(self) -> Law:
        """What the line is straight in."""
        return "log-linear" if self.curve.name == "log-linear" else "linear"

    @property
    def n(self) -> int:
        """Runs."""
        return len(self.configurations)

    @cached_property
    def regression(self) -> RegressionResultsWrapper:
        """The same fit by statsmodels, of the configurations' means on 1 and u, weighted by their precisions."""
        return regress(self._design(self.sample.x[:, 0]), self.sample.y, self.sample.weights)

    @cached_property
    def decoders(self) -> DecoderLines | None:
        """The lines of several phase-1 decoders that were run at the same sizes; None of one."""
        return decoder_lines(self.selection, self.law == "log-linear")

    @cached_property
    def judged(self) -> Sample:
        """The points that laws are judged by: those fitted; of several decoders, their means at every size.

        A decoder is a draw, and no size: a (decoder, size) for itself would be neither.
        """
        several = self.decoders
        if several is None or len(several.sizes) < LEAST_CONFIGURATIONS:
            return self.sample
        return replace(several.size_means(self.sample.x_name, self.sample.y_name), mark=self.sample.mark)

    @cached_property
    def judged_curve(self) -> CurveFit:
        """The line through them."""
        return self.curve if self.judged is self.sample else self.judged.fit(self.curve.form)

    def _design(self, x: np.ndarray) -> np.ndarray:
        u = np.log10(x) if self.law == "log-linear" else x
        return np.column_stack([np.ones_like(u), u])

    @property
    def intercept(self) -> float:
        """The line at u = 0."""
        return float(self.curve.parameters[0])

    @property
    def slope(self) -> float:
        """Change of y per decade of x (log-linear) or per unit of x (linear)."""
        return float(self.curve.parameters[1])

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """95% intervals of intercept and slope by name; of several decoders the mean of these.

        Where the values are each the best of several, they hold the intervals of values less their flattery, too.
        """
        found = parameter_intervals(self.curve)
        if self.decoders is not None:
            found = {name: self.decoders.here(row) for name, row in zip(found, np.eye(2), strict=True)}
        if not self.selection.best:
            return found
        flattery = np.bincount(self.configurations, self.selection.flattery) / np.bincount(self.configurations)
        plain = parameter_intervals(replace(self.sample, y=self.sample.y + flattery).fit(self.curve.form))
        return {
            name: Interval(min(own.low, plain[name].low), max(own.high, plain[name].high))
            for name, own in found.items()
        }

    @property
    def slope_ci95(self) -> Interval:
        """95% interval of the slope."""
        return self.intervals["slope"]

    @property
    def slope_se(self) -> float:
        """Standard error of the slope."""
        return self.slope_error[0]

    @cached_property
    def slope_error(self) -> tuple[float, float]:
        """Standard error of the slope and its degrees of freedom."""
        if self.decoders is not None:
            low, high = self.decoders.here(np.array([0.0, 1.0]))
            return (high - low) / 2 / float(stats.t.ppf(0.975, self.decoders.dof)), float(self.decoders.dof)
        if self.curve.replication is None:
            return math.sqrt(self.curve.covariance[1, 1]), float(self.curve.dof)
        margin = self.curve.uncertainty.margin(np.array([[0.0, 1.0]]))
        return float(np.sqrt(margin.law[0])), float(margin.dof[0])

    @property
    def p_value(self) -> float:
        """Two-sided, of a slope of zero; 0 for points that lie on a line."""
        error, dof = self.slope_error
        with np.errstate(divide="ignore"):
            return float(2 * stats.t.sf(np.abs(np.float64(self.slope) / error), dof))

    @property
    def seed_sd(self) -> float | None:
        """Pooled standard deviation of runs that differ only in seed; None without such runs."""
        return self.sample.seed_sd if self.sample.seed_dof else None

    @property
    def replicated(self) -> bool:
        """Whether fitted points are means of several runs."""
        return bool(np.any(self.sample.runs > 1))

    @cached_property
    def fitted(self) -> np.ndarray:
        """The line at every run's size, shape (runs,)."""
        return self.curve.value(self.selection.x)

    def predict(self, x: np.ndarray | float) -> LinePrediction:
        """Returns the line at `x`, its 95% interval and the 95% interval of a new point (see the class).

        Raises:
            UserError: x not finite, or not positive for the log-linear law.
        """
        at = np.asarray(x, dtype=float)
        if not np.all(np.isfinite(at)) or (self.law == "log-linear" and np.any(at <= 0)):
            raise UserError(f"predict at {self.sample.x_name} = {x}: expected positive finite numbers")
        flat = at.ravel()
        columns = [self.curve.value(flat), *law_interval(self.curve, flat), *new_point_interval(self.curve, flat)]
        return LinePrediction(*(float(item[0]) if at.ndim == 0 else item.reshape(at.shape) for item in columns))


def regress(design: np.ndarray, y: np.ndarray, weights: np.ndarray | float = 1.0) -> RegressionResultsWrapper:
    """Returns the least-squares fit by statsmodels of y (n,) on the columns of `design` (n, p), weighted (n,)."""
    from statsmodels.regression.linear_model import WLS

    return WLS(y, design, weights=weights).fit()


def fit_line(
    selection: Selection, law: Law = "log-linear", unit: Unit = "configuration", image_correlation: float = 1.0
) -> Line:
    """Fits y on log10(x) or x by least squares.

    A column named like the metric with _se, such as rfd_dinov2_se, is taken for its sampling error.

    Args:
        selection: the runs.
        law: log-linear, straight in log10(x), or linear, straight in x.
        unit: configuration, runs that differ in seed alone are averaged first, as are, without seeds, rows of one
            size; row, every row is a point of its own.
        image_correlation: share of the sampling variance that is common to all values, 1 where all runs are measured
            on the same images: it says nothing about their order, and the rest weighs them.

    Raises:
        UserError: fewer than 4 configurations, one x only, or y the same everywhere.
    """
    for what, asked, known in (("law", law, get_args(Law)), ("unit", unit, get_args(Unit))):
        if asked not in known:
            raise UserError(f"{what} {asked}: no such {what}; {what}s: {', '.join(known)}")
    groups = np.arange(len(selection.x)) if unit == "row" else selection.configurations
    sample = average(selection, selection.x[:, None], groups, law == "log-linear", image_correlation)
    x, y = sample.x[:, 0], sample.y
    what = f"{selection.y_name} on {selection.x_name}"
    if len(np.unique(x)) < 2:
        raise UserError(f"{what}: all runs have {selection.x_column} = {x[0]:g}; a law needs different sizes")
    different = len(np.unique(x)) if unit == "row" else sample.n
    if different < LEAST_CONFIGURATIONS:
        raise UserError(
            f"{what}: {different} configurations left to fit ({len(groups)} runs, {len(selection.excluded)} excluded); "
            f"a line needs at least {LEAST_CONFIGURATIONS}; run more sizes, not more seeds"
        )
    if np.ptp(y) == 0:
        raise UserError(f"{what}: {selection.y_name} is {y[0]:g} in every configuration; there is nothing to fit")
    return Line(selection, sample, sample.fit(law), unit, groups)


def average(
    selection: Selection, x: np.ndarray, groups: np.ndarray, log: bool = True, image_correlation: float = 1.0
) -> Sample:
    """Averages the runs of every configuration, and weighs the means by what is known of their errors.

    Args:
        selection: the runs.
        x: their sizes, shape (runs, axes), the same within a configuration.
        groups: the number of every run's configuration, shape (runs,), each of 0 .. configurations - 1.
        log: whether the law that the weights are for is straight in log10 of the first axis.
        image_correlation: see `fit_line`.
    """
    sizes, y, runs = configuration_means(x, selection.y, groups)
    seed_sd = seed_spread(selection.y, groups)
    errors = _sampling_errors(selection, groups) if x.shape[1] == 1 else None
    design = np.column_stack([np.ones(len(y)), np.log10(sizes[:, 0]) if log else sizes[:, 0], sizes[:, 1:]])
    # A trend of the seeds' scatter is looked for along one axis; along two, sizes of the other hide it.
    seeds = replication(sizes[:, 0] if x.shape[1] == 1 else np.zeros(len(y)), selection.y, groups)
    known = np.zeros(len(y))
    if seeds is not None and (seeds.weighed or (errors is not None and image_correlation < 1)):
        known = known + seeds.of_means
    if errors is not None:
        known = known + (1 - image_correlation) * errors**2 / runs
    influences = image_influences(selection.used, selection.y_name) if x.shape[1] == 1 else None
    covariance, images = (
        (None, 0) if influences is None else (image_covariance(influences, groups), influences.shape[1])
    )
    common = 0.0 if errors is None else float(np.sqrt(image_correlation * np.mean(errors**2)))
    return Sample(
        sizes, y, runs, weights_of(design, y, known), seed_sd or 0.0, len(groups) - len(y),
        float(len(runs) / np.sum(1 / runs)), seeds, common, selection.x_name, selection.y_name, covariance, images,
        mark=selection.mark,
    )  # fmt: skip


def configuration_means(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sizes, mean values and runs, each (configurations, ...), of runs numbered by configuration."""
    first = np.unique(groups, return_index=True)[1]
    together = np.split(y[np.argsort(groups, kind="stable")], np.cumsum(np.bincount(groups))[:-1])
    means = np.array([part.mean() for part in together])
    return x[first], means, np.bincount(groups).astype(float)


def _sampling_errors(selection: Selection, groups: np.ndarray) -> np.ndarray | None:
    """Root mean square standard error of each configuration's runs, from the metric's _se column."""
    column = f"{selection.y_name}_se"
    if column not in selection.used.columns:
        return None
    errors = floats(selection.used[column])
    if not (np.all(np.isfinite(errors)) and np.all(errors >= 0)):
        raise UserError(f"{column}: a standard error is missing or negative; expected one for every used row")
    return np.sqrt(np.bincount(groups, weights=errors**2) / np.bincount(groups))


def seed_spread(y: np.ndarray, groups: np.ndarray) -> float | None:
    """Standard deviation of runs that share a group, pooled over the groups; None where no group has two."""
    frame = pd.Series(y).groupby(groups)
    dof = int((frame.size() - 1).sum())
    return float(np.sqrt(((y - frame.transform("mean")) ** 2).sum() / dof)) if dof else None
