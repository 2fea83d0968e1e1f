"""The contours of a law of two axes, with the configurations that it was fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.inference.axes import JointAnalysis
from analysis.inference.compute import Bought, ComputeLaw
from analysis.inference.evidence import HORIZON
from analysis.inference.hull import INSIDE, distances, outline
from analysis.inference.surface import horizon
from analysis.laws.intervals import Sample
from analysis.report.figures import INK, RASTER_POINTS, display_name, metric_name, panels, short
from drorae.runtime.figures import plain_figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STEPS = 121
"""Of the surface, along each axis."""
_SHADES = 12
_STRAIGHT = ("plane", "interaction")
"""Laws that take the second axis as it is."""


@plain_figures()
def contour_figure(found: JointAnalysis, bought: Bought | None = None) -> Figure:
    """Draws the best law of both axes as contours, with every configuration in the colour of what it measured.

    A point that stands out from its ground is off the law. A dashed line goes around the pairs that were measured;
    beyond the trusted ones the ground is pale and hatched. What compute buys is a line, with a star at each budget.
    """
    from matplotlib.ticker import MaxNLocator

    law, sample = found.fits[0], found.sample
    figure, (axes,) = panels(1, 5.4)
    straight = law.name in _STRAIGHT or bool(sample.x[:, 1].min() <= 0)
    along = [_span(sample.x[:, 0], True), _span(sample.x[:, 1], not straight)]
    grid = np.meshgrid(*along)
    pairs = np.column_stack([part.ravel() for part in grid])
    z = law.value(pairs).reshape(grid[0].shape)
    beyond = distances(sample.x, pairs).reshape(z.shape)
    # What is far beyond the pairs measured, or one outlier, may be so far off that all others would be of one colour.
    low, high = np.quantile(np.concatenate([z[beyond <= INSIDE], sample.y]), [0.01, 0.99])
    levels = MaxNLocator(_SHADES).tick_values(low, high)
    colours: dict[str, Any] = {"cmap": "cividis", "vmin": levels[0], "vmax": levels[-1]}
    ground = axes.contourf(*grid, z, levels=levels, extend="both", **colours)
    reach = max(horizon(found)[0], 1e-3)
    lines = axes.contour(*grid, np.where(beyond <= reach, z, np.nan), levels=levels, colors="white", linewidths=0.6)
    axes.clabel(lines, fontsize=7, fmt=lambda value: f"{value:.4g}")
    axes.plot(*outline(sample.x).T, color=INK, lw=0.9, ls=(0, (4, 3)), zorder=2.2, label="around the pairs measured")
    _draw_distrust(axes, grid, beyond, reach)
    _draw_points(axes, sample, colours)
    _label(axes, found, straight)
    if bought is not None and bought.law is not None:
        _draw_split(axes, bought.law)
    axes.set(xlim=along[0][[0, -1]], ylim=along[1][[0, -1]])
    axes.set_title(law.form.formula, fontsize=9, loc="left")
    figure.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=4)
    name = metric_name(found.sample)
    figure.colorbar(ground, ax=axes, label=name, format=lambda value, _: f"{value:.4g}")
    return figure


def surface_caption(found: JointAnalysis, bought: Bought | None) -> str:
    """What stands below the figure."""
    said = (
        f"Contours of {found.fits[0].form.formula}, the best law of both axes; every configuration in the colour of "
        "what it measured. Within the dashed line: between the pairs measured. Pale and hatched: beyond the trusted "
        "pairs."
    )
    split = bought is not None and bought.law is not None
    return said + " Red: what compute buys best by y = E + A N^-alpha + B D^-beta, a star at each budget." * split


def _span(sizes: np.ndarray, logged: bool) -> np.ndarray:
    """Values of an axis, from somewhat below the sizes measured to somewhat beyond the trusted ones."""
    scale = np.log10(sizes) if logged else sizes
    low, high = float(scale.min()), float(scale.max())
    margin = 1.3 * HORIZON * (min(high - low, 1.0) if logged else high - low)
    if not logged and low > 0:
        # A size below nothing is none.
        return np.linspace(max(low - margin, low / 2), high + margin, _STEPS)
    values = np.linspace(low - margin, high + margin, _STEPS)
    return np.asarray(10**values if logged else values)


def _draw_distrust(axes: Axes, grid: Sequence[np.ndarray], beyond: np.ndarray, reach: float) -> None:
    """Pales and hatches the ground that is farther than `reach` from the pairs measured."""
    far = float(beyond.max())
    if far <= reach:
        return
    axes.contourf(*grid, beyond, levels=[reach, far + 1], colors="white", alpha=0.6)
    hatched = axes.contourf(*grid, beyond, levels=[reach, far + 1], colors="none", hatches=["////"])
    hatched.set_edgecolor("#777777")
    hatched.set_linewidth(0)
    axes.fill_between([], [], facecolor="white", edgecolor="#777777", hatch="////", linewidth=0, label="not trusted")


def _draw_points(axes: Axes, sample: Sample, colours: dict[str, Any]) -> None:
    """Draws the configurations in the colour of what they measured, rimmed dark and light to be seen on any ground."""
    many = sample.n > RASTER_POINTS
    size = 12 if many else 40
    x, second = sample.x.T
    axes.scatter(x, second, color="white", s=1.7 * size, linewidths=0, zorder=3, rasterized=many)
    axes.scatter(
        x, second, c=sample.y, **colours, edgecolors=INK, s=size, linewidths=0.3 if many else 0.8, zorder=3,
        rasterized=many, label=f"n = {sample.n} configurations",
    )  # fmt: skip


def _label(axes: Axes, found: JointAnalysis, straight: bool) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set(xlabel=display_name(found.x_name), ylabel=display_name(found.second_name))
    axes.set(xscale="log", yscale="linear" if straight else "log")
    for axis, sizes in zip((axes.xaxis, axes.yaxis), found.sample.x.T, strict=True):
        if axis.get_scale() == "log":
            few: Sequence[float] = (1.0,) if sizes.max() / sizes.min() > 10**3.5 else (1.0, 2.0, 5.0)
            axis.set_major_locator(LogLocator(subs=few))
            axis.set_minor_formatter(NullFormatter())
        axis.set_major_formatter(lambda value, _: short(value))


def _draw_split(axes: Axes, law: ComputeLaw) -> None:
    """Draws the best pairs of all budgets, straight in logarithms, and a star at each that was asked for."""
    optima = law.optima
    decades = np.linspace(-30, 30, 601)
    first = optima[0].first.value * 10 ** (law.exponent.value * decades)
    second = optima[0].second.value * 10 ** (law.second_exponent.value * decades)
    axes.plot(first, second, color="#D55E00", lw=1.6, label="compute-optimal", zorder=2.5)
    axes.scatter(
        [item.first.value for item in optima], [item.second.value for item in optima], marker="*", s=140,
        color="#D55E00", edgecolors="white", linewidths=0.8, zorder=4,
    )  # fmt: skip
    for item in optima:
        axes.annotate(
            f"C = {item.compute:.3g}", (item.first.value, item.second.value), xytext=(7, -9), fontsize=7,
            textcoords="offset points", color=INK, annotation_clip=True, zorder=5,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0},
        )  # fmt: skip
