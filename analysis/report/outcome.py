"""Fits of one or several metrics with their report and a few plain lines: what `drorae fit` and a sweep's end show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.inference.analysis import Analysis, analyse
from analysis.inference.asked import Asking
from analysis.inference.convergence import unmeasured
from analysis.inference.tradeoff import TradeOff
from analysis.laws.bootstrap import Progress
from analysis.laws.digits import between, fixed, share
from analysis.laws.line import Unit
from analysis.report.style import Style
from analysis.report.tradeoff import trade_off_lines, trade_off_tree
from analysis.report.trees import fit_tree
from analysis.report.write import write_report
from drorae.errors import UserError


@dataclass(frozen=True)
class FitOutcome:
    """One analysis per metric, in the order asked for; those in training's or the tokenizer's own features last."""

    analyses: tuple[Analysis, ...]
    trees: tuple[dict[str, Any], ...]
    """Machine-readable, one object per metric: `fit_tree`."""
    paths: dict[str, Path]
    """The report's files by name; empty where none was asked for."""
    text: str
    """Plain lines for a terminal or a log."""


def fit_table(
    frame: pd.DataFrame,
    x: str,
    y: Sequence[str],
    law: str | Asking = "log-linear",
    include: Iterable[str] = (),
    unit: Unit = "configuration",
    out: str | Path | None = None,
    title: str | None = None,
    images: Mapping[str, Path] | None = None,
    command: str | None = None,
    progress: Progress | None = None,
    style: Style = "screen",
) -> FitOutcome:
    """Fits each metric of `y` on `x` over the usable rows of `frame`.

    Args:
        frame: one row per run.
        x: column of the size, or params, capacity, layers (`X_ALIASES`).
        y: columns of the metrics.
        law: the law that leads, by name, or as an `Asking` with its method.
        include: statuses of runs to fit beside finished.
        unit: configuration, seeds are averaged first; row, every row is a point.
        out: folder that the report is written to; none by default.
        title: of the report; by default what is fitted to what.
        images: caption to PNG file, embedded in the report.
        command: printed in the report as the way to make it again.
        progress: see `analyse`.
        style: of the figures, screen or paper.

    Raises:
        UserError: what `analyse` and `write_report` refuse; nothing is written then.
    """
    names = [y] if isinstance(y, str) else list(dict.fromkeys(y))
    if not names:
        raise UserError("y: expected at least one metric, such as psnr or rfd_dinov2")
    include = tuple(include)
    analyses = [analyse(frame, x, name, law, include, unit, progress) for name in names]
    title = title or f"{', '.join(item.selection.y_said for item in in_order(analyses))} against {x}"
    return report_analyses(analyses, out, title, images, command, style=style)


def report_analyses(
    analyses: Sequence[Analysis],
    out: str | Path | None,
    title: str,
    images: Mapping[str, Path] | None = None,
    command: str | None = None,
    record: Sequence[str] = (),
    style: Style = "screen",
    trade_offs: Sequence[TradeOff] = (),
) -> FitOutcome:
    """Returns what `fit_table` returns, and writes what it writes, of analyses that are there already.

    Args:
        analyses: one per metric, all against the same size.
        out: folder that the report is written to; None writes nothing.
        title: of the page.
        images: caption to PNG file, embedded in the page; none by default.
        command: printed as the way to make the report again; left out by default.
        record: how registered predictions did, line by line, which ends the text; nothing by default.
        style: of the figures, screen or paper.
        trade_offs: reconstruction against generation, which the first object has under `trade_offs`; none by default.

    Raises:
        UserError: what `write_report` refuses.
    """
    analyses = in_order(analyses)
    notes = unmeasured([item.selection for item in analyses])
    first, *others = (fit_tree(item) for item in analyses)
    first["warnings"] += [item._asdict() for item in notes]
    if trade_offs:
        first["trade_offs"] = [trade_off_tree(item) for item in trade_offs]
    trees = (first, *others)
    said = [f"  note: {item.message} [{item.code}]" for item in notes]
    said += [line for item in trade_offs for line in trade_off_lines(item)]
    paths = {} if out is None else write_report(analyses, out, title, images, command, trees, record, style, trade_offs)
    return FitOutcome(tuple(analyses), trees, paths, "\n".join([*map(_summary, analyses), *said, *record]))


def in_order(analyses: Sequence[Analysis]) -> list[Analysis]:
    """Analyses as a report has them: none that flatters what is compared heads it."""
    return sorted(analyses, key=lambda item: bool(item.selection.mark))


def _summary(analysis: Analysis) -> str:
    line, selection = analysis.line, analysis.selection
    sample, curve = line.sample, line.curve
    term, per = (f"log10({sample.x_name})", "per decade") if line.law == "log-linear" else (sample.x_name, "per unit")
    sign, (low, high) = "+" if line.slope >= 0 else "-", line.slope_ci95
    slope, size, *ends = (fixed(value, high - low) for value in (line.slope, abs(line.slope), low, high))
    at_zero = line.intervals["intercept"]
    law = f"{fixed(line.intercept, at_zero.high - at_zero.low)} {sign} {size} {term}"
    counted = f"{line.n} runs" if line.unit == "row" else f"{sample.n} configurations, {line.n} runs"
    spread = f"residual sd {curve.residual_sd:.4g}"
    if line.replicated:
        spread += f" of configuration means, seed sd {line.seed_sd:.4g}"
    lead = [f"{sample.y_said} follows {analysis.leading.name}: {analysis.leading.text}"] if analysis.rejected else []
    asked = "  the line asked for, not supported: " * analysis.rejected
    if analysis.asked is not None:
        lead = analysis.asked.lines(sample.y_said, analysis.rejected)
        asked = "  beside it the line of least squares" + ", not supported" * analysis.line_rejected + ": "
    lines = [
        *lead,
        f"{asked}{sample.y_said} = {law}",
        f"  slope {slope} {per}, 95% CI {' .. '.join(ends)} "
        f"(t, {line.slope_error[1]:.3g} degrees of freedom{analysis.draws.given}); R2 {share(curve.r2)}",
        *(f"  {item.text}" for item in analysis.draws.intervals),
        f"  {counted}; {sample.x_name} {between(sample.low, sample.high, 6)}; {spread}",
    ]
    if selection.eval_images:
        lines[-1] += f"; {selection.eval_images} evaluation images"
    lines += [f"  left out: {text}" for text in _left_out(selection.excluded)]
    lead = [f"{sample.y_name}: {analysis.not_converged}"] if analysis.not_converged else []
    return "\n".join([*lead, *lines, *analysis.remarks()])


def _left_out(excluded: Sequence[tuple[str, str]]) -> list[str]:
    """A line per run, or per reason where more than three runs share it."""
    reasons = Counter(reason for _, reason in excluded)
    lines = [f"{row}: {reason}" for row, reason in excluded if reasons[reason] <= 3]
    return lines + [f"{count} rows: {reason}" for reason, count in reasons.items() if count > 3]
