"""A comparison of designs as files: compare.json, compare.csv, a figure, one HTML page and the same in Markdown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analysis.inference.designs import DesignComparison
from analysis.report.blocks import Block, Heading, Notes, Picture, Table, Text
from analysis.report.figures import INK, display_name, log_axis, metric_name, number, panels, save, short
from analysis.report.fonts import boxes
from analysis.report.latex import comparison_tables
from analysis.report.style import Style
from analysis.report.trees import finite
from analysis.report.write import MARKS, how_again, report_folder, write_pages
from drorae.runtime.figures import plain_figures
from drorae.storage.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLES = (
    ("o", "#0072B2", "-"), ("s", "#D55E00", "--"), ("^", "#009E73", "-."), ("D", "#CC79A7", ":"),
    ("v", "#E69F00", "-"), ("P", "#56B4E9", "--"), ("X", "#666666", "-."), ("*", "#000000", ":"),
)  # fmt: skip
"""Marker, colour (Okabe and Ito) and line of every design: told apart by the colour-blind and in grey."""


@plain_figures()
def comparison_figure(found: DesignComparison) -> Figure:
    """Left: configuration means of every design and the law compared. Right: all differences, 95% and simultaneous."""
    figure, (left, right) = panels(2)
    logged = found.law == "log-linear"
    for k, (line, sample) in enumerate(zip(found.lines, found.samples, strict=True)):
        marker, colour, dashes = _STYLES[k % len(_STYLES)]
        left.scatter(sample.x[:, 0], sample.y, marker=marker, color=colour, edgecolors=INK, s=36, linewidths=0.6,
                     zorder=3, label=f"{line.design} (n = {line.n_configurations})")  # fmt: skip
        at = (np.geomspace if logged else np.linspace)(sample.low, sample.high, 100)
        left.plot(at, found.value(k, at), color=colour, ls=dashes, lw=1.6)
    if logged:
        decades = np.log10(max(item.high for item in found.samples) / min(item.low for item in found.samples))
        log_axis(left, (1.0,) if decades > 3.5 else (1.0, 3.0), found.x_name)
    left.set(xlabel=display_name(found.x_name), ylabel=metric_name(found, "\n"))
    left.legend(fontsize=8, frameon=False, title=f"{found.compared_law} law of each", title_fontsize=8)
    # Slopes and levels have units of their own: each difference in units of its standard error.
    labels = []
    for row, item in enumerate(reversed(found.differences)):
        error = (item.ci95[1] - item.ci95[0]) / 2 or 1.0
        for ends, width in ((item.simultaneous95, 1.0), (item.ci95, 2.6)):
            right.plot([end / error for end in ends], [row, row], color=INK, lw=width)
        right.plot(item.difference / error, row, "o", color=INK, ms=5)
        where = "" if item.at is None else f" at {short(item.at, found.x_name)}"
        labels.append(f"{item.what}{where}: {item.a} \N{MINUS SIGN} {item.b}")
    right.axvline(0, color="#888888", lw=0.8)
    right.set_yticks(range(len(labels)), labels, fontsize=8)
    right.set(ylim=(-0.7, len(labels) - 0.3), xlabel="difference / half-width of its 95% interval")
    return figure


def write_comparison(
    found: DesignComparison, directory: str | Path, command: str | None = None, style: Style = "screen"
) -> dict[str, Path]:
    """Writes compare.json, .csv, .txt, .tex, .png, .svg and .pdf, report.html, report.md; paths by kind.

    Raises:
        UserError: the directory cannot be written.
    """
    title = f"{metric_name(found)} against {found.x_name} by {found.by}"
    rows = pd.DataFrame([
        {"design": line.design, "x": x, "value": y, "runs": int(runs), "fitted": fitted}
        for k, (line, sample) in enumerate(zip(found.lines, found.samples, strict=True))
        for x, y, runs, fitted in zip(
            sample.x[:, 0], sample.y, sample.runs, found.value(k, sample.x[:, 0]), strict=True
        )
    ])  # fmt: skip
    with report_folder(directory) as folder:
        drawn = comparison_figure(found)
        paths = save(drawn, folder, "compare", style)
        texts = {
            "json": json.dumps(finite(found.as_json()), indent=2, ensure_ascii=False, allow_nan=False) + "\n",
            "csv": str(rows.to_csv(index=False, float_format="%.10g", lineterminator="\n")),
            "txt": found.text() + "\n",
            "tex": comparison_tables(found),
        }
        paths |= {kind: write_atomic(folder / f"compare.{kind}", text.encode()) for kind, text in texts.items()}
        return paths | write_pages(folder, title, _blocks(found, title, paths, command, boxes(drawn)))


def _blocks(
    found: DesignComparison, title: str, paths: dict[str, Path], command: str | None, drawn: str
) -> list[Block]:
    def ends(pair: tuple[float, float]) -> str:
        return f"{number(pair[0])} … {number(pair[1])}"

    caption = (
        f"Left: configuration means and the {found.compared_law} law of each design. Right: differences over the "
        "half-width of their 95% intervals (thick); thin: all intervals at once."
    )
    verdicts = [(item.claim, MARKS[item.verdict], f"{item.reason}. Level: {item.level}") for item in found.verdicts]
    laws = dict(zip((line.design for line in found.lines), found.curved.fits if found.curved else (), strict=False))
    designs = [
        (line.design, number(line.slope), ends(line.slope_ci95), number(line.level), ends(line.level_ci95),
         str(line.n_configurations), str(line.n), laws[line.design].text if laws else found.law)
        for line in found.lines
    ]  # fmt: skip
    differences = [
        (item.what, "\N{EN DASH}" if item.at is None else short(item.at, found.x_name),
         f"{item.a} \N{MINUS SIGN} {item.b}", number(item.difference), ends(item.ci95), ends(item.simultaneous95),
         f"{item.p_holm:.2g}")
        for item in found.differences
    ]  # fmt: skip
    notes: list[tuple[str, str | None]] = [(item.message, item.code) for item in found.cautions]
    notes += [(f"left out: {row}: {reason}", None) for row, reason in found.excluded]
    head = (
        "Design",
        "Slope",
        "95% CI",
        f"Level at {short(found.level_at, found.x_name)}",
        "95% CI",
        "Points",
        "Runs",
        "Law",
    )
    return [
        Text(f"{found.better.capitalize()} is better.", "soft"),
        Picture(paths["svg"], paths["png"], title, caption + drawn, True),
        Heading("Verdicts"),
        Table(("Claim", "Verdict", "Why"), verdicts, (0, 1, 2)),
        Heading("Designs"),
        Table(head, designs, (0, 7)),
        Heading("Differences"),
        Table(("Of", "At", "Designs", "Difference", "95% CI", "all at once", "p (Holm)"), differences, (0, 2)),
        Heading("To bear in mind"),
        Notes(tuple(notes) or (("Nothing.", None),)),
        *how_again(command),
    ]
