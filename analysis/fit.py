"""From a table of runs to fits, their report and a few plain lines: what `drorae fit` and a sweep's end call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.evidence import warnings
from analysis.laws import Law, LawFit, Unit, fit_law
from analysis.runs import Selection, select
from drorae.errors import UserError


@dataclass(frozen=True)
class FitOutcome:
    """One fit per metric, in the order asked for."""

    fits: tuple[LawFit, ...]
    selections: tuple[Selection, ...]
    jsons: tuple[dict[str, Any], ...]
    """Machine-readable, one object per fit (`analysis.report.fit_json`)."""
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

    x: a column, or params, capacity, layers (`analysis.runs.X_ALIASES`). include: statuses other than finished
    to fit as well. unit: see `analysis.laws.fit_law`.

    Raises:
        UserError: what `select`, `fit_law` and `write_report` refuse; nothing is written then.
    """
    from analysis.report import fit_json, write_report

    names = [y] if isinstance(y, str) else list(dict.fromkeys(y))
    if not names:
        raise UserError("y: expected at least one metric, such as psnr or rfd_dinov2")
    include = tuple(include)
    selections = tuple(select(frame, x, name, include, log=law == "log-linear") for name in names)
    fits = tuple(fit_law(selection, law, unit) for selection in selections)
    jsons = tuple(fit_json(fit, chosen, warnings(fit, chosen)) for fit, chosen in zip(fits, selections, strict=True))
    paths: dict[str, Path] = {}
    if out is not None:
        title = title or f"{', '.join(names)} against {x}"
        paths = write_report(fits, selections, out, title, images, command)
    text = "\n".join(_summary(fit, chosen) for fit, chosen in zip(fits, selections, strict=True))
    return FitOutcome(fits, selections, jsons, paths, text)


def _summary(fit: LawFit, selection: Selection) -> str:
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
    lines += [f"  left out: {row}: {reason}" for row, reason in selection.excluded]
    lines += [f"  note: {item.message} [{item.code}]" for item in warnings(fit, selection)]
    return "\n".join(lines)
