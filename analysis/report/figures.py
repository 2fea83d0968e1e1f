"""The plots of a law, of two axes, of a trade-off: PNG, SVG and PDF, without a display."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.inference.analysis import Analysis
from analysis.inference.asked import AskedLaw
from analysis.inference.axes import JointAnalysis
from analysis.inference.designs import DesignComparison
from analysis.inference.pareto import pareto_set
from analysis.laws.curves import CurveFit
from analysis.laws.digits import fixed, share, significant
from analysis.laws.intervals import Sample, parameter_intervals
from analysis.laws.line import Line
from analysis.report.fonts import choose_fonts
from analysis.report.style import Style, fit_column, legends_below
from analysis.table.cells import floats
from analysis.table.columns import column_of, find_column, texts
from analysis.table.selection import Selection
from drorae.metrics.registry import BASELINE, LOOKED_THROUGH, mark, marked, title
from drorae.runtime.figures import plain_figures
from drorae.storage.files import write_atomic
from drorae.trial.folder import TrialStatus

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, LINE, _LEVEL = "#222222", "#0072B2", "#D55E00"
_LAW_STYLES: list[Any] = ["-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2))]
# Okabe and Ito's colours, told apart by the colour-blind; markers tell them apart in grey.
_SEED_STYLES = (
    ("o", "#E69F00"), ("s", "#009E73"), ("^", "#CC79A7"), ("D", "#56B4E9"),
    ("v", "#D55E00"), ("P", "#F0E442"), ("X", "#999999"), ("*", "#000000"),
)  # fmt: skip

FAR = 3.0
"""What no fusion measures is an arrow where it lies more than so many times the panel's range away."""
CHECK = "check"
"""Name, within a figure, of the markers of trials that check convergence."""
LEVELS = 6
"""Values of a second axis at which a law is drawn at most."""
RASTER_POINTS = 2000
"""Runs from which a figure's points are drawn as pixels: an SVG of so many shapes takes long to open."""

_PARAMETERS = re.compile(r"(?<![a-z])(n|num)?param(eter)?s?(?![a-z])", re.IGNORECASE)
"""A size counted in parameters, whose billions are written B."""

_NAMES = {
    **dict.fromkeys(("params", "fusion_params"), "Fusion parameters"),
    "fusion_params_paper": "Fusion parameters (paper's formula)",
    **dict.fromkeys(("capacity", "expert_hidden_dim"), "Expert hidden dim"),
    **dict.fromkeys(("layers", "num_layers"), "Fused layers"),
    "train_flops": "Training compute (FLOPs)",
}


def display_name(name: str, between: str = ", ") -> str:
    """A metric's or size's name for people, with its unit; unknown names stay as they are.

    between: what stands before the guidance of generated images.
    """
    return _NAMES.get(name) or title(name, between)


def metric_name(of: Sample | Selection | DesignComparison, between: str = ", ") -> str:
    """The display name of what a law is of, and whose features it is measured in where these are not independent."""
    return display_name(of.y_name, between) + (f"{between}{of.mark}" if of.mark else "")


def number(value: float, spread: float = 0.0) -> str:
    """A number for labels with a true minus sign: 4 digits after the point below 1, else 4 significant ones.

    More where a difference of `spread` would not show (`analysis.laws.digits`).
    """
    if math.isinf(value):
        return "∞" if value > 0 else "\N{MINUS SIGN}∞"
    text = fixed(value, spread) if abs(value) < 1 else significant(value, spread)
    return text.replace("-", "\N{MINUS SIGN}")


def said_parameters(law: CurveFit | AskedLaw) -> str:
    """A law's parameters with their 95% intervals, and which of them stopped at a bound."""
    fit, intervals = (law.fit, law.intervals) if isinstance(law, AskedLaw) else (law, parameter_intervals(law))
    return "; ".join(
        f"{name} = {number(value, high - low)} ({number(low, high - low)} … {number(high, high - low)})"
        + (", at its bound" if name in fit.at_bound else "")
        for (name, (low, high)), value in zip(intervals.items(), fit.parameters, strict=True)
    )


def equation(line: Line) -> str:
    """Returns the fitted line as text, such as 'rFID = 0.9194 + 0.0564 log₁₀(x)', with true minus signs."""
    sign = "+" if line.slope >= 0 else "\N{MINUS SIGN}"
    term = "log₁₀(x)" if line.law == "log-linear" else "x"
    name = display_name(line.sample.y_name).split(" (")[0]
    return f"{name} = {number(line.intercept)} {sign} {number(abs(line.slope))} {term}"


@plain_figures()
def law_figure(analyses: Sequence[Analysis]) -> Figure:
    """One panel per metric: runs marked by seed, the leading law thick with its bands, hatched beyond the data.

    The means of configurations with several seeds have bars of one standard error. Where the table says what the
    tokenizer measures without fusion (`baseline_...`), that is a line across, or an arrow to where it is far off.
    Trials of twice the steps are hollow.

    Everything is told apart by marker, line style or hatching as well as by colour.
    """
    figure, drawn = panels(len(analyses))
    for analysis, axes in zip(analyses, drawn, strict=True):
        _draw_law(axes, analysis)
    legends_below(figure, drawn, min(len(drawn), 2))
    return figure


@plain_figures()
def residual_figure(analyses: Sequence[Analysis]) -> Figure:
    """One panel per metric: residuals of all runs against x, marked by seed, with the residual deviation.

    About the law that was asked for (`Analysis.residual_law`), which the y axis names where it is not the line.
    """
    figure, drawn = panels(len(analyses), 2.7)
    for analysis, axes in zip(analyses, drawn, strict=True):
        line, law = analysis.line, analysis.residual_law
        sd = law.residual_sd
        measured = [line.sample.low, line.sample.high]
        axes.fill_between(measured, -sd, sd, color=LINE, alpha=0.12, lw=0, label="± 1 residual sd")
        axes.plot(measured, [0, 0], color=INK, lw=1)
        own = law is line.curve
        _scatter(axes, line, line.selection.y - (line.fitted if own else law.value(line.selection.x)))
        _x_axis(axes, line, line.sample.high)
        about = "" if own else f" about {law.name}"
        name = display_name(line.sample.y_name).split(" (")[0]
        axes.set_ylabel(f"residual{about}, {name}\n{line.sample.mark}".rstrip())
        axes.legend(frameon=False, fontsize=8, ncols=5, loc="lower left", bbox_to_anchor=(0, 1))
    return figure


@plain_figures()
def joint_figure(found: JointAnalysis) -> Figure:
    """Left: configurations and the additive law at values of the second axis. Right: the best law against what came in.

    The darker, the larger is the second axis. Of many values the law is drawn at `LEVELS` of their quantiles.
    """
    x, second, y = found.sample.x[:, 0], found.sample.x[:, 1], found.sample.y
    figure, (left, right) = panels(2)
    levels, rank = np.unique(second, return_inverse=True)
    shades = 0.05 + 0.75 * np.linspace(1, 0, len(levels))
    left.scatter(x, y, c=shades[rank], cmap="gray", vmin=0, vmax=1, edgecolors=INK, s=36, linewidths=0.6, zorder=3)
    span = np.geomspace(x.min(), x.max(), 50)
    for i in np.unique(np.linspace(0, len(levels) - 1, min(len(levels), LEVELS)).round().astype(int)):
        law = found.additive.value(np.column_stack([span, np.full(50, levels[i])]))
        label = f"{found.second_name} {short(levels[i])}"
        left.plot(span, law, color=str(shades[i]), lw=0.9, marker="o", mec=INK, ms=5, markevery=[], label=label)
    log_axis(left, (1.0,) if x.max() / x.min() > 10**3.5 else (1.0, 3.0), found.x_name)
    left.set(xlabel=display_name(found.x_name), ylabel=metric_name(found.sample, "\n"))
    left.legend(fontsize=7, frameon=False, ncols=2)
    best = found.fits[0]
    fitted = best.value(found.sample.x)
    right.scatter(fitted, y, color=LINE, edgecolors=INK, s=36, linewidths=0.6)
    ends = [min(fitted.min(), y.min()), max(fitted.max(), y.max())]
    right.plot(ends, ends, color=INK, lw=0.8)
    right.set(xlabel=f"by {best.form.formula}", ylabel=f"{metric_name(found.sample)}, measured")
    return figure


@plain_figures()
def pareto_figure(frame: pd.DataFrame, objectives: Sequence[str], directory: Path) -> Path:
    """Draws all finished runs and the Pareto set in the plane of the first two objectives; returns pareto.png."""
    x, y = (find_column(frame, name) for name in objectives[:2])
    best = pareto_set(frame, objectives)
    figure, (axes,) = panels(1)
    every = frame[frame["status"] == TrialStatus.FINISHED] if "status" in frame.columns else frame
    axes.scatter(every[x], every[y], s=24, facecolor="white", edgecolor=INK, label="finished runs", zorder=2)
    steps = best.sort_values(x)
    axes.plot(steps[x], steps[y], drawstyle="steps-post", color=LINE, lw=1.2, zorder=1)
    axes.scatter(steps[x], steps[y], s=36, color=LINE, label="not beaten in all objectives", zorder=3)
    low, high = np.nanmin(floats(every[x])), np.nanmax(floats(every[x]))
    if low > 0 and high / low > 10:
        axes.set_xscale("log")
    seen = texts(frame, LOOKED_THROUGH)
    axes.set(**{f"{axis}label": marked(display_name(name), mark(name, seen)) for axis, name in (("x", x), ("y", y))})
    axes.legend(frameon=False)
    return save(figure, directory, "pareto")["png"]


@plain_figures()
def save(figure: Figure, directory: Path, name: str, style: Style = "screen") -> dict[str, Path]:
    """Writes name.png (150 dpi), name.svg and name.pdf, each renamed into place; a figure gives the same bytes again.

    The PDF has its fonts in it as TrueType. Texts are drawn with an installed font that has their signs. style: screen,
    or paper for the width of a paper's column.
    """
    choose_fonts(figure)
    if style == "paper":
        fit_column(figure)
    paths = {}
    # Laid out once for all files, and not drawn for it.
    layout = figure.get_layout_engine()
    if layout is not None:
        layout.execute(figure)
    figure.set_layout_engine("none")
    dates: dict[str, Any] = {"png": None, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    for kind, metadata in dates.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=150 if style == "screen" else 300, facecolor="white", metadata=metadata)
        paths[kind] = write_atomic(directory / f"{name}.{kind}", buffer.getvalue())
    return paths


@plain_figures()
def panels(count: int, height: float = 4.8) -> tuple[Figure, list[Axes]]:
    """A figure of `count` empty panels, two in a row; `height`: inches of each."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(count, 2)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(7.2 if columns == 1 else 12.4, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for spare in axes[count:]:
        spare.remove()
    for panel in axes[:count]:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(True, color="#e6e6e6", lw=0.6)
        panel.set_axisbelow(True)
    return figure, list(axes[:count])


def _draw_law(axes: Axes, analysis: Analysis) -> None:
    line, sample = analysis.line, analysis.line.sample
    end = max(analysis.horizon.high, sample.high)
    space = np.geomspace if line.law == "log-linear" else np.linspace
    inside, beyond = space(sample.low, sample.high, 200), space(sample.high, end, 80)
    _draw_leading(axes, analysis, inside, beyond)
    _draw_rivals(axes, analysis)
    axes.axvline(sample.high, color="#888888", lw=0.8, ls=":")
    axes.axvline(end, color="#888888", lw=0.8)
    rising = line.slope > 0
    free = (0.98, "top") if rising else (0.02, "bottom")
    axes.annotate(
        "trusted horizon", (end, free[0]), xycoords=("data", "axes fraction"), xytext=(3, 0), ha="left", va=free[1],
        textcoords="offset points", rotation=90, fontsize=7, color="#555555",
    )  # fmt: skip
    _scatter(axes, line, line.selection.y)
    _draw_means(axes, line)
    _draw_checks(axes, analysis)
    _x_axis(axes, line, end)
    images = line.selection.eval_images
    axes.set_ylabel(metric_name(sample, "\n") + (f"\nN = {images:,} images" if images else ""))
    # What is far beyond the data may be so wide that the data would be flat.
    shown = [
        line.selection.y,
        line.selection.check_y,
        *analysis.new_point_interval(inside),
        analysis.leading.value(beyond),
    ]
    every = np.concatenate(shown)
    every = np.append(every, _draw_baseline(axes, analysis, every))
    margin = 0.05 * np.ptp(every)
    axes.set_ylim(float(every.min() - margin), float(every.max() + margin))
    axes.legend(fontsize=8)


def _draw_leading(axes: Axes, analysis: Analysis, inside: np.ndarray, beyond: np.ndarray) -> None:
    line, law = analysis.line, analysis.leading
    near, far = analysis.new_point_interval(inside), analysis.new_point_interval(beyond)
    band = "95% prediction interval" + (", new configuration's mean" if line.replicated else "")
    axes.fill_between(inside, *near, color=LINE, alpha=0.13, lw=0, label=band)
    for edge in near:
        axes.plot(inside, edge, color=LINE, lw=0.7, ls=(0, (6, 3)))
    axes.fill_between(inside, *analysis.law_interval(inside), color=LINE, alpha=0.3, lw=0, label="95% CI of the law")
    hatched: Any = {"facecolor": "none", "edgecolor": LINE, "alpha": 0.35, "lw": 0, "hatch": "////"}
    axes.fill_between(beyond, *far, label="beyond the data", **hatched)
    label = f"{law.name}: {law.text.replace('; ', chr(10))}; R² = {share(law.r2, 3)}"
    if analysis.asked is not None:
        label += ", not supported" * analysis.rejected + f"\n{analysis.asked.how}"
        label += "" if analysis.asked.floor is None else f"\n{analysis.asked.floor.text}"
    elif law.name == line.law:
        low, high = line.slope_ci95
        ends = f"{number(low, high - low)} … {number(high, high - low)}"
        label = f"{equation(line)}\nslope 95% CI {ends}; R² = {share(law.r2, 3)}"
    label += f"\n{_counted(line)}"
    axes.plot(inside, law.value(inside), color=LINE, lw=2, label=label)
    axes.plot(beyond, law.value(beyond), color=LINE, lw=1.6, ls=(0, (4, 3)))


def _counted(line: Line) -> str:
    """Says how many configurations and runs a law goes through: `n = 6 of 2 seeds each`."""
    configurations = line.selection.configurations
    counts = np.bincount(configurations)
    if counts.max() == 1:
        return f"n = {len(counts)} configurations"
    seeds = f"{counts[0]} seeds each" if len(set(counts)) == 1 else f"{len(configurations)} runs in all"
    return f"n = {len(counts)} configurations, {seeds}"


def _draw_rivals(axes: Axes, analysis: Analysis) -> None:
    """Draws the line asked for, the other plausible laws and the envelope of all heard.

    The envelope is that of all laws heard anywhere in the figure, everywhere: one that is heard outside the data alone
    would begin with a cliff.
    """
    comparison, sample = analysis.comparison, analysis.line.sample
    end = analysis.horizon.high
    at = (np.geomspace if sample.low > 0 else np.linspace)(sample.low, end, 60)
    heard = dict.fromkeys((comparison.get(analysis.line.law), *comparison.plausible))
    others = [law for law in heard if law.name != analysis.leading.name]
    for law, style in zip(others, _LAW_STYLES * len(others), strict=False):
        rejected = analysis.line_rejected and law.name == analysis.line.law
        axes.plot(at, law.value(at), color=INK, lw=1, ls=style, label=law.name + ", not supported" * rejected)
    if not analysis.disputed:
        return
    for i, y in enumerate(comparison.envelope(at, analysis.typical_seeds, everywhere=True)):
        axes.plot(at, y, color=INK, lw=0.9, ls=":", label="" if i else "envelope of the laws in question")


def _scatter(axes: Axes, line: Line, y: np.ndarray) -> None:
    x, of = line.selection.x, line.selection.seeds
    seeds = sorted(set(of), key=lambda seed: (len(seed), seed))
    many = len(x) > RASTER_POINTS
    styles: Sequence[tuple[str, str]] = _SEED_STYLES if len(seeds) > 1 else (("o", INK),)
    marks = [
        (np.array([item == seed for item in of]), style, f"seed {seed}" if seed else "runs")
        for seed, style in zip(seeds, styles, strict=False)
    ]
    if len(seeds) > len(_SEED_STYLES):
        marks = [(np.full(len(x), True), ("o", "#999999"), f"runs of {len(seeds)} seeds")]
    for chosen, (marker, colour), label in marks:
        axes.scatter(
            x[chosen], y[chosen], marker=marker, s=12 if many else 42, color=colour, edgecolors=INK,
            linewidths=0.3 if many else 0.7, zorder=3, label=label, rasterized=many,
        )  # fmt: skip


def _draw_means(axes: Axes, line: Line) -> None:
    """Draws the mean of every configuration that was run more than once, with its standard error over seeds."""
    selection = line.selection
    groups = pd.Series(selection.y).groupby(selection.configurations)
    means, errors, counts = groups.mean(), groups.sem(), groups.size()
    several = counts > 1
    if not several.any() or len(means) > RASTER_POINTS:
        return
    x = pd.Series(selection.x).groupby(selection.configurations).first()
    axes.errorbar(
        x[several], means[several], errors[several], fmt="_", ms=13, color=INK, mew=1.4, elinewidth=1.1, capsize=3,
        zorder=4, label="mean ± 1 standard error over seeds",
    )  # fmt: skip


def _draw_checks(axes: Axes, analysis: Analysis) -> None:
    """Draws what the trials with twice the steps measure, hollow, joined to the trial that each repeats."""
    found = analysis.convergence
    for i, item in enumerate(() if found is None else found.ends):
        axes.plot([item.x, item.x], [item.before, item.after], color=INK, lw=0.7, zorder=4)
        axes.plot(
            [item.x], [item.after], "D", mfc="none", mec=INK, ms=7, mew=1.1, ls="none", zorder=5, gid=CHECK,
            label="" if i else "twice the steps",
        )  # fmt: skip


def _draw_baseline(axes: Axes, analysis: Analysis, shown: np.ndarray) -> np.ndarray:
    """Draws what the tokenizer measures without fusion, as far as the table says it of the runs used.

    One level per phase-1 decoder, their span where they are many, or an arrow to where all lie far from `shown`.

    Returns:
        The values that the y axis has to hold.
    """
    selection, sample = analysis.line.selection, analysis.line.sample
    name = column_of(selection.used, f"{BASELINE}{selection.y_name}")
    values: np.ndarray = np.unique(floats(selection.used[name])) if name else np.array([])
    values = values[np.isfinite(values)]
    if not len(values):
        return values
    low, high = float(values[0]), float(values[-1])
    label = f"no fusion: {number(low)}"
    if len(values) > 1:
        label = f"no fusion, {len(values)} decoders: {number(low, high - low)} to {number(high, high - low)}"
    # Where the law is farther from it there is room to write.
    first, last = analysis.leading.value(np.array([sample.low, sample.high]))
    left = abs(first - values.mean()) > abs(last - values.mean())
    words: Any = {"color": _LEVEL, "fontsize": 7, "ha": "left" if left else "right"}
    x = 0.01 if left else 0.97
    reach = FAR * float(np.ptp(shown))
    below, above = high < shown.min() - reach, low > shown.max() + reach
    if below or above:
        end, inner = (0.0, 0.07) if below else (1.0, 0.93)
        arrow = {"arrowstyle": "->", "color": _LEVEL, "lw": 1.2}
        at: Any = {"xycoords": "axes fraction", "textcoords": "axes fraction", "va": "center"}
        axes.annotate("", (x, end), (x, inner), arrowprops=arrow, **at)
        axes.annotate(label, (x, inner), (x + (0.015 if left else -0.015), inner), **at, **words)
        return np.array([])
    style: Any = {"color": _LEVEL, "lw": 1.2, "ls": (0, (6, 2, 1, 2))}
    for i, value in enumerate(values if len(values) <= LEVELS else (low, high)):
        axes.axhline(value, label="" if i else label, **style)
    if len(values) > LEVELS:
        axes.axhspan(low, high, color=_LEVEL, alpha=0.12, lw=0)
    axes.annotate(
        "no fusion", (x, high), xycoords=("axes fraction", "data"), xytext=(0, 2), textcoords="offset points", **words
    )
    return values


def _x_axis(axes: Axes, line: Line, end: float) -> None:
    if line.law == "log-linear":
        decades = math.log10(end / line.sample.low)
        subs = (1.0,) if decades > 3.5 else (1.0, 3.0) if decades > 2.2 else (1.0, 2.0, 5.0)
        log_axis(axes, subs, line.sample.x_name)
        margin = 10 ** (0.035 * decades)
        axes.set_xlim(line.sample.low / margin, end * margin)
    else:
        axes.xaxis.set_major_formatter(lambda value, _: short(value, line.sample.x_name))
    axes.set_xlabel(display_name(line.sample.x_name))


def log_axis(axes: Axes, subs: Sequence[float], name: str = "") -> None:
    """Makes the x axis one of log10 of a size called `name`, labelled at these multiples of the powers of ten."""
    from matplotlib.ticker import LogLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_minor_formatter("")
    axes.xaxis.set_major_formatter(lambda value, _: short(value, name))


def short(value: float, name: str = "") -> str:
    """A size for labels: 128, 19 K, 113.4 M, 2.5 G; of parameters, as `name` says, 2.5 B."""
    billion = " B" if _PARAMETERS.search(name) else " G"
    for limit, scale, unit in (
        (1e15, 1.0, ""),
        (1e12, 1e12, " T"),
        (1e9, 1e9, billion),
        (1e6, 1e6, " M"),
        (1e4, 1e3, " K"),
    ):
        if abs(value) >= limit:
            return f"{float(f'{value / scale:.4g}'):g}{unit}"
    return f"{value:g}"
