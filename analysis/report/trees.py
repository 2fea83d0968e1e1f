"""What the analysis found as plain values for JSON; None stands for every number that JSON does not know."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from analysis.inference.analysis import Analysis
from analysis.inference.asked import AskedLaw, JointLaw
from analysis.inference.axes import JointAnalysis
from analysis.inference.compute import Bought
from analysis.inference.evidence import BackTest
from analysis.inference.predict import Forecast, Reach
from analysis.laws.curves import CurveFit
from analysis.laws.intervals import parameter_intervals
from analysis.laws.line import Line

VERSION = 2
"""Of the objects that fit, predict and plan print; 1 had no `laws`."""


def fit_tree(analysis: Analysis) -> dict[str, Any]:
    """Returns one metric against one size, as `drorae fit --json` prints it.

    | key | what it holds |
    |---|---|
    | law, x, y, unit | the line fitted, size and metric, and whether configurations or rows are points |
    | n, n_configurations, dof | runs, points, residual degrees of freedom |
    | slope, intercept, r2, residual_sd | of the line; slope per decade (log-linear) or per unit (linear) |
    | slope_ci95, intercept_ci95, slope_se, p_value | exact t |
    | seed_sd | pooled sd of runs that differ in seed alone; null without such runs |
    | x_range | smallest and largest x |
    | eval_images | images every value was measured on; null where the table does not say |
    | warnings | code, message |
    | excluded | row, reason |
    | version | of these keys |
    | asked | the law asked for by name or method, as `asked_tree`; null where the line of least squares was |
    | preferred | name of the law with the least AICc |
    | leading | name of the law that is said first: the one asked for, else the preferred one that is no rejected line |
    | laws | name, formula, parameters (name, value, ci95), r2, aicc, delta_aicc, at_bound, condition, residual_sd |
    | laws_skipped | name, reason |
    | horizon | low, high, decades, rule |
    | back_tests | law, trained, rows (x, y, mean, prediction95, inside) |
    | new_draws | of (images, decoders, images and decoders), slope_ci95 and what it rests on |
    | predictions | at the horizon: as `forecast_tree` |
    | convergence | what twice the steps change (`Convergence.tree`); null where no trial checks it |
    | verdicts | claim, verdict (supported, not supported, undecided), reason, would_decide, level |
    | gains | over no fusion, of each configuration: x, gain (positive: better), ci95 over images, runs; empty without |
    """
    comparison, far = analysis.comparison, analysis.horizon.high
    tree = {
        **_line_tree(analysis.line),
        **remarks(analysis),
        "version": VERSION,
        "asked": None if analysis.asked is None else asked_tree(analysis.asked),
        "preferred": comparison.preferred.name,
        "leading": analysis.leading.name,
        "laws": [
            law_tree(fit, comparison.delta(fit)) | {name: getattr(comparison.judged(fit), name) for name in _JUDGED}
            for fit in comparison.fits
        ],
        "laws_skipped": [{"name": name, "reason": reason} for name, reason in comparison.skipped],
        "horizon": asdict(analysis.horizon),
        "new_draws": [
            {"of": item.what, "slope_ci95": item.slope, "source": item.source} for item in analysis.draws.intervals
        ],
        "back_tests": [_back_test_tree(test) for test in analysis.back_tests],
        "predictions": [forecast_tree(analysis.predict(far))] if far > 0 else [],
        "convergence": None if analysis.convergence is None else analysis.convergence.tree(),
        "verdicts": [item._asdict() for item in analysis.verdicts],
        "gains": [item._asdict() for item in analysis.gains.configurations] if analysis.gains else [],
    }
    return finite(tree)


_JUDGED = ("aicc", "loo_rmse")
"""What of a law is that of the points it is judged by."""


def _line_tree(line: Line) -> dict[str, Any]:
    sample = line.sample
    own = ("law", "unit", "n", "slope", "intercept", "slope_ci95", "slope_se", "p_value", "seed_sd")
    return {
        "x": sample.x_name,
        "y": sample.y_name,
        **({"mark": sample.mark} if sample.mark else {}),
        **{name: getattr(line, name) for name in own},
        **{name: getattr(line.curve, name) for name in ("r2", "residual_sd", "dof")},
        "n_configurations": sample.n,
        "intercept_ci95": line.intervals["intercept"],
        "x_range": [sample.low, sample.high],
        "eval_images": line.selection.eval_images,
    }


def _back_test_tree(test: BackTest) -> dict[str, Any]:
    rows = [
        {"x": item.x, "y": item.y, "mean": item.predicted, "prediction95": [item.low, item.high], "inside": item.inside}
        for item in test.held_out
    ]
    return {"law": test.law, "trained": test.trained, "rows": rows}


def remarks(found: Analysis | JointAnalysis) -> dict[str, Any]:
    """Returns the cautions and the excluded runs, as every printed object has them."""
    return {
        "warnings": [item._asdict() for item in found.cautions],
        "excluded": [{"row": row, "reason": reason} for row, reason in found.selection.excluded],
    }


def law_tree(fit: CurveFit, delta: float) -> dict[str, Any]:
    """Returns a law as plain values; `delta`: AICc behind the preferred law.

    Keys: name, formula, parameters (name, value, ci95), r2, aicc, delta_aicc, at_bound, condition, residual_sd.
    """
    parameters = [
        {"name": name, "value": float(value), "ci95": list(ci95)}
        for (name, ci95), value in zip(parameter_intervals(fit).items(), fit.parameters, strict=True)
    ]
    return {
        **{"name": fit.name, "formula": fit.form.formula, "parameters": parameters, "delta_aicc": delta},
        **{name: getattr(fit, name) for name in ("r2", "aicc", "at_bound", "condition", "residual_sd")},
    }


def asked_tree(asked: AskedLaw) -> dict[str, Any]:
    """Returns the law that was asked for as plain values.

    Keys: law, formula, method (ls, huber), residuals and delta of Huber's loss, interval (what the intervals rest on),
    resampling, resamples and seed of the bootstrap, parameters (name, value, ci95), floor (side, bound, estimate; null
    of a law without E), r2. What does not apply is null.
    """
    fit, loss, resampled = asked.fit, asked.fit.loss, asked.resampled
    parameters = [
        {"name": name, "value": float(value), "ci95": list(ci95)}
        for (name, ci95), value in zip(asked.intervals.items(), fit.parameters, strict=True)
    ]
    tree = {
        **{"law": fit.name, "formula": fit.form.formula, "method": asked.asking.method, "interval": asked.basis},
        **{"residuals": None, "delta": None, "resampling": None, "resamples": None, "seed": None},
        **(asdict(loss) if loss is not None else {}),
        "parameters": parameters,
        "floor": None if asked.floor is None else asked.floor._asdict(),
        "r2": fit.r2,
    }
    if resampled is not None:
        tree |= {"resampling": resampled.kind, "resamples": resampled.resamples, "seed": resampled.seed}
    return finite(tree)


def forecast_tree(made: Forecast) -> dict[str, Any]:
    """Returns a prediction as plain values.

    Keys: x, seeds, trusted, extrapolated, decades_beyond, laws (law, mean, ci95, prediction95), the envelopes ci95 and
    prediction95, prediction95_new_images (None where the metric's own error is not known) and
    prediction95_new_decoders (None of one decoder).
    """
    laws = [
        {"law": item.law, "mean": item.value, "ci95": item.of_law, "prediction95": item.of_run} for item in made.laws
    ]
    tree = {
        **{name: getattr(made, name) for name in ("x", "seeds", "trusted", "decades_beyond")},
        "extrapolated": not made.trusted,
        "laws": laws,
        "ci95": made.of_law,
        "prediction95": made.of_run,
        "prediction95_new_images": made.on_new_images,
        "prediction95_new_decoders": made.on_new_decoders,
    }
    return finite(tree)


def reach_tree(found: Reach) -> dict[str, Any]:
    """Returns a target as plain values.

    Keys: target, bounded, trusted, laws (law, estimate, pieces, bounded, trusted, text).
    """
    laws = [
        {"law": law, "trusted": trusted}
        | {name: getattr(item, name) for name in ("estimate", "pieces", "bounded", "text")}
        for law, item, trusted in found.laws
    ]
    return finite({name: getattr(found, name) for name in ("target", "bounded", "trusted")} | {"laws": laws})


def joint_head(found: JointAnalysis) -> dict[str, Any]:
    """Returns what every JSON object of two axes begins with: version, x, and, y, n, n_configurations."""
    return {
        "version": VERSION,
        "x": found.x_name,
        "and": found.second_name,
        "y": found.y_name,
        **({"mark": found.sample.mark} if found.sample.mark else {}),
        "n": len(found.selection.x),
        "n_configurations": found.sample.n,
    }


def joint_tree(found: JointAnalysis, law: JointLaw | None = None, bought: Bought | None = None) -> dict[str, Any]:
    """Returns a metric against two axes and what compute buys, as `drorae fit --and --json` prints it.

    Keys: version, x, and, y, n, n_configurations, preferred, laws (as `law_tree`), laws_of_one_axis (axis and the
    same), laws_skipped (name, reason), asked (as `asked_tree`, null where no law was asked for), tests (what, f,
    extra, dof, p_value), verdicts, warnings, excluded; as far as it was asked for, compute (per_pair, exponent,
    second_exponent, optima) and isoflop (levels, exponent).
    """
    tree = {
        **joint_head(found),
        "preferred": found.preferred.name,
        "asked": None if law is None else asked_tree(law.asked),
        "laws": [law_tree(fit, found.delta(fit)) for fit in found.fits],
        "laws_of_one_axis": [{"axis": axis} | law_tree(fit, found.delta(fit)) for axis, fit in found.alone],
        "laws_skipped": [{"name": name, "reason": reason} for name, reason in found.skipped],
        "tests": [asdict(test) for test in found.tests],
        "verdicts": [item._asdict() for item in ([] if law is None else [law.verdict]) + list(found.verdicts)],
        **remarks(found),
    }
    asked = {"compute": bought.law, "isoflop": bought.levels} if bought else {}
    return finite(tree | {name: asdict(part) for name, part in asked.items() if part is not None})


def finite(tree: dict[str, Any]) -> dict[str, Any]:
    """Returns the tree with None for every NaN and infinity in it, which JSON does not have."""
    return {key: _finite(value) for key, value in tree.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return finite(value)
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value
