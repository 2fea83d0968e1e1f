"""From a table of runs to fits, their report and a few plain lines: what `drorae fit` and a sweep's end call."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.inference.evidence import (
    CANDIDATES,
    BackTest,
    Comparison,
    Warning,
    back_test,
    compare_laws,
    fit_flags,
    warnings,
)
from analysis.inference.predict import Forecast, Horizon, Reach, forecast, horizon, reach
from analysis.inference.verdicts import Verdict, verdicts
from analysis.laws.intervals import curve_tree
from analysis.laws.line import Law, LawFit, Unit, fit_law
from analysis.table.design import check_design
from analysis.table.selection import Selection, select
from drorae.errors import UserError

VERSION = 2
"""Of the keys of `Analysis.tree` and of the objects that fit, predict and plan print; 1 had no `laws`."""


@dataclass(frozen=True)
class Analysis:
    """One metric against one size: the line, its rivals, back-tests, verdicts, predictions.

    Everything beyond the line is computed when first asked for.
    """

    fit: LawFit
    selection: Selection

    @cached_property
    def comparison(self) -> Comparison:
        """All laws that these configurations can carry, the best AICc first."""
        sample = self.fit.sample
        names = CANDIDATES if self.fit.law == "log-linear" else ("linear", *CANDIDATES)
        # Four configurations carry the line that was asked for and no more.
        return compare_laws(sample, names if sample.low > 0 else ("linear",))

    @cached_property
    def back_tests(self) -> tuple[BackTest, ...]:
        """The largest sizes predicted from the smaller ones, the envelope first."""
        return back_test(self.fit.sample, tuple(fit.name for fit in self.comparison.fits))

    @cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """What the data say of a trend, of saturation, and of their own largest sizes."""
        return verdicts(self.comparison, self.back_tests, self.fit.law)

    @cached_property
    def horizon(self) -> Horizon:
        """The sizes that predictions are trusted for."""
        return horizon(self.comparison)

    @cached_property
    def warnings(self) -> tuple[Warning, ...]:
        """What a reader should be told, of the line and of each plausible law."""
        found = warnings(self.fit, self.selection)
        for fit in self.comparison.plausible:
            found += fit_flags(fit)
        return tuple(found)

    def predict(self, at: float, extrapolate: bool = False, seeds: float = 1) -> Forecast:
        """See `analysis.inference.predict.forecast`."""
        return forecast(self.comparison, at, extrapolate, seeds)

    def target(self, value: float, extrapolate: bool = False) -> Reach:
        """See `analysis.inference.predict.reach`."""
        return reach(self.comparison, value, extrapolate)

    def remarks(self) -> dict[str, Any]:
        """The warnings and the excluded runs, as every printed object has them."""
        return {
            "warnings": [item._asdict() for item in self.warnings],
            "excluded": [{"row": row, "reason": reason} for row, reason in self.selection.excluded],
        }

    def tree(self) -> dict[str, Any]:
        """What goes beyond the line, as plain values; None stands for an end that the data leave open.

        | key | what |
        |---|---|
        | version | of these keys |
        | preferred | name of the law with the least AICc |
        | laws | name, formula, parameters (name, value, ci95), r2, aicc, delta_aicc, at_bound, condition, residual_sd |
        | laws_skipped | name, reason |
        | horizon | low, high, decades, rule |
        | back_tests | law, trained, rows (x, y, mean, prediction95, inside) |
        | predictions | at the horizon: as `forecast_tree` |
        | verdicts | claim, verdict (supported, not supported, undecided), reason, would_decide |
        | warnings | code, message |
        | excluded | row, reason |
        """
        far = self.horizon.high
        tree = {
            "version": VERSION,
            "preferred": self.comparison.best.name,
            "laws": [
                curve_tree(fit, self.comparison.delta(fit)) | {"loo_rmse": float(np.sqrt(np.mean(fit.loo() ** 2)))}
                for fit in self.comparison.fits
            ],
            "laws_skipped": [{"name": name, "reason": reason} for name, reason in self.comparison.skipped],
            "horizon": asdict(self.horizon),
            "back_tests": [
                {
                    "law": test.law,
                    "trained": test.trained,
                    "rows": [
                        {"x": item.x, "y": item.y, "mean": item.predicted, "prediction95": [item.low, item.high],
                         "inside": item.inside}
                        for item in test.held_out
                    ],
                }
                for test in self.back_tests
            ],
            "predictions": [forecast_tree(self.predict(far))] if far > 0 else [],
            "verdicts": [item._asdict() for item in self.verdicts],
            **self.remarks(),
        }  # fmt: skip
        return finite(tree)


def analyse(
    frame: pd.DataFrame,
    x: str,
    y: str,
    law: Law = "log-linear",
    include: Iterable[str] = (),
    unit: Unit = "configuration",
) -> Analysis:
    """Everything the runs in `frame` say of metric `y` against size `x`; arguments as for `fit_table`.

    >>> import pandas as pd
    >>> sizes = [2.5e6, 4.8e6, 9.6e6, 19e6, 37.9e6, 56.8e6, 75.7e6, 113.4e6]
    >>> rfid = [0.539, 0.559, 0.525, 0.519, 0.510, 0.471, 0.470, 0.459]
    >>> found = analyse(pd.DataFrame({"params": sizes, "rfid": rfid}), "params", "rfid")
    >>> round(found.fit.slope, 4)
    -0.0565
    >>> [(item.claim.split(":")[0], item.verdict) for item in found.verdicts[:2]]
    [('log-linear', 'supported'), ('no saturation', 'undecided')]
    >>> low, high = found.predict(2e8).of_run
    >>> f"{low:.3f} .. {high:.3f}"
    '0.401 .. 0.503'
    >>> found.target(0.40).bounded
    False

    Raises:
        UserError: what `select`, `analysis.table.selection.check_design` and `fit_law` refuse.
    """
    selection = select(frame, x, y, include, log=law == "log-linear")
    check_design(selection, unit)
    return Analysis(fit_law(selection, law, unit), selection)


def forecast_tree(made: Forecast) -> dict[str, Any]:
    """A prediction as plain values: x, seeds, trusted, decades_beyond, laws (law, mean, ci95, prediction95), the
    envelopes ci95 and prediction95, and prediction95_new_images (None where the metric's own error is not known)."""
    fresh = made.on_new_images
    return finite(
        {
            "x": made.x,
            "seeds": made.seeds,
            "trusted": made.trusted,
            "extrapolated": not made.trusted,
            "decades_beyond": made.decades_beyond,
            "laws": [
                {"law": item.law, "mean": item.value, "ci95": list(item.of_law), "prediction95": list(item.of_run)}
                for item in made.laws
            ],
            "ci95": list(made.of_law),
            "prediction95": list(made.of_run),
            "prediction95_new_images": None if fresh is None else list(fresh),
        }
    )


def reach_tree(found: Reach) -> dict[str, Any]:
    """A target as plain values: target, bounded, trusted, laws (law, estimate, pieces, bounded, trusted, text)."""
    return finite(
        {
            "target": found.target,
            "bounded": found.bounded,
            "trusted": found.trusted,
            "laws": [
                {
                    "law": law,
                    "estimate": item.estimate,
                    "pieces": [list(piece) for piece in item.pieces],
                    "bounded": item.bounded,
                    "trusted": trusted,
                    "text": item.text,
                }
                for law, item, trusted in found.laws
            ],
        }
    )


def finite(value: Any) -> Any:
    """`value` with None for every NaN and infinity in it, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value


@dataclass(frozen=True)
class FitOutcome:
    """One fit per metric, in the order asked for."""

    fits: tuple[LawFit, ...]
    selections: tuple[Selection, ...]
    jsons: tuple[dict[str, Any], ...]
    """Machine-readable, one object per fit: `analysis.report.write.fit_json` and `Analysis.tree`."""
    paths: dict[str, Path]
    """The report's files by name; empty where none was asked for."""
    text: str
    """Plain lines for a terminal or a log."""


def fit_table(
    frame: pd.DataFrame,
    x: str,
    y: Sequence[str],
    law: Law = "log-linear",
    include: Iterable[str] = (),
    unit: Unit = "configuration",
    out: str | Path | None = None,
    title: str | None = None,
    images: Mapping[str, Path] | None = None,
    command: str | None = None,
) -> FitOutcome:
    """Fits each metric of `y` on `x` over the usable rows of `frame`; writes the report to `out` if given.

    x: a column, or params, capacity, layers (`analysis.table.files.X_ALIASES`). include: statuses other than finished
    to fit as well. unit: see `analysis.laws.line.fit_law`.

    Raises:
        UserError: what `select`, `fit_law` and `write_report` refuse; nothing is written then.
    """
    names = [y] if isinstance(y, str) else list(dict.fromkeys(y))
    if not names:
        raise UserError("y: expected at least one metric, such as psnr or rfd_dinov2")
    include = tuple(include)
    analyses = [analyse(frame, x, name, law, include, unit) for name in names]
    return report_analyses(analyses, out, title or f"{', '.join(names)} against {x}", images, command)


def report_analyses(
    analyses: Sequence[Analysis],
    out: str | Path | None,
    title: str,
    images: Mapping[str, Path] | None = None,
    command: str | None = None,
) -> FitOutcome:
    """What `fit_table` returns and writes, of analyses that are there already.

    Raises:
        UserError: what `write_report` refuses.
    """
    from analysis.report.write import findings_of, fit_json, write_report

    fits, selections = tuple(item.fit for item in analyses), tuple(item.selection for item in analyses)
    jsons = tuple(fit_json(item.fit, item.selection, item.warnings) | item.tree() for item in analyses)
    paths: dict[str, Path] = {}
    if out is not None:
        findings = [findings_of(item) for item in analyses]
        paths = write_report(fits, selections, out, title, images, command, findings, jsons)
    text = "\n".join(_summary(item) for item in analyses)
    return FitOutcome(fits, selections, jsons, paths, text)


def _summary(analysis: Analysis) -> str:
    fit, selection = analysis.fit, analysis.selection
    term, per = (f"log10({fit.x_name})", "per decade") if fit.law == "log-linear" else (fit.x_name, "per unit")
    sign = "+" if fit.slope >= 0 else "-"
    counted = f"{fit.n} runs" if fit.unit == "row" else f"{fit.n_configurations} configurations, {fit.n} runs"
    spread = f"residual sd {fit.residual_sd:.4g}"
    if fit.replicated:
        spread += f" of configuration means, seed sd {fit.seed_sd:.4g}"
    lines = [
        f"{fit.y_name} = {fit.intercept:.4f} {sign} {abs(fit.slope):.4f} {term}",
        f"  slope {fit.slope:.4f} {per}, 95% CI {fit.slope_ci95[0]:.4f} .. {fit.slope_ci95[1]:.4f} "
        f"(t, {fit.dof} degrees of freedom); R2 {fit.r2:.4f}",
        f"  {counted}; {fit.x_name} {fit.x_range[0]:.6g} .. {fit.x_range[1]:.6g}; {spread}",
    ]
    if selection.eval_images:
        lines[-1] += f"; {selection.eval_images} evaluation images"
    lines += [f"  left out: {line}" for line in _left_out(selection.excluded)]
    lines += [f"  note: {item.message} [{item.code}]" for item in analysis.warnings]
    compared = [f"{item.name} {analysis.comparison.delta(item):.1f}" for item in analysis.comparison.fits]
    lines.append(f"  laws by AICc behind the best: {', '.join(compared)}")
    lines += [line for verdict in analysis.verdicts for line in verdict.lines()]
    return "\n".join(lines)


def _left_out(excluded: Sequence[tuple[str, str]]) -> list[str]:
    """A line per run, or per reason where more than three runs share it."""
    reasons = Counter(reason for _, reason in excluded)
    lines = [f"{row}: {reason}" for row, reason in excluded if reasons[reason] <= 3]
    return lines + [f"{count} rows: {reason}" for reason, count in reasons.items() if count > 3]
