"""Figures for a paper: as wide as a column, readable, with TrueType fonts, and with nothing cut off or covered."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from tables import replicated, sweep

from analysis.inference.analysis import analyse
from analysis.inference.designs import compare_designs
from analysis.report.comparison import comparison_figure
from analysis.report.figures import law_figure, panels, residual_figure, save
from analysis.report.style import fit_column


def designs() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        (name, 10.0**k, 2 - fall * k + rng.normal(0, 0.02))
        for name, fall in (("a design with a long name", 0.1), ("b", 0.15))
        for k in range(5, 10)
    ]
    return pd.DataFrame(rows, columns=["design", "params", "rfid"])


METRICS = ("psnr", "rfd_dinov2")
FIGURES: dict[str, Callable[[], Figure]] = {
    "law": lambda: law_figure([analyse(replicated(np.random.default_rng(0)), "params", "psnr")]),
    "laws": lambda: law_figure([analyse(sweep().assign(rfd_dinov2=sweep()["psnr"]), "params", y) for y in METRICS]),
    "residuals": lambda: residual_figure([analyse(replicated(np.random.default_rng(0)), "params", "psnr")]),
    "comparison": lambda: comparison_figure(compare_designs(designs(), "params", "rfid", "design")),
}  # fmt: skip


@pytest.mark.parametrize("name", FIGURES)
def test_a_paper_s_figure_fits_its_column(tmp_path: Path, name: str) -> None:
    figure = FIGURES[name]()
    pdf = save(figure, tmp_path, name, "paper")["pdf"].read_bytes()
    width, height = figure.get_size_inches()
    assert width == 3.25
    box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", pdf)
    assert box is not None and [float(end) for end in box.groups()] == pytest.approx([234, 72 * height], abs=0.01)
    assert b"/Type3" not in pdf and b"/FontFile2" in pdf and b"/Subtype /Image" not in pdf
    figure.draw_without_rendering()
    shown = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    assert {size for text in shown for size in [float(text.get_fontsize())] if not 6 <= size <= 8} == set()
    # Ticks have labels beyond what is shown, which are drawn nowhere.
    ticks = {id(text) for axes in figure.axes for text in (*axes.get_xticklabels(), *axes.get_yticklabels())}
    ends = np.array([text.get_window_extent().extents for text in shown if id(text) not in ticks]) / figure.dpi
    assert ends.min() > -0.01 and ends[:, 2].max() < width + 0.01 and ends[:, 3].max() < height + 0.01


@pytest.mark.parametrize("style", ["screen", "paper"])
@pytest.mark.parametrize("name", ["law", "laws"])
def test_a_law_s_legend_hides_nothing(tmp_path: Path, name: str, style: str) -> None:
    figure = FIGURES[name]()
    save(figure, tmp_path, name, style)  # type: ignore[arg-type]
    figure.draw_without_rendering()
    for axes in figure.axes:
        legend = axes.get_legend()
        assert legend is not None
        others = [other.get_window_extent() for other in figure.axes]
        others += [label.get_window_extent() for other in figure.axes for label in (other.xaxis.label,)]
        assert not any(legend.get_window_extent().overlaps(other) for other in others)
        assert legend.get_window_extent().y0 > -2 and axes.get_window_extent().height > 1.2 * figure.dpi


def test_long_labels_break_where_they_may() -> None:
    figure, (axes,) = panels(1)
    axes.plot([0, 1], [0, 1])
    axes.set(
        xlabel="level at 31.62 M: ours and theirs", ylabel="Fr\u00e9chet distance (DINOv2 features)\nN = 800 images"
    )
    fit_column(figure)
    assert axes.get_ylabel() == "Fr\u00e9chet distance\n(DINOv2 features)\nN = 800 images"
    assert axes.get_xlabel() == "level at 31.62\u00a0M: ours and\ntheirs"
