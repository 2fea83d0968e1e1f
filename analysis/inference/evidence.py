"""What speaks for and against a law: warnings that travel with its numbers, rival laws, back-tests, influence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from analysis.laws.curves import CurveFit, fit_curve
from analysis.laws.forms import find_form
from analysis.laws.intervals import Sample, run_interval
from analysis.laws.line import LawFit, transform
from analysis.table.selection import Selection
from drorae.errors import UserError

FEW_CONFIGURATIONS = 6
"""Below this many the interval rests on so few degrees of freedom that one run can move it."""


class Warning(NamedTuple):
    """A stable code for programs and one sentence for people."""

    code: str
    message: str


def warnings(fit: LawFit, selection: Selection | None = None) -> list[Warning]:
    """What a reader of `fit` should be told, the gravest first; `selection` adds what the runs themselves show."""
    found: list[Warning] = []
    low, high = fit.slope_ci95
    if low <= 0 <= high:
        found.append(
            Warning("slope-includes-zero", f"the 95% interval of the slope, {low:.4g} .. {high:.4g}, includes zero")
        )
    found += _influence(fit)
    found += _lack_of_fit(fit)
    if fit.n_configurations < FEW_CONFIGURATIONS:
        found.append(
            Warning(
                "few-configurations", f"{fit.n_configurations} configurations; at least {FEW_CONFIGURATIONS} advised"
            )
        )
    if fit.law == "log-linear":
        decades = float(np.log10(fit.x_range[1] / fit.x_range[0]))
        if decades < 1:
            found.append(
                Warning("short-span", f"{fit.x_name} spans {decades:.2f} decades; a slope per decade wants one or more")
            )
    found += _repeated_x(fit)
    runs = {count for _, _, count in fit.means}
    if len(runs) > 1:
        found.append(
            Warning(
                "unequal-seeds",
                f"configurations have {min(runs)} to {max(runs)} runs each and weigh {min(fit.weights):.2g} to "
                f"{max(fit.weights):.2g}",
            )
        )
    if selection is not None:
        found += _selection_warnings(selection)
    found += _curvature(fit)
    return found


def _line(u: np.ndarray, y: np.ndarray) -> float:
    centred = u - u.mean()
    return float(centred @ y / (centred @ centred))


def _arrays(fit: LawFit) -> tuple[np.ndarray, np.ndarray]:
    x = np.array([item[0] for item in fit.means])
    return transform(x, fit.law), np.array([item[1] for item in fit.means])


def _influence(fit: LawFit) -> list[Warning]:
    """Slopes with one configuration left out at a time."""
    u, y = _arrays(fit)
    slopes = np.full(len(u), np.nan)
    for i in range(len(u)):
        rest = np.delete(np.arange(len(u)), i)
        if np.ptp(u[rest]) > 0:
            slopes[i] = _line(u[rest], y[rest])
    span = f"{np.nanmin(slopes):.4g} .. {np.nanmax(slopes):.4g}"
    if np.any(np.isnan(slopes)):
        return [Warning("single-size-carries-slope", "one configuration alone sets the slope: all others share one x")]
    if np.any(np.sign(slopes) != np.sign(fit.slope)):
        return [Warning("sign-change", f"leaving out one configuration changes the slope's sign (range {span})")]
    worst = int(np.argmax(np.abs(slopes - fit.slope)))
    if abs(slopes[worst] - fit.slope) > fit.slope_se:
        message = (
            f"without the configuration at {fit.x_name} = {fit.means[worst][0]:.4g} the slope would be "
            f"{slopes[worst]:.4g}: more than one standard error away (leave-one-out range {span})"
        )
        return [Warning("influential-point", message)]
    return []


def _lack_of_fit(fit: LawFit) -> list[Warning]:
    """F test of the line against the scatter between seeds, where there are seeds."""
    if fit.unit == "row" or fit.seed_sd is None or fit.seed_sd == 0:
        return []
    line_dof = fit.n_configurations - 2
    seed_dof = fit.n - fit.n_configurations
    x_to_line = sum(count * (mean - float(fit.predict(x).mean)) ** 2 for x, mean, count in fit.means)
    ratio = x_to_line / line_dof / fit.seed_sd**2
    p = float(stats.f.sf(ratio, line_dof, seed_dof))
    if p >= 0.05:
        return []
    message = (
        f"configurations scatter about the line more than their seeds explain "
        f"(lack of fit F({line_dof}, {seed_dof}) = {ratio:.3g}, p = {p:.2g}): the law's form is in doubt"
    )
    return [Warning("lack-of-fit", message)]


def _repeated_x(fit: LawFit) -> list[Warning]:
    values, counts = np.unique([item[0] for item in fit.means], return_counts=True)
    if not np.any(counts > 1):
        return []
    first = float(values[counts > 1][0])
    same = {item[1] for item in fit.means if item[0] == first}
    twice = "; equal in y too: the same run listed twice?" if len(same) == 1 else ""
    message = (
        f"points counted as independent share a value of {fit.x_name} "
        f"({int(np.sum(counts > 1))} such values, first {first:.6g}{twice})"
    )
    return [Warning("repeated-x", message)]


def _selection_warnings(selection: Selection) -> list[Warning]:
    found: list[Warning] = []
    used = selection.used
    if "variant" in used.columns and used["variant"].nunique() > 1:
        names = ", ".join(sorted(map(str, used["variant"].dropna().unique())))
        found.append(Warning("mixed-variants", f"one line through several fusion variants ({names})"))
    if "status" in used.columns:
        others = used["status"][used["status"].astype(str).str.lower() != "finished"]
        if len(others):
            names = ", ".join(sorted(set(map(str, others))))
            found.append(
                Warning("unfinished-included", f"{len(others)} runs were fitted that are not finished ({names})")
            )
    if selection.pruned is not None:
        found.append(Warning("survivors", _survivors(selection, selection.pruned)))
    return found


def _survivors(selection: Selection, pruned: pd.DataFrame) -> str:
    """How much early stopping took from a law: it keeps the runs whose loss fell fast, which are not a fair draw."""
    message = f"{len(pruned)} of {len(pruned) + len(selection.used)} runs were stopped early for their loss"
    # A run that was stopped has no result, and so no count of parameters.
    size = "expert_hidden_dim" if "expert_hidden_dim" in pruned.columns else selection.x_column
    if size in selection.used.columns:
        sizes = set(pruned[size].dropna())
        lost = sizes - set(selection.used[size])
        message += f", at {len(sizes)} sizes" + (f" ({len(lost)} of them lost all of theirs)" if lost else "")
    return f"{message}: this is the law of the survivors; run the sweep without early stopping to be rid of the bias"


def _curvature(fit: LawFit) -> list[Warning]:
    """The quadratic term: what these points can say about saturation."""
    u, y = _arrays(fit)
    centred = u - u.mean()
    design = np.column_stack([np.ones_like(u), centred, centred**2])
    dof = len(u) - 3
    if np.linalg.matrix_rank(design) < 3:
        return [Warning("saturation", "these sizes cannot show a bend: absence of saturation cannot be claimed")]
    coefficients, *_ = np.linalg.lstsq(design, y, rcond=None)
    residual = y - design @ coefficients
    variance = float(residual @ residual) / dof * float(np.linalg.inv(design.T @ design)[2, 2])
    half = float(stats.t.ppf(0.975, dof)) * float(np.sqrt(variance))
    bend = float(coefficients[2])
    if abs(bend) > half:
        message = (
            f"the points bend: a quadratic term of {bend:.3g} (95% CI {bend - half:.3g} .. {bend + half:.3g}) "
            "is wanted beside the line; do not extrapolate it"
        )
        return [Warning("curvature", message)]
    message = (
        f"a line through {len(u)} points cannot show absence of saturation: any quadratic term between "
        f"{bend - half:.3g} and {bend + half:.3g} is compatible with them"
    )
    return [Warning("saturation", message)]


PLAUSIBLE = 4.0
"""Laws less than this much AICc behind the best are kept beside it: Burnham and Anderson (2002), section 2.6, call a
difference of 4 to 7 considerably less support."""

HORIZON = 0.3
"""Decades beyond the data that are trusted without further evidence. There, with a log-linear law fitted to a truth
that saturates, 95% prediction intervals cover .58 to .98, one decade out .00 to .69 (results/coverage)."""

CANDIDATES = ("log-linear", "power", "power-offset", "log-quadratic", "shifted-power", "broken-power")


@dataclass(frozen=True)
class Comparison:
    """Laws fitted to the same points, the best AICc first, and laws that these points cannot carry."""

    sample: Sample
    fits: tuple[CurveFit, ...]
    skipped: tuple[tuple[str, str], ...]
    """(law, why it was not fitted)."""

    @property
    def best(self) -> CurveFit:
        """The law with the least AICc."""
        return self.fits[0]

    def delta(self, fit: CurveFit) -> float:
        """How much AICc a law is behind the best; plain AIC at four points, where AICc divides by zero."""
        if np.isfinite(self.best.aicc):
            return fit.aicc - self.best.aicc
        return fit.aic - self.best.aic

    @property
    def plausible(self) -> tuple[CurveFit, ...]:
        """Laws less than 4 AICc behind the best."""
        return tuple(fit for fit in self.fits if self.delta(fit) < PLAUSIBLE)

    @cached_property
    def rival(self) -> CurveFit | None:
        """The power law with offset, which can level off, however little AICc likes its third parameter; None where
        these points cannot carry it."""
        sample = self.sample
        if sample.n < 4 or len(np.unique(sample.x)) < 3 or sample.low <= 0:
            return None
        return self.find("power-offset") or fit_curve("power-offset", sample.x, sample.y, sample.weights)

    def heard(self, at: float) -> tuple[CurveFit, ...]:
        """The laws whose envelope is given at a size: the plausible ones; outside the sizes measured, the rival too.

        There it decides: with a truth that saturates (n = 8, sd .02) the envelope of the plausible laws alone covered
        .88 at 0.3 decade beyond the data and .85 at the end of the horizon, with the rival .95 at both (250
        replications; with the rival in results/coverage).
        """
        inside = self.sample.low * (1 - 1e-9) <= at <= self.sample.high * (1 + 1e-9)
        if inside or self.rival is None or self.rival in self.plausible:
            return self.plausible
        return (*self.plausible, self.rival)

    def find(self, name: str) -> CurveFit | None:
        """The law called `name`, if it was fitted."""
        return next((fit for fit in self.fits if fit.name == name), None)


def compare_laws(sample: Sample, names: Sequence[str] = CANDIDATES, least: int = 0) -> Comparison:
    """Fits each law that has enough configurations (parameters + 2, or `least`) and enough different sizes.

    Raises:
        UserError: not one of them has.
    """
    fits, skipped = [], []
    for name in dict.fromkeys(names):
        form = find_form(name)
        needed = least or form.least_points
        levels = len(np.unique(sample.x[:, 0]))
        if sample.n < needed:
            skipped.append((name, f"{len(form.parameters)} parameters want {needed} configurations, not {sample.n}"))
        elif levels < form.levels[0]:
            skipped.append((name, f"wants {form.levels[0]} different sizes, not {levels}"))
        else:
            fits.append(fit_curve(form, sample.x, sample.y, sample.weights))
    if not fits:
        raise UserError(f"{sample.y_name} on {sample.x_name}: no law can be fitted to {sample.n} configurations")
    return Comparison(sample, tuple(sorted(fits, key=lambda fit: (fit.aicc, fit.aic))), tuple(skipped))


class HeldOut(NamedTuple):
    """A size left out of a fit, and what the fit to the smaller ones said of it."""

    x: float
    y: float
    predicted: float
    low: float
    high: float

    @property
    def inside(self) -> bool:
        """Whether the 95% prediction interval held."""
        return self.low <= self.y <= self.high


@dataclass(frozen=True)
class BackTest:
    """A law fitted to the smallest sizes and asked for the largest; law "envelope" is that of all plausible ones."""

    law: str
    trained: int
    held_out: tuple[HeldOut, ...]

    @property
    def hits(self) -> int:
        """Held-out sizes inside their interval."""
        return sum(item.inside for item in self.held_out)

    @property
    def text(self) -> str:
        """What happened, in a sentence."""
        misses = [item for item in self.held_out if not item.inside]
        told = f"{self.law}: {self.hits} of {len(self.held_out)} inside the 95% interval"
        if misses:
            worst = max(misses, key=lambda item: max(item.low - item.y, item.y - item.high))
            side = "below" if worst.y < worst.low else "above"
            told += f"; at {worst.x:.4g} came {worst.y:.4g}, {side} {worst.low:.4g} .. {worst.high:.4g}"
        return told


def back_test(sample: Sample, names: Sequence[str] = CANDIDATES, held: int | None = None) -> tuple[BackTest, ...]:
    """Fits the small, predicts the large and scores the intervals, law by law and for their envelope.

    held: configurations to hold out, the largest; a third of them unless given, as long as four are left to fit.
    Configurations of one size stay together. Empty where that leaves nothing to fit or to hold out.
    """
    order = np.argsort(sample.x[:, 0], kind="stable")
    count = min(-(-sample.n // 3), sample.n - 4) if held is None else held
    if count < 1 or sample.n - count < 4:
        return ()
    largest_trained = sample.x[order[sample.n - count - 1], 0]
    small, large = (
        np.flatnonzero(mask) for mask in (sample.x[:, 0] <= largest_trained, sample.x[:, 0] > largest_trained)
    )
    trained = sample.take(small)
    if len(large) == 0 or len(np.unique(trained.x)) < 3:
        return ()
    comparison = compare_laws(trained, names)
    large = large[np.argsort(sample.x[large, 0], kind="stable")]
    tests, bands = [], []
    at = sample.x[large]
    for fit in dict.fromkeys((*comparison.fits, *((comparison.rival,) if comparison.rival else ()))):
        # Held-out means have the weight of their own runs.
        ends = [run_interval(fit, trained, sample.x[i : i + 1], float(sample.runs[i])) for i in large]
        low, high = np.array(ends)[:, :, 0].T
        if fit in comparison.fits:
            tests.append(BackTest(fit.name, trained.n, _held_out(at, sample.y[large], fit.value(at), low, high)))
        asked = np.array([fit in comparison.heard(float(size[0])) for size in at])
        bands.append((np.where(asked, low, np.inf), np.where(asked, high, -np.inf)))
    low, high = np.min([item[0] for item in bands], axis=0), np.max([item[1] for item in bands], axis=0)
    envelope = _held_out(at, sample.y[large], comparison.best.value(at), low, high)
    return (BackTest("envelope", trained.n, envelope), *tests)


def _held_out(x: np.ndarray, *columns: np.ndarray) -> tuple[HeldOut, ...]:
    return tuple(HeldOut(*map(float, row)) for row in zip(x[:, 0], *columns, strict=True))


class LackOfFit(NamedTuple):
    """F test of a law against the scatter between seeds."""

    f: float
    dof: tuple[int, int]
    p: float


def lack_of_fit(sample: Sample, fit: CurveFit) -> LackOfFit | None:
    """F = sum_i runs_i (mean_i - law_i)^2 / (C - p) / seed variance; None where there are no seeds."""
    if sample.seed_dof == 0 or sample.seed_sd == 0:
        return None
    left = float(np.sum(sample.runs * (sample.y - fit.value(sample.x)) ** 2))
    f = left / fit.dof / sample.seed_sd**2
    return LackOfFit(f, (fit.dof, sample.seed_dof), float(stats.f.sf(f, fit.dof, sample.seed_dof)))


class Influence(NamedTuple):
    """What one configuration does to a fit."""

    x: float
    leverage: float
    cook: float
    left_out: float
    """The value less its prediction by the others."""


def influence(fit: CurveFit) -> tuple[Influence, ...]:
    """Leverage, Cook's distance and leave-one-out residual of every configuration, from the law's own gradient.

    Exact for linear laws; for curved ones those of the tangent plane.
    """
    jacobian = fit.form.gradient(fit.x, fit.parameters) * np.sqrt(fit.weights)[:, None]
    lengths = np.linalg.norm(jacobian, axis=0)
    q, _ = np.linalg.qr(jacobian / np.where(lengths > 0, lengths, 1))
    leverage = np.minimum(np.sum(q**2, axis=1), 1 - 1e-12)
    left = (fit.y - fit.value(fit.x)) * np.sqrt(fit.weights)
    spread = max(fit.residual_sd**2, 1e-300)
    cook = left**2 * leverage / (len(fit.parameters) * spread * (1 - leverage) ** 2)
    return tuple(Influence(*map(float, row)) for row in zip(fit.x[:, 0], leverage, cook, fit.loo(), strict=True))


def fit_flags(fit: CurveFit) -> list[Warning]:
    """What is wrong with one law's fit: a parameter at its bound, conditioning, correlation, leverage."""
    found = []
    for name in fit.at_bound:
        found.append(
            Warning("at-bound", f"{fit.name}: {name} went to the end of its search; these sizes do not pin it down")
        )
    if fit.condition > 1e3:
        found.append(Warning("ill-conditioned", f"{fit.name}: condition number {fit.condition:.2g} of the Jacobian"))
    if fit.correlation > 0.95:
        message = f"{fit.name}: parameters correlate by {fit.correlation:.3f}; only combinations of them are known"
        found.append(Warning("correlated-parameters", message))
    heavy = [item for item in influence(fit) if item.leverage > 0.9]
    for item in heavy[:1]:
        message = (
            f"{fit.name}: the fit goes through the point at {item.x:.4g} whatever it is (leverage {item.leverage:.2f})"
        )
        found.append(Warning("leverage", message))
    return found
