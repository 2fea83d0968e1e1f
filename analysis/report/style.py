"""Where the legends of figures go, and figures drawn for a screen brought to the width of a paper's column."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

Style = Literal["screen", "paper"]

COLUMN = 3.25
"""Width in inches of a paper's column."""
LEAST_TEXT = 6.0
"""Points that text has at least: journals take no smaller."""
_SCALE = 0.75
_PANEL = 2.4
"""Height of a panel in inches, without its legend."""
_MARGIN = 0.08
"""Inches that a legend keeps from what is right of it."""
_LABEL = 26
"""Signs of a line of an axis' label, and of one of a tick's in `_TICK`: more do not fit into a column."""
_TICK = 16


def legends_below(figure: Figure, panels: Sequence[Axes], across: int = 1) -> None:
    """Puts the legends of panels below them, where they hide nothing, and makes the figure as much higher.

    across: panels in a row of the figure.
    """
    width, height = figure.get_size_inches()
    layout = figure.get_layout_engine()
    assert layout is not None
    for axes in panels:
        if (legend := axes.get_legend()) is not None:
            legend.set_in_layout(False)
    layout.execute(figure)
    rows = [panels[start : start + across] for start in range(0, len(panels), across)]
    each = height / len(rows)
    heights = [
        each + max(_legend_below(figure, axes, width * (k + 1) / across) for k, axes in enumerate(row)) for row in rows
    ]
    gridspec = panels[0].get_gridspec()
    assert gridspec is not None
    gridspec.set_height_ratios(heights)
    figure.set_size_inches(width, sum(heights))


def fit_column(figure: Figure) -> None:
    """Makes a figure as wide as a column: panels one below the other, legends below them, text of 6 to 8 points."""
    _thin(figure)
    panels = [axes for axes in figure.axes if axes.get_subplotspec() is not None and axes.get_label() != "<colorbar>"]
    grid = figure.add_gridspec(len(panels), 1)
    for row, axes in enumerate(panels):
        axes.set_subplotspec(grid[row])
        _wrap(axes)
    figure.set_size_inches(COLUMN, _PANEL * len(panels))
    legends_below(figure, panels)


def _legend_below(figure: Figure, axes: Axes, end: float) -> float:
    """Puts the legend of axes below them and returns its height in inches, 0 without one.

    end: how far right it may reach, in inches.
    """
    from matplotlib.transforms import ScaledTranslation

    old = axes.get_legend()
    if old is None:
        return 0.0
    anchor, start = float(axes.xaxis.label.get_fontsize()), axes.get_position().x0 * float(figure.get_figwidth())
    # Ticks with their labels, and the lines of the axis' own label.
    gap = (3.1 + 1.3 * axes.get_xlabel().count("\n")) * anchor / 72 + 0.06
    for columns in (4, 3, 2, 1):
        box = _legend(axes, old, columns).get_window_extent()
        if (box.width / figure.dpi) <= end - start - _MARGIN:
            break
    left = min(0.0, end - start - _MARGIN - box.width / figure.dpi)
    legend = axes.get_legend()
    assert legend is not None
    legend.set_bbox_to_anchor((0, 0), axes.transAxes + ScaledTranslation(left, -gap, figure.dpi_scale_trans))
    return float(box.height) / figure.dpi


def _legend(axes: Axes, old: Legend, columns: int) -> Legend:
    size, title = float(old.get_texts()[0].get_fontsize()), old.get_title()
    handles, labels = axes.get_legend_handles_labels()
    made = axes.legend(
        handles, labels, loc="upper left", frameon=False, ncols=min(columns, len(labels)), fontsize=size,
        title=title.get_text() or None, title_fontsize=size, borderaxespad=0, borderpad=0, labelspacing=0.3,
        alignment="left",
    )  # fmt: skip
    for text, was in zip((*made.get_texts(), made.get_title()), (*old.get_texts(), title), strict=True):
        text.set_fontfamily(was.get_fontfamily())
    return made


def _wrap(axes: Axes) -> None:
    """Breaks what is too long for a column: labels of axes, and of ticks where those are names and no numbers."""
    from matplotlib.ticker import FixedLocator

    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_text(_broken(axis.label.get_text(), _LABEL))
        named = isinstance(axis.get_major_locator(), FixedLocator)
        axis.set_tick_params(labelsize=LEAST_TEXT + (not named))
        if named:
            old = axis.get_ticklabels()
            axis.set_ticks(axis.get_majorticklocs(), [_broken(text.get_text(), _TICK) for text in old])
            for text, was in zip(axis.get_ticklabels(), old, strict=True):
                text.set_fontfamily(was.get_fontfamily())


def _broken(text: str, width: int) -> str:
    """`text` in lines of so many signs, broken before parentheses if at all, and between no size and its unit."""
    joined = re.sub(r"(?<=\d) (?=[KMGBT]\b)", "\N{NO-BREAK SPACE}", text)
    lines = [line.replace(" (", "\n(") if len(line) > width else line for line in joined.split("\n")]
    return "\n".join(textwrap.fill(line, width) for line in "\n".join(lines).split("\n"))


def _thin(figure: Figure) -> None:
    from matplotlib.collections import Collection, PathCollection
    from matplotlib.lines import Line2D
    from matplotlib.text import Text

    for axes in figure.axes:
        for side in axes.spines.values():
            side.set_linewidth(side.get_linewidth() * _SCALE)
    for artist in figure.findobj():
        if isinstance(artist, Text):
            artist.set_fontsize(max(float(artist.get_fontsize()) * _SCALE, LEAST_TEXT))
        elif isinstance(artist, Line2D):
            artist.set_linewidth(artist.get_linewidth() * _SCALE)
            artist.set_markersize(artist.get_markersize() * _SCALE)
            artist.set_markeredgewidth(artist.get_markeredgewidth() * _SCALE)
        elif isinstance(artist, Collection):
            artist.set_linewidth((np.atleast_1d(artist.get_linewidth()) * _SCALE).tolist())
            if isinstance(artist, PathCollection):
                artist.set_sizes(artist.get_sizes() * _SCALE**2)
