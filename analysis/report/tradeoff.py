"""Reconstruction against generation as a figure, tables, plain lines and values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.inference.tradeoff import Level, TradeOff
from analysis.report.blocks import Block, Heading, Picture, Table, Text
from analysis.report.figures import FAR, INK, LEVELS, LINE, display_name, metric_name, number, panels, short
from analysis.report.style import legends_below
from drorae.metrics.registry import CONTROLS, LOOKED_THROUGH, mark
from drorae.runtime.figures import plain_figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLES: dict[str, Any] = {
    "real": {"ls": "-", "color": "#009E73"},
    "reconstructions": {"ls": (0, (6, 2, 1, 2)), "color": "#D55E00"},
    "gaussian": {"ls": (0, (1, 1)), "color": "#777777"},
}
"""Of the controls' lines, told apart in grey, too."""


@plain_figures()
def trade_off_figure(found: Sequence[TradeOff]) -> Figure:
    """One panel per distance of generated images: every trial, with its standard errors, the darker the larger.

    The trials that no other is better than in both are ringed and numbered as in the tables; a step line goes along
    what they attain. The controls are lines across; one that lies far off is told in the legend alone.
    """
    figure, drawn = panels(len(found))
    for item, axes in zip(found, drawn, strict=True):
        _draw(axes, item)
    legends_below(figure, drawn, min(len(drawn), 2))
    return figure


def _draw(axes: Axes, item: TradeOff) -> None:
    import matplotlib

    sizes, rank = np.unique(item.selection.x, return_inverse=True)
    colours = matplotlib.colormaps["cividis"](np.linspace(0.95, 0.0, len(sizes)) if len(sizes) > 1 else [0.0])
    bars = [np.where(np.isfinite(errors), errors, 0.0) for errors in item.errors]
    axes.errorbar(item.x, item.y, bars[1], bars[0], fmt="none", ecolor="#888888", elinewidth=0.8, zorder=2)
    axes.scatter(item.x, item.y, c=colours[rank], edgecolors=INK, s=42, linewidths=0.7, zorder=3)
    size = item.selection.x_name
    for i in np.unique(np.linspace(0, len(sizes) - 1, min(len(sizes), LEVELS)).round().astype(int)):
        label = f"{display_name(size)} {short(sizes[i], size)}"
        axes.scatter([], [], color=colours[i], edgecolors=INK, s=42, linewidths=0.7, label=label)
    best = list(item.best)
    axes.plot(
        item.x[best], item.y[best], drawstyle="steps-pre" if item.rising else "steps-post", color=LINE, lw=1.2,
        zorder=1, marker="o", mfc="none", mec=LINE, ms=11, mew=1.4, label="not beaten in both",
    )  # fmt: skip
    for k, i in enumerate(best, 1):
        axes.annotate(
            str(k), (item.x[i], item.y[i]), xytext=(7, 7), textcoords="offset points", fontsize=8, color=LINE,
            zorder=5,
        )  # fmt: skip
    low, high = float(np.min(item.y - bars[1])), float(np.max(item.y + bars[1]))
    reach = FAR * (high - low)
    shown = [low, high]
    for name, level in item.controls.items():
        shown += _draw_control(axes, name, level, low - reach, high + reach)
    margin = 0.06 * (max(shown) - min(shown) or abs(high) or 1.0)
    axes.set_ylim(min(shown) - margin, max(shown) + margin)
    seen = mark(item.x_name, [str(cell) for cell in item.selection.used.get(LOOKED_THROUGH, [])])
    axes.set_xlabel(display_name(item.x_name) + (f", {seen}" if seen else ""))
    images = item.selection.eval_images
    axes.set_ylabel(metric_name(item.selection, "\n") + (f"\nN = {images:,} images" if images else ""))
    axes.legend(fontsize=8)


def _draw_control(axes: Axes, name: str, level: Level, least: float, most: float) -> list[float]:
    """Draws a control that lies between `least` and `most` and returns what the axis has to hold of it."""
    label = f"{CONTROLS[name]}: {_span(level)}"
    style = _STYLES[name]
    if level.high < least or level.low > most:
        axes.plot([], [], lw=1.2, label=f"{label}, far {'below' if level.high < least else 'above'}", **style)
        return []
    axes.axhline(level.median, lw=1.2, zorder=1, label=label, **style)
    if level.high > level.low:
        axes.axhspan(level.low, level.high, color=style["color"], alpha=0.1, lw=0, zorder=0)
    return [level.low, level.high]


def _span(level: Level) -> str:
    low, high = (number(end, level.high - level.low) for end in (level.low, level.high))
    return low if low == high else f"{low} to {high}"


def trade_off_blocks(found: Sequence[TradeOff], paths: Mapping[str, Path], drawn: str) -> list[Block]:
    """The section of a report; nothing of no trade-off.

    Args:
        found: the trade-offs.
        paths: the figure's files, under `tradeoff_svg` and `tradeoff_png`.
        drawn: what is said of signs that no font has.
    """
    if not found:
        return []
    names = ", ".join(display_name(item.y_name) for item in found)
    caption = (
        "Every point a trial, the darker the larger; bars: ± 1 standard error. Ringed, numbered and along the steps: "
        "trials that no other is better than in both. Lines across: the same distance of what no generator made, the "
        "median over the trials within the range of all."
    )
    title = f"{display_name(found[0].x_name)} against {names}"
    return [
        Heading("Reconstruction against generation"),
        Picture(paths["tradeoff_svg"], paths["tradeoff_png"], title, caption + drawn, len(found) > 1),
        *(block for item in found for block in (Text(_counted(item) + "."), Table(_head(item), _rows(item), (1,)))),
    ]


def trade_off_lines(item: TradeOff) -> list[str]:
    """The trials that no other is better than in both, and the controls, for a terminal."""
    cells = [[cell.replace("\N{MINUS SIGN}", "-").replace("±", "+-") for cell in row] for row in _rows(item)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rows = ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    controls = [f"{name} {_span(level)}".replace("\N{MINUS SIGN}", "-") for name, level in item.controls.items()]
    beside = [f"  beside it: {', '.join(controls)}"] if controls else []
    return [_counted(item) + ":", *(row.rstrip() for row in rows), *beside]


def trade_off_tree(item: TradeOff) -> dict[str, Any]:
    """Returns a trade-off as plain values.

    | key | what it holds |
    |---|---|
    | x, y | the metrics of reconstruction and of generation |
    | trials, images | the trials that have both; the generated images of each |
    | controls | low, median and high over the trials, by name |
    | pareto | name, size, x, x_se, y, y_se of every trial that no other is better than in both, in order of x |
    """
    selection, (x_errors, y_errors) = item.selection, item.errors
    best = [
        {
            "name": selection.labels[i], "size": float(selection.x[i]), "x": float(item.x[i]),
            "x_se": _known(x_errors[i]), "y": float(item.y[i]), "y_se": _known(y_errors[i]),
        }
        for i in item.best
    ]  # fmt: skip
    return {
        "x": item.x_name,
        "y": item.y_name,
        "trials": len(item.y),
        "images": selection.eval_images,
        "controls": {name: level._asdict() for name, level in item.controls.items()},
        "pareto": best,
    }


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _counted(item: TradeOff) -> str:
    x, y = item.said
    trials = f"{len(item.best)} of {len(item.y)} trials"
    return f"{x} against {y}: {trials} {'is' if len(item.best) == 1 else 'are'} not beaten in both"


def _head(item: TradeOff) -> tuple[str, ...]:
    return ("", "Trial", display_name(item.selection.x_name), *item.said)


def _rows(item: TradeOff) -> list[tuple[str, ...]]:
    selection = item.selection
    return [
        (
            str(k),
            selection.labels[i] + (f" seed {selection.seeds[i]}" if selection.seeds[i] else ""),
            short(selection.x[i], selection.x_name),
            _with_error(item.x[i], item.errors[0][i]),
            _with_error(item.y[i], item.errors[1][i]),
        )
        for k, i in enumerate(item.best, 1)
    ]


def _with_error(value: float, error: float) -> str:
    return number(value) if not math.isfinite(error) else f"{number(value)} ± {error:.2g}"
