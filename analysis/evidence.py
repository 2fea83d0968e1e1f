"""What a fit cannot carry: warnings that travel with its numbers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats

from analysis.laws import LawFit, transform
from analysis.runs import Selection

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
                f"configurations have {min(runs)} to {max(runs)} runs each but weigh the same, equally exact or not",
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
    return found


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
